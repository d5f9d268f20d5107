// Comparisons: their tables as they were printed, and the differences with their intervals.

function renderComparisons() {
  const section = document.getElementById("comparisons");
  section.hidden = !FACTS.comparisons.length;
  section.querySelector(".body").replaceChildren(...FACTS.comparisons.flatMap(({ name, about, tables }) => [
    el("h3", {}, name), el("p", { class: "quiet" }, about), ...tables.flatMap(comparisonTable)]));
}

function comparisonTable({ title, headings, rows, numeric, forests }) {
  const columns = headings.map((heading, i) => [heading, numeric[i] ? "" : "left"]);
  const plots = forests.map(({ to, unit, better, lines }, i) => forest({
    id: `forest-${title.replace(/\W+/g, "-")}-${i}`, title: `${title}: difference to ${to}`,
    note: `${unit}, ${better} is better; 95 % intervals paired by seed, dashed where there are too few seeds`,
    rows: lines.map(({ row, mean, low, high, verdict }) => ({ name: row, mean, low, high, words: verdict })),
  }));
  return [el("h4", {}, title), ...plots, table(columns, rows, { label: title })];
}
