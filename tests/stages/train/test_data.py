"""A round read from its tables holds, for every rollout, the tokens selected and their supports."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny import load, prompts, score_settings, select, shard, training_data, write_model
from tip.stages.score.joint import score_joint
from tip.stages.train.data import TrainingData
from tip.storage.errors import StoreError

Tables = list[tuple[pa.Table, pa.Table]]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Two shards of rollouts with their teacher signals."""
    student = write_model(tmp_path_factory.mktemp("student"), seed=1)
    teacher = write_model(tmp_path_factory.mktemp("teacher"), seed=2)
    made = []
    for lengths in ((4, 7, 2), (3, 3)):
        rollouts = shard(student, teacher, prompts(*lengths, seed=sum(lengths))).rollouts
        signals, *_ = score_joint(load(student), load(teacher), rollouts, score_settings())
        made.append((rollouts, signals))
    return made


@pytest.fixture(scope="module")
def selection(tables: Tables) -> pa.Table:
    return select(pa.concat_tables([rollouts for rollouts, _ in tables]))


@pytest.fixture(scope="module")
def data(
    tables: Tables, selection: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> TrainingData:
    return training_data(tmp_path_factory.mktemp("round"), tables, selection)


def test_rollouts_stand_in_the_order_of_the_shards(tables: Tables, data: TrainingData) -> None:
    row = 0
    for rollouts, _ in tables:
        for rollout in rollouts.to_pylist():
            assert data.rollouts[row] == rollout["rollout"]
            assert data.prompts.row(row).tolist() == rollout["prompt_ids"]
            assert data.responses.row(row).tolist() == rollout["response_ids"]
            assert data.old_logprobs.row(row).tolist() == rollout["logprobs"]
            assert data.trainable[row] == sum(rollout["trainable"])
            row += 1
    assert row == len(data.rollouts)


def test_each_rollout_has_its_selected_tokens_in_order_with_weight_and_support(
    tables: Tables, selection: pa.Table, data: TrainingData
) -> None:
    wanted = {(s["rollout"], s["position"]): s["weight"] for s in selection.to_pylist()}
    signals = {(s["rollout"], s["position"]): s for _, table in tables for s in table.to_pylist()}
    seen = set()
    for row, rollout in enumerate(data.rollouts.tolist()):
        tokens = data.tokens(row)
        positions = data.positions[tokens].tolist()
        assert positions == sorted(p for r, p in wanted if r == rollout)
        support = data.support(tokens, torch.device("cpu"))
        for place, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            key = (rollout, position)
            assert data.weights[token] == np.float32(wanted[key])
            kept = support.valid[place]
            assert support.ids[place][kept].tolist() == signals[key]["ids"]
            assert support.logprobs[place][kept].tolist() == signals[key]["logprobs"]
            assert support.tail[place].item() == signals[key]["tail"]
            seen.add(key)
    assert seen == set(wanted)


def test_a_sequence_ends_before_its_last_selected_token(data: TrainingData) -> None:
    for row in range(len(data.rollouts)):
        tokens = data.tokens(row)
        if len(tokens):
            expected = len(data.prompts.row(row)) + int(data.positions[tokens].max())
            assert data.lengths[row] == expected
        else:
            assert data.lengths[row] == 0
    assert (data.lengths == 0).any()


def test_only_selected_supports_are_kept(selection: pa.Table, data: TrainingData) -> None:
    assert len(data.supports) == len(data.positions) == selection.num_rows


def test_an_empty_selection_is_a_round_without_tokens(
    tables: Tables, selection: pa.Table, tmp_path: Path
) -> None:
    data = training_data(tmp_path, tables, selection.slice(0, 0))
    assert data.lengths.tolist() == [0] * 10
    assert len(data.tokens(3)) == 0


def test_a_selection_from_other_rollouts_is_refused(
    tables: Tables, selection: pa.Table, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="are in none of the round's rollouts") as it:
        training_data(tmp_path, tables[:1], selection)
    assert "\n" not in str(it.value)


def test_a_position_beyond_the_response_is_refused(tables: Tables, tmp_path: Path) -> None:
    for row in (0, 5):  # one before another rollout, and the last one of its shard
        rollout = tables[0][0].slice(row, 1).to_pylist()[0]
        beyond = {
            "rollout": [rollout["rollout"]],
            "position": [len(rollout["response_ids"])],
            "weight": [1.0],
            "loss": [None],
            "type": ["Q1"],
            "importance": [1.0],
        }
        with pytest.raises(StoreError, match="lies beyond its response"):
            training_data(tmp_path, tables, pa.table(beyond))


def test_signals_of_other_rollouts_are_refused(
    tables: Tables, selection: pa.Table, tmp_path: Path
) -> None:
    rollouts, signals = tables[0]
    turned = signals.take(pa.array(np.arange(signals.num_rows)[::-1]))
    for other in (turned, signals.slice(0, signals.num_rows - 1), tables[1][1]):
        with pytest.raises(StoreError, match="its rows are not those of") as it:
            training_data(tmp_path, [(rollouts, other), tables[1]], selection)
        assert "\n" not in str(it.value)
