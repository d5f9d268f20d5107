"""What every way of scoring shares: the support of a token, and rows put into tables.

Batches are made in the order of their lengths; here their parts come back into the order of the
rollouts, are refused where a number is not finite, and become the `teacher` and `tokens` tables.
Legend: C rows of a chunk, K support slots, N tokens of a shard, V vocabulary.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...storage.columns import TEACHER, TOKENS, schema
from ...storage.errors import ModelError, NumericsError, StoreError
from ..arrays.batching import on_device
from ..arrays.ragged import Ragged, concatenate, from_lists
from ..models.language_model import LanguageModel
from ..signals.divergences import Features
from ..signals.support import Support, merge_ids, to_rows, top_ids
from .settings import ScoreSettings
from .shard import RolloutArrays

StoredSupport = tuple[Ragged, Ragged, np.ndarray]
"""Ids, log-probs and tail of N tokens, as they are stored."""


class Led(NamedTuple):
    """The student's part of the support of N tokens: the sampled one and its own top.

    tokens: [N] int64. ids: [N, S] int64. valid: [N, S] bool.
    """

    tokens: Tensor
    ids: Tensor
    valid: Tensor


def led_by(shard: RolloutArrays, places: np.ndarray, device: torch.device) -> Led:
    """Return the student's part of the support of some tokens of a shard.

    A batch at a time: copies within the chunks would make a GPU wait for the host at each.
    """
    ids, valid = shard.top.padded(places)
    tokens = shard.responses.values[places].astype(np.int64)
    return Led(
        on_device(tokens, device), on_device(ids.astype(np.int64), device), on_device(valid, device)
    )


def support_ids(
    led: Led, some: slice, teacher: Tensor, vocabulary: int, settings: ScoreSettings
) -> tuple[Tensor, Tensor]:
    """Return the support of C tokens: the sampled one, the student's top, the teacher's top.

    some: the C tokens among those of `led`. teacher: their log-probs [C, V].
    """
    tokens = led.tokens[some, None]
    groups = [(tokens, torch.ones_like(tokens, dtype=torch.bool)), (led.ids[some], led.valid[some])]
    if settings.teacher_top_max:
        groups.append(top_ids(teacher, settings.teacher_top_p, settings.teacher_top_max))
    return merge_ids(groups, min(vocabulary, teacher.shape[1]))


def as_stored(supports: list[Support]) -> StoredSupport:
    """Return the supports of several chunks as they are stored, one after the other."""
    return joined([to_rows(support) for support in supports])


def joined(supports: list[StoredSupport]) -> StoredSupport:
    """Return the supports of several chunks, one after the other."""
    ids, logprobs, tails = zip(*supports, strict=True)
    return concatenate(list(ids)), concatenate(list(logprobs)), np.concatenate(tails)


def feature_arrays(chunks: list[Features]) -> dict[str, np.ndarray]:
    """Return the features of all chunks as float32 arrays (ranks as int32)."""
    out = {}
    for name, *values in zip(Features._fields, *chunks, strict=True):
        type_ = np.int32 if name == "teacher_rank" else np.float32
        out[name] = torch.cat(values).cpu().numpy().astype(type_)
    return out


def places_back(batches: list[np.ndarray], shard: RolloutArrays) -> np.ndarray:
    """Return where, in the order of the batches, each token of the shard's order was made."""
    made = np.concatenate([shard.responses.places(rows) for rows in batches])
    return np.argsort(made, kind="stable")


def supports_in_order(parts: list[StoredSupport], back: np.ndarray) -> StoredSupport:
    """Return the supports of all batches in the shard's order; back: of `places_back`."""
    ids, logprobs, tail = joined(parts)
    return ids.take(back), logprobs.take(back), tail[back]


def columns_in_order(
    parts: list[dict[str, np.ndarray]], back: np.ndarray, shard: RolloutArrays
) -> dict[str, np.ndarray]:
    """Return the features of all batches in the shard's order; refuse what is not finite."""
    columns = {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}
    refuse_nonfinite(columns, shard)
    return columns


