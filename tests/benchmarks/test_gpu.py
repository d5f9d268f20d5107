"""`make bench-gpu` measures what it says, with whatever packages are there, and says what failed.

On a CPU, with shapes of no weight: the code is the same.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ABSENT = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')\n"
KILLED = """\
import os, sys
if "tip.benchmarks.gpu.round" in sys.modules:
    os.kill(os.getpid(), 9)
"""


def measured(folder: Path, *parts: str, **modules: str) -> tuple[int, str, dict[str, Any]]:
    """Return exit code, errors and JSON of a run. modules: source that stands for a package."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source.format(name))
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu/all.py", *parts, "--small", "--json", folder / "gpu.json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    path = folder / "gpu.json"
    return done.returncode, done.stderr, json.loads(path.read_text()) if path.is_file() else {}


def assert_measured(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert not row["failed"], row
        assert row["baseline"], row
        for name in ("value", "low", "high", "ratio"):
            assert math.isfinite(row[name]), row
        assert row["low"] <= row["value"] <= row["high"], row
        assert row["rise_mb"] is None or row["rise_mb"] > -1, row


def test_without_packages_of_the_pipeline_the_rest_is_measured(tmp_path: Path) -> None:
    absent = dict.fromkeys(("pydantic", "duckdb", "polars", "math_verify"), ABSENT)
    code, errors, found = measured(tmp_path, "ceilings", "round", "demo", **absent)
    assert code == 0, errors
    assert {"card", "torch", "transformers", "date"} < found.keys()
    *rows, demo = found["rows"]
    assert [row["part"] for row in rows] == ["ceilings"] * 3 + ["round"] * 6
    assert_measured(rows)
    assert demo["note"] == "left out: the package pydantic is not installed"
    assert not demo["failed"]


def test_a_part_that_fails_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    code, _, found = measured(tmp_path, "scoring", "round", "ceilings", pyarrow=KILLED + ABSENT)
    assert code == 1
    absent, killed, *rows = found["rows"]
    assert (absent["part"], absent["failed"]) == ("scoring", True)
    assert absent["note"] == "ModuleNotFoundError: No module named 'pyarrow'"
    assert (killed["part"], killed["failed"]) == ("round", True)
    assert killed["note"] == "its process ended with -9"
    assert [row["part"] for row in rows] == ["ceilings"] * 3
    assert_measured(rows)


def test_a_part_that_there_is_not_is_refused_in_one_line(tmp_path: Path) -> None:
    code, errors, found = measured(tmp_path, "speed")
    assert (code, found) == (2, {})
    assert errors.splitlines()[-1].endswith(
        "speed is no part: expected some of ceilings, body, step, loss, scoring, waiting, "
        "rollouts, round, demo, tests"
    )


@pytest.mark.soak
def test_all_parts_run_and_their_rows_are_those_of_the_documentation(tmp_path: Path) -> None:
    code, errors, found = measured(tmp_path)
    assert code == 0, errors
    assert_measured(found["rows"])
    waits = [row["ratio"] for row in found["rows"] if row["part"] == "waiting"]
    assert waits[0] <= 1
    assert waits[1] <= 2
    assert waits[2] <= 1 / 8
    page = (ROOT / "docs" / "PERFORMANCE.md").read_text()
    cells = [[c.strip() for c in line.split("|")] for line in page.splitlines()]
    told = {(c[1], c[2], c[3]) for c in cells if len(c) == 7}
    rows = {(row["part"], row["work"], row["before"]) for row in found["rows"]}
    assert rows <= told, rows - told
