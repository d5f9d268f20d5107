"""With `tail = "residual"` a step's gradient is that of the whole vocabulary, in the mean.

From rollouts to parameters: every token that can be sampled at a place is once the sampled one,
with its probability for a weight. Teacher log-probs are float16 by then, 2^-11 of their size.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny import (
    CUT,
    load,
    log_probs,
    prompts,
    score_settings,
    select,
    shard,
    training_data,
    write_model,
)
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
    step_of,
    train_settings,
    trainable,
    weights,
)
from tip.stages.score.joint import score_joint
from tip.stages.signals.residual import TOLD
from tip.stages.train.data import TrainingData
from tip.stages.train.settings import TrainSettings
from tip.stages.train.tempered import at_temperature
from tip.stages.train.train import accumulate, train_inputs
from tip.stages.train.worlds.alone import Alone
from tip.storage.columns import SELECTION, schema
from tip.storage.keys import key_of
from torch import Tensor

from .test_train import Killed, killing, run

DIVERGENCES = ["reverse_kl", "forward_kl", "jsd"]
VOCABULARY = 60
RESIDUAL = {"tail": "residual"}


@pytest.fixture(params=["untied", "tied"])
def made(request: pytest.FixtureRequest) -> Round:
    """A round where every third token counts as sampled outside its support."""
    whole = request.getfixturevalue(request.param)
    drawn = whole.data.drawn
    outside = drawn.outside | (np.arange(len(drawn.outside)) % 3 == 0)
    return Round(whole.student, replace(whole.data, drawn=replace(drawn, outside=outside)))


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> tuple[Round, Path]:
    """One prompt answered by each of the 60 tokens, weighted by the student's probability of it.

    And the teacher's folder.
    """
    folder = tmp_path_factory.mktemp("every")
    student = write_model(folder / "student", "qwen3", seed=1)
    teacher = write_model(folder / "teacher", "llama", seed=2)
    rollouts = shard(student, teacher, prompts(5), samples=VOCABULARY, max_tokens=1).rollouts
    (ids,) = {tuple(ids) for ids in rollouts["prompt_ids"].to_pylist()}
    log_p = log_probs(student, ids, [0])[0]
    for name, values in (("response_ids", range(VOCABULARY)), ("logprobs", log_p)):
        place, field = rollouts.column_names.index(name), rollouts.schema.field(name)
        rollouts = rollouts.set_column(place, field, pa.array([[v] for v in values], field.type))
    signals, *_ = score_joint(load(student), load(teacher), rollouts, score_settings())
    columns = {
        "rollout": rollouts["rollout"],
        "position": [0] * VOCABULARY,
        "weight": np.exp(log_p),
        "loss": [None] * VOCABULARY,
        "type": ["Q1"] * VOCABULARY,
        "importance": [1.0] * VOCABULARY,
    }
    chosen = pa.table(columns, schema=schema(SELECTION))
    return Round(student, training_data(folder, [(rollouts, signals)], chosen, CUT)), teacher


def whole(made: Round, teacher: Path, divergence: str) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradient over the whole vocabulary by autograd, float64."""
    student, data = trainable(made.student, torch.float64), made.data
    ids = data.prompts.row(0)
    logits = student.model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0, -1]
    log_q = torch.tensor(log_probs(teacher, ids.tolist(), [0])[0])
    loss = divergence_of(logits.log_softmax(0), log_q, divergence)
    loss.backward()
    return loss.item(), gradients(student)


def step(made: Round, rows: np.ndarray = ALL, **changes: Any) -> tuple[float, dict, dict]:
    """Return loss, gradient and what is told of a step in float64."""
    student, chosen = trainable(made.student, torch.float64), train_settings(**changes)
    due = denominator(made.data, rows)
    sums = accumulate(Alone(), step_of(student, chosen), made.data, rows, chosen, due)
    loss, told, _ = sums.read()
    return loss, gradients(student), told


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_from_rollouts_to_parameters_the_mean_over_all_tokens_is_the_dense_gradient(
    every: tuple[Round, Path], divergence: str
) -> None:
    made, teacher = every
    rows = np.arange(VOCABULARY)
    loss, expected = whole(made, teacher, divergence)
    value, found, told = step(made, rows, loss=divergence, **RESIDUAL)
    assert value == pytest.approx(loss, rel=1e-3)
    assert distance(found, expected) < 2e-3
    # and a bucket for the tail is far from it
    biased, bucketed, _ = step(made, rows, loss=divergence)
    assert abs(biased - loss) > 0.02 * loss
    assert distance(bucketed, expected) > 0.05
    assert 10 < told["outside"] < 50


