"""Training takes the gradient of the loss as defined, and neither a cut nor a kill shows in it.

Tolerances are relative to the norm of the whole gradient. Against a dense loop in float64: 1e-7,
since token weights are rounded to float32. Between orders of summation in float32: 1e-6.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from tiny import load, prompts, score_settings, select, shard, training_data, write_model
from tip.stages import train as train_module
from tip.stages.models import LanguageModel
from tip.stages.ragged import Ragged
from tip.stages.score import score_joint
from tip.stages.settings import TrainSettings
from tip.stages.train import (
    Totals,
    accumulate,
    staleness,
    steps_of,
    train,
    train_inputs,
)
from tip.stages.train_state import load_state, save_state, state_about
from tip.stages.training_data import TrainingData
from tip.storage.errors import NumericsError, StoreError
from tip.storage.keys import key_of
from torch import Tensor

DIVERGENCES = ["reverse_kl", "forward_kl", "jsd"]
ALL = np.arange(10)


@dataclass(frozen=True)
class Round:
    """A student's folder and what it is to be trained on."""

    student: Path
    data: TrainingData


def make_round(folder: Path, architecture: str, *, tied: bool) -> Round:
    student = write_model(folder / "student", architecture, seed=1, tied=tied)
    teacher = write_model(folder / "teacher", "llama", seed=2)
    rollouts = shard(student, teacher, prompts(4, 7, 2, 3, 5), max_tokens=10).rollouts
    flags = [[i % 5 > 0 for i in range(len(r))] for r in rollouts["response_ids"].to_pylist()]
    place = rollouts.column_names.index("trainable")
    field = rollouts.schema.field("trainable")
    rollouts = rollouts.set_column(place, field, pa.array(flags, field.type))
    signals, _, _ = score_joint(load(student), load(teacher), rollouts, score_settings())
    return Round(student, training_data(folder, [(rollouts, signals)], select(rollouts)))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Round:
    return make_round(tmp_path_factory.mktemp("untied"), "qwen3", tied=False)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Round:
    return make_round(tmp_path_factory.mktemp("tied"), "qwen2", tied=True)


@pytest.fixture(params=["untied", "tied"])
def made(request: pytest.FixtureRequest) -> Round:
    return request.getfixturevalue(request.param)


def settings(**changes: Any) -> TrainSettings:
    usual = {"rollouts_per_step": 4, "lr": 1e-2, "batch_tokens": 40, "chunk_elements": 300}
    return TrainSettings(**usual | changes)


def trainable(folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    student = load(folder, dtype)
    student.model.requires_grad_(True)
    return student


def gradients(student: LanguageModel) -> dict[str, Tensor]:
    return {n: p.grad.double() for n, p in student.model.named_parameters() if p.grad is not None}


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference, relative to the norm of what is expected."""
    assert found.keys() == expected.keys()
    gap = sum(float((found[n] - expected[n]).square().sum()) for n in expected)
    return math.sqrt(gap / sum(float(v.square().sum()) for v in expected.values()))


def weights(student: LanguageModel) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in student.model.named_parameters()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def denominator(data: TrainingData, rows: np.ndarray, normalise: str = "mean") -> float:
    if normalise == "total":
        return float(data.trainable[rows].sum())
    return float(sum(data.weights[data.tokens(r)].sum(dtype=np.float64) for r in rows))


def accumulated(
    made: Round, rows: np.ndarray = ALL, dtype: torch.dtype = torch.float32, **changes: Any
) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradient of one step over rows as the stage computes them."""
    student, chosen = trainable(made.student, dtype), settings(**changes)
    if chosen.activation_checkpointing:
        train_module._trainable(student, chosen)
    due = denominator(made.data, rows, chosen.normalise)
    loss, _ = accumulate(student, made.data, rows, chosen, due)
    return loss, gradients(student)


def dense(
    made: Round, rows: np.ndarray, divergence: str, due: float
) -> tuple[float, dict[str, Tensor]]:
    """Return the same by autograd through whole models and vocabularies, rollout by rollout."""
    student, data = trainable(made.student, torch.float64), made.data
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = np.concatenate([data.prompts.row(row), data.responses.row(row)])
        logits = student.model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0]
        for token in data.tokens(row):
            place = data.prompts.counts[row] + data.positions[token] - 1
            log_p = logits[place].log_softmax(0)
            kept = torch.tensor(data.ids.row(token)).long()
            outside = torch.ones(len(log_p), dtype=torch.bool)
            outside[kept] = False
            log_p = torch.cat([log_p[kept], log_p[outside].logsumexp(0)[None]])
            log_q = torch.tensor([*data.logprobs.row(token), data.tail[token]]).double()
            total = total + float(data.weights[token]) * divergence_of(log_p, log_q, divergence)
    (total / due).backward()
    return total.item() / due, gradients(student)


