"""A run is the one that it was: other settings, or another file under a name, are noticed."""

import shutil
from pathlib import Path

import pytest
from tip.storage.errors import ConfigError

from ..conftest import MakeConfig, played


@pytest.mark.parametrize("what", ["rule", "prompts"])
def test_a_file_that_changed_under_a_run_is_noticed(
    config: MakeConfig, tmp_path: Path, problems: Path, what: str
) -> None:
    rule = tmp_path / "mine.sql"
    rule.write_text("SELECT *, reverse_kl AS importance FROM tokens")
    prompts = tmp_path / "prompts.jsonl"
    shutil.copy(problems / "train.jsonl", prompts)
    source = {"source": str(prompts), "template": "raw"}
    settings = config(rounds=1, select={"rule": str(rule)}, prompts=source)
    played(settings)
    if what == "rule":
        rule.write_text("SELECT *, -reverse_kl AS importance FROM tokens")
    else:
        prompts.write_text("".join(prompts.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ConfigError, match="names has changed since it was started"):
        played(settings)


def test_a_run_is_not_continued_with_other_settings(config: MakeConfig) -> None:
    played(config(rounds=1))
    with pytest.raises(ConfigError, match=r"select.keep = 0.2, now it is 0.1"):
        played(config(rounds=1, select={"keep": 0.1}))
