// The top of the page: whose run it is, what is alarming, what came of it.

/** Return the series of a metric by round: [round, value] of rounds that have it. */
function series(run, stage, name) {
  return Object.entries(run.metrics)
    .map(([round, stages]) => [Number(round), stages[stage]?.[name]])
    .filter(([, value]) => value !== null && value !== undefined);
}

/** Return the budget of a run in words. */
function budget({ rule, keep, count: tokens }) {
  return keep === null ? `${rule}, ${tokens} tokens` : `${rule}, keeps ${percent(keep, 0)}`;
}

function renderHead() {
  const run = theRun();
  const { about } = run;
  const words = [
    ["selects", budget(about)], ["loss", about.loss],
    ["rounds", `${about.trained} of ${about.rounds}`],
    ["student", shortPath(about.student)], ["teacher", shortPath(about.teacher)],
    about.branch && ["branched off", `${about.branch.run} after ${about.branch.rounds} rounds`],
    about.replay && ["replays", about.replay],
  ].filter(Boolean);
  document.getElementById("title").replaceChildren(about.name);
  document.getElementById("about").replaceChildren(...words.map(([name, value]) =>
    el("span", {}, el("span", { class: "quiet" }, `${name} `), value)));
  const picker = document.getElementById("runs");
  picker.replaceChildren(...(RUNS.length < 2 ? [] : [
    menu("Run", RUNS.map((each, i) => [i, each.about.name]), state.run,
      (value) => go({ run: value, rollout: "", token: "", plane: "all", region: "" })),
  ]));
  renderAlarms();
  renderTiles(run);
  renderRunTable();
}

/** Set several runs against each other: what each chose, what came of it, what it took. */
function renderRunTable() {
  if (RUNS.length < 2) return;
  const last = (run, stage, name) => series(run, stage, name).at(-1)?.[1];
  const accuracy = (run) => {
    const line = run.metrics[series(run, "evaluate", "accuracy").at(-1)?.[0]]?.evaluate;
    return line ? `${percent(line.accuracy)} (${percent(line.low, 0)} to ${percent(line.high, 0)})` : "";
  };
  const asked = RUNS.some((run) => last(run, "evaluate", "reverse_kl") !== undefined);
  const rows = RUNS.map((run, i) => [
    el("span", {}, el("i", { class: `swatch hue${i % 6}` }), run.about.name), budget(run.about), `${run.about.trained} of ${run.about.rounds}`,
    accuracy(run), number(last(run, "score", "reverse_kl")), ...(asked ? [number(last(run, "evaluate", "reverse_kl"))] : []),
    count(total(run, "train", "trained_tokens")), count(total(run, "score", "teacher_tokens_scored")), duration(secondsOf(run)),
  ]);
  document.getElementById("run-table").replaceChildren(table([["run", "left"], ["selects", "left"], ["rounds"], ["held-out accuracy"],
    ["KL on rollouts"], ...(asked ? [["held-out KL"]] : []), ["trained on"], ["teacher tokens"], ["time"]], rows, { label: "runs" }));
}

/** Return the sum of a metric over all rounds. */
const total = (run, stage, name) => series(run, stage, name).reduce((sum, [, value]) => sum + value, 0);

const secondsOf = (run) => Object.values(run.metrics)
  .flatMap((stages) => Object.values(stages)).reduce((sum, line) => sum + line.seconds, 0);

const shortPath = (path) => path.split("/").filter(Boolean).slice(-2).join("/");

function renderAlarms() {
  const lines = RUNS.flatMap((run) => run.alarms.map((alarm) => ({ ...alarm, run })));
  const several = RUNS.length > 1;
  const items = lines.map(({ level, text, at, run }) =>
    el("li", { class: level },
      el("strong", {}, level === "alarm" ? "▲ Alarm " : "○ Note "),
      several ? el("span", { class: "quiet" }, `${run.about.name}: `) : null, text, " ",
      el("a", { href: `#${at}`, onclick: (event) => jump(event, at, run) }, "show")));
  document.getElementById("alarms").replaceChildren(
    items.length ? el("ul", {}, items) : el("p", { class: "calm" }, "✓ No alarms: no round lost ground, no held-out number grew worse."));
}

/** Bring a part of the page into view; the address keeps what it said. */
function jump(event, id, run) {
  event?.preventDefault();
  if (run) go({ run: RUNS.indexOf(run) });
  const target = document.getElementById(id);
  target?.scrollIntoView({ behavior: calmly() ? "auto" : "smooth", block: "start" });
  target?.focus?.({ preventScroll: true });
}

const calmly = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function renderTiles(run) {
  const accuracy = series(run, "evaluate", "accuracy");
  const kl = series(run, "score", "reverse_kl");
  const change = (points, write) => points.length > 1
    ? `${write(points[0][1])} → ${write(points.at(-1)[1])}` : points.length ? write(points[0][1]) : "–";
  const tiles = [
    accuracy.length ? ["Held-out accuracy", change(accuracy, percent)] : null,
    ["Reverse KL on rollouts", change(kl, number), "nats a token"],
    ["Tokens trained on", count(total(run, "train", "trained_tokens"))],
    ["Teacher tokens", count(total(run, "score", "teacher_tokens_scored")),
      `scored, ${count(total(run, "score", "teacher_tokens_reused"))} reused`],
    ["Time", duration(secondsOf(run)), "all stages"],
  ].filter(Boolean);
  document.getElementById("tiles").replaceChildren(...tiles.map(([name, value, unit]) =>
    el("div", { class: "tile" }, el("span", { class: "quiet" }, name), el("strong", {}, value),
      unit ? el("span", { class: "quiet" }, unit) : null)));
}
