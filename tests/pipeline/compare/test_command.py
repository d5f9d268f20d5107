"""`tip compare`: what it is asked is checked before hours of work, what came of it is written."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tip.pipeline.compare import command as module
from tip.pipeline.compare.checks import Job
from tip.pipeline.compare.command import compare_and_show
from tip.pipeline.compare.table import table_of
from tip.storage.errors import ConfigError

from ..conftest import MakeConfig
from .test_table import outcome

ASKED: dict[str, Any] = {
    "rules": ["q3 "],
    "keeps": ["0.2"],
    "vary": [],
    "seeds": 2,
    "workers": 1,
    "oracle_rollouts": 0,
    "output": None,
}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Play nothing and give each run an outcome; return what would have been played."""
    jobs: list[Job] = []

    def compare(given: list[Job], *_: Any) -> tuple[list[Any], float]:
        jobs.extend(given)
        return [outcome(job.row, job.seed, 40, 60) for job in given], 90.0

    def tables_of(outcomes: list[Any], teacher: float, *_: Any) -> dict[str, pl.DataFrame]:
        return {"rules": table_of(outcomes, teacher), "common tokens": pl.DataFrame({"q3": [1.0]})}

    monkeypatch.setattr(module, "compare", compare)
    monkeypatch.setattr(module, "tables_of", tables_of)
    return jobs


def test_all_tables_are_shown_and_written_beside_the_runs(
    config: MakeConfig,
    asked: dict[str, object],
    played: list[Job],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = config(evaluate=asked)
    compare_and_show(settings, **ASKED)
    assert len(played) == 2 * len({job.row for job in played})
    folder = Path(settings.runs) / "run-compare"
    assert {path.name for path in folder.iterdir()} == {
        "comparison.md",
        "rules.parquet",
        "common_tokens.parquet",
    }
    told = capsys.readouterr()
    assert "q3 20%" in told.out
    assert "common tokens" in " ".join(told.out.split())
    assert f"= {len(played)} runs of 2 rounds, 1 at a time" in told.err


def test_what_cannot_be_is_refused_before_anything_is_played(
    config: MakeConfig, asked: dict[str, object], played: list[Job], tmp_path: Path
) -> None:
    settings = config(evaluate=asked)
    words = ASKED | {"keeps": ["0.2", "many"]}
    with pytest.raises(ConfigError, match=r"--keep 0\.2,many: expected numbers in \(0, 1\]"):
        compare_and_show(settings, **words)
    file = tmp_path / "file"
    file.touch()
    place: dict[str, Any] = ASKED | {"output": file / "tables"}
    with pytest.raises(ConfigError, match=r"--output .*: .*/file is a file; name another folder"):
        compare_and_show(settings, **place)
    assert played == []
