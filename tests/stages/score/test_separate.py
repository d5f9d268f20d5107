"""Scoring one model after the other gives the teacher signals of scoring both, and bounds."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from tiny import Shard, load, prompts, score_settings, shard, write_model
from tip.stages.arrays.ragged import from_lists
from tip.stages.models.language_model import LanguageModel
from tip.stages.score.joint import score_joint
from tip.stages.score.separate import score_student, score_teacher
from tip.storage.errors import StoreError

DIVERGENCES = ("reverse_kl", "forward_kl", "jsd")
FLOAT16_STEP = 2.0**-11


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """Rollouts of an untied Qwen3 under a tied Llama whose head has six rows more."""
    student = write_model(tmp_path_factory.mktemp("student"), "qwen3", seed=1)
    teacher = write_model(
        tmp_path_factory.mktemp("teacher"), "llama", seed=2, vocabulary=66, words=60, tied=True
    )
    asked = prompts(5, 2, 9, 3)
    return shard(student, teacher, asked, samples=2, max_tokens=10, stop_ids=(1, 2, 3))


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """Rollouts under a teacher with the very ids of the student: where bounds hold."""
    student = write_model(tmp_path_factory.mktemp("student"), "qwen3", seed=1)
    teacher = write_model(tmp_path_factory.mktemp("teacher"), "llama", seed=2)
    return shard(student, teacher, prompts(5, 2, 9), samples=2, max_tokens=10, stop_ids=(1, 2, 3))


@pytest.fixture(scope="module")
def models(made: Shard) -> tuple[LanguageModel, LanguageModel]:
    return load(made.student), load(made.teacher)


def separately(
    made: Shard, models: tuple[LanguageModel, LanguageModel], **changes: object
) -> tuple[pa.Table, pa.Table, dict]:
    settings = score_settings(batch_tokens=40, **changes)
    student, teacher = models
    signals, _ = score_teacher(
        teacher, made.rollouts, settings, student_vocabulary=student.vocabulary
    )
    tokens, facts = score_student(student, made.rollouts, signals, settings)
    return signals, tokens, facts


def test_the_teachers_pass_alone_gives_the_signals_of_both_models_together(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    together, _, facts, _ = score_joint(*models, made.rollouts, score_settings(batch_tokens=40))
    signals, alone = score_teacher(
        models[1], made.rollouts, score_settings(batch_tokens=25), student_vocabulary=60
    )
    for name in ("rollout", "position", "ids"):
        assert signals[name].equals(together[name])
    for name, step in (("logprobs", FLOAT16_STEP), ("tail", 0.0), ("entropy", 0.0)):
        ours, theirs = (t[name].combine_chunks() for t in (signals, together))
        if name == "logprobs":
            ours, theirs = ours.values, theirs.values
        np.testing.assert_allclose(
            ours.to_numpy(zero_copy_only=False).astype(float),
            theirs.to_numpy(zero_copy_only=False).astype(float),
            rtol=2e-5 + step,
            atol=3e-5,
        )
    assert alone.teacher_tokens == facts.teacher_tokens
    assert alone.entries == facts.entries


def test_divergences_over_the_support_rise_to_the_exact_ones_as_it_grows(even: Shard) -> None:
    models = load(even.student), load(even.teacher)
    _, exact, *_ = score_joint(*models, even.rollouts, score_settings())
    gaps: dict[str, list[float]] = {name: [] for name in DIVERGENCES}
    for mass, most in ((0.5, 2), (0.9, 8), (0.99, 32), (1.0, 60)):
        _, tokens, _ = separately(even, models, teacher_top_p=mass, teacher_top_max=most)
        for name in DIVERGENCES:
            gap = exact[name].to_numpy() - tokens[name].to_numpy()
            assert gap.min() > -0.01  # a lower bound, up to float16 signals
            gaps[name].append(float(np.abs(gap).mean()))
    for values in gaps.values():
        assert all(a >= b - 1e-3 for a, b in pairwise(values))
        assert values[0] > 0.02
        assert values[-1] < 0.002


def test_the_students_own_numbers_are_exact_in_either_mode(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    _, exact, *_ = score_joint(*models, made.rollouts, score_settings())
    _, tokens, facts = separately(made, models)
    for name in ("student_entropy", "student_logprob", "teacher_entropy"):
        np.testing.assert_allclose(tokens[name], exact[name], rtol=2e-5, atol=3e-5)
    np.testing.assert_allclose(
        tokens["teacher_logprob"], exact["teacher_logprob"], rtol=2 * FLOAT16_STEP
    )
    assert facts.lost_mass == 0


def test_mass_that_the_support_lost_is_reported(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    student, _ = models
    settings = score_settings()
    signals, _, _ = separately(made, models)
    ids, logprobs = from_lists(signals["ids"]), from_lists(signals["logprobs"])
    token = from_lists(made.rollouts["response_ids"]).values
    own = np.repeat(token, ids.counts) == ids.values  # the sampled token alone stays
    counts = pa.array(np.arange(len(token) + 1, dtype=np.int32))
    bare = signals
    for name, rows in (("ids", ids), ("logprobs", logprobs)):
        place = bare.schema.get_field_index(name)
        field = bare.schema.field(name)
        values = pa.array(rows.values[own]).cast(field.type.value_type)
        column = pa.ListArray.from_arrays(counts, values, type=field.type)
        bare = bare.set_column(place, field, column)
    tokens, facts = score_student(student, made.rollouts, bare, settings)
    led = from_lists(made.rollouts["top_ids"]).values
    top = from_lists(made.rollouts["top_counts"]).values
    whole, _ = score_student(student, made.rollouts, signals, settings)
    assert len(led) == top.sum()
    # all led ids but the sampled token are gone: what they weighed is what the support lost, if
    # the teacher's own ids, which the student did not lead, are left out
    assert (
        0
        < facts.lost_mass
        <= float(
            np.mean(whole["student_mass"].to_numpy() - tokens["student_mass"].to_numpy()) + 1e-6
        )
    )


def test_signals_of_other_rollouts_are_refused(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    signals, _, _ = separately(made, models)
    with pytest.raises(StoreError, match="not those of these rollouts"):
        score_student(models[0], made.rollouts, signals.slice(1), score_settings())
