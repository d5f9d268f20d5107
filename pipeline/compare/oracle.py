"""How near rules come to the oracle: what each token could teach, from per-token gradients.

The oracle takes a backward pass a token, so it is asked of a sample of the round's rollouts.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from ...stages.engines.protocols import Tick, silent
from ...stages.models.language_model import LanguageModel
from ...stages.select.settings import SelectSettings
from ...stages.signals.objective import Objective
from ...stages.train.data import TrainingData, load_training_data
from ...stages.train.oracle import oracle
from ...storage.columns import SELECTION
from ...storage.scratch import scratch
from ...storage.tables import write_table
from .overlap import spearman
from .scored import ScoredRound

_BEST = 0.2  # the share of the tokens that `top_share` looks at


def to_oracle(
    scored: ScoredRound,
    rules: Sequence[str],
    rollouts: int,
    student: LanguageModel,
    objective: Objective,
    tick: Tick = silent,
) -> pl.DataFrame:
    """Return each rule's rank correlation with the oracle on a sample of rollouts, best first.

    student: in float32, as the round began. objective: see `stages/train/oracle.py`. tick: called
    with the rollouts newly done.
    `top_share`: the share of the oracle's total that the rule's best 20 % of these tokens hold.
    """
    data = _everything(scored)
    sample = np.linspace(0, len(data.rollouts) - 1, min(rollouts, len(data.rollouts))).astype(int)
    found = oracle(student, data, sample, objective, tick)
    truth = pl.DataFrame(
        {
            "rollout": found["rollout"],
            "position": found["position"].astype(np.int32),
            "oracle": found["importance"],
        }
    )
    every = scored.importances(rules).join(truth, on=["rollout", "position"], how="inner")
    rows = [
        {
            "rule": rule,
            "tokens": every.height,
            "rank_correlation": spearman(every[rule], every["oracle"]),
            "top_share": _top_share(every, rule),
        }
        for rule in rules
    ]
    return pl.DataFrame(rows).sort("rank_correlation", descending=True)


def _everything(scored: ScoredRound) -> TrainingData:
    """Return the round with all its tokens selected."""
    table = scored.selection(SelectSettings(rule="all", keep=1.0))
    with scratch() as folder:
        path = folder / "selection.parquet"
        write_table(path, table, SELECTION)
        return load_training_data(scored.rollouts, scored.teacher, path)


def _top_share(frame: pl.DataFrame, rule: str) -> float:
    count = max(1, int(_BEST * frame.height))
    best = frame.sort(rule, descending=True).head(count)["oracle"].sum()
    return float(best) / float(frame["oracle"].sum())
