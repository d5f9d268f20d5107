"""How alike rules are, where their tokens lie, and how near they come to the oracle.

Everything is asked of one round of one run: its token table is the same for every rule.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy import stats

from ...stages.models.load import load_model
from ...stages.select.select import select
from ...stages.select.settings import SelectSettings
from ...stages.train.data import load_training_data
from ...stages.train.oracle import oracle
from ...storage.columns import SELECTION
from ...storage.store.store import Artifact
from ...storage.tables import read_table, write_table
from ..rounds.steps import stored
from ..session import Session


@dataclass(frozen=True)
class Round:
    """One round's tables, as artifacts."""

    rollouts: list[Artifact]
    teacher: list[Artifact]
    tokens: list[Artifact]


def round_of(session: Session, number: int) -> Round:
    """Return the tables of a round that has been scored."""
    pointers = session.run.round(number) or {}
    kinds = ("rollouts", "teacher", "tokens")
    return Round(*(stored(session, kind, pointers.get(kind, [])) for kind in kinds))


def choices(session: Session, tables: Round, rule: str, keep: float) -> pl.DataFrame:
    """Return what a rule selects: rollout, position, type, importance."""
    settings = session.config.select.model_copy(
        update={"rule": rule, "keep": keep, "params": {}, "where": None}
    )
    table, _ = _select(session, tables, settings)
    return pl.DataFrame(table)


def jaccard(session: Session, tables: Round, rules: Sequence[str], keep: float) -> pl.DataFrame:
    """Return the share of common tokens of each pair of rules at one budget: a square table."""
    sets = {rule: _keys(choices(session, tables, rule, keep)) for rule in rules}
    rows = []
    for rule, ours in sets.items():
        common = {other: len(ours & theirs) / len(ours | theirs) for other, theirs in sets.items()}
        rows.append({"rule": rule, **common})
    return pl.DataFrame(rows)


def rank_correlation(session: Session, tables: Round, rules: Sequence[str]) -> pl.DataFrame:
    """Return Spearman's correlation of importance of each pair of rules, over all tokens.

    A token that a rule cannot keep counts as less important than all others.
    """
    every = _importances(session, tables, rules)
    rows = []
    for rule in rules:
        values = {other: _spearman(every[rule], every[other]) for other in rules}
        rows.append({"rule": rule, **values})
    return pl.DataFrame(rows)


def places(session: Session, tables: Round) -> pl.DataFrame:
    """Return where the tokens of each type lie: position, entropy, divergence, token class."""
    tokens = _tokens(session, tables)
    kinds = choices(session, tables, "all", 1.0).select("rollout", "position", "type")
    classes = token_classes(session.student_card.tokenizer, tokens["token"].to_numpy())
    frame = tokens.with_columns(pl.Series("class", classes)).join(
        kinds, on=["rollout", "position"], how="inner"
    )
    length = pl.col("position").max().over("rollout") + 1
    frame = frame.with_columns((pl.col("position") / length).alias("relative_position"))
    shares = [
        (pl.col("class") == name).mean().alias(f"{name} share") for name in sorted(set(classes))
    ]
    return (
        frame.group_by("type")
        .agg(
            (pl.len() / frame.height).alias("share"),
            (pl.col("reverse_kl").sum() / frame["reverse_kl"].sum()).alias("KL share"),
            pl.col("relative_position").mean(),
            pl.col("student_entropy").mean(),
            pl.col("reverse_kl").mean(),
            *shares,
        )
        .sort("type")
    )


def to_oracle(session: Session, tables: Round, rules: Sequence[str], rollouts: int) -> pl.DataFrame:
    """Return each rule's rank correlation with the oracle on a sample of rollouts.

    `top_share`: the share of the oracle's total that the rule's best 20 % of these tokens hold.
    """
    truth = _oracle(session, tables, rollouts)
    every = _importances(session, tables, rules).join(
        truth, on=["rollout", "position"], how="inner"
    )
    rows = [
        {
            "rule": rule,
            "tokens": every.height,
            "rank_correlation": _spearman(every[rule], every["oracle"]),
            "top_share": _top_share(every, rule, 0.2),
        }
        for rule in rules
    ]
    return pl.DataFrame(rows).sort("rank_correlation", descending=True)


