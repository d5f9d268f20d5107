"""What is shown before any work needs no weights, and whoever runs meets the first that fails."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import change_config
from served import Served
from tip.pipeline.checks import CHECKS, check_inputs
from tip.pipeline.rounds.play import play
from tip.pipeline.rounds.single import evaluate_teacher
from tip.pipeline.session import look_at, open_session
from tip.storage.errors import ConfigError, ModelError, TipError

from .conftest import PAIR, Listening, MakeConfig, numbers, played, serving

SEPARATE = {"mode": "separate"}


def teacher(folder: Path, **changes: Any) -> dict[str, str]:
    """Return the section of a copy of the built-in teacher, its config changed."""
    shutil.copytree(PAIR / "teacher", folder)
    change_config(folder, **changes)
    return {"model": str(folder)}


def test_attention_by_other_kernels_is_the_same_run_within_rounding(
    config: MakeConfig, tmp_path: Path
) -> None:
    small = {"rounds": 1, "rollout": {"prompts": 32, "temperature": 0}, "cpu": {"attention": False}}
    losses = []
    for wanted in ("auto", "sdpa", "eager"):
        own = {"attn_implementation": wanted}
        session = played(
            config(student=own, teacher=own, name=wanted, store=str(tmp_path / wanted), **small)
        )
        losses.append(numbers(session, "train", "loss")[0])
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)


def test_kernels_that_are_not_here_are_refused_and_those_that_vllm_has_are_told(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"attn_implementation": "flash_attention_2"}
    for role in ("student", "teacher"):
        with pytest.raises(ConfigError, match=f"{role}.attn_implementation = .* needs a GPU"):
            check_inputs(open_session(config(**{role: own})).inputs)
    monkeypatch.setattr("tip.pipeline.checks.require_vllm", lambda: None)
    reporter = Listening()
    served = {"score": {"mode": "separate", "engine": "vllm"}}
    check_inputs(
        open_session(config(teacher={"attn_implementation": "eager"}, **served), reporter).inputs
    )
    assert reporter.said[1:] == [  # the first is of train.tail
        "note: teacher.attn_implementation = 'eager' is for transformers alone: vllm computes "
        "attention in its own way"
    ]


def test_a_fused_loss_that_cannot_be_had_is_refused_before_any_work(config: MakeConfig) -> None:
    session = open_session(config(train={"fused": True}))
    with pytest.raises(ConfigError, match=r"train\.fused = true: .* need a GPU.*set .*'auto'"):
        play(session)
    assert list(session.store.list()) == []


@pytest.mark.parametrize("stage", ["train", "score"])
def test_a_compiler_that_does_not_work_is_told_before_any_work(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr("tip.stages.models.compiled.cannot_compile", lambda _: "no g++")
    session = open_session(config(**{stage: {"compile": True}}))
    expected = rf"^{stage}\.compile = true: no g\+\+; set {stage}\.compile = 'auto', or false$"
    with pytest.raises(ConfigError, match=expected):
        play(session)
    assert list(session.store.list()) == []


def test_scores_that_a_gpu_cannot_fuse_are_told_and_computed_all_the_same(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (check,) = [each for each in CHECKS if each.name == "fused scores"]
    monkeypatch.setattr("tip.pipeline.checks.resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("tip.stages.signals.fused_features.lack", lambda _: "no Triton")
    monkeypatch.setattr("tip.pipeline.checks.lack_of_features", lambda _: "no Triton")
    reporter = Listening()
    session = open_session(config(score={"fused": "auto"}), reporter)
    assert check.when(session.config)
    assert check.look(session.inputs) == "scores are not fused: no Triton"
    assert reporter.said == ["note: scores are not fused: no Triton"]
    assert not check.when(config())


def test_scores_that_a_gpu_cannot_compile_are_told_and_computed_all_the_same(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (check,) = [each for each in CHECKS if each.name == "compiler"]
    monkeypatch.setattr("tip.pipeline.checks.resolve_device", lambda _: torch.device("cuda"))
    for module in ("pipeline.checks", "stages.models.compiled"):
        monkeypatch.setattr(f"tip.{module}.cannot_compile", lambda _: "no Triton")
    reporter = Listening()
    session = open_session(config(score={"compile": "auto"}), reporter)
    assert check.when(session.config)
    assert check.look(session.inputs) == "layers are not compiled: no Triton"
    assert reporter.said == ["note: layers are not compiled: no Triton"]
    assert not check.when(config())  # training says so itself, at its first step


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"intermediate_size": 32}, "is of another shape"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantised"),
        ({"max_position_embeddings": 60}, "leaves no room"),
        ({"model_type": "nobody_knows"}, "no usable config"),
    ],
)
@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_a_teacher_that_could_not_be_loaded_is_refused_before_the_rollouts(
    config: MakeConfig, tmp_path: Path, mode: str, change: dict[str, Any], said: str
) -> None:
    changed = teacher(tmp_path / "t", **change)
    session = open_session(config(teacher=changed, score={"mode": mode}))
    with pytest.raises(TipError, match=said):
        play(session)
    assert list(session.store.list()) == []


def test_the_checks_of_a_run_load_no_weights(
    config: MakeConfig, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tip.stages.models.load.check_head", lambda _: pytest.fail("loaded"))
    inputs = look_at(config(evaluate=asked)).inputs
    check_inputs(inputs)
    said = {check.name: check.look(inputs) for check in CHECKS}
    assert said["student weights"].startswith("Qwen3ForCausalLM: 2 layers of 64, 0.1 M parameters")
    assert said["context"] == "room for prompts of up to 64 tokens, with responses of 64"
    assert said["prompts"] == "400 of 10 tokens, as they are, 64 a round"


def test_a_hub_model_whose_weights_are_not_here_and_cannot_come_is_refused(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = look_at(config()).inputs
    card = inputs.student_card
    named = inputs.config.student.model_copy(update={"model": "some/model"})
    inputs.config = inputs.config.model_copy(update={"student": named})
    inputs.student_card = replace(card, folder=Path("/nowhere"))
    check = next(c for c in CHECKS if c.name == "student weights")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"some/model: .* no weights of it, and HF_HUB_OFFLINE"):
        check.look(inputs)


def test_a_replay_renders_no_prompts_and_misses_none(config: MakeConfig) -> None:
    replay = config(rollout={"replay": "another"}, prompts={"source": "nowhere.jsonl"})
    check_inputs(look_at(replay).inputs)


def test_a_problem_must_leave_room_in_a_teacher_that_reads_it_too(
    config: MakeConfig, asked: dict[str, object], tmp_path: Path
) -> None:
    short = teacher(tmp_path / "t", max_position_embeddings=80)
    long = asked | {"max_tokens": 100}
    check_inputs(look_at(config(teacher=short, evaluate=long)).inputs)
    both = config(teacher=short, evaluate=long | {"reverse_kl": True})
    with pytest.raises(ConfigError, match=r"evaluate.max_tokens = 100 .* teacher's context of 80"):
        check_inputs(look_at(both).inputs)


def test_a_teacher_that_cannot_answer_is_refused_before_it_is_asked(
    config: MakeConfig, asked: dict[str, object], tmp_path: Path, served: Served
) -> None:
    short = teacher(tmp_path / "t", max_position_embeddings=80)
    long = asked | {"max_tokens": 100}
    with pytest.raises(ConfigError, match="take 110 tokens, and the teacher's context is 80"):
        evaluate_teacher(open_session(config(teacher=short, evaluate=long)))
    wrong = teacher(tmp_path / "w", intermediate_size=32)
    with pytest.raises(ModelError, match="of another shape"):
        evaluate_teacher(open_session(config(teacher=wrong, evaluate=asked)))
    bare = teacher(tmp_path / "b")
    (tmp_path / "b/model.safetensors").unlink()
    changes = serving(served)
    changes["teacher"] |= bare
    remote = open_session(config(evaluate=asked, **changes))
    with pytest.raises(ConfigError, match="must be a folder with its weights"):
        evaluate_teacher(remote)
    assert list(remote.store.list()) == []


def test_a_served_teacher_with_weights_here_can_be_asked(
    config: MakeConfig, asked: dict[str, object], served: Served
) -> None:
    session = open_session(config(evaluate=asked | {"limit": 4}, **serving(served)))
    assert evaluate_teacher(session).problems == 4
