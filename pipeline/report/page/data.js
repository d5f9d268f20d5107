// What the page was given: facts at once, rollouts when they are looked at.

const FACTS = JSON.parse(document.getElementById("facts").textContent);
const RUNS = FACTS.runs;
const NOT_KNOWN = 65535; // of a log-prob in thousandths of a nat

const ARRAYS = { f4: Float32Array, i4: Int32Array, u4: Uint32Array, u2: Uint16Array, u1: Uint8Array };

/** Return the numbers of a packed array: [type, base64 of little-endian bytes]. */
function unpack([type, text]) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new ARRAYS[type](bytes.buffer);
}

const sheets = new Map(); // promises, by name

/** Return a promise of a rollout's tokens; place: in the run's list of rollouts. */
function sheetOf(run, place) {
  const name = `${RUNS.indexOf(run)}-${place}`;
  if (!sheets.has(name)) sheets.set(name, readSheet(name).then((raw) => sheet(run, place, raw)));
  return sheets.get(name);
}

const waiting = new Map(); // who waits for a file of a bundle, by name

function readSheet(name) {
  const inside = document.getElementById(`sheet-${name}`);
  if (inside) return Promise.resolve(JSON.parse(inside.textContent));
  return new Promise((resolve, reject) => {
    // A script, since a page that was opened from a disk may fetch nothing else.
    waiting.set(name, resolve);
    const script = document.createElement("script");
    script.src = `sheets/${name}.js`;
    script.onerror = () => reject(new Error(`${script.src} is not there: is the folder whole?`));
    document.head.append(script);
  });
}

// Called by the files of a bundle.
window.tipSheet = (name, raw) => {
  waiting.get(name)?.(raw);
  waiting.delete(name);
};

/** Return a rollout with its arrays unpacked. */
function sheet(run, place, raw) {
  const about = run.rollouts[place];
  const numbers = Object.fromEntries(
    Object.entries(raw.numbers).map(([name, values]) => [name, unpack(values)]),
  );
  const count = about.tokens;
  const found = {
    run, place, about, numbers, count,
    prompt: raw.prompt, texts: raw.texts, ids: unpack(raw.ids), rank: unpack(raw.rank),
    flags: unpack(raw.flags), tail: unpack(raw.tail), rules: raw.rules.map(unpack),
    weight: new Float32Array(count).fill(NaN), importance: new Float32Array(count).fill(NaN),
    loss: new Map(), candidates: candidatesOf(raw.candidates),
  };
  if (raw.selection) {
    const [weight, importance] = [unpack(raw.selection.weight), unpack(raw.selection.importance)];
    unpack(raw.selection.position).forEach((at, i) => {
      found.weight[at] = weight[i];
      found.importance[at] = importance[i];
      if (raw.selection.loss?.[i]) found.loss.set(at, raw.selection.loss[i]);
    });
  }
  return found;
}

function candidatesOf(raw) {
  const counts = unpack(raw.count);
  const starts = new Uint32Array(counts.length + 1);
  counts.forEach((n, i) => { starts[i + 1] = starts[i] + n; });
  return {
    starts, texts: raw.texts, vocabulary: unpack(raw.vocabulary), leftOut: unpack(raw.left_out),
    id: unpack(raw.id), student: unpack(raw.student), teacher: unpack(raw.teacher),
  };
}

/** Return a probability from thousandths of a nat, null where nobody has computed it. */
const probability = (below) => (below === NOT_KNOWN ? null : Math.exp(-below / 1000));

/** Return what both models would have said at a token, the most probable first. */
function candidatesAt(found, token) {
  const all = found.candidates;
  const rows = [];
  for (let i = all.starts[token]; i < all.starts[token + 1]; i += 1) {
    const id = all.vocabulary[all.id[i]];
    rows.push({
      id, text: all.texts[all.id[i]], sampled: id === found.ids[token],
      student: probability(all.student[i]), teacher: probability(all.teacher[i]),
    });
  }
  return { rows, leftOut: all.leftOut[token] };
}

const isTrainable = (found, token) => (found.flags[token] & 1) !== 0;
const isSpecial = (found, token) => (found.flags[token] & 2) !== 0;
const isSelected = (found, token) => (found.flags[token] & 4) !== 0;

/** Tell whether a rule would choose a token; "selection": whether the run did. */
function isChosen(found, token, rule) {
  if (rule === "selection") return isSelected(found, token);
  const bit = found.run.rules.indexOf(rule);
  return bit >= 0 && ((found.rules[bit >> 5][token] >>> (bit & 31)) & 1) === 1;
}

/** Return a number as rules see it: rounding may leave a divergence a little below 0. */
const clamped = (value) => (value > 0 ? value : 0);

/** Return the type of a token, 1 to 4, by the cuts of its round. */
function typeOf(found, token) {
  const [entropyCut, divergenceCut] = found.run.plane.cuts[found.about.round];
  const unsure = clamped(found.numbers.student_entropy[token]) >= entropyCut;
  const divergent = clamped(found.numbers.reverse_kl[token]) >= divergenceCut;
  return unsure ? (divergent ? 1 : 2) : divergent ? 3 : 4;
}

/** Return a token's number of a column, NaN where it has none. */
function numberOf(found, token, column) {
  if (column === "type") return typeOf(found, token);
  if (column === "weight" || column === "importance") return found[column][token];
  if (column === "teacher_rank") return found.rank[token];
  if (column === "advantage") {
    return found.numbers.teacher_logprob[token] - found.numbers.student_logprob[token];
  }
  return found.numbers[column][token];
}
