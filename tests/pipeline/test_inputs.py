"""What is known of a run before any weights: whose prompts, which problems, in which type."""

import json
import shutil
from pathlib import Path

import pytest
from served import Served
from tip.pipeline.session import look_at, open_session
from tip.storage.errors import ConfigError, TipError
from tip.storage.store.artifacts import Artifact
from tip.storage.store.store import Store

from .conftest import PAIR, MakeConfig, artifacts, played, serving


def test_the_type_of_a_server_is_not_that_of_this_device(
    config: MakeConfig, served: Served
) -> None:
    session = played(config("served", **serving(served)))
    assert {a.inputs["dtype"] for a in artifacts(session, "teacher")} == {"torch.bfloat16"}
    said = serving(served)
    said["teacher"]["dtype"] = "float32"
    assert {a.inputs["dtype"] for a in artifacts(played(config("said", **said)), "teacher")} == {
        "torch.float32"
    }


def shard(root: Path, hashes: list[str]) -> Artifact:
    """Return rollouts of prompts with these hashes."""
    return Store(root).ensure("rollouts", {"prompts": hashes}, lambda _: {})[0]


def test_the_teacher_is_shown_its_own_prompts_in_the_order_of_a_shard(
    config: MakeConfig, tmp_path: Path
) -> None:
    inputs = look_at(config(teacher={"format": "{prompt}{answer}"})).inputs
    first, second = inputs.prompts[:2]
    found = inputs.shown(shard(tmp_path, [second.hash, first.hash]))
    assert found == (second.teacher_ids, first.teacher_ids)
    assert all(len(p.teacher_ids) > len(p.ids) for p in (first, second))
    with pytest.raises(ConfigError, match="cannot be filled for 1 prompts"):
        inputs.shown(shard(tmp_path, [first.hash, "of another run"]))


def test_problems_that_nobody_asked_for_are_missed_with_the_way_out(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"no \[evaluate\] section: add one"):
        look_at(config()).inputs.problems  # noqa: B018  # asked for


def test_the_shorter_context_of_both_models_is_the_limit(
    config: MakeConfig, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(PAIR / "teacher", teacher)
    about = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(about | {"max_position_embeddings": 64}))
    short = config(teacher={"model": str(teacher)})
    with pytest.raises(ConfigError, match="the teacher's context of 64 tokens: lower it"):
        open_session(short).inputs.check()
    own = config(teacher={"model": str(teacher), "format": "{prompt}"}, rollout={"max_tokens": 60})
    with pytest.raises(TipError, match="more than the 4 that fit"):
        open_session(own).inputs.check()
