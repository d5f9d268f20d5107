"""The documentation builds as a site, every link in it leads somewhere, and it fetches nothing."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a page loads: scripts, styles, pictures; a link that is only followed may lead anywhere.
_LOADED = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?(?:src|href)="(https?:)?//[^"]*"')


def built(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    return folder


def test_the_site_builds_with_every_page_and_loads_nothing_from_elsewhere(sources: Path) -> None:
    done = built(sources)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem for path in (sources / "docs").rglob("*.md")}
    made = {path.parent.name for path in (sources / "site").rglob("index.html")}
    assert pages - {"index"} <= made
    for page in (sources / "site").rglob("*.html"):
        found = [m[0] for m in _LOADED.finditer(page.read_text(encoding="utf-8"))]
        assert [text for text in found if 'rel="canonical"' not in text] == [], page


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    docs = ROOT / "docs"
    assert {str(path.relative_to(docs)) for path in docs.rglob("*.md")} == named


@pytest.mark.parametrize("broken", ["[a](GONE.md)", "[a](METHOD.md#no-such-place)"])
def test_a_link_that_leads_nowhere_is_noticed(sources: Path, tmp_path: Path, broken: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sources, copy, ignore=shutil.ignore_patterns("site", ".cache"))
    with (copy / "docs" / "FAQ.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{broken}\n")
    assert built(copy).returncode != 0
