// Marking a region of the plane: its tokens in context, and the condition that selects them.

const MOST_SHOWN = 40; // tokens that are listed of a region
const AROUND = 8; // tokens of context on each side

/** Return the region in the address: [entropy from, to, KL from, to], null where an end is open. */
function regionOf() {
  if (!state.region) return null;
  const ends = state.region.split(",").map((word) => (word === "" ? null : Number(word)));
  return ends.length === 4 && ends.every((end) => end === null || Number.isFinite(end)) ? ends : null;
}

const regionWord = (ends) => ends.map((end) => (end === null ? "" : String(end))).join(",");

/** Return a number as the condition and the page both have it: three significant digits. */
const tidy = (value) => Number(value.toPrecision(3));

/** Return the SQL condition of a region. */
function whereOf([entropyFrom, entropyTo, klFrom, klTo]) {
  const parts = [
    entropyFrom === null ? null : `student_entropy >= ${entropyFrom}`,
    entropyTo === null ? null : `student_entropy < ${entropyTo}`,
    klFrom === null ? null : `reverse_kl >= ${klFrom}`, klTo === null ? null : `reverse_kl < ${klTo}`,
  ];
  return parts.filter(Boolean).join(" AND ") || "true";
}

/** Tell whether a token lies in a region, as the condition would. */
function within(found, token, [entropyFrom, entropyTo, klFrom, klTo]) {
  const entropy = clamped(found.numbers.student_entropy[token]);
  const kl = clamped(found.numbers.reverse_kl[token]);
  return (entropyFrom === null || entropy >= entropyFrom) && (entropyTo === null || entropy < entropyTo)
    && (klFrom === null || kl >= klFrom) && (klTo === null || kl < klTo);
}

/** Let a pointer drag a rectangle over the plane. */
function brushing(root, plane) {
  let start = null;
  const box = root.querySelector("#brush-box");
  const place = (event) => {
    const at = root.getBoundingClientRect();
    return [event.clientX - at.left, event.clientY - at.top];
  };
  root.addEventListener("pointerdown", (event) => {
    start = place(event);
    root.setPointerCapture(event.pointerId);
  });
  root.addEventListener("pointermove", (event) => {
    if (start) drawBox(box, ...start, ...place(event));
  });
  root.addEventListener("pointercancel", () => { // a finger that scrolls
    start = null;
    showBrush(plane);
  });
  root.addEventListener("pointerup", (event) => {
    if (!start) return;
    const [x0, y0, x1, y1] = [...start, ...place(event)];
    start = null;
    if (Math.abs(x1 - x0) < 4 && Math.abs(y1 - y0) < 4) go({ region: "" });
    else go({ region: regionWord(dragged(plane, x0, y0, x1, y1)) });
  });
}

/** Return the region of a rectangle of pixels; at the border of the plane it is open. */
function dragged(plane, x0, y0, x1, y1) {
  const [left, right] = [Math.min(x0, x1), Math.max(x0, x1)];
  const [top, bottom] = [Math.min(y0, y1), Math.max(y0, y1)];
  return [
    left <= MARGIN.left + 2 ? null : tidy(plane.entropy(left)),
    right >= MARGIN.left + plane.w - 2 ? null : tidy(plane.entropy(right)),
    bottom >= MARGIN.top + plane.h - 2 ? null : tidy(plane.kl(bottom)),
    top <= MARGIN.top + 2 ? null : tidy(plane.kl(top)),
  ];
}

function drawBox(box, x0, y0, x1, y1) {
  const values = { x: Math.min(x0, x1), y: Math.min(y0, y1), width: Math.abs(x1 - x0), height: Math.abs(y1 - y0) };
  for (const [name, value] of Object.entries(values)) box.setAttribute(name, value);
  box.setAttribute("visibility", "visible");
}

function showBrush(plane) {
  const [box, region] = [document.getElementById("brush-box"), regionOf()];
  if (!region) return box.setAttribute("visibility", "hidden");
  const [e0, e1, k0, k1] = region;
  return drawBox(box, e0 === null ? MARGIN.left : plane.x(e0), k1 === null ? MARGIN.top : plane.y(k1),
    e1 === null ? MARGIN.left + plane.w : plane.x(e1), k0 === null ? MARGIN.top + plane.h : plane.y(k0));
}

function renderRegionControls() {
  const run = theRun();
  const [entropy, divergence] = cutsShown(run);
  const region = regionOf() ?? [null, null, null, null];
  const change = (at, text) => {
    const ends = [...region];
    ends[at] = text === "" || !Number.isFinite(Number(text)) ? null : Number(text);
    go({ region: ends.every((end) => end === null) ? "" : regionWord(ends) });
  };
  const field = (label, at) => el("label", { class: "field" }, el("span", {}, label),
    el("input", { type: "number", step: "any", min: "0", value: region[at] ?? "", placeholder: "open", onchange: (event) => change(at, event.target.value) }));
  const quadrants = [[entropy, null, divergence, null], [entropy, null, null, divergence],
    [null, entropy, divergence, null], [null, entropy, null, divergence]];
  document.getElementById("region-controls").replaceChildren(
    el("div", { class: "controls" }, field("entropy from", 0), field("to", 1), field("KL from", 2), field("to", 3)),
    el("div", { class: "controls" },
      quadrants.map((ends, i) => button(TYPES[i + 1], () => go({ region: regionWord(ends) }), { title: TYPE_WORDS[i + 1] })),
      button("Clear", () => go({ region: "" }), { disabled: !state.region })));
}

