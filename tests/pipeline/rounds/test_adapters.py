"""An adapter's folder plays like the model that it makes, as student and as teacher."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import change_adapter, write_adapter
from peft import PeftModel
from rich.console import Console
from tip.pipeline.doctor.doctor import examine
from tip.pipeline.export import export_and_show
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.session import Session, look_at, open_session
from tip.pipeline.show.plan import print_plan
from tip.stages.models.merged import find_merged
from tip.storage.errors import ModelError
from tip.storage.facts import RolloutFacts
from tip.storage.store.lineage import descendants
from transformers import AutoModelForCausalLM
from vllm_pair import needs_vllm, widened

from ..conftest import PAIR, MakeConfig, artifacts, numbers, played

SMALL = {"rollout": {"prompts": 32}, "rounds": 1}
LORA = {"lr": 3e-3, "lora": {"rank": 4, "alpha": 8}, "export_dtype": "float32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Return the sections of an adapter over each of the pair."""
    home = tmp_path_factory.mktemp("adapters")
    return {
        role: {"model": str(write_adapter(home / role, (PAIR / role).resolve(), r=2 + place))}
        for place, role in enumerate(("student", "teacher"))
    }


@pytest.fixture(scope="module")
def both(shared: MakeConfig, folders: dict[str, Any]) -> Session:
    """Return a run between two adapters, whose student trains adapters of its own."""
    return played(shared(**folders, train=LORA, **SMALL))


def whole(folders: dict[str, Any], home: Path) -> dict[str, dict[str, str]]:
    """Return the sections of the same models, merged by peft into folders of their own."""
    sections = {}
    for role, section in folders.items():
        base = AutoModelForCausalLM.from_pretrained(PAIR / role, dtype=torch.float32)
        model: Any = PeftModel.from_pretrained(base, section["model"])
        shutil.copytree(PAIR / role, home / role)
        model.merge_and_unload().save_pretrained(home / role)
        sections[role] = {"model": str(home / role)}
    return sections


def test_a_run_between_adapters_is_the_run_between_what_peft_merges(
    both: Session, shared: MakeConfig, folders: dict[str, Any], tmp_path: Path
) -> None:
    plain = played(shared("plain", **whole(folders, tmp_path), train=LORA, **SMALL))
    for stage, name in (("score", "reverse_kl"), ("train", "loss")):
        assert numbers(both, stage, name) == numbers(plain, stage, name)
    assert [a.content for a in artifacts(both, "tokens")] == [
        a.content for a in artifacts(plain, "tokens")
    ]
    assert {a.key for a in artifacts(both, "rollouts")}.isdisjoint(
        a.key for a in artifacts(plain, "rollouts")
    )
    assert len(list(both.store.list("merged"))) == 2


def test_a_run_with_the_teacher_apart_finds_what_was_merged(
    both: Session, shared: MakeConfig, folders: dict[str, Any]
) -> None:
    before = {a.draft for a in both.store.list("merged")}
    played(shared("apart", **folders, score={"mode": "separate"}, train=LORA, **SMALL))
    assert {a.draft for a in both.store.list("merged")} == before


def test_what_came_of_a_damaged_merge_is_known(both: Session) -> None:
    student = find_merged(both.store, both.inputs.student_card)
    assert student is not None
    later = {a.key for a in descendants(both.store.list(), [student])}
    kinds = ("rollouts", "tokens", "selection", "checkpoint")
    assert later >= {a.key for kind in kinds for a in artifacts(both, kind)}


def listing(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_plan_and_doctor_say_what_would_be_merged_and_write_nothing(
    config: MakeConfig, folders: dict[str, Any], tmp_path: Path
) -> None:
    settings, before = config(**folders, **SMALL), listing(tmp_path)
    console = Console(file=io.StringIO(), width=200)
    print_plan(settings, plan_of(look_at(settings)), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for role in folders:
        line = f"{role}: the adapter {folders[role]['model']} (rank "
        assert f"{line}" in said
        assert f"merged over {(PAIR / role).resolve()} first, once: " in said
    found = {finding.name: finding for finding in examine(settings, load=True)}
    for role in folders:
        assert found[role].verdict == "ok"
        assert "an adapter of rank" in found[role].text
        assert found[f"{role} weights"].verdict == "ok"
        loaded = found[f"{role} loaded"]
        assert loaded.verdict == "-"
        assert "its adapter is not merged over" in loaded.text
    assert {f.verdict for f in found.values()} == {"ok", "-"}
    assert listing(tmp_path) == before


def test_once_merged_the_doctor_loads_it_and_the_plan_has_nothing_to_merge(
    both: Session,
) -> None:
    found = {finding.name: finding for finding in examine(both.config, load=True)}
    assert found["student loaded"].verdict == found["teacher loaded"].verdict == "ok"
    plan = plan_of(look_at(both.config.model_copy(update={"rounds": 2})))
    assert plan.merges == ()
    assert plan.weights is not None
    assert plan.weights.merged == 0


def test_its_trained_student_is_exported_and_its_adapter_stands_beside_what_was_merged(
    both: Session, tmp_path: Path
) -> None:
    runs = both.config.runs
    for name, adapter in (("merged", False), ("adapter", True)):
        export_and_show("run", str(tmp_path / name), runs, adapter=adapter, dtype=None)
    export_and_show("run", str(tmp_path / "half"), runs, adapter=False, dtype="bfloat16")
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(str(tmp_path / "adapter")).base_model_name_or_path
    assert base is not None
    beside = AutoModelForCausalLM.from_pretrained(base)
    found: Any = PeftModel.from_pretrained(beside, tmp_path / "adapter").merge_and_unload()
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        assert torch.equal(found(input_ids=ids).logits, expected(input_ids=ids).logits)
    assert "adapter_config.json" not in {p.name for p in (tmp_path / "merged").iterdir()}


@pytest.mark.soak
@needs_vllm
def test_vllm_generates_and_scores_with_what_was_merged(config: MakeConfig, tmp_path: Path) -> None:
    base = widened(PAIR / "student", tmp_path / "base")
    models = {
        role: {
            "model": str(write_adapter(tmp_path / role, folder.resolve())),
            "vllm": {"cpu_cache_gb": 1, "max_gap": 1e-3},
        }
        for role, folder in (("student", base), ("teacher", PAIR / "teacher"))
    }
    rollout = {"prompts": 32, "engine": "vllm"}
    score = {"mode": "separate", "engine": "vllm"}
    session = played(config(**models, rounds=1, rollout=rollout, score=score, train=LORA))
    facts = RolloutFacts.of(artifacts(session, "rollouts")[0])
    assert facts.engine_gap is not None
    assert facts.engine_gap.mean < 1e-4
    # the teacher's signals are those that the merged model gives in transformers
    local = played(config("local", **models, rounds=1, rollout=rollout, train=LORA))
    found, expected = (numbers(s, "score", "reverse_kl")[0] for s in (session, local))
    assert found == pytest.approx(expected, rel=0.02)


def test_an_adapter_that_does_not_fit_is_met_before_any_work(
    config: MakeConfig, folders: dict[str, Any], tmp_path: Path
) -> None:
    wrong = shutil.copytree(folders["teacher"]["model"], tmp_path / "wrong")
    change_adapter(wrong, base_model_name_or_path=str((PAIR / "student").resolve()))
    with pytest.raises(ModelError, match=r"does not fit its base .*size mismatch"):
        played(config(teacher={"model": str(wrong)}, **SMALL))
    assert list(open_session(config()).store.list()) == []
