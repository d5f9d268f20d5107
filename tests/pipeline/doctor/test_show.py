"""A line a check, and an exit code that says whether one has failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import hub
from tip.cli import app
from tip.pipeline.config.run import RunConfig
from typer.testing import CliRunner

from ..conftest import PAIR, MakeConfig


def written(config: RunConfig, folder: Path) -> Path:
    path = folder / "c.toml"
    path.write_text(
        f'''
        store = "{config.store}"
        runs = "{config.runs}"
        student.model = "{config.student.model}"
        teacher.model = "{config.teacher.model}"
        prompts = {{ source = "{config.prompts.source}", template = "raw" }}
        rollout = {{ prompts = 64, max_tokens = 64 }}
        '''
    )
    return path


@pytest.mark.parametrize(
    ("options", "code", "ends"),
    [
        ([], 0, "ok"),
        (["--no-load"], 0, "2 not looked at"),
        (["--no-load", "--set", "rollout.prompts=999"], 2, "1 failed, 5 not looked at"),
        (["--no-load", "--name", "a/b"], 2, "not looked at"),
    ],
)
def test_the_exit_code_says_whether_a_check_has_failed(
    config: MakeConfig, tmp_path: Path, options: list[str], code: int, ends: str
) -> None:
    path = str(written(config(), tmp_path))
    result = CliRunner().invoke(app, ["doctor", path, *options])
    lines = result.output.splitlines()
    assert result.exit_code == code, result.output
    assert lines[-1].endswith(ends)
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "warn", "fail", "-"}
    failed = [line for line in lines if line.startswith("fail")]
    assert len(failed) == (code == 2)
    assert not (tmp_path / "store").exists()


def test_of_a_hub_name_no_weights_are_fetched_and_sizes_are_known(
    config: MakeConfig, tmp_path: Path
) -> None:
    path = written(config(), tmp_path)
    models = ["--set", "student.model=owner/name", "--set", "teacher.model=owner/name"]
    with hub(PAIR / "student") as (address, fetched):
        environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "tip.cli", "doctor", str(path), *models],
            capture_output=True,
            text=True,
            env=os.environ | environment,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [name for name in fetched if name.endswith(".safetensors")]
    assert "Qwen3ForCausalLM: 2 layers of 64, 0.1 M parameters" in done.stdout
    assert "score takes most" in done.stdout
    assert done.stdout.count("its weights are not here yet; `tip run` fetches them") == 2
