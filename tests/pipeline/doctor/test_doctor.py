"""Each kind of refusal is found before a run, and hides no other."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import change_config
from served import Served
from tiny import write_model
from tip.pipeline.config.run import RunConfig
from tip.pipeline.doctor.doctor import NAMES, Finding, examine
from tip.pipeline.plan.target import Room
from tip.stages.engines.vllm import engine

from ..conftest import PAIR, MakeConfig, played, serving


def found(config: RunConfig, *, load: bool = False) -> dict[str, Finding]:
    """Return what each check came to, by its name."""
    return {finding.name: finding for finding in examine(config, load=load)}


def verdicts(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.verdict for name, finding in findings.items()}


def copy(folder: Path, role: str = "student", **changes: Any) -> dict[str, str]:
    """Return the section of a copy of the built-in model, its config changed."""
    shutil.copytree(PAIR / role, folder)
    change_config(folder, **changes)
    return {"model": str(folder)}


def listing(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_what_is_well_is_so_in_every_check_and_nothing_is_written(
    config: MakeConfig, asked: dict[str, object], tmp_path: Path
) -> None:
    before = listing(tmp_path)
    findings = found(config(evaluate=asked), load=True)
    assert set(verdicts(findings).values()) == {"ok"}
    unasked = {
        "libraries",
        "processes",
        "fused loss",
        "fused scores",
        "compiler",
        "workers",
        "cluster",
        "server",
        "max_model_len",
        "residual",
        "replay",
        "student in vLLM",
        "teacher in vLLM",
    }
    assert list(findings) == [name for name in NAMES if name not in unasked]
    assert listing(tmp_path) == before


def test_the_rules_budget_is_told_as_it_is_set(config: MakeConfig) -> None:
    counted = config(select={"keep": None, "count": 3})
    assert found(counted)["rule"].text == "soft_or: 3 of the tokens of each rollout"
    assert found(config())["rule"].text == "soft_or: 20% of the tokens of each rollout"


def test_a_teacher_that_cannot_tell_what_a_residual_needs_fails(config: MakeConfig) -> None:
    tail = {"train": {"tail": "residual"}}
    assert found(config(**tail))["residual"].verdict == "ok"
    vllm = found(config(score={"mode": "separate", "engine": "vllm"}, **tail))["residual"]
    assert vllm.verdict == "fail"
    assert "cannot be asked for them" in vllm.text


Q = "quantised (awq)"
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"name": "a/b"}, "run folder", "name = 'a/b': expected letters"),
        ({"runs": "/dev/null/runs"}, "run folder", "/dev/null is a file; name another folder"),
        ({"store": "/dev/null/store"}, "store", "/dev/null is a file; name another folder"),
        ({"device": "cuda:99"}, "device", "visible here; use device = 'auto'"),
        ({"select": {"rule": "soft_and"}}, "rule", "did you mean `soft_or`"),
        ({"select": {"where": "nothing > 1"}}, "rule", "nothing"),
        ({"student": {"model": "nowhere"}}, "student", "nowhere: no such model folder"),
        ({"teacher": {"model": "nowhere"}}, "teacher", "nowhere: no such model folder"),
        ({"rollout": {"stop_ids": [36]}}, "student", "the student's ids are 0 to 35"),
        ({"rollout": {"max_tokens": 128}}, "context", "leaves no room for a prompt"),
        ({"prompts": {"source": "none.jsonl"}}, "prompt file", "mend prompts.source"),
        ({"prompts": {"format": "{question}"}}, "prompt file", "no column 'question'"),
        ({"prompts": {"template": "chat"}}, "prompts", "has no chat template: set template"),
        ({"prompts": {"max_tokens": 9}}, "prompts", "line 1: the prompt has 10 tokens"),
        ({"rollout": {"prompts": 401}}, "prompts", "there are 400 distinct prompts: lower it"),
    ],
)
def test_a_mistake_of_a_setting_fails_in_its_own_check_alone(
    config: MakeConfig, changes: dict[str, Any], name: str, said: str
) -> None:
    findings = found(config(**changes))
    failed = [n for n, verdict in verdicts(findings).items() if verdict == "fail"]
    assert failed == [name]
    assert said in findings[name].text


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (AWQ, "weights", Q),
        ({"intermediate_size": 32}, "weights", "is of another shape"),
        ({"attention_bias": True}, "weights", "is missing"),
        ({"max_position_embeddings": 64}, "context", "'s context of 64 tokens: lower it"),
        ({"vocab_size": None}, "", "no vocab_size"),
        ({"auto_map": {"AutoConfig": "a.B"}}, "", "set trust_remote_code = true"),
    ],
)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_model_that_will_not_do_fails_in_its_own_check_and_the_other_is_looked_at(
    config: MakeConfig, tmp_path: Path, role: str, change: dict[str, Any], name: str, said: str
) -> None:
    findings = found(config(**{role: copy(tmp_path / "m", role, **change)}))
    own = name if name == "context" else f"{role} {name}".strip()
    assert [n for n, verdict in verdicts(findings).items() if verdict == "fail"] == [own]
    assert said in findings[own].text
    other = {"student": "teacher", "teacher": "student"}[role]
    assert {findings[other].verdict, findings[f"{other} weights"].verdict} == {"ok"}
    assert findings["prompt file"].verdict == "ok"


def test_a_folder_without_weights_fails_and_one_that_is_cut_is_named(
    config: MakeConfig, tmp_path: Path
) -> None:
    student, teacher = copy(tmp_path / "s"), copy(tmp_path / "t", "teacher")
    (tmp_path / "s/model.safetensors").unlink()
    path = tmp_path / "t/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    findings = found(config(student=student, teacher=teacher))
    assert "no *.safetensors weights" in findings["student weights"].text
    assert "not a whole safetensors file" in findings["teacher weights"].text
    assert findings["memory"].text.endswith("it needs student weights, teacher weights")


def test_other_vocabularies_fail_and_both_models_are_still_loaded(
    config: MakeConfig, tmp_path: Path
) -> None:
    tiny = {"model": str(write_model(tmp_path / "tiny"))}
    findings = found(config(teacher=tiny), load=True)
    failed = [n for n, verdict in verdicts(findings).items() if verdict == "fail"]
    assert failed == ["vocabulary"]
    assert "choose a teacher of the same family" in findings["vocabulary"].text
    assert findings["prompts"] == Finding("-", "prompts", "not looked at: it needs vocabulary")
    assert {findings[f"{role} loaded"].verdict for role in ("student", "teacher")} == {"ok"}


def test_a_model_that_reads_ahead_shows_where_it_is_loaded(
    config: MakeConfig, tmp_path: Path
) -> None:
    tiny = {"model": str(write_model(tmp_path / "tiny", "bert-generation"))}
    plain = {"model": str(write_model(tmp_path / "plain"))}
    findings = found(config(student=plain, teacher=tiny), load=True)
    assert findings["student loaded"].verdict == findings["teacher weights"].verdict == "ok"
    assert findings["teacher loaded"].verdict == "fail"
    assert "it is no causal language model" in findings["teacher loaded"].text


def test_a_student_that_cannot_write_token_by_token_fails_and_a_teacher_may_be_one(
    config: MakeConfig, tmp_path: Path
) -> None:
    tiny = {"model": str(write_model(tmp_path / "tiny", "rwkv"))}
    findings = found(config(student=tiny, teacher=tiny), load=True)
    assert "token by token it computes something else" in findings["student loaded"].text
    assert verdicts(findings)["teacher loaded"] == "ok"


def test_layers_that_cannot_be_checkpointed_fail_before_anything_is_loaded(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Qwen3ForCausalLM

    monkeypatch.setattr(Qwen3ForCausalLM, "supports_gradient_checkpointing", False)
    findings = found(config(train={"activation_checkpointing": True}))
    assert "set train.activation_checkpointing = false" in findings["student weights"].text
    assert findings["teacher weights"].verdict == "ok"


def test_dropout_that_stays_fails_where_the_student_is_loaded(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointed = config(train={"activation_checkpointing": True})
    assert verdicts(found(checkpointed, load=True))["student loaded"] == "ok"

    def noisy(model: Any) -> None:
        model.model.model.layers[0].register_forward_hook(
            lambda _module, _given, out: out + torch.rand_like(out)
        )

    monkeypatch.setattr("tip.pipeline.doctor.at_work.checkpoint_activations", noisy)
    findings = found(checkpointed, load=True)
    assert "its hidden states are others each time" in findings["student loaded"].text


def test_what_a_run_would_note_is_to_look_at(config: MakeConfig, tmp_path: Path) -> None:
    student = copy(tmp_path / "m")
    date = "{{ strftime_now('%d%m') }}+{% for m in messages %}{{ m.content }}{% endfor %}"
    (tmp_path / "m/chat_template.jinja").write_text(date)
    findings = found(config(student=student, prompts={"template": "chat"}))
    assert verdicts(findings)["prompts"] == verdicts(findings)["vocabulary"] == "warn"
    assert "writes the date, which is 2024-07-26" in findings["prompts"].text
    assert "chat templates differ" in findings["vocabulary"].text


def test_a_student_that_nothing_stops_is_to_look_at(config: MakeConfig, tmp_path: Path) -> None:
    student = copy(tmp_path / "m", eos_token_id=None)
    (tmp_path / "m/generation_config.json").unlink()
    path = tmp_path / "m/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": None}))
    findings = found(config(student=student))
    assert "no token ends a response, so each takes rollout.max_tokens" in findings["student"].text
    assert findings["student"].verdict == "warn"
    stopped = found(config(student=student, rollout={"stop_ids": [1]}))
    assert stopped["student"].verdict == "ok"


def test_a_run_that_began_otherwise_fails_and_the_rest_is_looked_at(config: MakeConfig) -> None:
    begun = played(config(rounds=1, rollout={"prompts": 32})).config
    again = found(begun)
    assert "began with these settings: 1 of 1 rounds trained" in again["run"].text
    assert again["run contents"].text == "models, prompts and rule are those that it began with"
    values = begun.model_copy(update={"seed": 7})
    findings = found(values)
    assert "was started with seed = 0, now it is 7" in findings["run"].text
    assert findings["memory"].verdict == findings["disk"].verdict == "ok"
    source = Path(begun.prompts.source).read_text().splitlines(keepends=True)
    other = Path(begun.store).parent / "train.jsonl"
    other.write_text("".join(source[1:]))
    prompts = begun.prompts.model_copy(update={"source": str(other)})
    changed = found(begun.model_copy(update={"prompts": prompts}))
    assert "was started with prompts.source" in changed["run"].text


def test_prompts_that_changed_since_a_run_began_fail(config: MakeConfig, tmp_path: Path) -> None:
    source = tmp_path / "p.jsonl"
    lines = [json.dumps({"prompt": f"Q {n}+10+10 A"}) for n in range(10, 43)]
    source.write_text("\n".join(lines[:32]))
    begun = config(rounds=1, prompts={"source": str(source)}, rollout={"prompts": 32})
    played(begun)
    source.write_text("\n".join(lines[1:]))
    findings = found(begun)
    assert findings["run"].verdict == "ok"
    assert "has changed since it was started" in findings["run contents"].text


def test_an_answer_that_no_response_could_give_is_to_look_at(
    config: MakeConfig, tmp_path: Path, asked: dict[str, object]
) -> None:
    source = tmp_path / "problems.jsonl"
    rows = [{"prompt": f"Q {n} A", "answer": answer} for n, answer in enumerate(("1", "2}"))]
    source.write_text("\n".join(map(json.dumps, rows)))
    findings = found(config(evaluate=asked | {"source": str(source)}))
    assert findings["verifier"].verdict == "warn"
    assert "1 of 2 references would be wrong as answers, the first is '2}'" in (
        findings["verifier"].text
    )


def test_a_verifier_that_does_not_start_fails(
    config: MakeConfig, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "worker.py"
    broken.write_text("raise SystemExit(3)")
    math = config(evaluate=asked | {"verifier": "math"})
    assert verdicts(found(math))["verifier"] == "ok"
    monkeypatch.setattr("tip.stages.evaluate.verdicts._PROGRAM", broken)
    findings = found(math)
    assert "cannot use math-verify" in findings["verifier"].text
    assert findings["verifier"].verdict == "fail"


def test_problems_need_a_column_of_answers(config: MakeConfig, asked: dict[str, object]) -> None:
    findings = found(config(evaluate=asked | {"answer": "solution"}))
    assert "no column 'solution'" in findings["problem file"].text
    assert findings["problems"].verdict == findings["verifier"].verdict == "-"


def test_an_engine_that_is_not_installed_or_has_no_room_fails(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changes(longest: int) -> dict[str, Any]:
        vllm = {"vllm": {"max_model_len": longest}}
        score = {"mode": "separate", "engine": "vllm"}
        return {"teacher": vllm, "score": score}

    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda _: object())
    assert verdicts(found(config(**changes(75))))["max_model_len"] == "ok"
    findings = found(config(**changes(70)))
    assert "vllm.max_model_len = 70, but" in findings["max_model_len"].text
    assert findings["teacher in vLLM"].text == "not looked at: --no-load"
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda _: None)
    findings = found(config(**changes(75)), load=True)
    assert "vLLM is not installed here: pip install" in findings["engines"].text
    assert findings["teacher in vLLM"].text == "not looked at: it needs engines"
    assert findings["student loaded"].verdict == "ok"


def test_more_gpus_than_there_are_fail(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr("tip.pipeline.plan.target.memory_of", lambda _: Room(1 << 40, 1 << 40))
    wide = {
        "device": "cuda",
        "teacher": {"vllm": {"tensor_parallel": 4}},
        "score": {"mode": "separate", "engine": "vllm"},
    }
    findings = found(config(**wide))
    assert "teacher.vllm.tensor_parallel = 4 needs as many GPUs, and 2" in findings["engines"].text


def test_a_server_is_asked_once(config: MakeConfig, served: Served) -> None:
    def asks() -> Finding:
        return found(config(**serving(served)))["server"]

    assert asks().text.startswith(f"{served.url} serves 'teacher', with log-probs")
    served.longest = 60
    assert "start it with --max-model-len 75" in asks().text
    served.longest, served.most_logprobs = 4096, 20
    assert "start it with --max-logprobs 36" in asks().text
    served.stop()
    away = asks()
    assert away.verdict == "fail"
    assert "the teacher's server does not answer" in away.text
    assert "start it (`vllm serve" in away.text


def test_the_page_has_a_row_for_each_check_in_order() -> None:
    page = (Path(__file__).parents[3] / "docs" / "DOCTOR.md").read_text(encoding="utf-8")
    rows = page.split("## The checks")[1].split("|---|---|---|")[1].splitlines()
    assert tuple(row.split("|")[1].strip() for row in rows if row.startswith("|")) == NAMES


def test_a_run_that_is_not_there_to_be_replayed_is_met_by_its_own_check(config: MakeConfig) -> None:
    findings = found(config(rollout={"replay": "nowhere"}))
    assert "that run has no round 0" in findings["replay"].text
    assert [f.name for f in findings.values() if f.verdict == "fail"] == ["replay"]
    assert "it needs replay" in findings["memory"].text
