"""`tip compare`: what it is asked is checked before hours of work, what came of it is written."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tip.pipeline.compare import command as module
from tip.pipeline.compare.checks import Job
from tip.pipeline.compare.command import compare_and_show
from tip.pipeline.compare.play import Outcome
from tip.pipeline.compare.rates import TUNING_SEED
from tip.storage.errors import ConfigError

from ..conftest import MakeConfig
from .outcomes import evaluation, outcome

ASKED: dict[str, Any] = {
    "rules": ["q3 "],
    "keeps": ["0.2"],
    "counts": [],
    "vary": [],
    "factors": ["1"],
    "metrics": [],
    "seeds": 2,
    "workers": 1,
    "oracle_rollouts": 0,
    "output": None,
}
COMMON = pl.DataFrame({"q3": [1.0]})


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Play nothing and give each run an outcome; return what would have been played."""
    jobs: list[Job] = []

    def compare(given: list[Job], *_: Any) -> list[Outcome]:
        jobs.extend(given)
        return [outcome(job.row, job.seed, 40, 60, lr=job.config.train.lr) for job in given]

    monkeypatch.setattr(module, "compare", compare)
    monkeypatch.setattr(module, "ask_teacher", lambda *_: evaluation(90))
    monkeypatch.setattr(module, "tables_of", lambda *_: {"common tokens": COMMON})
    return jobs


def test_all_tables_are_shown_and_written_beside_the_runs(
    config: MakeConfig,
    asked: dict[str, object],
    played: list[Job],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = config(evaluate=asked)
    compare_and_show(settings, **ASKED | {"counts": ["1"]})
    assert len(played) == 2 * len({job.row for job in played})
    folder = Path(settings.runs) / "run-compare"
    assert {path.name for path in folder.iterdir()} == {
        "comparison.md",
        "accuracy.parquet",
        "costs.parquet",
        "common_tokens.parquet",
    }
    told = capsys.readouterr()
    assert "q3 20%" in told.out
    assert "q3 1 token" in told.out
    assert "common tokens" in " ".join(told.out.split())
    assert f"= {len(played)} runs of 2 rounds, 1 at a time" in told.err


def test_what_would_be_played_is_told_and_nothing_is(
    config: MakeConfig,
    asked: dict[str, object],
    played: list[Job],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = config(evaluate=asked)
    compare_and_show(settings, **ASKED | {"factors": ["1", "3"], "dry": True})
    assert played == []
    assert not Path(settings.runs).exists()
    told = " ".join(capsys.readouterr().out.split())
    assert "q3 20%" in told
    assert (
        "5 rows x 2 seeds = 10 runs, 5 rows x 2 rates = 10 runs to choose learning rates, and up "
        "to 10 at those chosen; 0 of them have ended before" in told
    )


def test_each_row_is_judged_at_the_rate_that_was_best_on_a_seed_of_its_own(
    config: MakeConfig,
    asked: dict[str, object],
    played: list[Job],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tuning: list[Job] = []

    def try_rates(given: list[Job], *_: Any) -> list[Outcome | None]:
        tuning.extend(given)
        ends = {("q3", 3e-4): 50.0, ("q3", 9e-4): 70.0, ("all", 3e-4): 70.0, ("all", 9e-4): 70.0}
        return [
            None
            if rate > 1e-3
            else outcome(job.row, job.seed, 40, ends.get((job.row.rule, rate), 9))
            for job in given
            for rate in [round(job.config.train.lr, 8)]
        ]

    monkeypatch.setattr(module, "try_rates", try_rates)
    settings = config(evaluate=asked)
    compare_and_show(settings, **ASKED | {"factors": ["1", "3", "10"]})
    assert {job.seed for job in tuning} == {TUNING_SEED}
    assert len(tuning) == 3 * len({job.row.rule + str(job.row.refresh) for job in tuning})
    rates = {(job.row.rule, job.row.refresh, round(job.config.train.lr, 8)) for job in played}
    assert rates == {
        ("all", True, 3e-4),  # both are as good: the config's own
        ("all", False, 3e-4),
        ("random", True, 3e-4),
        ("opsa", True, 3e-4),
        ("q3", True, 3e-4),
        ("q3", True, 9e-4),
    }
    assert TUNING_SEED not in {job.seed for job in played}
    folder = Path(settings.runs) / "run-compare"
    best = pl.read_parquet(folder / "accuracy_each_at_its_best_rate.parquet")
    assert best.filter(pl.col("row") == "q3 20%")["lr"].item() == pytest.approx(9e-4)
    own = pl.read_parquet(folder / "accuracy_all_at_the_config_s_rate.parquet")
    assert own["lr"].drop_nulls().unique().to_list() == pytest.approx([3e-4])
    told = capsys.readouterr()
    assert "learning rates: 5 rows x 3 rates = 15 runs" in told.err
    assert "edge" in told.out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"factors": ["1", "x"]}, r"--lr 1,x: expected factors of train\.lr"),
        ({"factors": ["0"]}, r"--lr 0: expected factors"),
        ({"factors": ["1", "3"], "vary": ["train.lr=1e-3"]}, "add `--lr 1`"),
        ({"metrics": ["luck"]}, "--metric luck: there is none; choose from accuracy, reverse_kl"),
        ({"metrics": ["reverse_kl"]}, "add `--set evaluate.reverse_kl=true`"),
        (
            {"metrics": ["jsd"], "vary": ["evaluate.reverse_kl=true,false"]},
            "add `--set evaluate.reverse_kl=true`",
        ),
    ],
)
def test_rates_and_measures_that_there_are_not_are_refused(
    config: MakeConfig, asked: dict[str, object], played: list[Job], words: Any, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        compare_and_show(config(evaluate=asked), **ASKED | words)
    assert played == []


def test_an_agreement_is_not_asked_of_ids_that_were_drawn(
    config: MakeConfig, asked: dict[str, object], played: list[Job]
) -> None:
    drawn = config(
        evaluate=asked | {"reverse_kl": True},
        score={"support": "sampled"},
        train={"loss": "forward_kl"},
    )
    with pytest.raises(ConfigError, match=r"set score\.support = 'top' and .* leave it out"):
        compare_and_show(drawn, **ASKED | {"metrics": ["agreement"]})
    assert played == []


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
