// Small charts by round: lines with intervals, stacked bars, intervals beside names.

const EDGES = { left: 52, right: 12, top: 10, bottom: 26 };

/** Return round numbers between two ends, about five. */
function niceTicks(low, high) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) {
    ticks.push(Math.abs(tick) < step * 1e-9 ? 0 : Number(tick.toPrecision(12)));
  }
  return ticks;
}

/**
 * Return a chart of lines by round, with its numbers as a table behind it.
 * lines: {name, hue, dash, points: [[round, value, low, high]]}; write: how a value is written.
 */
function lineChart({ id, title, note, lines, write = number, zero = true }) {
  const drawn = lines.filter(({ points }) => points.length);
  if (!drawn.length) return null;
  const box = el("div", { class: "drawing" });
  const reading = el("p", { class: "reading quiet", "aria-hidden": "true" });
  const figure = chartFrame(id, title, note, drawn, box, reading, write);
  responsive(box, (width) => box.replaceChildren(drawLines(drawn, width, zero, write, reading)));
  return figure;
}

function chartFrame(id, title, note, lines, box, reading, write) {
  const legend = lines.length > 1 ? el("p", { class: "legend" }, lines.map(({ name, hue, dash }) =>
    el("span", {}, svg("svg", { width: 22, height: 8, class: "key", "aria-hidden": "true" },
      svg("path", { class: `line hue${hue}`, d: "M1,4h20", "stroke-dasharray": dash ?? null })), name))) : null;
  const rounds = [...new Set(lines.flatMap(({ points }) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const cell = (points, round) => {
    const point = points.find(([x]) => x === round);
    if (!point) return "";
    return point[2] === undefined ? write(point[1]) : `${write(point[1])} (${write(point[2])} to ${write(point[3])})`;
  };
  const numbers = el("details", { class: "data" }, el("summary", {}, "numbers"));
  numbers.addEventListener("toggle", () => {
    if (numbers.open && numbers.childElementCount === 1) {
      numbers.append(table([["round"], ...lines.map(({ name }) => [name])],
        rounds.map((round) => [String(round), ...lines.map(({ points }) => cell(points, round))]), { label: title }));
    }
  });
  return el("figure", { class: "chart", id, tabindex: "-1" },
    el("figcaption", {}, el("strong", {}, title), note ? el("span", { class: "quiet" }, ` ${note}`) : null),
    legend, box, reading, numbers);
}

function drawLines(lines, width, zero, write, reading) {
  const height = 190;
  const points = lines.flatMap((line) => line.points);
  const xs = points.map(([x]) => x);
  const ys = points.flatMap(([, y, low, high]) => [y, low, high]).filter((y) => Number.isFinite(y));
  let [bottom, top] = [Math.min(...ys, zero ? 0 : Infinity), Math.max(...ys, zero ? 0 : -Infinity)];
  if (bottom === top) top = bottom + (Math.abs(bottom) || 1);
  if (!zero) [bottom, top] = [bottom - 0.06 * (top - bottom), top + 0.06 * (top - bottom)];
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const [w, h] = [width - EDGES.left - EDGES.right, height - EDGES.top - EDGES.bottom];
  const x = (round) => EDGES.left + (last === first ? w / 2 : (w * (round - first)) / (last - first));
  const y = (value) => EDGES.top + h * (1 - (value - bottom) / (top - bottom));
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": lineWords(lines, write) });
  for (const tick of niceTicks(bottom, top)) {
    root.append(svg("path", { class: "grid", d: `M${EDGES.left},${y(tick)}h${w}` }),
      svg("text", { class: "tick", x: EDGES.left - 6, y: y(tick) + 4, "text-anchor": "end" }, write(tick)));
  }
  for (const tick of niceTicks(first, last).filter((t) => Number.isInteger(t))) {
    root.append(svg("text", { class: "tick", x: x(tick), y: height - 8, "text-anchor": "middle" }, String(tick)));
  }
  for (const line of lines) root.append(...drawLine(line, x, y));
  return follow(root, lines, { x, first, last, w, h }, write, reading);
}

function drawLine({ points, hue, dash }, x, y) {
  const path = points.map(([round, value]) => `${x(round).toFixed(1)},${y(value).toFixed(1)}`);
  const made = [];
  if (points.some((point) => point[2] !== undefined)) {
    const high = points.map(([round, v, , top]) => `${x(round).toFixed(1)},${y(top ?? v).toFixed(1)}`);
    const low = points.map(([round, v, bottom]) => `${x(round).toFixed(1)},${y(bottom ?? v).toFixed(1)}`).reverse();
    made.push(svg("polygon", { class: `band hue${hue}`, points: [...high, ...low].join(" ") }));
  }
  made.push(svg("polyline", { class: `line hue${hue}`, points: path.join(" "), "stroke-dasharray": dash ?? null }));
  if (points.length < 40) {
    made.push(...path.map((at) => svg("circle", { class: `dot hue${hue}`, r: 2.5, cx: at.split(",")[0], cy: at.split(",")[1] })));
  }
  return made;
}

/** Have the values of the round below the pointer written under the chart. */
function follow(root, lines, { x, first, last, w, h }, write, reading) {
  const cross = svg("path", { class: "cross", visibility: "hidden" });
  root.append(cross);
  root.addEventListener("pointermove", (event) => {
    const at = event.clientX - root.getBoundingClientRect().left;
    const round = Math.round(first + ((at - EDGES.left) / w) * (last - first));
    if (round < first || round > last) return;
    cross.setAttribute("d", `M${x(round)},${EDGES.top}v${h}`);
    cross.setAttribute("visibility", "visible");
    const values = lines.map(({ name, points }) => [name, points.find(([r]) => r === round)?.[1]]).filter(([, value]) => value !== undefined);
    reading.textContent = `round ${round}: ${values.map(([name, value]) => (lines.length > 1 ? `${name} ` : "") + write(value)).join(", ")}`;
  });
  root.addEventListener("pointerleave", () => {
    cross.setAttribute("visibility", "hidden");
    reading.textContent = "";
  });
  return root;
}

const lineWords = (lines, write) => lines.map(({ name, points }) =>
  `${name}: ${write(points[0][1])} in round ${points[0][0]}, ${write(points.at(-1)[1])} in round ${points.at(-1)[0]}`).join("; ");

/** Return bars, a row each: {name, parts: [[class, value, words]]}; as long as their sum. */
function barRows({ id, title, note, rows, write = percent, legend }) {
  const longest = Math.max(...rows.map(({ parts }) => parts.reduce((sum, [, value]) => sum + value, 0)), 1e-12);
  return el("figure", { class: "chart", id, tabindex: "-1" },
    el("figcaption", {}, el("strong", {}, title), note ? el("span", { class: "quiet" }, ` ${note}`) : null),
    legend ? el("p", { class: "legend" }, legend.map(([name, words]) => el("span", {}, el("i", { class: `swatch ${name}` }), words))) : null,
    el("table", { class: "bars" }, el("tbody", {}, rows.map(({ name, parts, words }) => el("tr", {},
      el("th", { scope: "row" }, name),
      el("td", { class: "track" }, parts.map(([kind, value, said]) =>
        el("i", { class: kind, title: said ?? write(value), style: { width: `${(100 * value) / longest}%` } }))),
      el("td", { class: "value" }, words ?? write(parts.reduce((sum, [, value]) => sum + value, 0))))))));
}

/** Return a forest plot: {name, mean, low, high, words} a row, 0 marked. */
function forest({ id, title, note, rows, write = number }) {
  const box = el("div", { class: "drawing" });
  const finite = rows.flatMap(({ mean, low, high }) => [mean, low, high]).filter((v) => Number.isFinite(v));
  const [least, most] = [Math.min(0, ...finite), Math.max(0, ...finite)];
  const room = 0.06 * (most - least || 1);
  const [from, to] = [least - room, most + room];
  responsive(box, (width) => {
    const names = Math.min(230, width * 0.42);
    const x = (value) => names + ((Math.min(to, Math.max(from, value)) - from) / (to - from)) * (width - names - 12);
    const height = 26 * rows.length + 28;
    const words = rows.map(({ name, mean, low, high, words: verdict }) => `${name}: ${write(mean)}, ${write(low)} to ${write(high)}, ${verdict}`).join("; ");
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words });
    root.append(svg("path", { class: "cut", d: `M${x(0)},4V${height - 24}` }));
    for (const tick of niceTicks(from, to)) {
      root.append(svg("text", { class: "tick", x: x(tick), y: height - 8, "text-anchor": "middle" }, write(tick)));
    }
    rows.forEach((row, i) => root.append(...forestRow(row, 26 * i + 16, names, x)));
    box.replaceChildren(root);
  });
  return el("figure", { class: "chart wide", id }, el("figcaption", {}, el("strong", {}, title), note ? el("span", { class: "quiet" }, ` ${note}`) : null), box);
}

function forestRow({ name, mean, low, high, words }, y, names, x) {
  const open = !Number.isFinite(low) || !Number.isFinite(high);
  const verdict = words === "better" ? "better" : words === "worse" ? "worse" : "plain";
  return [
    svg("text", { class: "label", x: names - 10, y: y + 4, "text-anchor": "end" }, name, svg("title", {}, words)),
    svg("path", { class: `whisker ${verdict}`, "stroke-dasharray": open ? "3 3" : null, d: `M${x(low ?? -Infinity)},${y}H${x(high ?? Infinity)}` }),
    svg("circle", { class: `mean ${verdict}`, cx: x(mean), cy: y, r: 4.5 }, svg("title", {}, words)),
  ];
}
