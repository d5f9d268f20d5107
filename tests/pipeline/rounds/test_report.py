"""What a stage did is said in one line, and recorded with its time and memory."""

import re

import pytest
from tip.pipeline.metrics import SelectMetrics
from tip.pipeline.progress import Stopwatch
from tip.pipeline.rounds.report import report
from tip.pipeline.session import look_at

from ..conftest import Listening, MakeConfig


def test_a_stage_is_one_line_for_people_and_one_in_the_record(config: MakeConfig) -> None:
    reporter = Listening()
    session = look_at(config(), reporter)
    metrics = SelectMetrics(round=3, stage="select", rule="q3", kept=7)
    report(session, Stopwatch(), "7 of 9 tokens", metrics)
    (said,) = reporter.said
    assert re.fullmatch(r"round 3   select    7 of 9 tokens \[\d+\.\d s\]", said)
    (line,) = session.run.metrics()
    assert sum(line.pop("spent").values()) == pytest.approx(line.pop("seconds"), abs=1e-3)
    assert line.pop("peak_memory_mb") > 100
    assert line == {"round": 3, "stage": "select", "rule": "q3", "trainable": 0, "kept": 7}
