// The plane of student entropy and reverse KL: how many tokens lie where, and which a person marks.

const MARGIN = { left: 46, right: 10, top: 10, bottom: 38 };
const TICKS = [0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100];

/** Return the place of a number on an axis, 0 to 1: linear near 0, then logarithmic. */
const along = (value, end, scale) => Math.log1p(Math.max(0, value) / scale) / Math.log1p(end / scale);
const back = (part, end, scale) => scale * Math.expm1(part * Math.log1p(end / scale));

/** Return the cells of a plane added up over rounds: tokens and chosen tokens of each. */
function cellsOf(run, which) {
  const { bins, rounds } = run.plane;
  const tokens = new Float64Array(bins[0] * bins[1]);
  const chosen = new Float64Array(bins[0] * bins[1]);
  for (const [round, packed] of Object.entries(rounds)) {
    if (which !== "all" && which !== round) continue;
    const [cell, all, some] = [packed.cell, packed.tokens, packed.chosen].map(unpack);
    cell.forEach((at, i) => {
      tokens[at] += all[i];
      chosen[at] += some[i];
    });
  }
  return { tokens, chosen };
}

const planeRounds = (run) => Object.keys(run.plane.rounds);

/** Return the round whose shares and cuts are shown; where all rounds are, the last one. */
const roundShown = (run) => (state.plane === "all" ? planeRounds(run).at(-1) : state.plane);

const cutsShown = (run) => run.plane.cuts[roundShown(run)];

function renderPlaneControls() {
  const run = theRun();
  const rounds = planeRounds(run).map((round) => [round, `round ${round}`]);
  document.getElementById("plane-controls").replaceChildren(
    menu("Tokens of", [["all", "all rounds"], ...rounds], state.plane, (plane) => go({ plane })),
    menu("Colour", [["tokens", "all tokens"], ["chosen", "chosen tokens"], ["share", "share chosen"]],
      state.of, (of) => go({ of })));
}

function drawPlane(width) {
  const run = theRun();
  const box = document.getElementById("plane-drawing");
  const height = Math.max(250, Math.min(440, width * 0.66));
  const plane = geometry(run, width, height);
  const root = svg("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": planeWords(run),
  });
  root.append(...cells(run, plane), ...axes(plane), ...cutLines(run, plane), ...trail(run, plane));
  root.append(svg("rect", { class: "brush", id: "brush-box", visibility: "hidden" }));
  box.replaceChildren(root);
  brushing(root, plane);
  showBrush(plane);
}

/** Return how nats and pixels of the plane meet. */
function geometry(run, width, height) {
  const { ends, scale } = run.plane;
  const [w, h] = [width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom];
  return {
    width, height, w, h, ends, scale, bins: run.plane.bins,
    x: (entropy) => MARGIN.left + w * along(entropy, ends[0], scale),
    y: (kl) => MARGIN.top + h * (1 - along(kl, ends[1], scale)),
    entropy: (x) => back(Math.min(1, Math.max(0, (x - MARGIN.left) / w)), ends[0], scale),
    kl: (y) => back(Math.min(1, Math.max(0, 1 - (y - MARGIN.top) / h)), ends[1], scale),
  };
}

function cells(run, plane) {
  const { tokens, chosen } = cellsOf(run, state.plane);
  const strength = state.of === "share"
    ? (i) => chosen[i] / tokens[i]
    : logarithmic(state.of === "chosen" ? chosen : tokens);
  const [across, up] = plane.bins;
  const [w, h] = [plane.w / across, plane.h / up];
  const made = [];
  for (let i = 0; i < tokens.length; i += 1) {
    const value = tokens[i] ? strength(i) : 0;
    if (!value) continue;
    made.push(svg("rect", {
      class: "cell", x: MARGIN.left + (i % across) * w,
      y: MARGIN.top + plane.h - (Math.floor(i / across) + 1) * h,
      width: w, height: h, "fill-opacity": (0.08 + 0.92 * value).toFixed(3),
    }));
  }
  return made;
}

function logarithmic(counts) {
  const top = Math.log1p(counts.reduce((a, b) => Math.max(a, b), 1));
  return (i) => Math.log1p(counts[i]) / top;
}

