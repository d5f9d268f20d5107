"""Take the pictures of the documentation: of a report in a browser, of a terminal.

    python docs/make_pictures.py report-soft-or.html docs/pictures [NAME ...]
    python docs/make_pictures.py --terminal demo/runs/soft-or docs/pictures

Needs playwright and a browser (`make test` brings both).
"""

import io
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from tip.pipeline.inspect.command import inspect

# rich's picture asks a network for its font: here it takes the reader's own.
SVG = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Picture:
    """A picture: what is shown of the page (an address behind `#`), how wide, in which colours.

    part: id of the part that is at the top; None: the page's own top. token: the one that is
    pointed at; "": none. height: pixels.
    """

    name: str
    address: str
    part: str | None
    token: str = ""
    width: int = 1280
    height: int = 820
    scheme: str = "light"


PICTURES = (
    Picture("overview", "region=0.3,,0.1,", None, height=1000),
    Picture("rollout", "", "rollouts", token="kl", height=860),
    Picture("beside-dark", "by=reverse_kl&round=2&beside=round:0", "rollouts", scheme="dark"),
    Picture("rounds", "", "rounds", height=860),
    Picture("narrow", "", "panes", token="kl", width=400, height=860),
    Picture("narrow-dark", "", None, width=400, height=860, scheme="dark"),
)


def take(page: Page, report: Path, picture: Picture, folder: Path) -> Path:
    """Take one picture of a report; return where it is."""
    page.emulate_media(color_scheme=picture.scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": picture.width, "height": picture.height})
    page.goto(f"{report.absolute().as_uri()}#{picture.address}")
    page.reload()  # another address behind # alone loads nothing
    page.wait_for_selector("#token .candidates")
    if picture.token:
        page.click("text=largest KL")
        page.wait_for_timeout(200)
        # The token that matters most: the first of the sure and divergent, or of the divergent.
        for kind in ("q3", "q1", "chosen", "token"):
            if (found := page.locator(f"#panes .token.{kind}[data-token]")).count():
                found.first.click()
                break
    if picture.part is not None:
        page.evaluate(f"document.getElementById('{picture.part}').scrollIntoView()")
    page.wait_for_timeout(300)  # drawings follow the width a frame later
    path = folder / f"{picture.name}.png"
    page.screenshot(path=path)
    return path


def main(report: Path, folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Take pictures of a report: those of some names, or all."""
    folder.mkdir(parents=True, exist_ok=True)
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        wanted = [picture for picture in PICTURES if not names or picture.name in names]
        paths = [take(page, report, picture, folder) for picture in wanted]
        browser.close()
    return paths


def terminal(run: Path, folder: Path) -> Path:
    """Take a picture of what `tip inspect` shows of a rollout."""
    out = Console(record=True, file=io.StringIO(), force_terminal=True, width=96)
    look = {"rollout": 6, "find": None, "top": None, "where": None, "rules": ("q3", "ier")}
    shown = {**look, "by": "reverse_kl", "export": None, "out": out}
    out.print(f"$ tip inspect {run.name} --rollout 6 --rules q3,ier\n", style="bold")
    inspect(run.name, str(run.parent), round_number=0, **shown)
    path = folder / "terminal.svg"
    title = f"tip inspect {run.name}"
    svg = out.export_svg(title=title, code_format=SVG)
    path.write_text(svg, encoding="utf-8")
    return path


if __name__ == "__main__":
    if sys.argv[1] == "--terminal":
        print(terminal(Path(sys.argv[2]), Path(sys.argv[3])))
    else:
        for written in main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]):
            print(written)
