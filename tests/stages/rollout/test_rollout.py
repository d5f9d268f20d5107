"""The `rollouts` table says what was asked, what was drawn, and what was known at each token."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny import Shard, load, log_probs, prompts, sampling, shard, write_model
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.evaluate.settings import EvaluateSettings
from tip.stages.rollout.rollout import roll_out, rollout_inputs, sampling_of
from tip.stages.rollout.settings import RolloutSettings
from tip.storage.columns import ROLLOUTS, schema
from tip.storage.content import content_hash
from tip.storage.keys import key_of, rollout_id
from tip.storage.tables import read_table, write_table

LENGTHS = (5, 2, 9, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    folder = write_model(tmp_path_factory.mktemp("student"), "qwen3")
    return shard(folder, folder, prompts(*LENGTHS), samples=3, max_tokens=15, stop_ids=(1, 2, 3, 4))


def test_rows_stand_prompt_by_prompt_and_sample_by_sample(made: Shard) -> None:
    table = made.rollouts
    assert table.schema == schema(ROLLOUTS)
    expected = [(p.hash, sample, list(p.ids)) for p in made.prompts for sample in range(3)]
    found = [table[name].to_pylist() for name in ("prompt_hash", "sample", "prompt_ids")]
    assert list(zip(*found, strict=True)) == expected
    assert table["rollout"].to_pylist() == [rollout_id(h, s) for h, s, _ in expected]


def test_the_table_can_be_stored_as_it_is(made: Shard, tmp_path: Path) -> None:
    written = write_table(tmp_path / "rollouts.parquet", made.rollouts, ROLLOUTS)
    assert written.equals(made.rollouts)
    assert read_table([tmp_path / "rollouts.parquet"]).equals(made.rollouts)


def test_numbers_of_a_token_are_those_of_the_distribution_that_predicted_it(made: Shard) -> None:
    table = made.rollouts
    for row, (_, ids, response) in enumerate(made.rows()):
        reference = log_probs(made.student, ids, response)
        logprobs = table["logprobs"][row].as_py()
        expected = reference[np.arange(len(response)), response]
        np.testing.assert_allclose(logprobs, expected, rtol=1e-5, atol=2e-5)
        counts, tops = table["top_counts"][row].as_py(), table["top_ids"][row].as_py()
        assert len(counts) == len(response)
        assert sum(counts) == len(tops)
        for step, (end, count) in enumerate(zip(np.cumsum(counts), counts, strict=True)):
            best = np.argsort(-reference[step])[:count]
            assert tops[end - count : end] == best.tolist()


def test_every_response_token_is_trainable_and_no_reward_is_known(made: Shard) -> None:
    flags, responses = (made.rollouts[n].to_pylist() for n in ("trainable", "response_ids"))
    assert flags == [[True] * len(response) for response in responses]
    assert made.rollouts["reward"].null_count == len(flags)


def test_the_stop_reason_tells_a_stop_token_from_the_length_limit(made: Shard) -> None:
    reasons = made.rollouts["stop_reason"].to_pylist()
    assert set(reasons) == {"stop", "length"}
    for reason, (_, _, response) in zip(reasons, made.rows(), strict=True):
        assert reason == ("stop" if response[-1] in (1, 2, 3, 4) else "length")
        assert reason == "stop" or len(response) == 15


def test_a_prompt_gets_the_same_responses_among_other_prompts(made: Shard) -> None:
    engine = LocalEngine(load(made.student), 2)
    terms = sampling(max_tokens=15, stop_ids=(1, 2, 3, 4))
    alone = roll_out(engine, [made.prompts[2]], 3, terms)
    whole = made.rollouts.slice(6, 3)
    for name in ("rollout", "response_ids", "top_ids", "stop_reason"):
        assert alone[name].to_pylist() == whole[name].to_pylist(), name


def test_the_same_batches_give_the_same_bits(made: Shard) -> None:
    again = shard(
        made.student, made.teacher, made.prompts, samples=3, max_tokens=15, stop_ids=(1, 2, 3, 4)
    )
    assert content_hash(again.rollouts) == content_hash(made.rollouts)


def test_a_student_whose_support_is_not_wanted_has_no_top_ids(made: Shard) -> None:
    table = roll_out(LocalEngine(load(made.student), 8), made.prompts, 1, sampling(top_most=0))
    assert all(set(counts) == {0} for counts in table["top_counts"].to_pylist())
    assert table["top_ids"].type == pa.list_(pa.field("element", pa.int32(), nullable=False))


def test_stop_ids_of_settings_and_model_are_one_sorted_set() -> None:
    settings = RolloutSettings(stop_ids=(9, 4))
    assert sampling_of(settings, (4, 2), 7).stop_ids == (2, 4, 9)
    assert sampling_of(settings, (2,), 7).seed == 7


def test_only_rollouts_keep_the_students_top_ids() -> None:
    wanted = sampling_of(RolloutSettings(student_top_p=0.95, student_top_max=5), (), 0)
    assert (wanted.top_mass, wanted.top_most) == (0.95, 5)
    assert sampling_of(EvaluateSettings(source="x"), (), 0).top_most == 0


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"batch_size": 3}, True),
        ({"prompts": 7}, True),
        ({"replay": "other"}, True),
        ({"temperature": 0.5}, False),
        ({"top_p": 0.5}, False),
        ({"top_k": 5}, False),
        ({"max_tokens": 5}, False),
        ({"samples": 5}, False),
        ({"stop_ids": (5,)}, False),
        ({"student_top_p": 0.5}, False),
        ({"student_top_max": 5}, False),
    ],
    ids=str,
)
def test_the_key_knows_what_changes_a_rollout_and_nothing_else(changed: dict, same: bool) -> None:
    def key(settings: RolloutSettings, seed: int = 0) -> str:
        terms = sampling_of(settings, (1,), seed)
        return key_of(rollout_inputs("student", "torch.float32", prompts(3, 4), settings, terms))

    assert (key(RolloutSettings(**changed)) == key(RolloutSettings())) == same
    assert key(RolloutSettings(**changed), seed=1) != key(RolloutSettings(**changed))
