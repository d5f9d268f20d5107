"""Scoring on a GPU waits once a batch, and gives what it gives on a CPU."""

import numpy as np
import pyarrow as pa
import pytest
from tiny import Shard, load, prompts, score_settings, shard, write_model
from tip.stages.arrays.batching import fill
from tip.stages.score.joint import score_joint
from tip.stages.score.separate import score_student, score_teacher
from tip.stages.score.settings import ScoreSettings
from waits import on_gpu, played_gpu

LENGTHS = (9, 1, 4, 4, 7, 2)
SETTINGS = score_settings(batch_tokens=60, chunk_elements=60 * 8, check_rows=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    folders = [
        write_model(tmp_path_factory.mktemp(kind), kind, seed=seed)
        for seed, kind in enumerate(("qwen3", "llama"))
    ]
    return shard(*folders, prompts(*LENGTHS), samples=2)


def batches(made: Shard, settings: ScoreSettings) -> int:
    return len(fill([len(p) + len(r) - 1 for _, p, r in made.rows()], settings.batch_tokens))


def assert_close(found: pa.Table, expected: pa.Table) -> None:
    for name in expected.column_names:
        ours, theirs = (table[name].to_pylist() for table in (found, expected))
        if isinstance(theirs[0], list):
            assert [len(row) for row in ours] == [len(row) for row in theirs]
            ours, theirs = ([x for row in rows for x in row] for rows in (ours, theirs))
        # of log-probs near -8 float16 keeps steps of 0.004
        limit = 0.01 if name == "logprobs" else 1e-4
        np.testing.assert_allclose(np.array(ours, float), np.array(theirs, float), limit, 1e-4)


@pytest.mark.parametrize("support", ["top", "sampled"])
def test_both_models_together_wait_once_a_batch(made: Shard, support: str) -> None:
    student, teacher = load(made.student), load(made.teacher)
    settings = SETTINGS.model_copy(update={"support": support})
    expected = score_joint(student, teacher, made.rollouts, settings)
    with played_gpu() as waits:
        found = score_joint(on_gpu(student), on_gpu(teacher), made.rollouts, settings)
        count, checked = batches(made, settings), 2  # a rollout that each model reads again
        assert count > 3
        assert waits.total <= count + checked, waits.places
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert_close(ours, theirs)


def test_one_model_at_a_time_waits_once_a_batch(made: Shard) -> None:
    student, teacher = load(made.student), load(made.teacher)
    vocabulary = teacher.vocabulary
    signals, _ = score_teacher(teacher, made.rollouts, SETTINGS, student_vocabulary=vocabulary)
    tokens, _ = score_student(student, made.rollouts, signals, SETTINGS)
    count = batches(made, SETTINGS)
    with played_gpu() as waits:
        found, _ = score_teacher(
            on_gpu(teacher), made.rollouts, SETTINGS, student_vocabulary=vocabulary
        )
        assert waits.total <= count + 1, waits.places
        waits.clear()
        again, _ = score_student(on_gpu(student), made.rollouts, signals, SETTINGS)
        assert waits.total <= count + 1, waits.places
    assert_close(found, signals)
    assert_close(again, tokens)
