"""Where the tokens of each type lie: in the response, in entropy and divergence, in the text."""

import unicodedata
from typing import Any

import numpy as np
import polars as pl

from ...stages.models.card import flagged_ids
from .scored import ScoredRound


def placement(scored: ScoredRound, tokenizer: Any) -> pl.DataFrame:
    """Return a row a type: shares of tokens and of KL, means, and a share a class of token.

    relative_position: 1 at the end of the response. student_entropy, reverse_kl: nats.
    """
    tokens = scored.table()
    types = scored.ranked("all").select("rollout", "position", "type")
    classes = token_classes(tokenizer, tokens["token"].to_numpy())
    frame = tokens.with_columns(pl.Series("class", classes)).join(
        types, on=["rollout", "position"], how="inner"
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


def token_classes(tokenizer: Any, ids: np.ndarray) -> list[str]:
    """Return each id's class: special, number, word, punctuation or space."""
    special = {*tokenizer.all_special_ids, *flagged_ids(tokenizer)}
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