def test_which_tokens_are_outside_is_what_whole_distributions_say(
    every: tuple[Round, Path],
) -> None:
    made, teacher = every
    data = made.data
    assert data.drawn is not None
    ids = data.prompts.row(0).tolist()

    def top(folder: Path, most: int) -> set[int]:
        p = np.exp(log_probs(folder, ids, [0])[0])
        order = np.argsort(-p)[:most]
        return set(order[np.cumsum(p[order]) - p[order] < 0.9].tolist())

    inside = top(made.student, 8) | top(teacher, CUT.most)
    assert data.drawn.tokens.tolist() == list(range(VOCABULARY))
    assert data.drawn.outside.tolist() == [i not in inside for i in range(VOCABULARY)]


def reference(
    made: Round, rows: np.ndarray, divergence: str, cap: float
) -> tuple[float, dict[str, Tensor]]:
    """Return a step's loss and gradient token by token: buckets, and a factor held fixed."""
    student, data = trainable(made.student, torch.float64), made.data
    assert data.drawn is not None
    total, value = torch.zeros((), dtype=torch.float64), 0.0
    for row in rows:
        ids = np.concatenate([data.prompts.row(row), data.responses.row(row)])
        logits = student.model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0]
        for token in data.tokens(row):
            place = int(data.prompts.counts[row] + data.positions[token])
            log_p, y = logits[place - 1].log_softmax(0), int(ids[place])
            kept = data.supports.ids.row(token).astype(int)
            log_q = dict(zip(kept, data.supports.logprobs.row(token).astype(float), strict=True))
            own = [i for i in kept if not (data.drawn.outside[token] and i == y)]
            rest = [i for i in range(len(log_p)) if i not in own]
            tail = float(data.supports.tail[token])
            if data.drawn.outside[token]:
                tail = float(np.logaddexp(tail, log_q[y]))
            bucket_p = log_p[rest].logsumexp(0)
            all_p = torch.cat([log_p[own], bucket_p[None]])
            all_q = torch.tensor([*(log_q[i] for i in own), tail]).double()
            loss = divergence_of(all_p, all_q, divergence)
            weight = float(data.weights[token])
            total = total + weight * loss
            value += weight * loss.item()
            if data.drawn.outside[token]:
                ratio = min(cap, math.exp(log_p[y].item() - float(data.drawn.logprobs[token])))
                r_y, r_b = log_p[y].item() - log_q[y], bucket_p.item() - tail
                slope, nats = np.subtract(terms(r_y, divergence), terms(r_b, divergence))
                total = total + weight * ratio * slope * log_p[y]
                value += weight * ratio * nats
    due = denominator(data, rows)
    (total / due).backward()
    return value / due, gradients(student)


def terms(r: float, divergence: str) -> tuple[float, float]:
    """Return c(r) and d(r)."""
    if divergence == "reverse_kl":
        return r, r
    if divergence == "forward_kl":
        return -math.exp(-r), -r * math.exp(-r)
    p, q = -math.log((1 + math.exp(-r)) / 2), -math.log((1 + math.exp(r)) / 2)
    return p / 2, (p + math.exp(-r) * q) / 2


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_step_is_buckets_and_residual_of_each_token_of_a_student_that_moved(
    made: Round, divergence: str
) -> None:
    """The rollouts are as a student sampled them whose probabilities were others."""
    drawn = made.data.drawn
    assert drawn is not None
    noise = np.random.default_rng(0).normal(0, 1, len(drawn.tokens))
    moved = replace(drawn, logprobs=drawn.logprobs + noise)
    old = Round(made.student, replace(made.data, drawn=moved))
    loss, expected = reference(old, ALL, divergence, cap=1.5)
    value, found, numbers = step(old, loss=divergence, residual_cap=1.5, **RESIDUAL)
    assert value == pytest.approx(loss, rel=1e-12)
    assert distance(found, expected) < 1e-12
    assert numbers["outside"] == drawn.outside.sum()
    assert 0 < numbers["clipped"] < numbers["outside"]
    assert numbers["clipped_off"] > 0


def test_on_fresh_rollouts_no_ratio_is_clipped(made: Round) -> None:
    _, _, numbers = step(made, residual_cap=1.001, **RESIDUAL)
    assert numbers["outside"] > 3
    assert numbers["clipped"] == 0


@pytest.mark.parametrize(
    "cut",
    [{"batch_tokens": 1}, {"batch_tokens": 100_000}, {"chunk_elements": 1}],
    ids=str,
)
def test_however_a_step_is_cut_its_gradient_is_the_same(made: Round, cut: dict[str, int]) -> None:
    loss, expected = accumulated(made, dtype=torch.float64, **RESIDUAL)
    again, found = accumulated(made, dtype=torch.float64, **RESIDUAL, **cut)
    assert again == pytest.approx(loss, rel=1e-12)
    assert distance(found, expected) < 1e-12


