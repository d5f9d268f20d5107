"""Scores of compiled layers are scores, by one program for all lengths, held against eager ones."""

from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny import Shard, load, prompts, score_settings, shard, write_model
from tip.stages.arrays.batching import fill
from tip.stages.models import compiled
from tip.stages.models.compiled import compiled_to_read, layers_of
from tip.stages.models.language_model import LanguageModel
from tip.stages.score import joint
from tip.stages.score.joint import score_joint
from tip.stages.score.separate import score_student, score_teacher
from tip.stages.score.settings import ScoreSettings
from torch._dynamo.utils import counters

SETTINGS = score_settings(batch_tokens=42, check_rows=1)
COMPILED = SETTINGS.model_copy(update={"compile": True})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    """Three shards of a student and a teacher of other shapes."""
    student, teacher = (
        write_model(tmp_path_factory.mktemp(f"{width}"), "qwen3", seed=width, hidden_size=width)
        for width in (16, 24)
    )
    lengths = ((9, 1, 4, 4, 7, 2), (3, 5, 5, 8, 8, 6), (30, 2, 2))
    return [shard(student, teacher, prompts(*asked), samples=2) for asked in lengths]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let programs be traced and run as they are: making code of them takes a CPU a minute."""
    plain = partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", plain)
    monkeypatch.setattr(compiled, "cannot_compile", lambda _: None)
    torch._dynamo.reset()
    counters.clear()
    yield counters["stats"]
    torch._dynamo.reset()


def pair(made: Shard, dtype: torch.dtype = torch.float32) -> tuple[LanguageModel, LanguageModel]:
    return load(made.student, dtype), load(made.teacher, dtype)


def assert_near(found: pa.Table, expected: pa.Table, limit: float) -> None:
    for name in ("student_logprob", "teacher_logprob", "reverse_kl", "student_entropy"):
        gap = np.abs(found[name].to_numpy() - expected[name].to_numpy())
        assert gap.mean() < limit, name


def is_compiled(model: LanguageModel) -> bool:
    return all(layer._compiled_call_impl is not None for layer in layers_of(model.body))


def test_all_lengths_of_all_shards_take_one_program_a_model(made: list[Shard], traced: Any) -> None:
    models = pair(made[0])
    expected = [score_joint(*models, each.rollouts, SETTINGS) for each in made]
    assert traced["unique_graphs"] == 0
    programs, expected_programs, single = [], [], False
    for each, plain in zip(made, expected, strict=True):
        found = score_joint(*models, each.rollouts, COMPILED)
        assert_near(found[1], plain[1], 1e-6)
        assert found[0]["ids"].equals(plain[0]["ids"])
        programs.append(traced["unique_graphs"])
        batches = fill([len(p) + len(r) - 1 for _, p, r in each.rows()], COMPILED.batch_tokens)
        assert len({len(batch) for batch in batches}) > 1, "batches should differ in rows"
        single = single or any(len(batch) == 1 for batch in batches)
        expected_programs.append(2 * (1 + single))
    # a batch of a single row takes one of its own
    assert programs == expected_programs
    assert set(programs) == {2, 4}
    score_joint(*pair(made[0]), made[0].rollouts, COMPILED)  # a student after another round
    assert traced["unique_graphs"] == 4


def test_what_is_scored_again_as_a_check_is_not_compiled(
    made: list[Shard], traced: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def noted(name: str, honest: Any) -> Any:
        return lambda *args: [seen.append((name, is_compiled(models[0]))), honest(*args)][1]

    models = pair(made[0])
    for name in ("_batch", "check_model"):
        monkeypatch.setattr(joint, name, noted(name, getattr(joint, name)))
    score_joint(*models, made[0].rollouts, COMPILED)
    assert set(seen) == {("_batch", True), ("check_model", False)}


def test_one_model_at_a_time_is_compiled_likewise(made: list[Shard], traced: Any) -> None:
    student, teacher = pair(made[0])
    signals, _ = score_teacher(teacher, made[0].rollouts, COMPILED, student_vocabulary=60)
    assert traced["unique_graphs"] in (1, 2)
    tokens, _ = score_student(student, made[0].rollouts, signals, COMPILED)
    assert traced["unique_graphs"] in (2, 3, 4)
    plain, _ = score_student(student, made[0].rollouts, signals, SETTINGS)
    assert_near(tokens, plain, 1e-6)


def test_it_is_off_changes_no_key_and_auto_leaves_a_cpu_and_quantised_weights_alone(
    made: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ScoreSettings().compile is False
    assert COMPILED.key() == SETTINGS.key()
    monkeypatch.setattr(compiled, "cannot_compile", lambda _: None)
    student, teacher = pair(made[0])
    with compiled_to_read("auto", student, teacher):
        assert not is_compiled(student)
    monkeypatch.setattr(compiled, "compiles", lambda wanted, *_: wanted is not False)
    teacher.model.config.quantization_config = {"quant_method": "fp8"}
    with compiled_to_read("auto", student, teacher):
        assert (is_compiled(student), is_compiled(teacher)) == (True, False)
    assert not is_compiled(student)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=str
)
def test_compiled_scores_are_eager_ones_but_for_rounding(
    made: list[Shard],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    limit: float,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "programs"))
    torch._dynamo.reset()
    counters.clear()
    models = pair(made[0], dtype)
    for each in made:
        expected = score_joint(*models, each.rollouts, SETTINGS)
        found = score_joint(*models, each.rollouts, COMPILED)
        assert_near(found[1], expected[1], limit)
    # one of them shows that compiling works
    assert 3 <= counters["stats"]["unique_graphs"] <= 5
    assert any((tmp_path / "programs").iterdir())