def refuse_nonfinite(columns: dict[str, np.ndarray], shard: RolloutArrays) -> None:
    """Raise `NumericsError` naming the first number that is not finite, and its place."""
    for name, values in columns.items():
        bad = ~np.isfinite(values)
        if bad.any():
            place = int(bad.argmax())
            row = int(np.searchsorted(shard.responses.offsets, place, side="right")) - 1
            raise NumericsError(
                f"{name} is {values[place]} at position {place - shard.responses.offsets[row]} of "
                f"rollout {shard.rollouts[row]} ({int(bad.sum())} such tokens in this shard): a "
                "model gave NaN or infinite logits; nothing of the shard is stored. Try dtype = "
                "'float32' for the student and the teacher"
            )


def refuse_unknown_ids(who: str, model: LanguageModel, ids: np.ndarray) -> None:
    """Raise `ModelError` for ids of rollouts or supports that lie in another model's padding."""
    largest = int(ids.max(initial=0))
    if largest >= model.vocabulary:
        raise ModelError(
            f"the rollouts hold token id {largest}, which the {who} does not have (its head has "
            f"{model.vocabulary} rows): the model that made them puts mass on ids that name no "
            "token; take a model of the same head size, or a trained student"
        )


def refuse_other_signals(teacher: pa.Table, shard: RolloutArrays) -> None:
    """Raise `StoreError` unless the teacher's rows are those of the shard, one by one."""
    expected = positions(shard)
    found = teacher["rollout"].to_numpy(), teacher["position"].to_numpy()
    if not all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)):
        raise StoreError(
            "the stored teacher signals are not those of these rollouts: run `tip cache verify`"
        )


def positions(shard: RolloutArrays) -> tuple[np.ndarray, np.ndarray]:
    """Return rollout and position of each token of a shard."""
    counts = shard.responses.counts.astype(np.int64)
    starts = np.repeat(counts.cumsum() - counts, counts)
    return np.repeat(shard.rollouts, counts), np.arange(counts.sum()) - starts


def teacher_table(shard: RolloutArrays, supports: StoredSupport, entropy: np.ndarray) -> pa.Table:
    """Return the `teacher` table of a shard. entropy: [N] nats."""
    ids, logprobs, tail = supports
    rollout, position = positions(shard)
    columns = {
        "rollout": rollout,
        "position": pa.array(position.astype(np.int32)),
        "ids": ids.lists(pa.int32()),
        "logprobs": logprobs.lists(pa.float16()),
        "tail": pa.array(tail, mask=~np.isfinite(tail)),
        "entropy": entropy,
    }
    return pa.table(columns, schema=schema(TEACHER))


def tokens_table(
    shard: RolloutArrays, columns: dict[str, np.ndarray], student: LanguageModel
) -> pa.Table:
    """Return the `tokens` table of a shard. columns: the fields of `Features`, [N] each."""
    rollout, position = positions(shard)
    return pa.table(
        {
            "rollout": rollout,
            "position": position.astype(np.int32),
            "token": shard.responses.values.astype(np.int32),
            "trainable": shard.trainable,
            "special": np.isin(shard.responses.values, student.card.special_ids),
            **columns,
        },
        schema=schema(TOKENS),
    )


def masses(columns: dict[str, np.ndarray]) -> dict:
    """Return what the manifest of a token table says: counts and means over tokens."""
    return {
        "tokens": len(columns["reverse_kl"]),
        "student_mass": float(columns["student_mass"].mean()),
        "teacher_mass": float(columns["teacher_mass"].mean()),
        "reverse_kl": float(columns["reverse_kl"].mean(dtype=np.float64)),
    }


def teacher_facts(shard: RolloutArrays, table: pa.Table) -> dict:
    """Return what the manifest of a shard of teacher signals says of its size."""
    tokens = sum(len(p) for p in shard.teacher_prompts) + len(shard.responses.values)
    return {"teacher_tokens": int(tokens), "entries": len(from_lists(table["ids"]).values)}


def lengths(prompts: list[np.ndarray], shard: RolloutArrays) -> list[int]:
    """Return the tokens that a model reads of each rollout: all but the last."""
    return [len(p) + int(c) - 1 for p, c in zip(prompts, shard.responses.counts, strict=True)]