def divergence_of(log_p: Tensor, log_q: Tensor, divergence: str) -> Tensor:
    if divergence == "reverse_kl":
        return (log_p.exp() * (log_p - log_q)).sum()
    if divergence == "forward_kl":
        return (log_q.exp() * (log_q - log_p)).sum()
    log_m = ((log_p.exp() + log_q.exp()) / 2).log()
    return (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum() / 2


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_loss_and_gradient_are_those_of_a_plain_dense_loop(made: Round, divergence: str) -> None:
    expected = dense(made, ALL, divergence, denominator(made.data, ALL))
    loss, found = accumulated(made, dtype=torch.float64, loss=divergence)
    assert loss == pytest.approx(expected[0], rel=1e-7)
    assert distance(found, expected[1]) < 1e-7
    loss, found = accumulated(made, loss=divergence)
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert distance(found, expected[1]) < 1e-5


@pytest.mark.parametrize("batch_tokens", [1, 25, 100_000])
def test_micro_batches_and_their_order_change_the_gradient_by_less_than_1e_6(
    made: Round, batch_tokens: int
) -> None:
    loss, expected = accumulated(made)
    turned = np.random.default_rng(0).permutation(ALL)
    again, found = accumulated(made, turned, batch_tokens=batch_tokens)
    assert again == pytest.approx(loss, rel=1e-6)
    assert distance(found, expected) < 1e-6


@pytest.mark.parametrize("chunk_elements", [1, 61, 1 << 22])
def test_the_chunk_of_the_head_changes_the_gradient_by_less_than_1e_6(
    untied: Round, chunk_elements: int
) -> None:
    expected = accumulated(untied)[1]
    assert distance(accumulated(untied, chunk_elements=chunk_elements)[1], expected) < 1e-6


def test_activation_checkpointing_gives_the_same_gradient(made: Round) -> None:
    expected = accumulated(made)[1]
    assert distance(accumulated(made, activation_checkpointing=True)[1], expected) < 1e-7


def test_bfloat16_autocast_runs_on_a_cpu_and_comes_close(made: Round) -> None:
    loss, expected = accumulated(made)
    again, found = accumulated(made, autocast="bfloat16")
    # bfloat16 keeps 8 bits; two layers of it move these losses by a per cent or two
    assert again != loss
    assert again == pytest.approx(loss, rel=0.03)
    assert distance(found, expected) < 0.1


def test_total_divides_by_all_trainable_tokens_and_mean_by_the_weights(untied: Round) -> None:
    mean, _ = accumulated(untied)
    total, _ = accumulated(untied, normalise="total")
    data = untied.data
    assert data.trainable.sum() < len(data.responses.values)
    expected = mean * data.weights.sum(dtype=np.float64) / data.trainable.sum()
    assert total == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("normalise", ["mean", "total"])
def test_a_step_divides_once_by_what_its_own_rollouts_hold(
    untied: Round, tmp_path: Path, normalise: str
) -> None:
    steps: list[float | None] = []
    result = run(untied, tmp_path, rates=(0.0,) * 3, normalise=normalise)
    for rows in train_module._plan(untied.data.rollouts, settings(), 0):
        due = denominator(untied.data, rows, normalise)
        steps.append(dense(untied, rows, "reverse_kl", due)[0] if due else None)
    assert result.totals.losses == pytest.approx(steps, rel=1e-5)


def test_the_body_reads_each_sequence_up_to_its_last_selected_token_and_no_other(
    untied: Round,
) -> None:
    student, data, read = trainable(untied.student), untied.data, []

    def note(_module: Any, _inputs: Any, named: dict[str, Any]) -> None:
        read.append(named["input_ids"].shape)

    student.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    totals = Totals()
    alone = settings(batch_tokens=1)
    accumulate(student, data, ALL, alone, denominator(data, ALL), totals)
    expected = []
    for row in ALL:
        positions = data.positions[data.tokens(row)]
        if len(positions):
            expected.append((1, int(data.prompts.counts[row] + positions.max())))
    assert len(expected) < len(ALL)
    assert sorted(read) == sorted(expected)
    assert totals.body_tokens == sum(length for _, length in expected)


def test_only_selected_tokens_meet_the_head(untied: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, honest = [], train_module.sparse_loss

    def noted(hidden: Tensor, *rest: Any, **named: Any) -> Any:
        rows.append(len(hidden))
        return honest(hidden, *rest, **named)

    monkeypatch.setattr(train_module, "sparse_loss", noted)
    accumulated(untied)
    assert sum(rows) == len(untied.data.positions)


@dataclass(frozen=True)
class Result:
    student: LanguageModel
    optimizer: torch.optim.Optimizer
    totals: Totals

    def moments(self) -> dict[str, Tensor]:
        names = {p: n for n, p in self.student.model.named_parameters()}
        return {
            f"{names[p]}.{moment}": value
            for p, state in self.optimizer.state.items()
            for moment, value in state.items()
        }


def run(
    made: Round,
    folder: Path,
    *,
    rates: Sequence[float] = (1e-2, 8e-3, 6e-3),
    seed: int = 0,
    state: Path | None = None,
    key: str = "this training",
    tick: Callable[[int], None] = lambda _: None,
    **changes: Any,
) -> Result:
    """Train the student of a round."""
    student = load(made.student)
    optimizer, totals = train(
        student,
        made.data,
        settings(**changes),
        rates,
        seed=seed,
        state=state,
        snapshot=folder / "snapshot.safetensors",
        key=key,
        tick=tick,
    )
    return Result(student, optimizer, totals)


def test_training_brings_the_student_closer_to_the_teacher(made: Round, tmp_path: Path) -> None:
    result = run(made, tmp_path, rates=(1e-2,) * 30, epochs=10)
    first, last = (
        np.mean([x for x in part if x is not None])
        for part in (result.totals.losses[:3], result.totals.losses[-3:])
    )
    assert last < 0.5 * first


def test_a_step_is_adamw_with_the_rate_of_its_place(untied: Round, tmp_path: Path) -> None:
    rates = (1e-2, 3e-3, 0.0)
    chosen = settings(weight_decay=0.1, clip=0.5, betas=(0.8, 0.95), eps=1e-6)
    result = run(
        untied, tmp_path, rates=rates, weight_decay=0.1, clip=0.5, betas=(0.8, 0.95), eps=1e-6
    )
    student, data = trainable(untied.student), untied.data
    named = dict(student.model.named_parameters())
    matrices = [p for p in named.values() if p.ndim > 1]
    vectors = [p for p in named.values() if p.ndim == 1]
    plain = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.8, 0.95),
        eps=1e-6,
        foreach=False,
        fused=False,
    )
    norms = []
    for rate, rows in zip(rates, train_module._plan(data.rollouts, chosen, 0), strict=True):
        plain.zero_grad()
        accumulate(student, data, rows, chosen, denominator(data, rows))
        norms.append(float(torch.nn.utils.clip_grad_norm_(named.values(), 0.5)))
        for group in plain.param_groups:
            group["lr"] = rate
        plain.step()
    assert min(norms) > 0.5, "else nothing is clipped"
    assert result.totals.grad_norm == pytest.approx(max(norms), rel=1e-5)
    assert distance(weights(result.student), weights(student)) < 1e-6


