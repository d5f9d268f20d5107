// What a run took, what it answered, and what it is: costs, problems, settings, keys.

const STAGES = ["rollout", "score", "select", "train", "evaluate"];
const SPENT = ["computing", "loading", "waiting", "writing", "compiling"];

function renderCosts() {
  const run = theRun();
  const lines = Object.entries(run.metrics);
  const bytes = (round) => run.artifacts.filter((each) => String(each.round) === round).reduce((sum, each) => sum + each.bytes, 0);
  const most = (stages, name) => Math.max(...Object.values(stages).map((s) => s[name] ?? 0));
  const onGpu = lines.some(([, stages]) => most(stages, "peak_gpu_memory_mb"));
  const rows = lines.map(([round, s]) => [
    round, count(s.rollout?.generated_tokens), count(s.rollout?.reused_tokens),
    count(s.score?.teacher_tokens_scored), count(s.score?.teacher_tokens_reused),
    count(s.train?.trained_tokens), ...STAGES.map((stage) => (s[stage] ? s[stage].seconds.toFixed(1) : "")),
    bytes(round) ? size(bytes(round)) : "", count(most(s, "peak_memory_mb")),
    ...(onGpu ? [count(most(s, "peak_gpu_memory_mb"))] : []),
  ]);
  const columns = ["round", "generated", "reused", "scored", "reused", "trained", ...STAGES.map((s) => `${s} s`), "stored", "peak MB", ...(onGpu ? ["peak GPU MB"] : [])];
  const totals = totalsOf(run);
  document.getElementById("cost-table").replaceChildren(
    el("p", {}, totals), table(columns.map((name) => [name]), rows, { label: "costs by round" }));
  const hues = STAGES.map((stage, i) => [`hue${i}`, stage]);
  const picked = lines.length > 24 ? lines.filter((_, i) => i % Math.ceil(lines.length / 24) === 0) : lines;
  document.getElementById("cost-bars").replaceChildren(
    barRows({ id: "seconds", title: "Seconds by stage", legend: hues, write: duration,
      rows: picked.map(([round, s]) => ({ name: `round ${round}`, parts: STAGES.map((stage, i) => [`hue${i}`, s[stage]?.seconds ?? 0, `${stage}: ${duration(s[stage]?.seconds ?? 0)}`]) })) }),
    ...spentBars(lines),
    barRows({ id: "teacher", title: "Tokens the teacher read", legend: [["hue1", "scored now"], ["hue2", "reused: nothing paid"]], write: count,
      rows: picked.filter(([, s]) => s.score).map(([round, s]) => ({ name: `round ${round}`, parts: [["hue1", s.score.teacher_tokens_scored, `scored ${count(s.score.teacher_tokens_scored)}`], ["hue2", s.score.teacher_tokens_reused, `reused ${count(s.score.teacher_tokens_reused)}`]] })) }));
}

/** Return a chart of what the seconds of each stage went into, none where no line says so. */
function spentBars(lines) {
  const sum = (stage, word) => lines.reduce((all, [, s]) => all + (s[stage]?.spent?.[word] ?? 0), 0);
  const told = STAGES.filter((stage) => lines.some(([, s]) => s[stage]?.spent));
  if (!told.length) return [];
  return [barRows({ id: "spent", title: "What the seconds went into, all rounds", legend: SPENT.map((word, i) => [`hue${i}`, word]), write: duration,
    rows: told.map((stage) => ({ name: stage, parts: SPENT.map((word, i) => [`hue${i}`, sum(stage, word), `${word}: ${duration(sum(stage, word))}`]) })) })];
}

function totalsOf(run) {
  const sum = (stage, name) => series(run, stage, name).reduce((all, [, value]) => all + value, 0);
  const keys = new Map(run.artifacts.map((each) => [each.keys.join(), each.bytes]));
  const stored = [...keys.values()].reduce((a, b) => a + b, 0);
  return `${count(sum("rollout", "generated_tokens"))} tokens generated, ${count(sum("score", "teacher_tokens_scored"))} read by the teacher and ${count(sum("score", "teacher_tokens_reused"))} found, ${count(sum("train", "trained_tokens"))} trained on; ${size(stored)} of the store belong to these rounds (shared with other runs).`;
}

