// Rollouts: which one is read, how its tokens are coloured, and what stands beside it.

const WINDOWS = [256, 1024, 4096];

/** Return the place of the rollout that is read, the run's first where the address names none. */
function placeShown(run) {
  const first = (fits) => run.rollouts.findIndex(fits);
  const [named, round] = [(each) => each.rollout === state.rollout, (each) => String(each.round) === state.round];
  const found = [first((each) => named(each) && round(each)), first(named), first(round)];
  return found.find((at) => at >= 0) ?? 0;
}

const openRollout = ({ rollout, round }, token = "") => go({ rollout, round, token });

/** Return the same prompt and sample in all rounds that are shown of a run. */
const overRounds = (run, about) => run.rollouts.filter(({ rollout }) => rollout === about.rollout);

/** Return the samples of a prompt in a round. */
const samplesOf = (run, about) =>
  run.rollouts.filter(({ prompt, round }) => prompt === about.prompt && round === about.round);

const shortHash = (hash) => hash.slice(0, 8);

function rolloutName({ round, prompt, sample, kl }) {
  return `round ${round} · ${shortHash(prompt)} · sample ${sample} · KL ${number(kl)}`;
}

function renderRolloutControls() {
  const run = theRun();
  if (!run.rollouts.length) return;
  const place = placeShown(run);
  const about = run.rollouts[place];
  const samples = samplesOf(run, about);
  const sample = samples.indexOf(about);
  const step = (to) => run.rollouts[to] && openRollout(run.rollouts[to]);
  document.getElementById("rollout-controls").replaceChildren(
    el("div", { class: "controls" },
      menu("Rollout", run.rollouts.map((each, i) => [i, rolloutName(each)]), place, (to) => step(Number(to))),
      button("‹ previous", () => step(place - 1), { disabled: place === 0 }),
      button("next ›", () => step(place + 1), { disabled: place === run.rollouts.length - 1 }),
      button("largest KL", () => openRollout(run.rollouts.reduce((a, b) => (b.kl > a.kl ? b : a)))),
      samples.length > 1 ? el("span", { class: "group" },
        button("‹ sample", () => openRollout(samples[sample - 1]), { disabled: sample === 0 }),
        el("span", {}, `${sample + 1} of ${samples.length}`),
        button("sample ›", () => openRollout(samples[sample + 1]), { disabled: sample === samples.length - 1 })) : null),
    el("div", { class: "controls" },
      menu("Colour by", columnsOf(run).map(({ name, words }) => [name, words]), state.by, (by) => go({ by })),
      menu("Underline", [["selection", "what was chosen"], ...run.rules.map((rule) => [rule, `what ${rule} would choose`])],
        state.marks, (marks) => go({ marks })),
      menu("Window", WINDOWS.map((of) => [of, `${count(of)} tokens`]), state.window, (of) => go({ window: of })),
      menu("Beside it", besides(run, about), state.beside, (beside) => go({ beside }))));
  renderOverRounds(run, about);
}

/** Return what can stand beside a rollout: another rule, another run, another round. */
function besides(run, about) {
  const rules = [["rule:selection", "what was chosen"], ...run.rules.map((rule) => [`rule:${rule}`, `rule ${rule}`])];
  const runs = RUNS.map((each, i) => [`run:${i}`, `run ${each.about.name}`]).filter((_, i) => RUNS[i] !== run);
  const rounds = overRounds(run, about).filter((each) => each !== about).map(({ round }) => [`round:${round}`, `round ${round}`]);
  return [["", "nothing"], ...runs, ...rounds, ...rules];
}

function renderOverRounds(run, about) {
  const same = overRounds(run, about);
  const chips = same.map((each) =>
    button(`round ${each.round}`, () => openRollout(each, state.token), {
      "aria-pressed": each === about, title: `KL ${number(each.kl)}, ${count(each.tokens)} tokens`,
    }));
  document.getElementById("over-rounds").replaceChildren(...(same.length > 1
    ? [el("span", { class: "quiet" }, "The same prompt in "), ...chips]
    : [el("span", { class: "quiet" }, "This prompt is in one round only, of those shown.")]));
}

let drawn = 0; // the latest request: what an older one brings is dropped

async function renderRollout() {
  const run = theRun();
  const box = document.getElementById("panes");
  if (!run.rollouts.length) {
    return box.replaceChildren(el("p", { class: "quiet" }, "No round is scored yet."));
  }
  drawn += 1;
  const mine = drawn;
  let found;
  try {
    found = await sheetOf(run, placeShown(run));
  } catch (error) {
    return box.replaceChildren(el("p", { class: "alarm" }, String(error.message)));
  }
  const other = await besideOf(run, found.about);
  if (mine !== drawn) return undefined;
  const panes = [pane(found, state.marks, other ? paneTitle(run, found, state.marks) : null)];
  if (other?.found) panes.push(pane(other.found, other.marks, other.title, true));
  if (other && !other.found) panes.push(el("p", { class: "pane quiet" }, other.title));
  box.classList.toggle("two", panes.length > 1);
  box.replaceChildren(...panes);
  document.getElementById("legend").replaceChildren(legendOf(run, state.by), marksLegend());
  const token = Number(state.token || 0);
  showToken(found, token < found.count ? token : 0);
  return undefined;
}