def test_totals_add_up_what_was_trained(untied: Round, tmp_path: Path) -> None:
    totals, data = run(untied, tmp_path).totals, untied.data
    assert totals.step == 3
    assert totals.trained_tokens == len(data.positions)
    assert totals.body_tokens == data.lengths.sum()
    assert totals.weight == pytest.approx(data.weights.sum(dtype=np.float64), rel=1e-6)
    assert 0 < totals.mass / totals.trained_tokens <= 1
    assert totals.loss / totals.weight == pytest.approx(
        np.average(
            totals.losses,
            weights=[
                denominator(data, rows) for rows in train_module._plan(data.rollouts, settings(), 0)
            ],
        )
    )


def subset(data: TrainingData, rows: np.ndarray) -> TrainingData:
    """Return a round of some rollouts only."""
    tokens = np.concatenate([data.tokens(row) for row in rows])
    ragged = {n: getattr(data, n).take(rows) for n in ("prompts", "responses", "old_logprobs")}
    return TrainingData(
        rollouts=data.rollouts[rows],
        trainable=data.trainable[rows],
        selected=data.selected[rows],
        positions=data.positions[tokens],
        weights=data.weights[tokens],
        ids=data.ids.take(tokens),
        logprobs=data.logprobs.take(tokens),
        tail=data.tail[tokens],
        **ragged,
    )


