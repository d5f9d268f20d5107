"""A model's folder is the user's own, or what the hub's client fetched of it and no more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from hub import hub
from tip.stages.models.card import read_card
from tip.stages.models.fingerprint import INDEX, weight_files
from tip.stages.models.folder import model_folder
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ModelError


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        read_card(ModelSettings(model=name))


PROGRAM = """
import json, sys
from tip.stages.models.folder import model_folder
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ModelError

asked = json.loads(sys.argv[1])
weights = asked.pop("weights")
try:
    print(model_folder(ModelSettings(model="owner/name", **asked), weights=weights))
except ModelError as error:
    print(error)
"""
SMALL = {"config.json", "tokenizer.json", "chat_template.jinja", "qwen.tiktoken"}
OTHERS = (
    "consolidated.safetensors",
    "original/model.safetensors",
    "onnx/config.json",
    "onnx/model.onnx",
    "pytorch_model.bin",
    "README.md",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a folder with what a model needs, its weights in two files, and what it does not."""
    folder = tmp_path / "model"
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    names = [*SMALL, "code.py", *OTHERS, *index["weight_map"].values()]
    texts = {name: json.dumps([name]) for name in names}  # the cache holds equal files once
    for name, text in (texts | {INDEX: json.dumps(index)}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def asked(home: Path, address: str, *, offline: bool = False, **settings: object) -> str:
    """Ask for `owner/name` in a process of its own: the hub's client reads its settings once."""
    environment = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    arguments = json.dumps({"weights": True} | settings)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )
    assert done.stdout.count("\n") == 1, done.stderr
    return done.stdout.strip()


def test_of_a_hub_name_only_what_a_model_needs_is_fetched_and_code_where_it_may_be_run(
    model: Path, tmp_path: Path
) -> None:
    with hub(model) as (address, fetched):
        asked(tmp_path / "small", address, weights=False)
        assert set(fetched) == {*SMALL, INDEX}
        fetched.clear()
        folder = Path(asked(tmp_path / "all", address, trust_remote_code=True))
    parts = {"part-1.safetensors", "part-2.safetensors"}
    assert sorted(fetched) == sorted({*SMALL, INDEX, *parts, "code.py"})  # each once
    assert {p.name for p in weight_files(folder)} == parts
    again = asked(tmp_path / "all", address, offline=True, trust_remote_code=True)
    assert again == str(folder)  # a whole cache needs no hub


def test_one_file_of_weights_is_preferred_to_an_index_as_transformers_does(
    model: Path, tmp_path: Path
) -> None:
    (model / "model.safetensors").write_text("[]")
    with hub(model) as (address, fetched):
        asked(tmp_path / "home", address)
    assert set(fetched) == {*SMALL, INDEX, "model.safetensors"}


def test_a_half_cache_without_the_hub_says_which_file_is_missing(
    model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with hub(model) as (address, _):
        asked(home, address, weights=False)
        said = asked(home, address, offline=True)
    assert "has no part-1.safetensors, and the hub cannot be asked for it" in said
    assert "start once with the hub in reach and HF_HUB_OFFLINE unset" in said
    assert "convert" not in said
    (tokenizer,) = home.rglob("tokenizer.json")
    tokenizer.unlink()
    assert "missing (tokenizer.json)" in asked(home, address, offline=True, weights=False)


@pytest.mark.soak  # the hub's client tries again and again, most of a minute
def test_a_half_cache_says_which_file_is_missing_where_the_hub_is_away(
    model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with hub(model) as (address, _):
        asked(home, address, weights=False)
    said = asked(home, address)
    assert "has no part-1.safetensors, and the hub cannot be asked for it" in said


def test_a_hub_name_without_safetensors_is_refused_as_a_folder_would_be(
    model: Path, tmp_path: Path
) -> None:
    (model / INDEX).unlink()
    with hub(model) as (address, _):
        assert "no *.safetensors weights" in asked(tmp_path / "home", address)


def test_a_name_that_the_hub_does_not_give_is_refused_in_one_line_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(ModelError, match=r"\(no route to host\); give the path of a") as it:
        model_folder(ModelSettings(model="owner/name"))
    assert "\n" not in str(it.value)