function marksLegend() {
  return el("p", { class: "legend" },
    el("span", {}, el("span", { class: "token chosen" }, "underlined"),
      state.marks === "selection" ? " chosen by the run" : ` what ${state.marks} would choose`),
    el("span", {}, el("span", { class: "token masked" }, "grey"), " prompt, and what may not be trained on"));
}

const paneTitle = (run, found, marks) =>
  `${run.about.name}, round ${found.about.round}${marks === "selection" ? "" : `, ${marks}`}`;

/** Return what stands beside a rollout, null where nothing does. */
async function besideOf(run, about) {
  const [kind, name] = [state.beside.split(":")[0], state.beside.split(":").slice(1).join(":")];
  if (!name) return null;
  if (kind === "rule") {
    const found = await sheetOf(run, run.rollouts.indexOf(about));
    return { found, marks: name, title: name === "selection" ? "what was chosen" : `what ${name} would choose` };
  }
  const of = kind === "run" ? RUNS[Number(name)] : run;
  if (!of) return null;
  const round = kind === "round" ? Number(name) : about.round;
  const place = of.rollouts.findIndex((each) => each.rollout === about.rollout && each.round === round);
  if (place < 0) return { title: `${of.about.name} shows no rollout of this prompt in round ${round}.` };
  const found = await sheetOf(of, place);
  return { found, marks: "selection", title: paneTitle(of, found, "selection") };
}

let sorted = "order"; // by what the list of rollouts is sorted

const SORTS = { order: () => 0, kl: (a, b) => b.kl - a.kl, tokens: (a, b) => b.tokens - a.tokens, selected: (a, b) => b.selected - a.selected };

const wanted = { text: "", round: "", end: "" }; // what of them is listed
const MOST_LISTED = 300;

/** Tell whether a rollout is one that is asked for. */
const isWanted = ({ begins, round, stop }) => (!wanted.round || String(round) === wanted.round)
  && (!wanted.end || stop === wanted.end) && begins.toLowerCase().includes(wanted.text.toLowerCase());

function renderRolloutFilters() {
  const rounds = [...new Set(theRun().rollouts.map(({ round }) => round))];
  Object.assign(wanted, { text: "", round: "", end: "" });
  const ask = (changes) => {
    Object.assign(wanted, changes);
    renderRolloutList();
  };
  document.getElementById("rollout-filters").replaceChildren(
    menu("Round", [["", "all"], ...rounds.map((round) => [round, `round ${round}`])], "", (round) => ask({ round })),
    menu("Ended", [["", "in any way"], ["stop", "by itself"], ["length", "by the length limit"]], "", (end) => ask({ end })),
    el("label", { class: "field" }, el("span", {}, "Begins with or near"),
      el("input", { type: "search", oninput: (event) => ask({ text: event.target.value }) })));
}

/** List the rollouts of the page that are asked for, each a place to go to. */
function renderRolloutList() {
  const run = theRun();
  const here = run.rollouts[placeShown(run)];
  const head = (name, key, side) => el("th", { scope: "col", class: side ?? "", "aria-sort": sorted === key ? (key === "order" ? "ascending" : "descending") : "none" },
    button(name, () => { sorted = key; renderRolloutList(); }, { class: "plain" }));
  const all = run.rollouts.filter(isWanted).sort(SORTS[sorted]);
  const lines = all.slice(0, MOST_LISTED).map((about) => el("tr", { class: about === here ? "here" : "" },
    el("th", { scope: "row", class: "left" }, button(`round ${about.round}`, () => openRollout(about), { class: "plain", "aria-current": about === here ? "true" : null })),
    el("td", { class: "left first-line" }, inline(about.begins)), el("td", {}, String(about.sample)), el("td", {}, number(about.kl)),
    el("td", {}, count(about.tokens)), el("td", {}, count(about.selected)), el("td", { class: "left" }, about.stop === "length" ? "cut off" : "")));
  document.getElementById("rollout-list").replaceChildren(el("div", { class: "scrolls list", tabindex: "0", role: "region", "aria-label": "rollouts of this page" },
    el("table", {}, el("thead", {}, el("tr", {}, head("round", "order", "left"), el("th", { scope: "col", class: "left" }, "response begins"),
      el("th", { scope: "col" }, "sample"), head("KL", "kl"), head("tokens", "tokens"), head("chosen", "selected"), el("th", {}))), el("tbody", {}, lines)),
    all.length > lines.length || !all.length ? el("p", { class: "quiet" }, all.length ? `${count(all.length - lines.length)} more are not listed.` : "None of them.") : null));
}

function renderRolloutCount() {
  const run = theRun();
  const shownOnes = run.rollouts.length;
  const [all, left] = [run.rollouts_of, run.rollouts_of - shownOnes];
  const tokens = run.rollouts.reduce((sum, { tokens: n }) => sum + n, 0);
  document.getElementById("rollout-count").replaceChildren(
    `${count(shownOnes)} of ${count(all)} rollouts are in this page (${count(tokens)} tokens)`
    + (left > 0 ? `; ${count(left)} are left out: --rollouts N or --bundle DIR shows more.` : "."),
    run.student_read ? "" : " The students were not asked again (--student does): of their candidates the order is known, and the probability of the sampled token.");
}