def export(student: LanguageModel, folder: Path) -> Path:
    """Write a bfloat16 checkpoint, as the next round's rollouts see it."""
    copy.deepcopy(student.model).to(torch.bfloat16).save_pretrained(folder)
    student.card.tokenizer.save_pretrained(folder)
    return folder


def test_rounds_of_a_step_each_equal_one_long_run_bit_for_bit(made: Round, tmp_path: Path) -> None:
    rates = (1e-6, 8e-7, 6e-7)  # updates that bfloat16 would lose
    whole = run(made, tmp_path, rates=rates)
    state, folder = None, made.student
    for number, rows in enumerate(train_module._plan(made.data.rollouts, settings(), 0)):
        part = Round(folder, subset(made.data, np.sort(rows)))
        result = run(part, tmp_path, rates=rates[number : number + 1], state=state)
        state = tmp_path / f"state-{number}.safetensors"
        save_state(state, result.student.model, result.optimizer, {"key": "x"})
        folder = export(result.student, tmp_path / f"checkpoint-{number}")
    assert same_bits(weights(result.student), weights(whole.student))
    assert same_bits(result.moments(), whole.moments())
    assert not same_bits(weights(whole.student), weights(load(made.student)))
    seen = weights(load(folder, torch.bfloat16))
    before = weights(load(export(load(made.student), tmp_path / "before"), torch.bfloat16))
    moved = sum(int((seen[n] != before[n]).sum()) for n in seen)
    assert moved < 0.05 * sum(v.numel() for v in seen.values()), "bfloat16 alone stands still"


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_training_goes_on_from_its_snapshot_bit_for_bit(
    made: Round, tmp_path: Path, after: int
) -> None:
    whole = run(made, tmp_path / "whole", snapshot_seconds=0)
    steps = 0

    def kill(done: int) -> None:
        nonlocal steps
        steps += done
        if steps > after:
            raise Killed

    with pytest.raises(Killed):
        run(made, tmp_path, snapshot_seconds=0, tick=kill)
    done: list[int] = []
    again = run(made, tmp_path, snapshot_seconds=0, tick=done.append)
    assert done == [after] + [1] * (3 - after)
    assert same_bits(weights(again.student), weights(whole.student))
    assert same_bits(again.moments(), whole.moments())
    assert asdict(again.totals) == asdict(whole.totals)


def test_a_snapshot_of_another_training_or_a_damaged_one_is_not_gone_on_from(
    untied: Round, tmp_path: Path
) -> None:
    expected = weights(run(untied, tmp_path / "clean").student)
    run(untied, tmp_path, snapshot_seconds=0, key="another training", rates=(0.5,) * 3)
    snapshot = tmp_path / "snapshot.safetensors"
    assert (state_about(snapshot) or {})["key"] == "another training"
    assert same_bits(weights(run(untied, tmp_path).student), expected)
    snapshot.write_bytes(snapshot.read_bytes()[:20])
    assert same_bits(weights(run(untied, tmp_path).student), expected)


def test_no_snapshot_is_taken_before_its_time(untied: Round, tmp_path: Path) -> None:
    run(untied, tmp_path, snapshot_seconds=3600)
    assert not (tmp_path / "snapshot.safetensors").exists()


