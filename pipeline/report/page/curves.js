// What changed by round, and where the chosen tokens lie.

const DASHES = [null, "6 3", "2 3", "8 3 2 3"];

/** Return a line a run of one metric; low, high: names of the ends of its interval. */
const byRun = (stage, name, ends) => RUNS.map((run, i) => ({
  name: run.about.name, hue: i % 6, dash: DASHES[Math.floor(i / 6)],
  points: series(run, stage, name).map(([round, value]) => {
    const line = run.metrics[round][stage];
    return ends ? [round, value, line[ends[0]], line[ends[1]]] : [round, value];
  }),
}));

/** Return a line each of several metrics of a run: [stage, name, words]. */
const ofRun = (run, metrics) => metrics.map(([stage, name, words], i) =>
  ({ name: words, hue: i, dash: null, points: series(run, stage, name) }));

/** Return the mean reverse KL on the rollouts of each round, with intervals, a line a run. */
const klByRun = () => RUNS.map((run, i) => ({
  name: run.about.name, hue: i % 6, dash: DASHES[Math.floor(i / 6)],
  points: run.plane ? run.plane.kl.round.map((round, j) => {
    const [mean, half] = [run.plane.kl.divergence[j], run.plane.kl.half[j]];
    return [round, mean, mean - half, mean + half];
  }) : [],
}));

function renderCurves() {
  const run = theRun();
  const one = RUNS.length > 1 ? `of ${run.about.name}` : "";
  const charts = [
    lineChart({ id: "accuracy", title: "Held-out accuracy", note: "after so many rounds, 95 % intervals", lines: byRun("evaluate", "accuracy", ["low", "high"]), write: (v) => percent(v, 0), zero: false }),
    lineChart({ id: "kl", title: "Reverse KL to the teacher", note: "nats a token on each round's rollouts, 95 % intervals over rollouts", lines: klByRun() }),
    lineChart({ id: "held-out", title: "Held-out divergences", note: `nats a token on fresh rollouts of the problems ${one}`, lines: ofRun(run, [["evaluate", "reverse_kl", "reverse KL"], ["evaluate", "forward_kl", "forward KL"], ["evaluate", "jsd", "JSD"]]) }),
    lineChart({ id: "losses", title: "Training loss", note: "nats, mean over a round's steps", lines: byRun("train", "loss") }),
    lineChart({ id: "stability", title: "Reverse KL where it is not trained", note: `nats a token ${one}`, lines: ofRun(run, [["select", "selected_reverse_kl", "chosen tokens"], ["select", "unselected_reverse_kl", "all others"]]) }),
    lineChart({ id: "drift", title: "Drift by a round's training", note: `nats, KL of before to after ${one}`, lines: ofRun(run, [["train", "staleness", "all tokens"], ["train", "drift_selected", "chosen"], ["train", "drift_unselected", "others"]]) }),
    typeChart(run, one),
    lengthChart(run, one),
    lineChart({ id: "gradient", title: "Largest gradient norm", note: "before clipping", lines: byRun("train", "largest_gradient") }),
  ];
  document.getElementById("curves").replaceChildren(...charts.filter(Boolean));
}

function typeChart(run, one) {
  const lines = TYPES.slice(1).map((type, i) => ({
    name: `${type} ${TYPE_WORDS[i + 1]}`, hue: `q${i + 1}`, dash: null,
    points: Object.keys(run.metrics).map((round) => [Number(round), sharesOf(run, round)?.[i].tokens]).filter(([, value]) => value !== undefined),
  }));
  return lineChart({ id: "types", title: "Shares of the types", note: `of the trainable tokens ${one}`, lines, write: (v) => percent(v, 0) });
}

function lengthChart(run, one) {
  const lengths = run.plane?.lengths;
  if (!lengths) return null;
  const at = (i) => lengths.round.map((round, j) => [round, lengths.lengths[j][i]]);
  const band = lengths.round.map((round, j) => [round, lengths.lengths[j][1], lengths.lengths[j][0], lengths.lengths[j][2]]);
  return lineChart({ id: "lengths", title: "Length of the rollouts", note: `tokens: the median, and where 80 % lie ${one}`, write: count,
    lines: [{ name: "median", hue: 0, dash: null, points: at ? band : [] }] });
}

function renderPlaces() {
  const run = theRun();
  const box = document.getElementById("places");
  if (!run.plane) return box.replaceChildren();
  const round = roundShown(run);
  const { tokens, chosen } = run.plane.places[round];
  const sum = (rows, tenth) => rows.reduce((all, row) => all + row[tenth], 0);
  const total = Math.max(1, chosen.flat().reduce((a, b) => a + b, 0));
  const tenths = Array.from({ length: 10 }, (_, tenth) => ({
    name: `${10 * tenth} to ${10 * tenth + 10} %`,
    parts: chosen.map((row, kind) => [`q${kind + 1}`, row[tenth] / total, `${TYPES[kind + 1]}: ${count(row[tenth])}`]),
    words: sum(tokens, tenth) ? `${percent(sum(chosen, tenth) / sum(tokens, tenth), 0)} of these` : "",
  }));
  const kinds = TYPES.slice(1).map((type, i) => {
    const [all, some] = [tokens[i], chosen[i]].map((row) => row.reduce((a, b) => a + b, 0));
    return { name: type, parts: [[`q${i + 1}`, some / total, `${count(some)} tokens`]], words: `${percent(some / total)}; ${all ? percent(some / all, 0) : "0 %"} of the ${type}` };
  });
  const legend = TYPES.slice(1).map((type, i) => [`q${i + 1}`, type]);
  return box.replaceChildren(
    barRows({ id: "by-type", title: "The chosen, by type", note: `round ${round}`, rows: kinds }),
    barRows({ id: "by-place", title: "The chosen, by place in the response", note: `round ${round}`, rows: tenths, legend }),
    stops(run));
}

function stops(run) {
  const { round, rollouts, cut_off: cut } = run.plane.lengths;
  const rows = round.length > 16 ? round.map((_, i) => i).filter((i) => i % Math.ceil(round.length / 16) === 0 || i === round.length - 1) : round.map((_, i) => i);
  return barRows({
    id: "stops", title: "How rollouts ended", legend: [["hue0", "by themselves"], ["hue1", "by the length limit"]],
    rows: rows.map((i) => ({ name: `round ${round[i]}`, parts: [["hue0", 1 - cut[i] / rollouts[i]], ["hue1", cut[i] / rollouts[i]]], words: `${percent(cut[i] / rollouts[i], 0)} cut off` })),
  });
}
