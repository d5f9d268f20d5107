"""What rules choose of a scored round, without training: how much, of what, and how alike."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from ...stages.select.settings import SelectSettings
from ...stages.signals.objective import Objective
from ...storage.runs import RoundPointers
from ..executors.here import Here
from ..rounds.replay import stored
from ..session import Session
from .oracle import to_oracle
from .overlap import jaccard, rank_correlation
from .placement import placement
from .rows import RANDOM, UNRANKED, Budget, Row, Tokens, shown
from .scored import ScoredRound

TYPES = ("Q1", "Q2", "Q3", "Q4")


def tables_of(
    rows: Sequence[Row], session: Session, select: SelectSettings, oracle_rollouts: int
) -> dict[str, pl.DataFrame]:
    """Return how the rules of a comparison differ, by name: overlap, ranks, placement, oracle.

    A table that would have nothing to say is left out, such as one of a rule beside itself.
    session: of the run whose first round tells how the rules differ; every row of its seed shares
    it. select: the config's own. oracle_rollouts: how many of them the oracle is asked for; 0:
    there is no such table.
    """
    results: dict[str, pl.DataFrame] = {}
    scored = replace(scored_round(session, 0), settings=select)
    ranked = [rule for rule in dict.fromkeys(row.rule for row in rows) if rule not in UNRANKED]
    if ranked:
        names = [RANDOM, *ranked]
        for budget in _budgets(rows):
            chosen = {rule: scored.chosen(rule, budget) for rule in names}
            results[f"chosen at {shown(budget)}"] = choices(scored, chosen)
            results[f"common tokens at {shown(budget)}"] = jaccard(chosen)
    if len(ranked) > 1:
        results["rank correlation of importance"] = rank_correlation(scored, ranked)
    results["where the types lie"] = placement(scored, session.inputs.student_card.tokenizer)
    if oracle_rollouts and ranked:
        results["oracle"] = _to_oracle(session, scored, ranked, oracle_rollouts)
    return results


def _budgets(rows: Sequence[Row]) -> list[Budget]:
    """Return what rows choose at, the largest first: shares below 1, then numbers of tokens."""
    all_of = {row.budget for row in rows}
    counts = sorted((b.count for b in all_of if isinstance(b, Tokens)), reverse=True)
    below = sorted((b for b in all_of if not isinstance(b, Tokens) and b < 1), reverse=True)
    return [*below, *map(Tokens, counts)]


def scored_round(session: Session, number: int) -> ScoredRound:
    """Return the tables of a round of a run. Raises `StoreError` where one is gone."""
    pointers = session.run.round(number) or RoundPointers()

    def paths(kind: str) -> tuple[Path, ...]:
        found = stored(session, kind, pointers.of(kind))
        return tuple(session.store.path(artifact, kind) for artifact in found)

    config = session.config
    return ScoredRound(
        rollouts=paths("rollouts"),
        teacher=paths("teacher"),
        tokens=paths("tokens"),
        settings=config.select,
        seed=config.seed,
        vocabulary=session.inputs.student_card.head_rows,
        threads=config.threads,
    )


def choices(scored: ScoredRound, chosen: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return what each rule chooses of a round, a row a rule.

    chosen: by rule, as `ScoredRound.chosen` gives it. share: of the trainable tokens. KL share: of
    their reverse KL. Q1 to Q4: the types' shares of the chosen. relative_position: mean place of
    the chosen, 1 at the end of the response.
    """
    length = pl.col("position").max().over("rollout") + 1
    placed = (pl.col("position") / length).alias("relative_position")
    tokens = scored.table().with_columns(placed).filter("trainable")
    held = float(tokens["reverse_kl"].sum())
    lines = []
    for rule, keys in chosen.items():
        frame = keys.join(tokens, on=["rollout", "position"], how="inner")
        types = dict(frame["type"].value_counts().iter_rows())
        lines.append(
            {
                "rule": rule,
                "tokens": frame.height,
                "share": frame.height / max(1, tokens.height),
                "KL share": float(frame["reverse_kl"].sum()) / held if held else None,
                **{kind: types.get(kind, 0) / max(1, frame.height) for kind in TYPES},
                "relative_position": frame["relative_position"].mean(),
            }
        )
    return pl.DataFrame(lines)


def _to_oracle(
    session: Session, scored: ScoredRound, rules: Sequence[str], rollouts: int
) -> pl.DataFrame:
    here = Here(session.config, session.store, session.reporter)
    train = session.config.train
    objective = Objective(train.loss, beta=train.jsd_beta)
    try:
        student = here.holder.trainee(session.student(0))
        with session.reporter.bar("oracle", rollouts, "rollouts") as tick:
            return to_oracle(scored, rules, rollouts, student, objective, tick)
    finally:
        here.close()
