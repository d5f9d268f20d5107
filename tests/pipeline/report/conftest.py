"""A run whose prompts come again in every round, its page, and a browser to look at it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.progress import Reporter
from tip.pipeline.report.command import Request, page_of, report
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MakeConfig = Callable[..., Any]


@pytest.fixture(scope="module")
def run(shared: MakeConfig, asked: dict[str, object]) -> Session:
    """Play two rounds of the same eight prompts, two samples each."""
    config = shared(
        "looked-at",
        prompts={"limit": 8},
        rollout={"prompts": 8, "samples": 2, "max_tokens": 48},
        select={"rule": "soft_or", "keep": 0.25},
        evaluate=asked | {"limit": 8},
    )
    session = open_session(config)
    play(session)
    return session


@pytest.fixture(scope="module")
def request_of(run: Session) -> Callable[..., Request]:
    """Return what asks for a report of that run."""

    def make(*more: str, **changes: Any) -> Request:
        values = {"rollouts": 1000, "rules": "q3,divergence"} | changes
        return Request((run.config.name, *more), run.config.runs, **values)

    return make


@pytest.fixture(scope="module")
def page_file(request_of: Callable[..., Request], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the run's page once."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    report(request_of(), path, None, open_it=False)
    return path


@pytest.fixture
def page_text(request_of: Callable[..., Request]) -> Callable[..., str]:
    return lambda **changes: page_of(request_of(**changes), Reporter(quiet=True))


def executable() -> str | None:
    """Return the browser of this machine, None where playwright brings its own."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as api:
        try:
            # Without a sandbox: a container may refuse one, and the pages are our own.
            started = api.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(
                "needs a browser: `apt-get install chromium` or `playwright install chromium` "
                f"({str(error).splitlines()[0]})"
            )
        yield started
        started.close()


class Opened:
    """A page that is looked at, and all that it said on the console."""

    def __init__(self, page: Any) -> None:
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, address: str) -> Any:
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready=true]", state="attached")
        return self.page


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Return what opens a page; `online`: of a server of this machine."""
    contexts = []

    def make(width: int = 1280, *, online: bool = False, **more: Any) -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=not online, **more
        )
        contexts.append(context)
        return Opened(context.new_page())

    yield make
    for context in contexts:
        context.close()
