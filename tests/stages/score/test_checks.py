"""A few rollouts are scored again, each alone: whatever is misaligned is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rollout_arrays import arrays
from tiny import Shard, load, prompts, score_settings, shard, write_model
from tip.stages.models.language_model import LanguageModel
from tip.stages.score.checks import CHECK_TOKENS, check_model, check_rollouts
from tip.stages.score.joint import score_joint
from tip.stages.score.shard import RolloutArrays, read_rollouts
from tip.storage.errors import DisagreementError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    student = write_model(tmp_path_factory.mktemp("student"), "qwen3", seed=1)
    teacher = write_model(tmp_path_factory.mktemp("teacher"), "llama", seed=2, tied=True)
    return shard(student, teacher, prompts(5, 2, 9, 3), max_tokens=10, stop_ids=(1, 2, 3))


@pytest.fixture(scope="module")
def models(made: Shard) -> tuple[LanguageModel, LanguageModel]:
    return load(made.student), load(made.teacher)


@pytest.fixture(scope="module")
def tokens(made: Shard, models: tuple[LanguageModel, LanguageModel]) -> pa.Table:
    return score_joint(*models, made.rollouts, score_settings(batch_tokens=40))[1]


def numbered(shard: RolloutArrays) -> np.ndarray:
    """Return a number for each token, all different."""
    return -np.arange(len(shard.responses.values), dtype=np.float64)


def alone(
    shard: RolloutArrays, seen: list[tuple[int, list[int]]] | None = None, off: float = 0.0
) -> Callable[[int, np.ndarray], np.ndarray]:
    """Return what scores a rollout again, as `numbered` does up to some nats, and notes it."""

    def again(row: int, positions: np.ndarray) -> np.ndarray:
        if seen is not None:
            seen.append((row, positions.tolist()))
        return numbered(shard)[shard.responses.offsets[row] + positions] + off

    return again


def test_the_largest_mean_gap_is_given_and_one_above_the_limit_refused() -> None:
    shard = arrays([2, 5, 1])
    assert check_rollouts("teacher", shard, numbered(shard), alone(shard), 3, 0.1) == 0
    near = alone(shard, off=0.05)
    assert check_rollouts("teacher", shard, numbered(shard), near, 3, 0.1) == pytest.approx(0.05)
    with pytest.raises(DisagreementError, match=r"^teacher: .* differ by 0\.2 nats") as it:
        check_rollouts("teacher", shard, numbered(shard), alone(shard, off=0.2), 3, 0.1)
    assert "\n" not in str(it.value)


def test_rollouts_without_a_token_are_passed_over() -> None:
    shard, seen = arrays([0, 3, 0, 0, 2]), []
    check_rollouts("student", shard, numbered(shard), alone(shard, seen), 9, 0.1)
    assert seen == [(1, [0, 1, 2]), (4, [0, 1])]


def test_no_rollout_is_scored_again_where_none_is_wanted() -> None:
    shard, seen = arrays([2, 2]), []
    assert check_rollouts("student", shard, numbered(shard), alone(shard, seen), 0, 0.1) == 0
    assert seen == []


def test_a_long_rollout_is_looked_at_from_end_to_end() -> None:
    shard, seen = arrays([1000]), []
    check_rollouts("student", shard, numbered(shard), alone(shard, seen), 1, 0.1)
    ((_, positions),) = seen
    assert len(positions) == CHECK_TOKENS
    assert (positions[0], positions[-1]) == (0, 999)


def test_the_second_scoring_catches_shifted_columns_of_either_model(
    made: Shard, models: tuple[LanguageModel, LanguageModel], tokens: pa.Table
) -> None:
    arrays = read_rollouts(made.rollouts, None)
    for who, model in zip(("student", "teacher"), models, strict=True):
        honest = tokens[f"{who}_logprob"].to_numpy()
        again = (who, model, arrays.student_prompts, arrays)
        assert check_model(*again, honest, 8) < 1e-4
        with pytest.raises(DisagreementError, match=f"^{who}: log-probs"):
            check_model(*again, np.roll(honest, 1), 8)


def test_the_second_scoring_refuses_what_is_not_a_number(
    made: Shard, models: tuple[LanguageModel, LanguageModel], tokens: pa.Table
) -> None:
    arrays = read_rollouts(made.rollouts, None)
    column = tokens["teacher_logprob"].to_numpy().copy()
    column[:] = np.nan
    with pytest.raises(DisagreementError):
        check_model("teacher", models[1], arrays.student_prompts, arrays, column, 2)


def test_the_second_scoring_of_a_long_response_meets_the_head_at_64_tokens_from_end_to_end(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    long = shard(made.student, made.teacher, prompts(4), samples=2, max_tokens=100, stop_ids=())
    arrays = read_rollouts(long.rollouts, None)
    _, tokens, *_ = score_joint(*models, long.rollouts, score_settings())
    column = tokens["teacher_logprob"].to_numpy().copy()
    rows, head = [], models[1].model.get_output_embeddings()
    note = head.register_forward_hook(lambda _module, seen, _out: rows.append(seen[0].shape[1]))
    again = ("teacher", models[1], arrays.student_prompts, arrays)
    check_model(*again, column, 2)
    note.remove()
    assert rows == [64, 64]
    column[199] += 1  # the last token of the last rollout, one of the 64
    with pytest.raises(DisagreementError, match=r"differ by 0\.0156 nats"):
        check_model(*again, column, 2)


def test_a_class_that_gives_all_logits_whichever_are_asked_for_is_scored_alone_as_any_other(
    tmp_path: Path,
) -> None:
    folder = write_model(tmp_path / "model", "trocr")
    made = shard(folder, folder, prompts(4, 7), samples=1, max_tokens=10)
    _, _, facts, _ = score_joint(load(folder), load(folder), made.rollouts, score_settings())
    assert facts.teacher_check_gap is not None
    assert facts.teacher_check_gap < 1e-5
