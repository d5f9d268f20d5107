// What is drawn when: each part when what it shows has changed.

function wire() {
  onState(["theme"], () => {
    document.documentElement.dataset.theme = state.theme;
    document.getElementById("theme").textContent = { "": "◐ as the system", light: "○ light", dark: "● dark" }[state.theme] ?? "◐";
  });
  if (!RUNS.length) return;
  onState(["run"], () => {
    renderHead();
    renderCurves();
    renderCosts();
    renderAnswers();
    renderSettings();
    renderRolloutCount();
    renderRolloutFilters();
  });
  const planed = () => theRun().plane !== null;
  onState(["run", "plane", "of"], () => {
    document.getElementById("plane").hidden = !planed();
    if (!planed()) return;
    renderPlaneControls();
    renderShares();
    redrawPlane();
  });
  onState(["run", "plane"], renderPlaces);
  onState(["run", "plane", "region"], () => {
    if (!planed()) return;
    renderRegionControls();
    redrawPlane();
    renderRegion();
  });
  onState(["run", "rollout", "round", "by", "window", "marks", "beside"], renderRolloutControls);
  onState(["run", "rollout", "round"], renderRolloutList);
  onState(["run", "rollout", "round", "token", "by", "window", "marks", "beside"], (changed) => {
    const onlyToken = changed.every((name) => ["token", "rollout", "round"].includes(name));
    if (!(keeping && onlyToken)) renderRollout();
  });
  responsive(document.getElementById("plane-drawing"), (width) => {
    planeWidth = width;
    redrawPlane();
  });
}

let planeWidth = 0;

function redrawPlane() {
  if (planeWidth && theRun().plane) drawPlane(planeWidth);
}

function begin() {
  document.getElementById("theme").addEventListener("click", () =>
    go({ theme: { "": "dark", dark: "light", light: "" }[state.theme] ?? "" }));
  for (const section of document.querySelectorAll("[data-needs=run]")) section.hidden = !RUNS.length;
  for (const link of document.querySelectorAll("nav.parts a")) {
    // The address behind # is the state of the page, so a link to a part only scrolls.
    link.addEventListener("click", (event) => jump(event, link.getAttribute("href").slice(1)));
  }
  readAddress();
  wire();
  renderComparisons();
  tell(Object.keys(DEFAULTS));
  if (location.hash.includes("rollout=")) requestAnimationFrame(() => jump(null, "rollouts"));
  followRun();
  document.documentElement.dataset.ready = "true";
}

begin();
