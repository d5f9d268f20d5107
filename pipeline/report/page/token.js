// One token: what both models would have said, its numbers, and which rules would choose it.

/** Show a token. loud: whether a screen reader should hear of it. */
function showToken(found, token, loud = true, beside = false) {
  for (const old of document.querySelectorAll(".token.here")) old.classList.remove("here");
  const text = document.querySelectorAll("#panes .text")[beside ? 1 : 0];
  const span = text?.querySelector(`[data-token="${token}"]`);
  span?.classList.add("here");
  const box = document.getElementById("token");
  box.dataset.token = token;
  box.replaceChildren(tokenHead(found, token), candidateTable(found, token), numberList(found, token), ruleList(found, token));
  if (loud) document.getElementById("said").textContent = tokenWords(found, token);
}

/** Return what a screen reader says of a token: in a breath what others see at once. */
function tokenWords(found, token) {
  const kind = typeOf(found, token);
  const own = candidatesAt(found, token).rows.find((row) => row.sampled);
  return [
    inline(found.texts[token]) || "rest of a character", `token ${token}`, `${TYPES[kind]}, ${TYPE_WORDS[kind]}`,
    isSelected(found, token) ? "chosen" : "not chosen", own ? `student ${share(own.student)}, teacher ${share(own.teacher)}` : "",
    `reverse KL ${number(found.numbers.reverse_kl[token])} nats`,
  ].filter(Boolean).join("; ");
}

function tokenHead(found, token) {
  const kind = typeOf(found, token);
  const badges = [
    isTrainable(found, token) ? el("span", { class: `badge q${kind}` }, `${TYPES[kind]} ${TYPE_WORDS[kind]}`) : el("span", { class: "badge" }, "masked"),
    isSelected(found, token) ? el("span", { class: "badge chosen-badge" }, "chosen") : null,
    isSpecial(found, token) ? el("span", { class: "badge" }, "special") : null,
  ];
  return el("header", {},
    el("h3", {}, el("span", { class: "literal" }, inline(found.texts[token]) || "(rest of a character)")),
    el("p", { class: "quiet" }, `token ${count(token)} of ${count(found.count)}, id ${found.ids[token]}, round ${found.about.round}`),
    el("p", {}, badges));
}

const bar = (part, kind) => el("span", { class: `bar ${kind}` },
  el("i", { style: { width: part === null ? "0" : `${(100 * part).toFixed(2)}%` } }));

const share = (part) => (part === null ? "?" : part > 0 && part < 0.0005 ? "<0.1 %" : percent(part));

function candidateTable(found, token) {
  const { rows, leftOut } = candidatesAt(found, token);
  const line = (name, student, teacher, attributes = {}) => el("tr", attributes,
    el("th", { scope: "row" }, name),
    el("td", {}, bar(student, "student"), el("span", { class: "part" }, share(student))),
    el("td", {}, bar(teacher, "teacher"), el("span", { class: "part" }, share(teacher))));
  const lines = rows.map(({ text, id, sampled, student, teacher }) =>
    line(el("span", { class: "literal", title: `id ${id}` }, inline(text) || `#${id}`), student, teacher,
      { class: sampled ? "sampled" : "", "data-id": id }));
  const rest = restOf(found, token, rows, leftOut);
  if (leftOut) lines.push(line(el("span", { class: "quiet" }, `${leftOut} more`), ...rest.more, { class: "rest" }));
  lines.push(line(el("span", { class: "quiet" }, "tail"), ...rest.tail, { class: "rest tail" }));
  const drawn = found.run.about.drawn;
  return el("table", { class: "candidates" },
    el("caption", { class: "quiet" }, drawn ? "what was drawn of the teacher, as shares of the draws" : "the sampled token in bold; tail: all ids outside of the support"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "candidate"), el("th", { scope: "col" }, "student"), el("th", { scope: "col" }, "teacher"))),
    el("tbody", {}, lines));
}

/** Return what the shown candidates leave: [student, teacher] of the other ids, and of the tail. */
function restOf(found, token, rows, leftOut) {
  const sum = (who) => (rows.some((row) => row[who] === null) ? null : rows.reduce((all, row) => all + row[who], 0));
  const tail = { student: 1 - found.numbers.student_mass[token], teacher: probability(found.tail[token]) };
  const more = (who) => {
    const told = sum(who);
    return told === null || !leftOut ? null : Math.max(0, 1 - told - tail[who]);
  };
  return {
    more: [more("student"), more("teacher")],
    tail: [Math.min(1, Math.max(0, tail.student)), tail.teacher],
  };
}

function numberList(found, token) {
  const columns = [...columnsOf(found.run).filter(({ name }) => !["type", "weight"].includes(name)),
    { name: "teacher_rank", words: "teacher's rank of it", unit: "0: its top" }];
  const weight = found.weight[token];
  const own = Number.isNaN(weight) ? [] : [
    { name: "weight", words: "weight", unit: "" }, { name: "importance", words: "importance", unit: "the rule's own" }];
  return el("dl", { class: "numbers" }, [...own, ...columns].map(({ name, words, unit }) =>
    el("div", {}, el("dt", {}, words, unit ? el("span", { class: "quiet" }, ` ${unit.split(",")[0]}`) : null),
      el("dd", { "data-column": name }, number(numberOf(found, token, name))))));
}

function ruleList(found, token) {
  const loss = found.loss.get(token);
  const lines = [["selection", `this run (${found.run.about.rule})`], ...found.run.rules.map((rule) => [rule, rule])];
  return el("div", { class: "rules" },
    el("h4", {}, "Which rules would choose it"),
    el("ul", {}, lines.map(([rule, name]) => {
      const chosen = isChosen(found, token, rule);
      return el("li", { class: chosen ? "yes" : "no", "data-rule": rule }, el("span", { "aria-hidden": "true" }, chosen ? "● " : "○ "),
        name, el("span", { class: "offscreen" }, chosen ? ": yes" : ": no"));
    })),
    loss ? el("p", { class: "quiet" }, `its loss: ${loss}`) : null);
}
