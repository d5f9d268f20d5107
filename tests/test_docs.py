"""The documentation says what is."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tip import cli

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    group = typer.main.get_command(cli.app)
    return sorted(group.commands)  # type: ignore[attr-defined]


def test_the_table_page_is_what_the_columns_say() -> None:
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert (ROOT / "docs" / "TABLES.md").read_text(encoding="utf-8") == page.render()


@pytest.mark.parametrize("command", commands())
def test_every_command_stands_in_the_readme(command: str) -> None:
    assert re.search(rf"\btip {command}\b|make {command}\b", (ROOT / "README.md").read_text())


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tip.cli", command, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert len(done.stdout) > 200


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, tip.cli\n"
        "heavy = {'torch', 'transformers', 'duckdb', 'polars', 'pyarrow', 'numpy', 'pydantic'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_the_readme_names_every_module_of_the_stages() -> None:
    text = (ROOT / "README.md").read_text()
    verbs = ("rollout", "score", "select", "train", "evaluate")
    assert all(f"{verb}.py" in text for verb in verbs)