def test_activation_checkpointing_gives_the_same_gradient(made: Round) -> None:
    expected = accumulated(made, **RESIDUAL)[1]
    found = accumulated(made, activation_checkpointing=True, **RESIDUAL)[1]
    assert distance(found, expected) < 1e-7
    assert distance(accumulated(made)[1], expected) > 0.01, "else the residual does nothing"


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_training_goes_on_bit_for_bit_and_tells_the_same(
    untied: Round, tmp_path: Path, after: int
) -> None:
    more: dict[str, Any] = {"snapshot_seconds": 0, "residual_cap": 1.01, **RESIDUAL}
    expected = run(untied, tmp_path / "whole", **more)
    with pytest.raises(Killed):
        run(untied, tmp_path, tick=killing(after), **more)
    again = run(untied, tmp_path, **more)
    assert same_bits(weights(again.student), weights(expected.student))
    assert asdict(again.totals) == asdict(expected.totals)
    numbers = dict(zip(TOLD, again.totals.residual, strict=True))
    assert numbers["clipped"] > 0, "later steps are off the policy that sampled"
    plain = run(untied, tmp_path / "plain")
    assert plain.totals.residual == []
    assert not same_bits(weights(plain.student), weights(expected.student))


def test_data_that_was_read_for_another_tail_is_refused(untied: Round) -> None:
    without = Round(untied.student, replace(untied.data, drawn=None))
    with pytest.raises(ValueError, match="a residual needs the cuts"):
        accumulated(without, **RESIDUAL)
    accumulated(without)


def test_the_cap_is_in_the_key_of_a_residual_alone() -> None:
    def key(**changes: Any) -> str:
        settings = TrainSettings.model_validate({"tail": True} | changes)
        return key_of(train_inputs("s", ("k", "c"), [], settings, "float32", [0.1], 0))

    assert len({key(), key(tail=False), key(tail="residual")}) == 3
    assert key(residual_cap=3.0) == key()
    assert key(tail=False, residual_cap=3.0) == key(tail=False)
    assert key(tail="residual", residual_cap=3.0) != key(tail="residual")


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_the_log_probs_of_another_temperature_are_those_it_was_sampled_with(
    made: Round, temperature: float
) -> None:
    data = made.data
    found = at_temperature(
        load(made.student), data, temperature, train_settings(batch_tokens=30, chunk_elements=200)
    )
    assert found.drawn is not None
    assert data.drawn is not None
    expected = np.zeros(len(data.positions))
    for row in ALL:
        response = data.responses.row(row).tolist()
        tempered = log_probs(made.student, data.prompts.row(row).tolist(), response) / temperature
        tempered -= np.log(np.exp(tempered).sum(1, keepdims=True))
        for token in data.tokens(row):
            place = int(data.positions[token])
            expected[token] = tempered[place, response[place]]
    np.testing.assert_allclose(found.drawn.logprobs, expected, rtol=2e-5, atol=3e-5)
    assert (found.drawn.tokens == data.drawn.tokens).all()
    if temperature == 1:
        np.testing.assert_allclose(found.drawn.logprobs, data.drawn.logprobs, atol=3e-5)


def test_what_was_sampled_is_joined_over_shards(tmp_path: Path) -> None:
    student = write_model(tmp_path / "student", seed=1)
    teacher = write_model(tmp_path / "teacher", seed=2)
    tables = []
    for lengths in ((4, 7), (3,)):
        rollouts = shard(student, teacher, prompts(*lengths, seed=sum(lengths))).rollouts
        signals, *_ = score_joint(load(student), load(teacher), rollouts, score_settings())
        tables.append((rollouts, signals))
    chosen = select(pa.concat_tables([rollouts for rollouts, _ in tables]))
    data = training_data(tmp_path, tables, chosen, CUT)
    assert data.drawn is not None
    assert len(data.drawn.outside) == len(data.positions)
    row = np.repeat(np.arange(len(data.rollouts)), data.selected)
    for n, (r, position) in enumerate(zip(row, data.positions, strict=True)):
        assert data.drawn.tokens[n] == data.responses.row(r)[position]
        assert data.drawn.logprobs[n] == data.old_logprobs.row(r)[position]


def test_the_dense_loop_of_these_tests_is_the_loss_without_a_residual(untied: Round) -> None:
    """Where nothing is outside, the reference here is that of every other loss."""
    drawn = untied.data.drawn
    assert drawn is not None
    inside = replace(drawn, outside=np.zeros_like(drawn.outside))
    data: TrainingData = replace(untied.data, drawn=inside)
    loss, found = reference(Round(untied.student, data), ALL, "reverse_kl", 2.0)
    expected = dense(untied, ALL, "reverse_kl", denominator(data, ALL))
    assert loss == pytest.approx(expected[0], rel=1e-12)
    assert distance(found, expected[1]) < 1e-12
