"""A student is sent whole, in one commit that is the last request, or not at all."""

import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from tip import cli
from tip.pipeline.export import export_and_show
from tip.pipeline.session import Session
from tip.pipeline.sharing.push import Push, push_student
from tip.storage.errors import ConfigError, TipError

from ..conftest import MakeConfig, played
from .standin import TOKEN, Repository, StandIn

NAME = "me/student"


@pytest.fixture(scope="module")
def run(shared: MakeConfig) -> Session:
    return played(shared(rounds=1, rollout={"prompts": 32}))


def push(run: Session, origin: str = "run", name: str = NAME, **more: Any) -> None:
    push_student(origin, Push(name, run.config.runs, **more), adapter=False, dtype=None)


def test_what_arrives_is_what_is_exported_and_the_commit_is_the_last_request(
    hub: StandIn, run: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(run, private=True)
    there = hub.repositories["model", NAME]
    export_and_show("run", str(tmp_path / "x"), run.config.runs, adapter=False, dtype=None)
    sent = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}
    assert there.private
    assert {name: data for name, data in there.files.items() if name != ".gitattributes"} == sent
    assert hub.steps[-1] == "commit"
    assert hub.steps.count("commit") == 1
    assert there.messages == ["run@1, sent by tip"]
    said = capsys.readouterr()
    assert f"run@1 at {hub.url}/{NAME}: {len(sent)} files" in said.out
    assert TOKEN not in said.out + said.err
    assert not any(TOKEN.encode() in data for data in sent.values())


def test_the_same_run_is_sent_again_and_what_it_no_longer_has_goes(
    hub: StandIn, run: Session
) -> None:
    push(run)
    there = hub.repositories["model", NAME]
    there.files["old.safetensors"] = b"old"
    push(run)
    assert "old.safetensors" not in there.files
    assert "README.md" in there.files
    assert len(there.commits) == 3


def test_another_model_is_left_alone_without_yes(hub: StandIn, run: Session) -> None:
    hub.repositories["model", NAME] = there = Repository(False)
    there.files |= {"model.safetensors": b"theirs", "README.md": b"---\ntip_run: other\n---\n"}
    before = dict(there.files)
    with pytest.raises(ConfigError, match=r"holds 2 files already.*run other's.*--yes"):
        push(run)
    assert there.files == before
    push(run, replace=True)
    assert there.files["model.safetensors"] != b"theirs"
    assert b"# run@1" in there.files["README.md"]


@pytest.mark.parametrize("step", ["preupload", "batch", "object", "commit"])
def test_an_upload_that_fails_leaves_nothing_of_it(hub: StandIn, run: Session, step: str) -> None:
    hub.refuse[step] = 400
    with pytest.raises(TipError, match=r"answers 400.*nothing was committed") as it:
        push(run)
    assert "\n" not in str(it.value)
    there = hub.repositories["model", NAME]
    assert (list(there.files), len(there.commits)) == ([".gitattributes"], 1)
    hub.refuse.clear()
    push(run)
    assert "model.safetensors" in there.files


def test_what_somebody_else_sends_meanwhile_is_not_overwritten(
    hub: StandIn, run: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tip.pipeline.sharing import hub as client

    files = client._files

    def meanwhile(folder: Path) -> list[str]:
        hub.repositories["model", NAME].commits.append("f" * 40)
        return files(folder)

    monkeypatch.setattr(client, "_deletions", lambda there, names: meanwhile(Path()) and [])
    with pytest.raises(TipError, match="somebody else has changed it meanwhile"):
        push(run)


@pytest.mark.parametrize(
    ("status", "step", "said"),
    [
        (401, "look", "refuses the token \\(401\\): use one that may write to me's"),
        (403, "create", "refuses the token \\(403\\)"),
        (500, "create", "answers 500"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: StandIn, run: Session, status: int, step: str, said: str
) -> None:
    hub.refuse[step] = status
    with pytest.raises(TipError, match=said) as it:
        push(run)
    assert "\n" not in str(it.value)
    assert TOKEN not in str(it.value)


def test_without_a_token_a_hub_or_leave_to_ask_one_the_way_out_is_named(
    hub: StandIn, run: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set, so nothing is sent"):
        push(run)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TipError, match=r"http://127.0.0.1:9 cannot be reached.*check the network"):
        push(run)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no token of the hub: set HF_TOKEN"):
        push(run)
    assert hub.steps == []


def test_a_dry_run_lists_files_and_asks_nobody(
    hub: StandIn, run: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    push(run, dry=True)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("model.safetensors  ") for line in lines)
    assert any(line.startswith("README.md  ") for line in lines)
    assert lines[-1].startswith(f"run@1 would be sent to {NAME} (model): ")
    assert hub.steps == []


@pytest.mark.parametrize("name", ["student", "me/student/x", "me/..", "/student", "me/st udent"])
def test_a_name_that_is_none_is_refused_before_anything_is_written(
    hub: StandIn, run: Session, name: str
) -> None:
    with pytest.raises(ConfigError, match="expected OWNER/NAME"):
        push(run, name=name)
    assert hub.steps == []


def test_the_command_ends_with_one_line_and_code_2(
    hub: StandIn, run: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuse["commit"] = 403
    monkeypatch.setattr(sys, "argv", ["tip", "push", "run", NAME, "--runs", run.config.runs])
    with pytest.raises(SystemExit) as it:
        cli.main()
    assert it.value.code == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith(f"error: {NAME}: {hub.url} refuses the token")
    assert TOKEN not in said.out + said.err
