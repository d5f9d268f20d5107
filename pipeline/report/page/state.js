// Where a reader is, in the address behind `#`: a link shows another reader the same.

const DEFAULTS = {
  run: "0", plane: "all", of: "tokens", region: "", rollout: "", round: "", token: "",
  by: "type", window: "256", marks: "selection", beside: "", theme: "",
};

const state = { ...DEFAULTS };
const listeners = [];

/** Call a function with the names of what has changed, now and whenever something changes. */
function onState(names, listener) {
  listeners.push([names, listener]);
}

/** Change some of the state, and the address with it. */
function go(changes) {
  const changed = Object.keys(changes).filter((name) => state[name] !== String(changes[name]));
  for (const name of changed) state[name] = String(changes[name]);
  if (!changed.length) return;
  const words = Object.keys(DEFAULTS)
    .filter((name) => state[name] !== DEFAULTS[name])
    .map((name) => `${name}=${encodeURIComponent(state[name])}`);
  history.replaceState(null, "", `#${words.join("&")}`);
  tell(changed);
}

function tell(changed) {
  for (const [names, listener] of listeners) {
    if (names.some((name) => changed.includes(name))) listener(changed);
  }
}

/** Read the address; what it does not say is as it was at the beginning. */
function readAddress() {
  const before = { ...state };
  Object.assign(state, DEFAULTS);
  for (const word of location.hash.slice(1).split("&")) {
    const [name, value] = word.split("=");
    if (Object.hasOwn(DEFAULTS, name) && value !== undefined) {
      try {
        state[name] = decodeURIComponent(value);
      } catch {
        state[name] = DEFAULTS[name]; // a damaged address
      }
    }
  }
  const named = RUNS.findIndex((run) => run.about.name === state.run);
  if (named >= 0) state.run = String(named);
  mend();
  return Object.keys(state).filter((name) => state[name] !== before[name]);
}

/** Put what the page begins with where an address asks for what is not here. */
function mend() {
  const run = RUNS[Number(state.run)] ?? RUNS[0];
  const known = {
    run: RUNS.map((_, i) => String(i)), window: ["256", "1024", "4096"], of: ["tokens", "chosen", "share"],
    theme: ["", "light", "dark"], plane: ["all", ...Object.keys(run?.plane?.rounds ?? {})],
    by: run ? columnsOf(run).map(({ name }) => name) : ["type"], marks: ["selection", ...(run?.rules ?? [])],
  };
  for (const [name, values] of Object.entries(known)) {
    if (!values.includes(state[name])) state[name] = DEFAULTS[name];
  }
  if (!/^\d*$/.test(state.token)) state.token = "";
}

/** Return the run that is looked at. */
const theRun = () => RUNS[Number(state.run)];

window.addEventListener("hashchange", () => tell(readAddress()));
