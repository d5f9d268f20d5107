// A rollout as text: every token a place to point at.

/** Return a rollout's text, a window of it. beside: whether it is the second one. */
function pane(found, marks, title, beside = false) {
  const size_ = Number(state.window);
  const token = Math.min(Number(state.token || 0), found.count - 1);
  const start = Math.floor(token / size_) * size_;
  const end = Math.min(found.count, start + size_);
  const text = el("div", { class: "text", role: "group", "data-place": found.place, tabindex: beside ? null : "0", "aria-label": `rollout of round ${found.about.round}, tokens ${start} to ${end - 1}; arrow keys go from token to token` });
  text.append(promptOf(found, start), ...spans(found, marks, start, end));
  pointing(text, found, beside);
  const { length, stop: reason } = found.about;
  const words = length > found.count ? `${count(length - found.count)} more tokens are left out: --bundle DIR has them`
    : reason === "length" ? "cut off by the length limit" : "ended by itself";
  const stop = end === found.count ? el("span", { class: "quiet" }, ` ▪ ${words}`) : null;
  if (stop) text.append(stop);
  return el("article", { class: "pane" }, title ? el("h3", {}, title) : null, text, pager(found, start, end, size_));
}

function promptOf(found, start) {
  const text = found.prompt.join("");
  const details = el("details", { class: "prompt", open: start === 0 && text.length < 600 },
    el("summary", {}, `prompt, ${count(found.prompt.length)} tokens`));
  details.append(el("span", { class: "masked" }, shown(text)));
  return details;
}

function spans(found, marks, start, end) {
  const made = [];
  for (let token = start; token < end; token += 1) {
    const [name, strength] = isTrainable(found, token) ? colourOf(found, token, state.by) : ["masked", null];
    const classes = ["token", name, isChosen(found, token, marks) ? "chosen" : ""].filter(Boolean).join(" ");
    const span = el("span", { class: classes, "data-token": token }, shown(found.texts[token]));
    if (strength !== null) span.style.setProperty("--strength", `${(100 * strength).toFixed(0)}%`);
    made.push(span);
  }
  return made;
}

/** Show the token that is pointed at, tapped or reached by the arrow keys. */
function pointing(text, found, beside) {
  const tokenOf = (event) => event.target.closest?.("[data-token]");
  text.addEventListener("pointerover", (event) => {
    const span = tokenOf(event);
    if (span && event.pointerType === "mouse") showToken(found, Number(span.dataset.token), false, beside);
  });
  text.addEventListener("pointerleave", () => {
    if (!beside) backToKept(found);
  });
  text.addEventListener("click", (event) => {
    const span = tokenOf(event);
    if (span) keep(found, Number(span.dataset.token), beside);
  });
  if (beside) return;
  text.addEventListener("keydown", (event) => {
    const at = Number(state.token || 0);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: found.count - 1,
      PageDown: at + Number(state.window), PageUp: at - Number(state.window) }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keep(found, Math.max(0, Math.min(found.count - 1, to)), false);
  });
}

let keeping = false; // whether the token's window is drawn already

/** Put a token into the address; its window is drawn where it is another one. */
function keep(found, token, beside) {
  if (beside) return showToken(found, token, false, true);
  const size_ = Number(state.window);
  const same = Math.floor(token / size_) === Math.floor(Number(state.token || 0) / size_);
  const { rollout, round } = found.about;
  keeping = same;
  go({ rollout, round, token });
  keeping = false;
  if (same) showToken(found, token, true);
  return undefined;
}

function backToKept(found) {
  showToken(found, Math.min(Number(state.token || 0), found.count - 1));
}

function pager(found, start, end, size_) {
  if (found.count <= size_) return null;
  const to = (token) => go({ token, rollout: found.about.rollout, round: found.about.round });
  return el("nav", { class: "controls", "aria-label": "windows of this rollout" },
    button("‹ earlier", () => to(Math.max(0, start - size_)), { disabled: start === 0 }),
    el("span", {}, `tokens ${count(start)} to ${count(end - 1)} of ${count(found.count)}`),
    button("later ›", () => to(end), { disabled: end >= found.count }));
}