def token_classes(tokenizer: Any, ids: np.ndarray) -> list[str]:
    """Return each id's class: special, number, word, punctuation or space."""
    special = set(tokenizer.all_special_ids)
    known = {
        int(i): "special" if int(i) in special else _class(tokenizer.decode([int(i)]))
        for i in np.unique(ids)
    }
    return [known[int(i)] for i in ids]


def _class(text: str) -> str:
    stripped = text.strip()
    if not stripped:
        return "space"
    if any(c.isdigit() for c in stripped):
        return "number"
    if any(unicodedata.category(c).startswith("L") for c in stripped):
        return "word"
    return "punctuation"


def _select(session: Session, tables: Round, settings: SelectSettings) -> tuple[Any, dict]:
    store = session.store
    return select(
        [store.path(a, "tokens") for a in tables.tokens],
        [store.path(a, "rollouts") for a in tables.rollouts],
        settings,
        seed=session.config.seed,
        vocabulary=session.student_card.head_rows,
        threads=session.config.threads,
    )


def _tokens(session: Session, tables: Round) -> pl.DataFrame:
    paths = [session.store.path(a, "tokens") for a in tables.tokens]
    return pl.DataFrame(read_table(paths))


def _importances(session: Session, tables: Round, rules: Sequence[str]) -> pl.DataFrame:
    """Return rollout, position and a column of importance a rule."""
    frame = _tokens(session, tables).filter("trainable").select("rollout", "position")
    for rule in rules:
        chosen = choices(session, tables, rule, 1.0)
        column = chosen.select("rollout", "position", pl.col("importance").alias(rule))
        frame = frame.join(column, on=["rollout", "position"], how="left")
    low = [pl.col(rule).fill_null(pl.col(rule).min() - 1).fill_null(0.0) for rule in rules]
    return frame.with_columns(low)


def _oracle(session: Session, tables: Round, rollouts: int) -> pl.DataFrame:
    """Return rollout, position and the oracle's importance of every token of some rollouts."""
    store = session.store
    everything, _ = _select(session, tables, SelectSettings(rule="all", keep=1.0))
    path = session.run.path / "work" / "oracle.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, everything, SELECTION)
    data = load_training_data(
        [store.path(a, "rollouts") for a in tables.rollouts],
        [store.path(a, "teacher") for a in tables.teacher],
        path,
    )
    path.unlink()
    rows = np.linspace(0, len(data.rollouts) - 1, min(rollouts, len(data.rollouts))).astype(int)
    student = load_model(session.student(0).settings, session.device, torch.float32)
    with session.reporter.bar("oracle", len(rows), "rollouts") as tick:
        found = oracle(student, data, rows, session.config.train.loss, tick)
    return pl.DataFrame(
        {
            "rollout": found["rollout"],
            "position": found["position"].astype(np.int32),
            "oracle": found["importance"],
        }
    )


def _top_share(frame: pl.DataFrame, rule: str, keep: float) -> float:
    count = max(1, int(keep * frame.height))
    total = frame["oracle"].sum()
    return float(frame.sort(rule, descending=True).head(count)["oracle"].sum()) / float(total)


def _keys(frame: pl.DataFrame) -> set[tuple[int, int]]:
    return set(frame.select("rollout", "position").iter_rows())


def _spearman(ours: pl.Series, theirs: pl.Series) -> float:
    if ours.n_unique() < 2 or theirs.n_unique() < 2:
        return float("nan")
    ranks = stats.rankdata(ours.to_numpy()), stats.rankdata(theirs.to_numpy())
    return float(np.corrcoef(*ranks)[0, 1])
