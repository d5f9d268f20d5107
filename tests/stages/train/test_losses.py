"""A step honours the loss that each token names: from a selection's words to parameters.

The reference goes through whole models token by token, in float64.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from tiny import CUT, load, prompts, score_settings, select, shard, training_data, write_model
from tiny_training import (
    ALL,
    Round,
    accumulated,
    denominator,
    dense,
    distance,
    divergence_of,
    gradients,
    same_bits,
    train_settings,
    trainable,
    weights,
)
from tip.stages.score.joint import score_joint
from tip.stages.settings import TOKEN_LOSSES
from tip.stages.signals.objective import Mixed
from tip.stages.train.data import TrainingData, load_training_data
from tip.stages.train.drift import Drift
from tip.stages.train.settings import TrainSettings
from tip.stages.train.step import micro_batch
from tip.stages.train.train import train_inputs
from tip.storage.columns import SELECTION
from tip.storage.errors import StoreError
from tip.storage.facts import ClipFacts
from tip.storage.keys import key_of
from tip.storage.tables import write_table
from torch import Tensor

from .test_train import Killed, killing, run

CLIP = 0.8
BEFORE = tuple(column for column in SELECTION if column.name != "loss")


def named(data: TrainingData, words: list[str | None]) -> TrainingData:
    """Return the data with words given to its tokens in turn."""
    codes = [-1 if word is None else TOKEN_LOSSES.index(word) for word in words]
    turns = np.arange(len(data.positions)) % len(codes)
    return replace(data, losses=np.array(codes, np.int8)[turns])


def reference(made: Round, words: list[str], due: float) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradient of a step whose tokens have these losses in turn, by autograd."""
    student, data = trainable(made.student, torch.float64), made.data
    total = torch.zeros((), dtype=torch.float64)
    for row in ALL:
        ids = np.concatenate([data.prompts.row(row), data.responses.row(row)])
        logits = student.model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0]
        for token in data.tokens(row):
            place = int(data.prompts.counts[row] + data.positions[token])
            log_p, word = logits[place - 1].log_softmax(0), words[token % len(words)]
            kept = torch.tensor(data.supports.ids.row(token)).long()
            rest = torch.ones(len(log_p), dtype=torch.bool).index_fill_(0, kept, False)
            if word == "none":
                continue
            if word == "suppress":
                loss = log_p[int(ids[place])]
            else:
                log_q = [*data.supports.logprobs.row(token), data.supports.tail[token]]
                buckets = torch.cat([log_p[kept], log_p[rest].logsumexp(0)[None]])
                loss = divergence_of(buckets, torch.tensor(log_q).double(), word)
            total = total + float(data.weights[token]) * loss
    (total / due).backward()
    return total.item() / due, gradients(student)


@pytest.fixture(params=["untied", "tied"])
def made(request: pytest.FixtureRequest) -> Round:
    return request.getfixturevalue(request.param)


def test_a_step_gives_each_token_its_own_loss(made: Round) -> None:
    words = [None, *TOKEN_LOSSES]
    mixed = Round(made.student, named(made.data, words))
    due = denominator(made.data, ALL)
    expected = reference(made, [word or "forward_kl" for word in words], due)
    loss, found = accumulated(mixed, dtype=torch.float64, loss="forward_kl")
    assert loss == pytest.approx(expected[0], rel=1e-12)
    assert distance(found, expected[1]) < 1e-12


def test_a_token_of_no_loss_counts_in_the_denominator_alone(untied: Round) -> None:
    half = Round(untied.student, named(untied.data, ["reverse_kl", "none"]))
    turns = np.arange(len(untied.data.positions)) % 2 == 0
    weights = np.where(turns, untied.data.weights, 0)
    due = denominator(untied.data, ALL)
    light = Round(untied.student, replace(untied.data, weights=weights))
    expected = dense(light, ALL, "reverse_kl", due)
    assert denominator(light.data, ALL) < due
    loss, found = accumulated(half, dtype=torch.float64)
    assert loss == pytest.approx(expected[0], rel=1e-12)
    assert distance(found, expected[1]) < 1e-12


def test_words_that_all_say_what_train_loss_says_change_no_bit(made: Round) -> None:
    expected = accumulated(made, loss="jsd")
    for words, loss in ((["jsd"], "reverse_kl"), ([None, "jsd"], "jsd")):
        again = Round(made.student, named(made.data, words))
        chosen = train_settings(loss=loss)
        batch = micro_batch(again.data, ALL[:2], 1.0, chosen, torch.device("cpu"))
        assert batch.objective.loss == "jsd"
        found = accumulated(again, loss=loss)
        assert found[0] == expected[0]
        assert same_bits(found[1], expected[1])


def test_a_micro_batch_holds_the_losses_of_its_own_tokens(untied: Round) -> None:
    data = named(untied.data, ["reverse_kl", "suppress"])
    batch = micro_batch(data, ALL, 1.0, train_settings(), torch.device("cpu"))
    loss = batch.objective.loss
    assert isinstance(loss, Mixed)
    assert loss.words == ("reverse_kl", "suppress")
    assert loss.which.tolist() == [n % 2 for n in range(len(data.positions))]
    assert batch.objective.tokens is not None
    row = np.repeat(np.arange(len(data.rollouts)), data.selected)
    for token, r, position in zip(batch.objective.tokens, row, data.positions, strict=True):
        assert token == data.responses.row(r)[position]


