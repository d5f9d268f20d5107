"""What tables show is data first: typed lines that make a frame."""

from pathlib import Path
from typing import Any

import polars as pl
from tip.pipeline.metrics import by_round
from tip.pipeline.show.views import RoundLine, RunLine, round_lines, run_lines
from tip.storage.runs import RunFolder, RunRecord

METRICS: list[dict[str, Any]] = [
    {"round": 0, "stage": "evaluate", "seconds": 1.0, "accuracy": 0.4},
    {
        "round": 0,
        "stage": "rollout",
        "seconds": 2.0,
        "generated_tokens": 50,
        "reused_tokens": 0,
    },
    {
        "round": 0,
        "stage": "score",
        "seconds": 3.0,
        "reverse_kl": 0.25,
        "teacher_tokens_scored": 70,
        "teacher_tokens_reused": 30,
    },
    {
        "round": 0,
        "stage": "train",
        "seconds": 4.0,
        "loss": 0.5,
        "trained_tokens": 10,
        "staleness": 0.01,
    },
    {"round": 1, "stage": "evaluate", "seconds": 1.0, "accuracy": 0.8, "reverse_kl": 1.5},
]


def test_a_round_is_a_line_of_what_its_stages_measured() -> None:
    first, second = round_lines(by_round(METRICS))
    assert first == RoundLine(0, 0.4, None, 0.25, 0.5, 10, 50, 70, 30, 0.01, 10.0)
    assert second == RoundLine(1, 0.8, 1.5, None, None, None, None, None, None, None, 1.0)


def test_lines_make_a_frame_with_types_even_where_nothing_was_measured() -> None:
    frame = pl.DataFrame(round_lines(by_round(METRICS[-1:])))
    assert frame.schema["loss"] == pl.Float64
    assert frame.schema["trained_tokens"] == pl.Int64
    assert frame["accuracy"].to_list() == [0.8]


def test_a_run_is_a_line_of_its_last_results(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "mine")
    run.save(RunRecord(config={"rounds": 5, "select": {"rule": "q3", "keep": 0.2}}))
    for line in METRICS:
        run.append(line)
    run.point(0, checkpoint="key")
    run.point(1, rollouts=[])
    assert run_lines(str(tmp_path)) == [RunLine("mine", "q3", 0.2, 1, 5, 0.8, 1.5, 0.25)]


def test_without_a_run_there_is_no_line(tmp_path: Path) -> None:
    assert run_lines(str(tmp_path / "nowhere")) == []
