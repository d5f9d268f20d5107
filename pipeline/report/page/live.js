// A page that is served follows its run: it looks whether there is more, and is read anew.

const KEPT = "tip-report-scroll";

function followRun() {
  if (!FACTS.live) return;
  const box = document.getElementById("live");
  const kept = sessionStorage.getItem(KEPT);
  if (kept) requestAnimationFrame(() => scrollTo(0, Number(kept)));
  sessionStorage.removeItem(KEPT);
  let busy = false;
  setInterval(async () => {
    if (busy || document.hidden) return;
    busy = true;
    try {
      const answer = await fetch("stamp", { cache: "no-store" });
      const now = await answer.text();
      box.textContent = "live";
      if (answer.ok && now !== FACTS.live) {
        box.textContent = "there is more, one moment …";
        sessionStorage.setItem(KEPT, String(scrollY));
        location.reload();
      }
    } catch {
      box.textContent = "not served any more: what is here stays as it is";
    } finally {
      busy = false;
    }
  }, 2000);
}