def test_a_step_without_tokens_moves_only_the_schedule(untied: Round, tmp_path: Path) -> None:
    data = untied.data
    empty, *others = train_module._plan(data.rollouts, settings(), 0)
    keep = np.setdiff1d(
        np.arange(len(data.positions)), np.concatenate([data.tokens(r) for r in empty])
    )
    selected = data.selected.copy()
    selected[empty] = 0
    without = replace(
        data,
        selected=selected,
        positions=data.positions[keep],
        weights=data.weights[keep],
        ids=data.ids.take(keep),
        logprobs=data.logprobs.take(keep),
        tail=data.tail[keep],
    )
    result = run(Round(untied.student, without), tmp_path, weight_decay=0.1)
    part = Round(untied.student, subset(data, np.sort(np.concatenate(others))))
    expected = run(part, tmp_path, weight_decay=0.1, rates=(8e-3, 6e-3))
    assert result.totals.step == 3
    assert result.totals.losses == [None, *expected.totals.losses]
    assert same_bits(weights(result.student), weights(expected.student))
    assert same_bits(result.moments(), expected.moments())


def spoiled(data: TrainingData, rows: np.ndarray) -> TrainingData:
    """Return a round whose teacher log-probs are NaN for the tokens of some rollouts."""
    values = data.logprobs.values.copy()
    values[data.logprobs.places(np.concatenate([data.tokens(row) for row in rows]))] = np.nan
    return replace(data, logprobs=Ragged(values, data.logprobs.counts))


def test_a_step_that_is_not_finite_is_skipped_and_counted(untied: Round, tmp_path: Path) -> None:
    plan = train_module._plan(untied.data.rollouts, settings(), 0)
    bad = Round(untied.student, spoiled(untied.data, plan[1]))
    result = run(bad, tmp_path)
    assert (result.totals.skipped, result.totals.skipped_in_a_row) == (1, 0)
    assert result.totals.losses[1] is None
    rest = Round(untied.student, subset(untied.data, np.sort(np.concatenate([plan[0], plan[2]]))))
    expected = run(rest, tmp_path, rates=(1e-2, 6e-3))
    assert same_bits(weights(result.student), weights(expected.student))
    assert same_bits(result.moments(), expected.moments())


def test_three_steps_in_a_row_that_are_not_finite_stop_the_run(
    untied: Round, tmp_path: Path
) -> None:
    plan = train_module._plan(untied.data.rollouts, settings(rollouts_per_step=2), 0)
    for bad, stops in ((plan[0:2] + plan[3:5], False), (plan[1:4], True)):
        made = Round(untied.student, spoiled(untied.data, np.concatenate(bad)))
        if stops:
            with pytest.raises(NumericsError, match=r"not finite in 3 steps in a row") as it:
                run(made, tmp_path, rollouts_per_step=2, rates=(1e-2,) * 5)
            assert "\n" not in str(it.value)
        else:
            totals = run(made, tmp_path, rollouts_per_step=2, rates=(1e-2,) * 5).totals
            assert totals.skipped == 4