function renderAnswers() {
  const run = theRun();
  const section = document.getElementById("answers");
  section.hidden = !run.answers;
  if (!run.answers) return;
  const { rounds, problems, of } = run.answers;
  const [start, end] = alike(problems.map(({ text }) => text));
  const mark = (answer) => (answer ? (answer.verdict === "right" ? "●" : answer.verdict === "wrong" ? "○" : "–") : "");
  document.getElementById("answer-list").replaceChildren(
    el("p", { class: "quiet" }, `${problems.length} of ${count(of)} problems, those first whose verdict changed most often. ● right, ○ wrong, – no answer; a column is the student after so many rounds.`),
    ...problems.map((problem) => el("details", { class: "problem" },
      el("summary", {}, el("span", { class: "verdicts", "aria-label": rounds.map((r) => `after ${r}: ${problem.answers[r]?.verdict ?? "not asked"}`).join(", ") },
        rounds.map((r) => el("span", { class: problem.answers[r]?.verdict === "right" ? "yes" : "no" }, mark(problem.answers[r])))),
      el("span", { class: "first-line" }, inline(problem.text.slice(start, problem.text.length - end)))),
      answerTexts(problem, rounds))));
}

/** Return how many characters all texts begin and end with alike, as a chat's template makes them. */
function alike(texts) {
  if (texts.length < 2) return [0, 0];
  const shortest = Math.min(...texts.map((text) => text.length));
  const same = (at) => texts.every((text) => text.at(at) === texts[0].at(at));
  let [start, end] = [0, 0];
  while (start < shortest && same(start)) start += 1;
  while (end < shortest - start && same(-1 - end)) end += 1;
  return [start, end];
}

function answerTexts(problem, rounds) {
  const box = el("div", { class: "answer-texts" }, el("p", { class: "quiet" }, `expected: ${problem.expected}`), el("p", { class: "problem-text" }, shown(problem.text)));
  for (const round of rounds) {
    const answer = problem.answers[round];
    if (!answer) continue;
    box.append(el("div", { class: "answer" },
      el("p", { class: "quiet" }, `after ${round} rounds: ${answer.verdict}${answer.answer === null ? "" : `, “${answer.answer}”`}, ${count(answer.length)} tokens`),
      el("p", { class: "response" }, shown(answer.text) + (answer.cut ? " …" : ""))));
  }
  return box;
}

const written = (value) => (value === null ? "none" : typeof value === "string" ? value : JSON.stringify(value));

function renderSettings() {
  const run = theRun();
  const changed = run.settings.filter((each) => each.changed);
  const rows = (lines) => lines.map(({ key, value, default: usual, meaning, changed: other, required }) =>
    [el("code", {}, key), el(other ? "strong" : "span", {}, written(value)), other && !required ? written(usual) : "", el("span", { class: "quiet" }, meaning)]);
  const columns = [["setting", "left"], ["value", "left"], ["default", "left"], ["meaning", "left"]];
  const keys = run.artifacts.flatMap(({ round, kind, keys: all, content, rows: n, bytes, versions, gone, mode }) =>
    [[`round ${round}`, kind + (mode === "support" ? " (over support and tail)" : ""), all.length === 1 ? all[0] : `${all.length} shards, ${all[0]} …`, content[0]?.slice(0, 16) ?? "", count(n), size(bytes), versions.join(", "), gone ? `${gone} gone` : ""]]);
  document.getElementById("settings-list").replaceChildren(
    table(columns, rows(changed), { label: "settings that differ from their defaults" }),
    el("details", {}, el("summary", {}, `all ${run.settings.length} settings`), table(columns, rows(run.settings), { label: "all settings" })),
    el("details", {}, el("summary", {}, "hashes of models, prompts and rule"),
      table([["what", "left"], ["hash", "left"]], Object.entries(run.content).map(([name, hash]) => [name, el("code", {}, hash || "not known")]), { label: "hashes" })),
    el("details", {}, el("summary", {}, "artifacts of every round"),
      table([["round", "left"], ["kind", "left"], ["key", "left"], ["content", "left"], ["rows"], ["bytes"], ["version"], ["", "left"]], keys, { label: "artifacts" })));
}