function axes({ width, height, x, y, ends, w, h }) {
  const sparse = width < 480 ? TICKS.filter((_, i) => i % 2 === 1 || i === 0) : TICKS;
  const ticks = (end) => sparse.filter((tick) => tick <= end && (tick === 0 || tick >= 0.01));
  const bottom = MARGIN.top + h;
  return [
    svg("path", { class: "axis", d: `M${MARGIN.left},${MARGIN.top}V${bottom}H${width - MARGIN.right}` }),
    ...ticks(ends[0]).map((t) => svg("text", { class: "tick", x: x(t), y: bottom + 15, "text-anchor": "middle" }, number(t))),
    ...ticks(ends[1]).map((t) => svg("text", { class: "tick", x: MARGIN.left - 6, y: y(t) + 4, "text-anchor": "end" }, number(t))),
    svg("text", { class: "label", x: MARGIN.left + w, y: height - 4, "text-anchor": "end" }, "student entropy (nats) →"),
    svg("text", { class: "label", x: MARGIN.left + 6, y: MARGIN.top + 12 }, "↑ reverse KL (nats)"),
  ];
}

function cutLines(run, { x, y, width, w, h }) {
  const [entropy, divergence] = cutsShown(run);
  const names = [
    [1, width - MARGIN.right - 6, MARGIN.top + 16, "end"], [2, width - MARGIN.right - 6, MARGIN.top + h - 8, "end"],
    [3, MARGIN.left + 6, MARGIN.top + 30, "start"], [4, MARGIN.left + 6, MARGIN.top + h - 8, "start"],
  ];
  return [
    svg("path", { class: "cut", d: `M${x(entropy)},${MARGIN.top}v${h}` }),
    svg("path", { class: "cut", d: `M${MARGIN.left},${y(divergence)}h${w}` }),
    ...names.map(([kind, at, height, anchor]) =>
      svg("text", { class: "quadrant", x: at, y: height, "text-anchor": anchor }, TYPES[kind])),
  ];
}

/** Return the way of the rounds' means through the plane: how the student moves. */
function trail(run, { x, y }) {
  const { entropy, divergence, round } = run.plane.kl;
  if (round.length < 2) return [];
  const points = round.map((_, i) => `${x(entropy[i]).toFixed(1)},${y(divergence[i]).toFixed(1)}`);
  const [first, last] = [points[0], points.at(-1)].map((point) => point.split(","));
  return [
    svg("polyline", { class: "trail-edge", points: points.join(" ") }),
    svg("polyline", { class: "trail", points: points.join(" ") }),
    svg("circle", { class: "trail-start", cx: first[0], cy: first[1], r: 4 }),
    svg("circle", { class: "trail-end", cx: last[0], cy: last[1], r: 5 }),
  ];
}

function planeWords(run) {
  const shares = sharesOf(run, planeRounds(run).at(-1));
  const words = shares ? shares.map((s) => `${s.type} ${percent(s.tokens)}`).join(", ") : "";
  return `Density of tokens over student entropy and reverse KL. Last round: ${words}`;
}

/** Return each type's shares of a round: of tokens, of reverse KL, of what was chosen. */
function sharesOf(run, round) {
  const types = run.metrics[round]?.select?.types;
  return types ? Object.entries(types).map(([type, of]) => ({ type, ...of })) : null;
}

function renderShares() {
  const run = theRun();
  const round = roundShown(run);
  const shares = sharesOf(run, round);
  const [entropy, divergence] = run.plane.cuts[round];
  const rows = (shares ?? []).map((of, i) => [
    el("span", {}, el("i", { class: `swatch q${i + 1}` }), of.type), TYPE_WORDS[i + 1],
    percent(of.tokens), percent(of.reverse_kl), percent(of.kept_tokens),
  ]);
  document.getElementById("plane-shares").replaceChildren(
    shares ? table([["type", "left"], ["", "left"], ["tokens"], ["of KL"], ["of chosen"]], rows, { label: "shares of the types" })
      : el("p", { class: "quiet" }, "Nothing is selected yet."),
    el("p", { class: "quiet" }, `Round ${round}; cuts at entropy ${number(entropy)} and reverse KL ${number(divergence)} nats. `
      + "The line joins the means of the rounds, from the ring to the dot."
      + (run.about.over_support ? " Divergences are those over support and tail, as score.mode = 'separate' makes them." : "")));
}
