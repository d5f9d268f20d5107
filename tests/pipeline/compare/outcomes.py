"""Outcomes of runs that were never played."""

from typing import Any

from tip.pipeline.compare.play import Outcome
from tip.pipeline.compare.rows import Row
from tip.pipeline.metrics import EvaluateMetrics


def evaluation(accuracy: float, **values: Any) -> EvaluateMetrics:
    """Return an evaluation of so many points of accuracy."""
    return EvaluateMetrics(round=0, stage="evaluate", accuracy=accuracy / 100, **values)


def outcome(row: Row, seed: int, before: float, after: float, **changes: Any) -> Outcome:
    """Return a run of eight steps from one accuracy, in points, to another."""
    values: dict[str, Any] = {
        "row": row,
        "seed": seed,
        "lr": 3e-4,
        "trained_tokens": 100,
        "teacher_scored": 10,
        "teacher_reused": 5,
        "seconds": 2.0,
        "peak_memory_mb": 500,
        "peak_gpu_memory_mb": None,
        "lost_ground": False,
        "curve": ((0, evaluation(before)), (8, evaluation(after))),
    }
    return Outcome(**values | changes)
