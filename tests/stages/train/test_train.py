"""Training takes its steps as planned, and neither a cut into rounds nor a kill shows in it."""

import copy
import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import CPU, load
from tiny_training import (
    ALL,
    Round,
    accumulated,
    denominator,
    dense,
    distance,
    same_bits,
    step_of,
    subset,
    train_settings,
    trainable,
    weights,
)
from tip.stages import stopping
from tip.stages.arrays.ragged import Ragged
from tip.stages.models.language_model import LanguageModel
from tip.stages.stopping import Terminated, obey_sigterm
from tip.stages.train import train as train_module
from tip.stages.train.data import TrainingData
from tip.stages.train.settings import TrainSettings
from tip.stages.train.state import FILE, state_about
from tip.stages.train.train import Totals, accumulate, steps_of, train, train_inputs
from tip.stages.train.worlds.alone import Alone
from tip.storage.errors import NumericsError
from tip.storage.keys import key_of
from torch import Tensor


@pytest.fixture(params=["untied", "tied"])
def made(request: pytest.FixtureRequest) -> Round:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("normalise", ["mean", "total"])
def test_a_step_divides_once_by_what_its_own_rollouts_hold(
    untied: Round, tmp_path: Path, normalise: str
) -> None:
    steps: list[float | None] = []
    result = run(untied, tmp_path, rates=(0.0,) * 3, normalise=normalise)
    for rows in train_module._plan(untied.data.rollouts, train_settings(), 0):
        due = denominator(untied.data, rows, normalise)
        steps.append(dense(untied, rows, "reverse_kl", due)[0] if due else None)
    assert result.totals.losses == pytest.approx(steps, rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 25, 100_000])
def test_micro_batches_and_their_order_change_the_gradient_by_rounding_only(
    made: Round, batch_tokens: int, device: torch.device
) -> None:
    turned = np.random.default_rng(0).permutation(ALL)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        loss, expected = accumulated(made, dtype=dtype)
        again, found = accumulated(made, turned, dtype, device=device, batch_tokens=batch_tokens)
        assert again == pytest.approx(loss, rel=tolerance)
        assert distance(found, expected) < tolerance


def test_activation_checkpointing_gives_the_same_gradient(
    made: Round, device: torch.device
) -> None:
    expected = accumulated(made, device=device)[1]
    found = accumulated(made, device=device, activation_checkpointing=True)[1]
    assert distance(found, expected) < 1e-7


_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Result:
    student: LanguageModel
    state: Path
    totals: Totals

    def moments(self) -> dict[str, Tensor]:
        tensors = load_file(self.state / FILE)
        return {name: value for name, value in tensors.items() if not name.startswith("master")}


def run(
    made: Round,
    folder: Path,
    *,
    rates: Sequence[float] = (1e-2, 8e-3, 6e-3),
    seed: int = 0,
    start: Path | None = None,
    key: str = "this training",
    autocast: torch.dtype = torch.float32,
    device: torch.device = CPU,
    tick: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    **changes: Any,
) -> Result:
    """Train the student of a round."""
    student, state = load(made.student, device=device), folder / f"state-{next(_NUMBERS)}"
    totals = train(
        student,
        made.data,
        train_settings(**changes),
        rates,
        autocast=autocast,
        seed=seed,
        start=start,
        state=state,
        snapshot=folder / "snapshot",
        key=key,
        tick=tick,
        say=say,
    )
    return Result(student, state, totals)


def test_training_brings_the_student_closer_to_the_teacher(made: Round, tmp_path: Path) -> None:
    result = run(made, tmp_path, rates=(1e-2,) * 30, epochs=10)
    first, last = (
        np.mean([x for x in part if x is not None])
        for part in (result.totals.losses[:3], result.totals.losses[-3:])
    )
    assert last < 0.5 * first