let asked = 0; // the latest question: answers to older ones are dropped

async function renderRegion() {
  const [run, region, box] = [theRun(), regionOf(), document.getElementById("region")];
  asked += 1;
  const mine = asked;
  if (!region) {
    return box.replaceChildren(el("p", { class: "quiet" },
      "Drag a rectangle over the plane, press a type, or give borders: its tokens are listed here, with the condition that selects them."));
  }
  const where = whereOf(region);
  if (run.rollouts.length > 200) box.replaceChildren(el("p", { class: "quiet" }, `Reading ${count(run.rollouts.length)} rollouts …`));
  const found = await tokensIn(run, region);
  if (mine !== asked) return undefined;
  const share = cellShare(run, region);
  const rounds = state.plane === "all" ? "" : ` --round ${state.plane}`;
  const query = `SELECT rollout, position, student_entropy, reverse_kl FROM tokens WHERE trainable AND ${where}`;
  return box.replaceChildren(
    el("p", { id: "region-count", "data-count": found.count },
      `${count(found.count)} of the ${count(found.of)} trainable tokens of the rollouts shown here; about ${percent(share)} of all tokens.`),
    copyable("condition", where),
    copyable("train on them", `--set ${quoted(`select.where=${where}`)}`),
    copyable("ask for all", `tip sql ${quoted(query)} --run ${run.about.name}${rounds}`),
    el("ol", { class: "contexts" }, found.shown.map((each) => context(run, ...each))),
    found.count > found.shown.length
      ? el("p", { class: "quiet" }, `${count(found.count - found.shown.length)} more are not listed.`) : null);
}

/** Return a text as a shell takes it. */
const quoted = (text) => `"${text.replace(/[\\"$`]/g, "\\$&")}"`;

/** Return the shown rollouts' tokens of a region: how many, of how many, and the first of them. */
async function tokensIn(run, region) {
  const out = { count: 0, of: 0, shown: [] };
  const turns = [];
  for (let place = 0; place < run.rollouts.length; place += 1) {
    if (state.plane !== "all" && String(run.rollouts[place].round) !== state.plane) continue;
    const found = await sheetOf(run, place); // one after the other: a bundle's are read from a disk
    const here = [];
    for (let token = 0; token < found.count; token += 1) {
      if (!isTrainable(found, token)) continue;
      out.of += 1;
      if (within(found, token, region)) here.push([found, token]);
    }
    out.count += here.length;
    if (here.length) turns.push(here);
  }
  // By turns, so that the list shows many rollouts rather than many tokens of one.
  for (let turn = 0; out.shown.length < MOST_SHOWN && turns.some((here) => turn < here.length); turn += 1) {
    for (const here of turns) {
      if (turn < here.length && out.shown.length < MOST_SHOWN) out.shown.push(here[turn]);
    }
  }
  return out;
}

function context(run, found, token) {
  const before = found.texts.slice(Math.max(0, token - AROUND), token).join("");
  const after = found.texts.slice(token + 1, token + 1 + AROUND).join("");
  const { round, rollout } = found.about;
  const show = (event) => {
    go({ round, rollout, token });
    jump(event, "rollouts");
  };
  return el("li", { "data-rollout": rollout, "data-round": round, "data-position": token },
    el("button", { type: "button", class: "context", onclick: show, "aria-label": `${inline(found.texts[token])} in round ${round}: show it` },
      el("span", { class: "before" }, inline(before)),
      el("mark", { class: `q${typeOf(found, token)}` }, inline(found.texts[token]) || "·"),
      el("span", { class: "after" }, inline(after))),
    el("span", { class: "quiet numbers" }, `H ${number(found.numbers.student_entropy[token])}  KL ${number(found.numbers.reverse_kl[token])}`));
}

/** Return about which share of all tokens lies in a region, from the cells of the plane. */
function cellShare(run, [e0, e1, k0, k1]) {
  const { bins, ends, scale } = run.plane;
  const { tokens } = cellsOf(run, state.plane);
  const part = (cell, count_, from, to, end) => {
    const low = from === null ? 0 : along(from, end, scale) * count_;
    const high = to === null ? count_ : along(to, end, scale) * count_;
    return Math.max(0, Math.min(cell + 1, high) - Math.max(cell, low));
  };
  let [inside, all] = [0, 0];
  tokens.forEach((n, i) => {
    all += n;
    inside += n * part(i % bins[0], bins[0], e0, e1, ends[0]) * part(Math.floor(i / bins[0]), bins[1], k0, k1, ends[1]);
  });
  return all ? inside / all : 0;
}
