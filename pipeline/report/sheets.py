"""A rollout as the page reads it: its tokens, their numbers, and what both models would have said.

Legend: N tokens of a rollout, K ids of a support.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...stages.arrays.ragged import Ragged, from_lists
from ...storage.columns import TOKENS
from ..show.texts import Texts
from .pack import packed, thousandths
from .tables import RoundTables

TOP = 5
"""Ids of each model's that are shown beside the sampled one."""
FLAGS = ("trainable", "special", "selected")
"""Bits of a token's flags, the lowest first."""
NUMBERS = tuple(c for c in TOKENS if pa.types.is_float32(c.type))
"""Columns of the token table that a token can be coloured by."""
_BEGINS = 24  # tokens by which the list of rollouts names one
_CAP = 0.98  # share of the tokens that lie below the end of a scale: outliers would pale all others

Choices = Mapping[str, Mapping[int, np.ndarray]]
"""By rule and rollout: the positions that it would choose."""


@dataclass
class Ends:
    """Where scales end, from the tokens that are shown: all but the largest 2 % lie within."""

    values: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray) -> None:
        """Add the numbers of some tokens."""
        self.values.setdefault(name, []).append(np.abs(values))

    def caps(self) -> dict[str, float]:
        """Return the cap of each column's absolute values."""
        joined = {name: np.concatenate(parts) for name, parts in self.values.items()}
        return {
            name: float(np.quantile(values, _CAP)) for name, values in joined.items() if len(values)
        }


@dataclass(frozen=True)
class Sheet:
    """A rollout of the page. about: what its list shows. tokens: all else, read when it is seen."""

    about: dict[str, Any]
    tokens: dict[str, Any]


@dataclass(frozen=True)
class _Candidates:
    """Of N tokens the ids that are shown, [N rows], with both models' log-probs."""

    ids: Ragged
    student: np.ndarray
    teacher: np.ndarray
    left_out: np.ndarray


def sheets_of(
    tables: RoundTables,
    number: int,
    texts: Texts,
    student: np.ndarray | None,
    choices: Choices,
    ends: Ends,
    longest: int | None = None,
) -> Iterator[Sheet]:
    """Yield the sheets of a round.

    student: its log-probs of all support ids, flat; None where nobody asked it. ends: told of every
    column's numbers. longest: tokens of a rollout, after which the rest is left out.
    """
    table = tables.rollouts
    responses, prompts = from_lists(table["response_ids"]), from_lists(table["prompt_ids"])
    top = Ragged(from_lists(table["top_ids"]).values, from_lists(table["top_counts"]).values)
    support = from_lists(tables.teacher["ids"])
    teacher = from_lists(tables.teacher["logprobs"]).values.astype(np.float32)
    columns = {c.name: tables.tokens[c.name].to_numpy() for c in NUMBERS}
    chosen = _selected(tables.selection)
    selves = table.select(["rollout", "prompt_hash", "sample", "stop_reason"]).to_pylist()
    for row, about in enumerate(selves):
        rollout = about["rollout"]
        first, length = int(responses.offsets[row]), int(responses.counts[row])
        count = length if longest is None else min(length, longest)
        ids = responses.row(row)[:count]
        rows = slice(first, first + count)
        one = {name: values[rows] for name, values in columns.items()}
        for name, values in one.items():
            ends.add(name, values)
        ends.add("advantage", one["teacher_logprob"] - one["student_logprob"])
        found = _candidates(ids, support, teacher, student, top, one["student_logprob"], first)
        selected = _first(chosen.get(rollout), count)
        if selected is not None:
            ends.add("weight", selected["weight"].to_numpy())
        yield Sheet(
            about={
                "rollout": str(rollout),  # 63 bits, more than a number of JavaScript's holds
                "round": number,
                "prompt": about["prompt_hash"],
                "sample": about["sample"],
                "stop": about["stop_reason"],
                "tokens": count,
                "length": length,
                "selected": 0 if selected is None else selected.num_rows,
                "kl": float(np.maximum(one["reverse_kl"], 0).mean()),
                "begins": "".join(texts.in_order(ids[:_BEGINS].tolist())),
            },
            tokens={
                "prompt": texts.in_order(prompts.row(row).tolist()),
                "texts": texts.in_order(ids.tolist()),
                "ids": packed(ids, "i4"),
                "rank": packed(tables.tokens["teacher_rank"].to_numpy()[rows], "i4"),
                "flags": packed(_flags(tables.tokens, rows, selected), "u1"),
                "tail": packed(_tails(tables.teacher["tail"], rows), "u2"),
                "numbers": {name: packed(values, "f4") for name, values in one.items()},
                "rules": [packed(bits, "u4") for bits in _bits(choices, rollout, count)],
                "selection": _selection(selected),
                "candidates": _packed_candidates(found, texts),
            },
        )


def _selected(selection: pa.Table | None) -> dict[int, pa.Table]:
    """Return the selection's rows of each rollout."""
    if selection is None:
        return {}
    rollouts = selection["rollout"].to_numpy()
    starts = np.flatnonzero(np.r_[True, rollouts[1:] != rollouts[:-1]]) if len(rollouts) else []
    stops = [*starts[1:], len(rollouts)]
    return {
        int(rollouts[start]): selection.slice(start, stop - start)
        for start, stop in zip(starts, stops, strict=True)
    }


