"""Code that comes with a model is run only where that is said, and travels with its checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import write_model
from tip.pipeline.config.toml import make_config
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.stages.models.card import look_at_card, read_card
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ModelError

CONFIGURATION = (
    "from transformers import LlamaConfig\n"
    "class MiniConfig(LlamaConfig):\n    model_type = 'mini_of_a_test'\n"
)
MODELING = (
    "from transformers import LlamaForCausalLM\n"
    "from .configuration_mini import MiniConfig\n"
    "class MiniForCausalLM(LlamaForCausalLM):\n    config_class = MiniConfig\n"
)
MAP = {
    "AutoConfig": "configuration_mini.MiniConfig",
    "AutoModelForCausalLM": "modeling_mini.MiniForCausalLM",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama whose classes come with the folder."""
    made = write_model(tmp_path / "custom", seed=1)
    (made / "configuration_mini.py").write_text(CONFIGURATION)
    (made / "modeling_mini.py").write_text(MODELING)
    config = json.loads((made / "config.json").read_text())
    config |= {
        "model_type": "mini_of_a_test",
        "architectures": ["MiniForCausalLM"],
        "auto_map": MAP,
    }
    (made / "config.json").write_text(json.dumps(config))
    return made


def settings(folder: Path, **more: Any) -> ModelSettings:
    return ModelSettings(model=str(folder), **more)


def test_code_is_not_run_unless_that_is_said(folder: Path) -> None:
    (folder / "configuration_mini.py").write_text("raise SystemExit('it ran')")
    for read in (read_card, look_at_card):
        with pytest.raises(ModelError, match=r"set trust_remote_code = true") as it:
            read(settings(folder))
        assert "\n" not in str(it.value)


def test_a_folder_without_the_code_that_its_config_names_is_refused(folder: Path) -> None:
    (folder / "modeling_mini.py").unlink()
    with pytest.raises(ModelError, match=r"there is no modeling_mini\.py"):
        read_card(settings(folder, trust_remote_code=True))


def test_other_code_is_another_model_and_plain_models_keep_their_fingerprint(
    folder: Path, tmp_path: Path
) -> None:
    trusted = settings(folder, trust_remote_code=True)
    before = read_card(trusted).fingerprint
    (folder / "modeling_mini.py").write_text(MODELING + "# changed\n")
    assert read_card(trusted).fingerprint != before
    plain = write_model(tmp_path / "plain", seed=1)
    on = read_card(settings(plain, trust_remote_code=True))
    assert on.fingerprint == read_card(settings(plain)).fingerprint


def test_each_folder_runs_its_own_code(folder: Path, tmp_path: Path) -> None:
    """Also where its config's code is that of a model that was loaded before."""
    other = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    (other / "modeling_mini.py").write_text(MODELING + "    which = 'other'\n")
    which = []
    for one in (folder, other, folder):
        card = read_card(settings(one, trust_remote_code=True))
        model = load_model(card, torch.device("cpu"), torch.float32).model
        which.append(getattr(model, "which", "first"))
    assert which == ["first", "other", "first"]


def test_two_rounds_are_played_and_the_code_lies_with_each_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    teacher = write_model(tmp_path / "teacher", seed=2)
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) for i in range(2, 10)))
    values = {
        "name": "custom",
        "rounds": 2,
        "store": str(tmp_path / "store"),
        "runs": str(tmp_path / "runs"),
        "threads": 1,
        "student": {"model": str(folder), "trust_remote_code": True},
        "teacher": {"model": str(teacher)},
        "prompts": {"source": str(prompts), "template": "raw"},
        "rollout": {"prompts": 4, "max_tokens": 6},
        "train": {"lr": 1e-2, "rollouts_per_step": 2, "export_dtype": "float32"},
    }
    session = open_session(make_config(values, "test"))
    play(session)
    for number in (1, 2):
        checkpoint = session.student(number).checkpoint
        assert checkpoint is not None
        made = session.store.folder(checkpoint)
        for name in ("configuration_mini.py", "modeling_mini.py"):
            assert (made / name).read_text() == (folder / name).read_text()
    first, last = (load_file(f / "model.safetensors") for f in (folder, made))
    assert any((first[n] != last[n]).any() for n in last)