def test_suppress_of_a_token_that_its_support_lacks_is_refused(untied: Round) -> None:
    supports = untied.data.supports
    ids = replace(supports.ids, values=np.full_like(supports.ids.values, 59))
    data = replace(untied.data, supports=replace(supports, ids=ids))
    with pytest.raises(StoreError, match="a sampled token is not in its stored support"):
        micro_batch(data, ALL, 1.0, train_settings(loss="suppress"), torch.device("cpu"))


def test_suppress_makes_the_sampled_tokens_rarer(untied: Round, tmp_path: Path) -> None:
    losses = run(untied, tmp_path, rates=(1e-3,) * 6, epochs=2, loss="suppress").totals.losses
    assert all(loss is not None and loss < 0 for loss in losses)
    before, after = (
        np.mean([x for x in half if x is not None]) for half in (losses[:3], losses[3:])
    )
    assert after < before - 0.01


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_training_of_mixed_losses_goes_on_bit_for_bit_and_tells_the_same(
    untied: Round, tmp_path: Path, after: int
) -> None:
    made = Round(untied.student, named(untied.data, [None, "suppress", "jsd", "none"]))
    more: dict[str, Any] = {"snapshot_seconds": 0, "clip_token": CLIP, "tail": "residual"}
    expected = run(made, tmp_path / "whole", **more)
    with pytest.raises(Killed):
        run(made, tmp_path, tick=killing(after), **more)
    again = run(made, tmp_path, **more)
    assert same_bits(weights(again.student), weights(expected.student))
    assert asdict(again.totals) == asdict(expected.totals)


def test_what_the_limit_took_off_is_told(untied: Round, tmp_path: Path) -> None:
    rates = (0.0,) * 3
    plain, clipped = (
        run(untied, tmp_path / str(clip), rates=rates, clip_token=clip).totals
        for clip in (None, CLIP)
    )
    loose = run(untied, tmp_path / "loose", rates=rates, clip_token=1e3).totals
    moved = Drift(0.0, 0.0, 0.0)
    facts = clipped.facts(0.0, moved)
    assert plain.facts(0.0, moved).clip is None
    assert loose.facts(0.0, moved).clip == ClipFacts(tokens=0.0, nats=0.0)
    assert loose.losses == plain.losses
    assert facts.clip is not None
    assert 0 < facts.clip.tokens < 1
    alike = replace(untied.data, weights=np.ones_like(untied.data.weights))
    one, other = (
        run(Round(untied.student, alike), tmp_path / f"alike {clip}", rates=rates, clip_token=clip)
        for clip in (None, CLIP)
    )
    cut = other.totals.facts(0.0, moved)
    assert cut.clip is not None
    assert cut.loss + cut.clip.nats == pytest.approx(one.totals.facts(0.0, moved).loss, rel=1e-6)


def test_words_are_read_from_the_selection_and_an_older_one_has_none(tmp_path: Path) -> None:
    student = write_model(tmp_path / "student", seed=1)
    teacher = write_model(tmp_path / "teacher", seed=2)
    tables = []
    for lengths in ((4, 7), (3,)):
        rollouts = shard(student, teacher, prompts(*lengths, seed=sum(lengths))).rollouts
        signals, *_ = score_joint(load(student), load(teacher), rollouts, score_settings())
        tables.append((rollouts, signals))
    chosen = select(pa.concat_tables([rollouts for rollouts, _ in tables]))
    assert training_data(tmp_path, tables, chosen, CUT).losses is None
    names = [[None, *TOKEN_LOSSES][n % 7] for n in range(len(chosen))]
    place = chosen.column_names.index("loss")
    chosen = chosen.set_column(place, chosen.schema.field("loss"), pa.array(names, pa.string()))
    data = training_data(tmp_path, tables, chosen, CUT)
    assert data.losses is not None
    row = np.repeat(np.arange(len(data.rollouts)), data.selected)
    found = {
        (int(data.rollouts[r]), int(position)): None if code < 0 else TOKEN_LOSSES[code]
        for r, position, code in zip(row, data.positions, data.losses, strict=True)
    }
    keys = zip(chosen["rollout"].to_pylist(), chosen["position"].to_pylist(), strict=True)
    assert found == dict(zip(keys, names, strict=True))

    write_table(tmp_path / "selection.parquet", chosen.drop_columns(["loss"]), BEFORE)
    paths = [[tmp_path / f"{kind}-{n}.parquet" for n in (0, 1)] for kind in ("rollouts", "teacher")]
    older = load_training_data(*paths, tmp_path / "selection.parquet")
    assert older.losses is None
    assert (older.weights == data.weights).all()


def test_beta_and_limit_are_in_a_key_where_they_are_set_alone() -> None:
    def key(**changes: Any) -> str:
        settings = TrainSettings.model_validate({"tail": True} | changes)
        return key_of(train_inputs("s", ("k", "c"), [], settings, "float32", [0.1], 0))

    assert key(jsd_beta=0.5, clip_token=None) == key()
    changed = [
        {"jsd_beta": 0.1},
        {"jsd_beta": 0.9},
        {"clip_token": 1.0},
        {"clip_token": 2.0},
        {"loss": "suppress"},
        {"loss": "jeffreys"},
    ]
    assert len({key(**change) for change in changed} | {key()}) == 1 + len(changed)


@pytest.mark.parametrize(
    "wrong", [{"jsd_beta": 0.0}, {"jsd_beta": 1.0}, {"clip_token": 0.0}, {"loss": "none"}]
)
def test_what_would_be_no_loss_is_no_setting(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainSettings.model_validate(wrong)
