"""A model's folder is the user's own, or what the hub's client fetched of it and no more."""

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from tip.stages.models.card import read_card
from tip.stages.models.folder import model_folder
from tip.stages.models.settings import ModelSettings
from tip.storage.errors import ModelError


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        read_card(ModelSettings(model=name))


def test_a_hub_name_brings_code_only_where_it_may_be_run(tmp_path: Path) -> None:
    """Asked of the hub's own client, whose download is noted instead of made."""
    program = (
        "import sys, huggingface_hub\n"
        "from tip.stages.models.settings import ModelSettings\n"
        "from tip.stages.models.folder import model_folder\n"
        "asked = []\n"
        "huggingface_hub.snapshot_download = lambda *a, allow_patterns, **_: (\n"
        "    asked.append(sorted(allow_patterns)) or sys.argv[1])\n"
        "for trust in (False, True):\n"
        "    for weights in (False, True):\n"
        "        s = ModelSettings(model='owner/name', trust_remote_code=trust)\n"
        "        model_folder(s, weights=weights)\n"
        "print([('*.py' in a, '*.safetensors' in a, '*.json' in a) for a in asked])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    expected = [(trust, w, True) for trust in (False, True) for w in (False, True)]
    assert done.stdout.strip() == str(expected), done.stderr


def test_a_name_that_the_hub_does_not_give_is_refused_in_one_line_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(ModelError, match=r"\(no route to host\); give the path of a") as it:
        model_folder(ModelSettings(model="owner/name"))
    assert "\n" not in str(it.value)
