"""A person's mistake: one line on standard error, exit code 2, nothing half-made."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tip.cli import main
from tip.pipeline.show import listing
from tip.stages.stopping import Terminated

PAIR = Path(str(files("tip.pipeline.demo") / "pair"))
CONFIG = """
rounds = 1
threads = 1
store = "{folder}/store"
runs = "{folder}/runs"
[student]
model = "{folder}/student"
[teacher]
model = "{pair}/teacher"
[prompts]
source = "{folder}/prompts.jsonl"
template = "raw"
[rollout]
prompts = 2
max_tokens = 8
[train]
rollouts_per_step = 2
"""

Tip = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(PAIR / "student", tmp_path / "student")
    prompts = ["Q 90-56-23 A", "Q 55-44+59 A", "Q 11+22+33 A"]
    lines = [json.dumps({"prompt": p, "answer": "1"}) for p in prompts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    (tmp_path / "x.toml").write_text(CONFIG.format(folder=tmp_path, pair=PAIR))
    return tmp_path


@pytest.fixture
def process(folder: Path) -> Tip:
    """Run the program."""

    def call(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "tip.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        return done.returncode, done.stderr

    return call


@pytest.fixture
def tip(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tip:
    """Run the program's `main` in this process: torch takes seconds to import."""
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tip", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


def refused(tip: Tip, folder: Path, *changes: str) -> str:
    """Return the error line of a run that must be refused before any work is done."""
    sets = [part for change in changes for part in ("--set", change)]
    code, error = tip("run", "x.toml", *sets)
    assert code == 2, error
    lines = [line for line in error.splitlines() if not line.startswith(("note:", "round"))]
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")
    made = {path.parents[2].name for path in (folder / "store").glob("*/*/*/manifest.json")}
    assert made <= {"reference"}  # of a teacher that was met
    return lines[0]


def test_a_whole_run_works_from_the_command_line(process: Tip, tip: Tip, folder: Path) -> None:
    code, error = process("run", "x.toml")
    assert code == 0, error
    assert tip("status", "x")[0] == 0
    assert tip("cache", "verify")[0] == 0
    assert tip("cache", "du")[0] == 0
    assert tip("sql", "SELECT count(*) FROM tokens", "--run", "x")[0] == 0
    assert tip("rules", "show", "soft_or")[0] == 0
    assert tip("export", "x", "student-1")[0] == 0
    assert (folder / "student-1" / "model.safetensors").is_file()
    assert tip("export", "x@2", "student-2") == (
        2,
        "error: tip export x@2: run x has 1 trained rounds; expected x@1 to x@1\n",
    )
    for asked in (["--run", "x", "q3"], ["--run=x", "q3"], ["--keep", "0.3", "--run", "x", "q3"]):
        assert tip("rules", *asked)[0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("prompts.source=nowhere.jsonl", "nowhere.jsonl"),
        ("prompts.format={question}", "question"),
        ("select.rule=soft_and", "soft_and"),
        ("select.keep=2", "select.keep = 2"),
        ("select.where=no_such_column > 1", "no_such_column"),
        ("select.rollout_weight=pass_rate * (1 - pass_rate)", "nothing gives rewards yet"),
        ("student.model=nowhere", "nowhere: no such model folder"),
        ("rollout.prompts=9", "rollout.prompts = 9"),
        ("prompts.max_tokens=3", "line 1"),
        ("device=cuda", "no GPU is visible"),
        ("store=/proc/store", "/proc/store"),
        ("rollout.max_tokens=99999", "rollout.max_tokens = 99999 leaves no room"),
    ],
)
def test_a_wrong_setting_is_one_line(tip: Tip, folder: Path, change: str, said: str) -> None:
    assert said in refused(tip, folder, change)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "Q 90-56-23 A"}\n{"prompt": oops}\n', "line 2"),
        ('{"prompt": "Q 90-56-23 A"}\n{"prompt": ""}\n', "line 2"),
        ("", "prompts.jsonl"),
    ],
)
def test_a_broken_prompt_file_is_named_with_its_line(
    tip: Tip, folder: Path, text: str, said: str
) -> None:
    (folder / "prompts.jsonl").write_text(text)
    assert said in refused(tip, folder)


def test_a_model_folder_without_weights_is_named(tip: Tip, folder: Path) -> None:
    (folder / "student" / "model.safetensors").unlink()
    assert "no *.safetensors weights" in refused(tip, folder)


def test_two_tokenizers_that_differ_are_named_with_the_first_id(tip: Tip, folder: Path) -> None:
    path = folder / "student" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["+"], vocabulary["-"] = vocabulary["-"], vocabulary["+"]
    path.write_text(json.dumps(tokenizer))
    assert "different tokenizers" in refused(tip, folder)


def test_weights_that_are_not_numbers_are_refused(process: Tip, folder: Path) -> None:
    path = folder / "student" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][:] = float("nan")
    path.unlink()
    save_file(weights, path, metadata={"format": "pt"})
    assert "NaN" in refused(process, folder)


def test_looking_at_a_store_that_is_not_there_makes_none(tip: Tip, folder: Path) -> None:
    for command in ("ls", "du", "verify", "sweep"):
        code, error = tip("cache", command, "--store", "nowhere")
        assert (code, len(error.splitlines())) == (2, 1)
        assert "nowhere: no such store" in error
    assert not (folder / "nowhere").exists()


def test_tables_that_cannot_be_written_are_refused_before_anything_is_played(
    tip: Tip, folder: Path
) -> None:
    code, error = tip("compare", "x.toml", "--output", "x.toml")
    assert (code, len(error.splitlines())) == (2, 1)
    assert "--output x.toml: x.toml is a file; name another folder" in error
    assert "is a file" in tip("compare", "x.toml", "--output", "x.toml/tables")[1]
    assert not (folder / "runs").exists()


def test_an_unknown_run_is_named(tip: Tip) -> None:
    code, error = tip("status", "nobody")
    assert code == 2
    assert "nobody" in error
    assert len(error.splitlines()) == 1


def test_what_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    manifest = tmp_path / "st\xf6re" / "probe" / "00" / ("0" * 32) / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{")
    command = [sys.executable, "-m", "tip.cli", "cache", "ls", "--store", "st\xf6re"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert "st\\xf6re/probe/00" in done.stdout
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [(KeyboardInterrupt, 130, "stopped; "), (Terminated, 143, "told to end (SIGTERM); ")],
)
def test_a_command_that_is_stopped_says_how_to_go_on(
    tip: Tip, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException], code: int, said: str
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr(listing, "print_sizes", stopped)
    assert tip("cache", "du") == (code, f"{said}the same command continues\n")
