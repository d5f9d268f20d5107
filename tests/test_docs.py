"""The documentation says what is."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tip import cli

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "stages", "storage")


def commands() -> list[str]:
    group = typer.main.get_command(cli.app)
    return sorted(group.commands)  # type: ignore[attr-defined]


def test_every_rendered_page_is_what_the_code_declares() -> None:
    """`python docs/make_pages.py` writes them."""
    spec = importlib.util.spec_from_file_location("make_pages", ROOT / "docs" / "make_pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for name, render in pages.PAGES.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == render(), name


@pytest.mark.parametrize("command", commands())
def test_every_command_stands_in_the_readme(command: str) -> None:
    assert re.search(rf"\btip {command}\b|make {command}\b", (ROOT / "README.md").read_text())


def every_command(group: Any, path: str = "tip") -> Iterator[tuple[str, Any]]:
    """Yield each command and group of commands with what is typed for it."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from every_command(command, f"{path} {name}")


@pytest.mark.parametrize(
    ("path", "command"), list(every_command(typer.main.get_command(cli.app))), ids=str
)
def test_every_command_and_all_that_it_takes_has_help_of_its_own(path: str, command: Any) -> None:
    assert (command.help or "").strip(), path
    silent = [parameter.name for parameter in command.params if not parameter.help]
    assert silent == []
    assert len({parameter.help for parameter in command.params}) == len(command.params)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, tip.cli\n"
        "heavy = {'torch', 'transformers', 'duckdb', 'polars', 'pyarrow', 'numpy', 'pydantic'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def packages() -> list[str]:
    """Return the folders with modules, as the tree of the README may name them."""
    found = [path.parent for room in ROOMS for path in (ROOT / room).rglob("__init__.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


@pytest.mark.parametrize("package", packages())
def test_every_package_stands_in_the_tree_of_the_readme(package: str) -> None:
    """The tree: the code block under `## Files`, folders by their last name and a slash."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.split("## Files")[1].split("```")[1]
    assert re.search(rf"(?<!\w){re.escape(Path(package).name)}/", tree), tree


def test_the_tree_of_the_readme_names_nothing_that_is_not_there() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## Files")[1].split("```")[1]
    there = [*ROOT.iterdir(), *(path for room in ROOMS for path in (ROOT / room).rglob("*"))]
    folders = {path.name for path in there if path.is_dir()}
    files = {path.name for path in there if path.is_file()}
    named = re.findall(r"(?<![\w*./])([a-z_][\w.-]*)(/|\.(?:py|sql)\b)", tree)
    gone = [n + s for n, s in named if (n not in folders if s == "/" else n + s not in files)]
    assert gone == []
