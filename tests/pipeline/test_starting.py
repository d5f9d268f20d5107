"""A first config is written from a few answers, and it is one that plays."""

import json
from pathlib import Path

import polars as pl
import pytest
from tip.pipeline.config.toml import load_config
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.pipeline.starting import start
from tip.storage.errors import ConfigError, TipError

from .conftest import PAIR

MODELS = {"student": "a/student", "teacher": "a/teacher"}


def given(tmp_path: Path, rows: list[dict], suffix: str = ".jsonl") -> dict[str, str | None]:
    path = tmp_path / f"prompts{suffix}"
    if suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {**MODELS, "prompts": str(path), "held_out": None, "card": None}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"question": "1+1?", "answer": "2"}, 'format = "{question}"'),
        ({"messages": [{"role": "user", "content": "1+1?"}]}, 'messages = "messages"'),
        ({"prompt": [{"role": "user", "content": "1+1?"}]}, 'messages = "prompt"'),
    ],
)
def test_a_config_names_the_columns_that_a_file_has(
    tmp_path: Path, suffix: str, row: dict, line: str
) -> None:
    file = tmp_path / "mine.toml"
    start(file, given(tmp_path, [row], suffix), force=False)
    assert line in file.read_text().splitlines()
    config = load_config(file)
    assert (config.name, config.student.model, config.evaluate) == ("mine", "a/student", None)


def test_problems_and_a_card_are_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    answers = given(tmp_path, [{"problem": "1+1?", "answer": 2}])
    start(file, answers | {"held_out": answers["prompts"], "card": "24"}, force=False)
    config = load_config(file)
    assert config.device == "cuda"
    assert config.evaluate is not None
    assert (config.evaluate.answer, config.evaluate.format) == ("answer", "{problem}")
    assert f"tip run {file} --dry-run --card 24" in capsys.readouterr().out


def test_what_is_written_plays(tmp_path: Path, problems: Path) -> None:
    file = tmp_path / "pair.toml"
    answers = {"student": str(PAIR / "student"), "teacher": str(PAIR / "teacher")}
    files = {"prompts": f"{problems}/train.jsonl", "held_out": f"{problems}/held_out.jsonl"}
    start(file, answers | files, force=False)
    changes = ["rounds=1", "rollout.prompts=8", "evaluate.limit=8", "rollout.max_tokens=32"]
    changes += ["prompts.template=raw", "evaluate.template=raw", "evaluate.max_tokens=32"]
    changes += [f"store={tmp_path}/store", f"runs={tmp_path}/runs", "device=cpu"]
    session = open_session(load_config(file, changes))
    play(session)
    assert {m["stage"] for m in session.run.metrics()} >= {"train", "evaluate"}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"student": None}, "--student is not given, and nobody can be asked"),
        ({"card": "big"}, "--card big: expected GB"),
        ({"prompts": "gone.jsonl"}, "does not exist or is no file: mend prompts.source"),
        ({"prompts": "gone.parquet"}, "gone.parquet: cannot be read"),
    ],
)
def test_answers_that_cannot_be_are_refused_and_nothing_is_written(
    tmp_path: Path, answers: dict, said: str
) -> None:
    file = tmp_path / "mine.toml"
    with pytest.raises(TipError, match=said):
        start(file, given(tmp_path, [{"prompt": "a"}]) | answers, force=False)
    assert not file.exists()


def test_a_file_of_other_columns_and_a_config_that_is_there_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    with pytest.raises(ConfigError, match=r"no column with prompts; .* it has q, a: name it"):
        start(file, given(tmp_path, [{"q": "1", "a": "2"}]), force=False)
    answers = given(tmp_path, [{"prompt": "a"}])
    with pytest.raises(ConfigError, match="no column with answers"):
        start(file, answers | {"held_out": answers["prompts"]}, force=False)
    file.write_text("mine")
    with pytest.raises(ConfigError, match="is there; name another file, or add --force"):
        start(file, answers, force=False)
    assert file.read_text() == "mine"
    start(file, answers, force=True)
    assert load_config(file).name == "mine"


def test_names_of_any_characters_are_written_so_that_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a b.toml"
    start(file, given(tmp_path, [{"prompt": "a"}]) | {"student": "/tmp/😀\x7f/s"}, force=False)
    assert load_config(file).student.model == "/tmp/😀\x7f/s"
