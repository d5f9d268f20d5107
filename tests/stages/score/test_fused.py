"""A shard whose scores are fused has the tables that it has without; Triton is interpreted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from interpreted import Interpreter, interpreter
from tiny import Shard, load, prompts, score_settings, shard, write_model
from tip.stages.score.joint import score_joint
from tip.storage.errors import ConfigError
from tip.storage.facts import TeacherFacts, TokensFacts


@pytest.fixture(scope="module")
def there() -> Iterator[Interpreter]:
    with interpreter() as call:
        yield call


def scored(made: Shard, **changes: Any) -> tuple[pa.Table, pa.Table, TeacherFacts, TokensFacts]:
    models = load(made.student), load(made.teacher)
    return score_joint(*models, made.rollouts, score_settings(batch_tokens=40, **changes))


@pytest.mark.parametrize(("ours", "theirs"), [(60, 66), (60, 60)])
def test_tables_and_facts_are_those_of_the_plain_way(
    there: Interpreter, tmp_path: Path, ours: int, theirs: int
) -> None:
    names = ("student", "teacher")
    made = shard(
        *(
            write_model(tmp_path / who, kind, seed=seed, vocabulary=rows, words=60)
            for who, kind, seed, rows in zip(
                names, ("qwen3", "llama"), (1, 2), (ours, theirs), strict=True
            )
        ),
        prompts(5, 2, 9, 3),
        samples=2,
        max_tokens=10,
        stop_ids=(1, 2, 3),
    )
    expected = scored(made)
    for chunk in ({}, {"chunk_elements": 200}):
        teacher, tokens, of_teacher, facts = there(scored, made, fused=True, **chunk)
        assert teacher["ids"].equals(expected[0]["ids"])
        assert of_teacher.entries == expected[2].entries
        assert facts.tokens == expected[3].tokens
        for found, other in ((teacher, expected[0]), (tokens, expected[1])):
            for name in set(found.column_names) - {"ids", "signal_to_noise"}:
                a, b = (flat(table[name]) for table in (found, other))
                np.testing.assert_allclose(a, b, rtol=5e-4, atol=1e-5, err_msg=name)
        ratio = tokens["signal_to_noise"].to_numpy(), expected[1]["signal_to_noise"].to_numpy()
        np.testing.assert_allclose(*ratio, rtol=0.02, atol=1e-3)


def flat(column: pa.ChunkedArray) -> np.ndarray:
    column = column.combine_chunks()
    return (column.flatten() if pa.types.is_list(column.type) else column).to_numpy(
        zero_copy_only=False
    )


def test_what_is_drawn_or_read_apart_is_left_to_the_plain_way() -> None:
    assert score_settings(fused="auto").may_fuse
    assert not score_settings().may_fuse
    assert not score_settings(fused=True, support="sampled").may_fuse
    assert not score_settings(fused=True, mode="separate").may_fuse
    settings = score_settings(chunk_elements=None)
    assert (settings.chunk(), settings.chunk(fused=True)) == (1 << 24, 1 << 26)
    assert score_settings(chunk_elements=5).chunk(fused=True) == 5


def test_a_shard_without_a_gpu_that_should_be_fused_is_refused(tmp_path: Path) -> None:
    student = write_model(tmp_path / "student", "qwen3", seed=1)
    made = shard(student, student, prompts(5), samples=1, max_tokens=3, stop_ids=(1,))
    with pytest.raises(ConfigError, match=r"score\.fused = true: .*need a GPU"):
        scored(made, fused=True)