def _first(selected: pa.Table | None, count: int) -> pa.Table | None:
    """Return the rows of the first tokens of a rollout, None where none was chosen."""
    if selected is None:
        return None
    return selected.slice(0, int(np.searchsorted(selected["position"].to_numpy(), count)))


def _flags(tokens: pa.Table, rows: slice, selected: pa.Table | None) -> np.ndarray:
    flags = [tokens[name].to_numpy()[rows].astype(np.uint8) for name in FLAGS[:2]]
    kept = np.zeros(len(flags[0]), dtype=np.uint8)
    if selected is not None:
        kept[selected["position"].to_numpy()] = 1
    return flags[0] | flags[1] << 1 | kept << 2


def _tails(column: pa.ChunkedArray, rows: slice) -> np.ndarray:
    """Return the log of the teacher's mass outside; nothing outside is as little as there is."""
    tails = pc.fill_null(column, pa.scalar(-100.0, pa.float32())).to_numpy()[rows]
    return thousandths(tails)


def _bits(choices: Choices, rollout: int, count: int) -> np.ndarray:
    """Return which rules would choose each token, a bit a rule: a row [N] for every 32 of them."""
    bits = np.zeros((-(-len(choices) // 32), count), dtype=np.uint32)
    for place, by_rollout in enumerate(choices.values()):
        if rollout in by_rollout:
            positions = by_rollout[rollout]
            bits[place // 32, positions[positions < count]] |= np.uint32(1 << place % 32)
    return bits


def _selection(selected: pa.Table | None) -> dict[str, Any] | None:
    if selected is None:
        return None
    losses = selected["loss"].to_pylist()
    return {
        "position": packed(selected["position"].to_numpy(), "u4"),
        "weight": packed(selected["weight"].to_numpy(), "f4"),
        "importance": packed(selected["importance"].to_numpy(), "f4"),
        "loss": losses if any(losses) else None,
    }


def _candidates(
    sampled: np.ndarray,
    support: Ragged,
    teacher: np.ndarray,
    student: np.ndarray | None,
    top: Ragged,
    own: np.ndarray,
    first: int,
) -> _Candidates:
    """Return each token's sampled id and the top ids of both models, the most probable first.

    first: place of the rollout's first token among the N of the round. own: the student's log-probs
    of the sampled ids, [n].
    """
    ids, ours, theirs, counts, left = [], [], [], [], []
    for token, wanted in enumerate(sampled):
        place = first + token
        known = support.row(place)
        span = slice(*support.offsets[place : place + 2])
        q = teacher[span]
        p = np.full(len(known), np.nan, np.float32) if student is None else student[span].copy()
        p[known == wanted] = own[token]  # as it is stored
        led = top.row(place)[:TOP] if student is None else known[np.argsort(-_low(p))[:TOP]]
        shown = np.isin(known, np.concatenate([[wanted], led, known[np.argsort(-q)[:TOP]]]))
        order = np.argsort(-np.fmax(_low(p), q)[shown], kind="stable")
        ids.append(known[shown][order])
        ours.append(p[shown][order])
        theirs.append(q[shown][order])
        counts.append(len(order))
        left.append(len(known) - len(order))
    return _Candidates(
        Ragged(np.concatenate(ids), np.array(counts)),
        np.concatenate(ours),
        np.concatenate(theirs),
        np.array(left),
    )


def _low(logprobs: np.ndarray) -> np.ndarray:
    """Return log-probs with what is not known below all others."""
    return np.where(np.isnan(logprobs), -np.inf, logprobs)


def _packed_candidates(found: _Candidates, texts: Texts) -> dict[str, Any]:
    """Return the candidates with a vocabulary of their own, so that a sheet stands alone."""
    vocabulary, index = np.unique(found.ids.values, return_inverse=True)
    return {
        "vocabulary": packed(vocabulary, "i4"),
        "texts": [texts.of(int(token)) for token in vocabulary],
        "count": packed(found.ids.counts, "u1"),
        "left_out": packed(found.left_out, "u2"),
        "id": packed(index, "u4" if len(vocabulary) > 65535 else "u2"),
        "student": packed(thousandths(found.student), "u2"),
        "teacher": packed(thousandths(found.teacher), "u2"),
    }


def rules_chosen(
    chosen: Mapping[str, pa.Table | None], rollouts: Sequence[int]
) -> dict[str, dict[int, np.ndarray]]:
    """Return `Choices` of some rollouts. chosen: by rule, what it selects of the whole round."""
    wanted = pc.SetLookupOptions(pa.array(rollouts, pa.int64()))
    out: dict[str, dict[int, np.ndarray]] = {}
    for rule, table in chosen.items():
        shown = None
        if table is not None:
            shown = table.filter(pc.call_function("is_in", [table["rollout"]], wanted))
        parts = _selected(shown)
        out[rule] = {rollout: part["position"].to_numpy() for rollout, part in parts.items()}
    return out