def test_each_epoch_takes_every_rollout_once_in_an_order_of_its_own() -> None:
    rollouts = np.random.default_rng(0).integers(0, 1 << 63, 50)
    chosen = settings(rollouts_per_step=16, epochs=3)
    plan = train_module._plan(rollouts, chosen, 5)
    assert len(plan) == steps_of(50, chosen) == 12
    epochs = [np.concatenate(plan[start : start + 4]).tolist() for start in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    other = train_module._plan(rollouts, chosen, 6)
    orders = [*epochs, *(np.concatenate(other[start : start + 4]).tolist() for start in (0, 4, 8))]
    assert len({tuple(order) for order in orders}) == 6


def test_the_order_of_a_rollout_does_not_depend_on_the_shards_it_came_in() -> None:
    rollouts = np.random.default_rng(0).integers(0, 1 << 63, 50)
    turned = np.random.default_rng(1).permutation(50)
    plan = train_module._plan(rollouts, settings(), 5)
    again = train_module._plan(rollouts[turned], settings(), 5)
    for a, b in zip(plan, again, strict=True):
        assert rollouts[a].tolist() == rollouts[turned][b].tolist()


def test_staleness_is_zero_before_training_and_the_estimate_k3_after_it(
    made: Round, tmp_path: Path
) -> None:
    data = made.data
    assert staleness(load(made.student), data, settings()) == pytest.approx(0, abs=1e-9)
    trained = run(made, tmp_path).student
    terms = []
    for row in ALL:
        ids = np.concatenate([data.prompts.row(row), data.responses.row(row)])
        with torch.inference_mode():
            logits = trained.model(input_ids=torch.tensor(ids)[None]).logits[0].double()
        response = torch.tensor(data.responses.row(row)).long()[:, None]
        predicting = logits[data.prompts.counts[row] - 1 : -1].log_softmax(1)
        change = predicting.gather(1, response)[:, 0].numpy() - data.old_logprobs.row(row)
        terms.append(np.exp(change) - 1 - change)
    expected = np.concatenate(terms).mean()
    assert expected > 1e-3
    assert staleness(trained, data, settings()) == pytest.approx(expected, rel=1e-4)


def test_a_state_gives_back_masters_and_moments_bit_for_bit(made: Round, tmp_path: Path) -> None:
    result = run(made, tmp_path)
    path = tmp_path / "states" / "state.safetensors"
    save_state(path, result.student.model, result.optimizer, {"key": "k", "step": 3})
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    again = trainable(made.student)
    optimizer = torch.optim.AdamW(again.model.parameters(), fused=True)
    assert load_state(path, again.model, optimizer) == {"key": "k", "step": 3}
    assert same_bits(weights(again), weights(result.student))
    assert same_bits(Result(again, optimizer, Totals()).moments(), result.moments())
    assert state_about(path) == {"key": "k", "step": 3}


def test_a_damaged_state_or_one_of_another_model_is_refused_in_one_line(
    untied: Round, tied: Round, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    result = run(untied, tmp_path)
    save_state(path, result.student.model, result.optimizer, {})
    whole, tensors = path.read_bytes(), load_tensors(path.read_bytes())
    wider = trainable(write_model(tmp_path / "wider", "qwen3", vocabulary=61))
    cases: list[tuple[Callable[[], object], LanguageModel]] = [
        (lambda: path.write_bytes(whole), trainable(tied.student)),
        (lambda: path.write_bytes(whole), wider),
        (lambda: path.write_bytes(whole[:-5]), trainable(untied.student)),
        (lambda: path.write_bytes(b"garbage"), trainable(untied.student)),
        (lambda: save_file(tensors, path), trainable(untied.student)),
        (lambda: path.unlink(), trainable(untied.student)),
    ]
    for damage, student in cases:
        damage()
        with pytest.raises(StoreError, match="not the training state of this model") as it:
            load_state(path, student.model, None)
        assert "\n" not in str(it.value)
    assert state_about(path) is None


def test_the_key_knows_what_changes_a_training_and_nothing_else() -> None:
    def key(seed: int = 0, rates: Sequence[float] = (1e-6,), **changes: Any) -> str:
        chosen = TrainSettings(**changes)
        inputs = train_inputs(
            "start", ("s", "c"), [("t", "c")], chosen, "torch.float32", rates, seed
        )
        return key_of(inputs)

    same: list[dict[str, Any]] = [
        {"batch_tokens": 5},
        {"chunk_elements": 5},
        {"activation_checkpointing": True},
        {"snapshot_seconds": 5.0},
        {"keep_states": 5},
        {"horizon": 5},
        {"lr": 5.0},  # in the key through the rates
        {"warmup_steps": 5},
    ]
    other: list[dict[str, Any]] = [
        {"loss": "jsd"},
        {"normalise": "total"},
        {"rollouts_per_step": 5},
        {"epochs": 2},
        {"betas": (0.5, 0.5)},
        {"eps": 1e-5},
        {"weight_decay": 0.5},
        {"clip": 0.5},
        {"export_dtype": "float32"},
        {"seed": 1},
        {"rates": (2e-6,)},
    ]
    assert {key(**change) for change in same} == {key()}
    assert len({key(**change) for change in other} | {key()}) == 1 + len(other)