def test_a_step_is_adamw_with_the_rate_of_its_place(
    untied: Round, tmp_path: Path, device: torch.device
) -> None:
    rates = (1e-2, 3e-3, 0.0)
    changes: dict[str, Any] = {"weight_decay": 0.1, "clip": 0.5, "betas": (0.8, 0.95), "eps": 1e-6}
    chosen = train_settings(**changes)
    result = run(untied, tmp_path, rates=rates, device=device, **changes)
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
        step = step_of(student, chosen)
        accumulate(Alone(), step, data, rows, chosen, denominator(data, rows))
        norms.append(float(torch.nn.utils.clip_grad_norm_(named.values(), 0.5)))
        for group in plain.param_groups:
            group["lr"] = rate
        plain.step()
    assert min(norms) > 0.5, "else nothing is clipped"
    assert result.totals.grad_norm == pytest.approx(max(norms), rel=1e-5)
    assert distance(weights(result.student), weights(student)) < 1e-6


def test_totals_add_up_what_was_trained(untied: Round, tmp_path: Path) -> None:
    result, data = run(untied, tmp_path), untied.data
    student, totals = result.student, result.totals
    assert totals.step == 3
    assert totals.trained_tokens == len(data.positions)
    assert totals.body_tokens == data.lengths.sum()
    assert all(p.grad is None for p in student.model.parameters()), "their memory is given back"
    assert totals.weight == pytest.approx(data.weights.sum(dtype=np.float64), rel=1e-6)
    assert 0 < totals.mass / totals.trained_tokens <= 1
    assert totals.loss / totals.weight == pytest.approx(
        np.average(
            totals.losses,
            weights=[
                denominator(data, rows)
                for rows in train_module._plan(data.rollouts, train_settings(), 0)
            ],
        )
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
    for number, rows in enumerate(train_module._plan(made.data.rollouts, train_settings(), 0)):
        part = Round(folder, subset(made.data, np.sort(rows)))
        result = run(part, tmp_path, rates=rates[number : number + 1], start=state)
        state = result.state
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


def killing(after: int) -> Callable[[int], None]:
    """Return a tick that kills after so many steps."""
    steps = 0

    def kill(done: int) -> None:
        nonlocal steps
        steps += done
        if steps > after:
            raise Killed

    return kill


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_training_goes_on_from_its_snapshot_bit_for_bit(
    made: Round, tmp_path: Path, after: int
) -> None:
    whole = run(made, tmp_path / "whole", snapshot_seconds=0)
    with pytest.raises(Killed):
        run(made, tmp_path, snapshot_seconds=0, tick=killing(after))
    done: list[int] = []
    again = run(made, tmp_path, snapshot_seconds=0, tick=done.append)
    assert done == [after] + [1] * (3 - after)
    assert same_bits(weights(again.student), weights(whole.student))
    assert same_bits(again.moments(), whole.moments())
    assert asdict(again.totals) == asdict(whole.totals)


@contextmanager
def obeying() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` while the block runs."""
    before = signal.getsignal(signal.SIGTERM)
    obey_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        stopping._asked.clear()


@pytest.mark.parametrize("after", [1, 3])
def test_a_training_that_is_told_to_end_loses_no_step(
    made: Round, tmp_path: Path, after: int
) -> None:
    expected = run(made, tmp_path / "clean")

    def tell(step: int) -> None:
        told.append(step)
        if sum(told) == after:
            os.kill(os.getpid(), signal.SIGTERM)

    told: list[int] = []
    with obeying(), pytest.raises(Terminated):
        run(made, tmp_path, tick=tell)
    done: list[int] = []
    again = run(made, tmp_path, tick=done.append)
    assert done == [after] + [1] * (3 - after)
    assert same_bits(weights(again.student), weights(expected.student))


def test_a_training_that_is_told_to_end_while_its_state_is_written_writes_it(
    untied: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[Path] = []

    def telling(world: Alone, path: Path, *state: Any) -> None:
        states.append(path)
        os.kill(os.getpid(), signal.SIGTERM)
        save(world, path, *state)

    save = Alone.save
    monkeypatch.setattr(Alone, "save", telling)
    with obeying(), pytest.raises(Terminated):
        run(untied, tmp_path)
    (state,) = states
    assert (state_about(state) or {})["totals"]["step"] == 3


def test_a_finished_training_is_read_and_not_done_again(made: Round, tmp_path: Path) -> None:
    first = run(made, tmp_path)
    student, done = load(made.student), []
    totals = train(
        student,
        made.data,
        train_settings(),
        (1e-2, 8e-3, 6e-3),
        autocast=torch.float32,
        seed=0,
        start=tmp_path / "of no use any more",
        state=first.state,
        snapshot=tmp_path / "snapshot",
        key="this training",
        tick=done.append,
    )
    assert totals == first.totals
    assert done == [3]
    assert same_bits(weights(student), weights(first.student))


def test_a_snapshot_of_another_training_or_a_damaged_one_is_not_gone_on_from(
    untied: Round, tmp_path: Path
) -> None:
    expected = weights(run(untied, tmp_path / "clean").student)
    another = {"snapshot_seconds": 0, "key": "another training", "rates": (0.5,) * 3}
    with pytest.raises(Killed):
        run(untied, tmp_path, tick=killing(2), **another)
    snapshot = tmp_path / "snapshot"
    assert (state_about(snapshot) or {})["key"] == "another training"
    file = snapshot / FILE
    damaged = file.read_bytes()[:20]
    assert same_bits(weights(run(untied, tmp_path).student), expected)
    file.write_bytes(damaged)
    assert same_bits(weights(run(untied, tmp_path).student), expected)


def test_a_snapshot_that_cannot_be_written_costs_a_line_and_no_step(
    untied: Round, tmp_path: Path
) -> None:
    expected = run(untied, tmp_path / "clean")
    (tmp_path / "snapshot").write_text("a file is in the way")
    said: list[str] = []
    result = run(untied, tmp_path, snapshot_seconds=0, say=said.append)
    assert same_bits(weights(result.student), weights(expected.student))
    assert [text.split(":")[0] for text in said] == ["note"] * 3
    assert "damaged" in said[0]
    assert "no snapshot at step 1" in said[1]


def test_a_damaged_snapshot_is_told_and_not_gone_on_from(untied: Round, tmp_path: Path) -> None:
    expected = run(untied, tmp_path / "clean")
    with pytest.raises(Killed):
        run(untied, tmp_path, snapshot_seconds=0, tick=killing(2))
    file = tmp_path / "snapshot" / FILE
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    said: list[str] = []
    result = run(untied, tmp_path, say=said.append)
    assert same_bits(weights(result.student), weights(expected.student))
    assert len(said) == 1
    assert "its numbers are not those that were written" in said[0]


def test_no_snapshot_is_taken_before_its_time(untied: Round, tmp_path: Path) -> None:
    run(untied, tmp_path, snapshot_seconds=3600)
    assert not (tmp_path / "snapshot").exists()


def test_a_step_without_tokens_moves_only_the_schedule(untied: Round, tmp_path: Path) -> None:
    data = untied.data
    empty, *others = train_module._plan(data.rollouts, train_settings(), 0)
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
        supports=data.supports.take(keep),
        drawn=None,
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
    logprobs = data.supports.logprobs
    values = logprobs.values.copy()
    values[logprobs.places(np.concatenate([data.tokens(row) for row in rows]))] = np.nan
    spoilt = replace(data.supports, logprobs=Ragged(values, logprobs.counts))
    return replace(data, supports=spoilt)


def test_a_step_that_is_not_finite_is_skipped_and_counted(untied: Round, tmp_path: Path) -> None:
    plan = train_module._plan(untied.data.rollouts, train_settings(), 0)
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
    plan = train_module._plan(untied.data.rollouts, train_settings(rollouts_per_step=2), 0)
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
    chosen = train_settings(rollouts_per_step=16, epochs=3)
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
    plan = train_module._plan(rollouts, train_settings(), 5)
    again = train_module._plan(rollouts[turned], train_settings(), 5)
    for a, b in zip(plan, again, strict=True):
        assert rollouts[a].tolist() == rollouts[turned][b].tolist()


def test_the_key_knows_what_changes_a_training_and_nothing_else() -> None:
    def key(seed: int = 0, rates: Sequence[float] = (1e-6,), **changes: Any) -> str:
        chosen = TrainSettings(**{"tail": True} | changes)
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
