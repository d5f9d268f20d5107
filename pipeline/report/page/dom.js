// Elements and how numbers are written. A text is always text: nothing here parses markup.

/** Return an element. attributes: `on...` are listeners, null leaves one out. */
function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return an element of a drawing. */
function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("aria-")) node.setAttribute(name, String(value));
    else if (value === false) continue;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const digits = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** Return a count: 12,345. */
const count = (value) => (value === null || value === undefined ? "" : digits.format(value));

/** Return a measured number with four significant digits: 0.1235. */
function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 10000) return digits.format(value);
  if (size < 0.0001) return value.toExponential(3).replace(/^-/, "−");
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

/** Return a share of 1: 12.5 %. */
function percent(value, places = 1) {
  return value === null || value === undefined ? "" : `${(100 * value).toFixed(places)} %`;
}

/** Return an amount of bytes: 1.2 MB, of 10^6. */
function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (bytes >= 1000 && place < units.length - 1) {
    bytes /= 1000;
    place += 1;
  }
  return `${place ? bytes.toFixed(1) : bytes} ${units[place]}`;
}

/** Return a time in seconds for people: 8.5 s, 12 min, 3.1 h. */
function duration(seconds) {
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** Return a text with what does not show written out, so that nothing hides or turns in it. */
function shown(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (c) => {
    if (c === "\n") return "⏎\n";
    if (c === "\t") return "⇥\t";
    const code = c.codePointAt(0).toString(16);
    return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
  });
}

/** Return the same on one line. */
const inline = (text) => shown(text).replace(/⏎\n/g, "⏎").replace(/⇥\t/g, "⇥");

/** Return a table. columns: [heading, "left" or nothing]. */
function table(columns, rows, attributes = {}) {
  const head = columns.map(([name, side]) => el("th", { scope: "col", class: side ?? "" }, name));
  const body = rows.map((row) =>
    el("tr", {}, row.map((cell, i) =>
      el(i ? "td" : "th", { scope: i ? null : "row", class: columns[i][1] ?? "" }, cell ?? ""))));
  return el("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": attributes.label ?? "table" },
    el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)));
}

/** Return a menu of choices: [value, name]. */
function menu(label, choices, value, onchange) {
  const options = choices.map(([of, name]) =>
    el("option", { value: of, selected: String(of) === String(value) }, name));
  return el("label", { class: "field" }, el("span", {}, label),
    el("select", { onchange: (event) => onchange(event.target.value) }, options));
}

/** Return a button. */
const button = (text, onclick, attributes = {}) =>
  el("button", { type: "button", onclick, ...attributes }, text);

/** Return a button that copies a text. */
function copyButton(text) {
  const made = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // a page from a disk may lack the right
      const area = el("textarea", { class: "offscreen" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    made.textContent = "Copied";
    setTimeout(() => { made.textContent = "Copy"; }, 1500);
  }, { class: "copy" });
  return made;
}

/** Return a line of code with a button that copies it. */
const copyable = (label, text) =>
  el("div", { class: "copyable" }, el("span", { class: "quiet" }, label), el("code", {}, text), copyButton(text));

const drawings = []; // [element, draw]

/** Have an element drawn at its own width, again whenever that changes. */
function responsive(node, draw) {
  drawings.push([node, draw]);
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now > 0 && now !== width) {
      width = now;
      draw(now);
    }
  }).observe(node);
  return node;
}
