// Colours: safe for readers who see fewer of them (Okabe and Ito), each said in words as well.

const TYPES = [null, "Q1", "Q2", "Q3", "Q4"];
const TYPE_WORDS = [null, "unsure, divergent", "unsure, agreed", "sure, divergent", "sure, agreed"];

// How a column is laid on a scale. two-sided: 0 is the middle. falling: what is missing is shown.
const SCALES = {
  advantage: "two-sided", drift: "two-sided", student_mass: "falling", teacher_mass: "falling",
  teacher_mass_top: "falling", overlap: "falling",
};

/** Return the columns that tokens can be coloured by: name, words, unit. */
function columnsOf(run) {
  return [
    { name: "type", words: "type", unit: "" },
    { name: "student_entropy", words: "student entropy", unit: "nats" },
    { name: "teacher_entropy", words: "teacher entropy", unit: "nats" },
    { name: "reverse_kl", words: "reverse KL", unit: "nats" },
    { name: "forward_kl", words: "forward KL", unit: "nats" },
    { name: "jsd", words: "Jensen-Shannon divergence", unit: "nats" },
    { name: "hellinger", words: "Hellinger distance", unit: "0 to 1" },
    { name: "advantage", words: "advantage", unit: "nats, teacher less student" },
    { name: "weight", words: "weight", unit: "of the chosen" },
    { name: "student_logprob", words: "student log-prob", unit: "nats" },
    { name: "teacher_logprob", words: "teacher log-prob", unit: "nats" },
    { name: "student_mass", words: "student mass on the support", unit: "0 to 1" },
    { name: "teacher_mass", words: "teacher mass on the support", unit: "0 to 1" },
    { name: "teacher_mass_top", words: "teacher mass on the student's top 16", unit: "0 to 1" },
    { name: "overlap", words: "overlap of top 16 ids", unit: "0 to 1" },
    { name: "signal_to_noise", words: "signal to noise", unit: "ratio" },
    { name: "drift", words: "drift since sampling", unit: "nats" },
  ].filter(({ name }) => name === "type" || name in run.caps);
}

/** Return the end of a column's scale: all but the largest 2 % of the shown tokens lie within. */
function capOf(run, column) {
  return SCALES[column] === "falling" ? 1 : Math.max(run.caps[column] ?? 1, 1e-6);
}

/** Return [class, strength 0 to 1] of a token's colour; strength null: it has no number. */
function colourOf(found, token, column) {
  const value = numberOf(found, token, column);
  if (Number.isNaN(value)) return ["", null];
  if (column === "type") return [`q${value}`, 1];
  const cap = capOf(found.run, column);
  if (SCALES[column] === "falling") return ["up", Math.min(1, Math.max(0, 1 - value))];
  const strength = Math.min(1, Math.abs(value) / cap);
  return [SCALES[column] === "two-sided" && value < 0 ? "down" : "up", strength];
}

/** Return the legend of a column: what its colours mean, with unit and cap. */
function legendOf(run, column) {
  if (column === "type") {
    return el("p", { class: "legend" }, [1, 2, 3, 4].map((kind) =>
      el("span", {}, el("i", { class: `swatch q${kind}` }), `${TYPES[kind]} ${TYPE_WORDS[kind]}`)));
  }
  const { words, unit } = columnsOf(run).find((each) => each.name === column);
  const cap = capOf(run, column);
  const two = SCALES[column] === "two-sided";
  const falling = SCALES[column] === "falling";
  const negative = column.endsWith("logprob");
  const ends = falling ? ["1", "0"] : [two ? `≤ ${number(-cap)}` : "0",
    negative ? `≤ ${number(-cap)}` : `≥ ${number(cap)}`];
  return el("p", { class: "legend" },
    el("span", {}, `${words}${unit ? ` (${unit})` : ""}`),
    el("span", {}, ends[0], el("i", { class: `ramp ${two ? "two" : ""}` }), ends[1]),
    el("span", { class: "quiet" }, falling ? "" : column === "weight"
      ? "grey: not chosen" : "the largest 2 % share the last colour"));
}
