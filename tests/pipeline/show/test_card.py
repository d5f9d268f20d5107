"""A model card says what the run's records say, and of what they do not say that it is unknown."""

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from tip.pipeline.config.toml import make_config
from tip.pipeline.config.written import as_toml, public, without_secrets
from tip.pipeline.export import export_and_show
from tip.pipeline.rounds.branching import branch
from tip.pipeline.session import Session, open_session
from tip.stages.models.settings import ModelSettings
from tip.stages.train.settings import LoraSettings
from tip.storage.store.artifacts import file_hash

from ..conftest import PAIR, MakeConfig, artifacts, numbers, played

SMALL = {"rollout": {"prompts": 32}}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the student that says how it may be used."""
    folder = shutil.copytree(PAIR / "student", tmp_path_factory.mktemp("first") / "small")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# small\n")
    (folder / "LICENSE").write_text("MIT License")
    (folder / "NOTICE.txt").write_text("by them")
    return folder


@pytest.fixture(scope="module")
def run(shared: MakeConfig, first: Path, asked: dict[str, Any]) -> Session:
    limited = {**asked, "limit": 8, "reverse_kl": True}
    return played(shared(student={"model": str(first)}, evaluate=limited, **SMALL))


def exported(session: Session, origin: str, folder: Path, **more: Any) -> tuple[str, dict]:
    export_and_show(
        origin, str(folder), session.config.runs, **({"adapter": False, "dtype": None} | more)
    )
    card = (folder / "README.md").read_text()
    return card, yaml.safe_load(card.split("---")[1])


def row(card: str, name: str) -> list[str]:
    """Return the cells of the row of a name."""
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    (found,) = [cells for cells in lines if cells[0] == name]
    return found[1:]


def code(card: str, word: str) -> str:
    return card.split(f"```{word}\n")[1].split("\n```", maxsplit=1)[0]


def test_the_card_says_what_the_records_say(run: Session, tmp_path: Path) -> None:
    card, front = exported(run, "run", tmp_path / "x")
    checkpoint = artifacts(run, "checkpoint")[-1]
    assert front["library_name"] == "transformers"
    assert front["license"] == "mit"
    assert front["tip_run"] == run.run.id
    assert "base_model" not in front  # a folder of this machine is no name on the hub
    assert "language" not in front
    assert str(run.config.student.model) not in card.split("## How to make it again")[0]
    assert row(card, "student")[-2:] == [run.inputs.student_card.fingerprint, "mit"]
    assert row(card, "teacher")[-2:] == [run.inputs.teacher_card.fingerprint, "unknown"]
    asked = [m for m in run.run.metrics() if m["stage"] == "evaluate"]
    right = [f"{m['accuracy']:.1%} ({m['low']:.1%} to {m['high']:.1%})" for m in asked]
    assert row(card, "answered right (95 % interval)") == [right[0], right[-1]]
    near = [f"{m['reverse_kl']:.4f}" for m in asked]
    assert row(card, "reverse KL to the teacher, nats a token") == [near[0], near[-1]]
    scored = sum(numbers(run, "score", "teacher_tokens_scored"))
    assert row(card, "teacher tokens scored") == [f"{scored:,}"]
    spent = sum(numbers(run, "train", "seconds"))
    assert row(card, "seconds of train") == [f"{spent:.1f}"]
    assert row(card, "key of the training") == [checkpoint.key]
    assert row(card, "content of the checkpoint") == [checkpoint.content]
    weights = tmp_path / "x" / "model.safetensors"
    assert row(card, "sha256 of model.safetensors") == [file_hash(weights)]
    assert code(card, "sql") == artifacts(run, "selection")[-1].facts["sql"].strip()
    for name in ("LICENSE", "NOTICE.txt"):
        assert (tmp_path / "x" / name).read_bytes() == (
            Path(run.config.student.model) / name
        ).read_bytes()
    assert "files: LICENSE, NOTICE.txt" in card


def test_its_config_is_the_runs(run: Session, tmp_path: Path) -> None:
    card, _ = exported(run, "run", tmp_path / "x")
    values = tomllib.loads(code(card, "toml"))
    again = make_config(values, "card")
    assert again == run.config.model_copy(update={"store": "store", "runs": "runs"})


def test_of_an_earlier_student_it_tells_no_later_number(run: Session, tmp_path: Path) -> None:
    card, _ = exported(run, "run@1", tmp_path / "x")
    asked = [m for m in run.run.metrics() if m["stage"] == "evaluate"]
    right = [f"{m['accuracy']:.1%} ({m['low']:.1%} to {m['high']:.1%})" for m in asked]
    assert row(card, "answered right (95 % interval)") == right[:2]
    assert row(card, "teacher tokens scored") == [
        f"{numbers(run, 'score', 'teacher_tokens_scored')[0]:,}"
    ]
    assert "tip run config.toml --set rounds=2" in card
    assert "\nrounds = 1\n" in code(card, "toml")


def test_what_was_not_measured_is_said(shared: MakeConfig, tmp_path: Path) -> None:
    session = played(shared("bare", rounds=1, **SMALL))
    card, front = exported(session, "bare", tmp_path / "x")
    assert "Not measured: the run asked no held-out problems." in card
    assert "license" not in front
    assert row(card, "student")[-1] == "unknown"


def test_a_branch_counts_the_rounds_that_it_shares(
    run: Session, shared: MakeConfig, first: Path, asked: dict[str, Any], tmp_path: Path
) -> None:
    limited = {**asked, "limit": 8, "reverse_kl": True}
    changes: dict[str, Any] = {"student": {"model": str(first)}, "evaluate": limited, **SMALL}
    late = shared("late", select={"rule": "random"}, **changes)
    branch(open_session(late), "run@1")
    session = played(late)
    card, _ = exported(session, "late", tmp_path / "x")
    began = next(m for m in run.run.metrics() if m["stage"] == "evaluate")
    assert row(card, "answered right (95 % interval)")[0].startswith(f"{began['accuracy']:.1%} (")
    trained = [numbers(each, "train", "trained_tokens") for each in (run, session)]
    assert row(card, "tokens trained on") == [f"{trained[0][0] + trained[1][-1]:,}"]
    assert "tip run config.toml --from run@1" in card


def test_a_name_on_the_hub_is_the_base_and_a_hub_out_of_reach_leaves_a_licence_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tip.pipeline.show.parents import parent

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    found = parent("student", ModelSettings(model="owner/name"), "f")
    assert (found.hub, found.license, found.terms) == ("owner/name", None, ())


def test_a_config_is_written_so_that_it_reads_back(config: MakeConfig) -> None:
    made = config(
        select={"rule": "soft_or", "params": {"a b": 1.5}, "where": 'x = "\x7f\n"'},
        train={"lora": LoraSettings(rank=2, alpha=4).model_dump(mode="json")},
    )
    values = public(made)
    assert tomllib.loads(as_toml(values)) == values
    again = make_config(values, "test")
    assert again == made.model_copy(update={"store": "store", "runs": "runs"})


def test_no_password_and_no_signature_is_written() -> None:
    assert without_secrets("http://me:secret@host:8000/v1") == "http://host:8000/v1"
    assert without_secrets("s3://key:se/cret@b/x") == "s3://key:se/cret@b/x"
    assert without_secrets("https://h/x?X-Amz-Signature=1 and y") == "https://h/x and y"
    assert without_secrets("a plain ? text") == "a plain ? text"
