"""A run neither waits for a tracker nor fails for one, and each line is told once."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tip import cli
from tip.pipeline.config.toml import make_config
from tip.pipeline.config.track import TrackSettings
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.pipeline.tracking import follow, tracker
from tip.pipeline.tracking.batches import Batch, Story
from tip.pipeline.tracking.follow import Cursor, track, tracked
from tip.pipeline.tracking.tracker import Told
from tip.storage.errors import ConfigError, StoreError
from tip.storage.facts import CheckpointFacts
from tip.storage.runs import RunFolder
from tip.storage.tables import read_table

from ..conftest import Listening, MakeConfig, artifacts, copied, played

SMALL = {"rollout": {"prompts": 32}}
STAGES = ["evaluate", "rollout", "score", "select", "train"]


class Recorder:
    """A tracker that remembers; `down` lets it refuse, `slow` never answers."""

    def __init__(self) -> None:
        self.told: list[Batch] = []
        self.about: list[Told] = []
        self.down = False
        self.slow = threading.Event()
        self.slow.set()
        self.closed = 0

    def open(self, about: Told) -> "Recorder":
        if self.down:
            raise ConnectionError("no route\nto host")
        self.about.append(about)
        return self

    def send(self, batch: Batch) -> None:
        self.slow.wait()
        if self.down:
            raise ConnectionError("no route\nto host")
        self.told.append(batch)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    made = Recorder()
    monkeypatch.setattr(follow, "opener", lambda name: made.open)
    monkeypatch.setattr(follow, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(follow, "_AGAIN_SECONDS", 0.02)
    yield made
    made.slow.set()


@pytest.fixture(scope="module")
def run(shared: MakeConfig, asked: dict[str, Any]) -> Session:
    return played(shared(evaluate={**asked, "limit": 8}, **SMALL))


def again(run: Session, config: MakeConfig, **track_: Any) -> Session:
    """Return the played run once more, in a folder of its own, with trackers."""
    values = run.config.model_dump(mode="json") | {"track": {"to": ["mlflow"], **track_}}
    own = config()
    values |= {"store": own.store, "runs": own.runs}
    return copied(run, make_config(values, "test"))


def untold(session: Session) -> Session:
    """Return a session that says what is noted."""
    reporter = Listening()
    return Session(
        session.config,
        session.run,
        session.store,
        session.inputs,
        session.executor,
        reporter,
    )


def test_a_run_is_told_line_by_line_under_names_that_stay(
    recorder: Recorder, run: Session, config: MakeConfig
) -> None:
    session = again(run, config, patience_seconds=60)
    with tracked(session):
        pass
    assert [b.stage for b in recorder.told] == [*STAGES, *STAGES, "evaluate"]
    assert [b.round for b in recorder.told] == [0] * 5 + [1] * 5 + [2]
    lines = run.run.metrics()
    by_name = {(b.round, name): v for b in recorder.told for name, v in b.values.items()}
    for line in lines:
        if line["stage"] == "train":
            assert by_name[line["round"], "train/loss"] == line["loss"]
        if line["stage"] == "score":
            assert by_name[line["round"], "score/reverse_kl"] == line["reverse_kl"]
        if line["stage"] == "evaluate":
            assert by_name[line["round"], "evaluate/accuracy"] == line["accuracy"]
    assert recorder.closed == 1


def test_losses_are_told_by_step_counted_over_the_rounds(
    recorder: Recorder, run: Session, config: MakeConfig
) -> None:
    with tracked(again(run, config, patience_seconds=60)):
        pass
    told = [pair for b in recorder.told for pair in b.steps]
    losses = [x for a in artifacts(run, "checkpoint") for x in CheckpointFacts.of(a).losses]
    assert told == list(enumerate(losses))
    train = [m for m in run.run.metrics() if m["stage"] == "train"]
    assert [x for m in train for x in m["losses"]] == losses


def test_rollouts_are_shown_with_their_selected_tokens_marked(
    recorder: Recorder, run: Session, config: MakeConfig
) -> None:
    with tracked(again(run, config, patience_seconds=60, rollouts=3)):
        pass
    (shown,) = [b.rollouts for b in recorder.told if b.stage == "train" and b.round == 0]
    store, source = run.store, artifacts(run, "rollouts")[0]
    rows = read_table([store.path(source, "rollouts")]).slice(0, 3).to_pylist()
    chosen = read_table([store.path(artifacts(run, "selection")[0], "selection")]).to_pylist()
    tokenizer = run.inputs.student_card.tokenizer
    assert len(shown) == 3
    for row, each in zip(rows, shown, strict=True):
        assert each.prompt == tokenizer.decode(row["prompt_ids"])
        marks = {c["position"] for c in chosen if c["rollout"] == row["rollout"]}
        runs = sum(p - 1 not in marks for p in marks)
        assert each.response.count("⟦") == each.response.count("⟧") == runs > 0
        plain = "".join(tokenizer.decode([token]) for token in row["response_ids"])
        assert each.response.replace("⟦", "").replace("⟧", "") == plain


def test_a_tracker_that_is_away_costs_no_line_and_the_next_start_tells_them(
    recorder: Recorder, run: Session, config: MakeConfig
) -> None:
    session = untold(again(run, config, patience_seconds=60))
    recorder.down = True
    with tracked(session):
        pass
    (note,) = session.reporter.said  # type: ignore[attr-defined]
    assert note.startswith("note: 11 lines of metrics were not told to mlflow (mlflow: no route to")
    assert f"`tip track run --to mlflow --runs {session.config.runs}`" in note
    recorder.down = False
    with tracked(session):
        pass
    assert len(recorder.told) == 11


def test_one_that_goes_away_half_way_is_told_the_rest_and_nothing_twice(
    recorder: Recorder, run: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = again(run, config, patience_seconds=60)
    send = Recorder.send

    def four(self: Recorder, batch: Batch) -> None:
        self.down = len(self.told) == 4
        send(self, batch)

    monkeypatch.setattr(Recorder, "send", four)
    with tracked(session):
        pass
    assert len(recorder.told) == 4
    monkeypatch.setattr(Recorder, "send", send)
    recorder.down = False
    with tracked(session):
        pass
    told = [(b.round, b.stage) for b in recorder.told]
    assert len(told) == len(set(told)) == 11


def test_a_run_ends_though_a_tracker_never_answers(
    recorder: Recorder, run: Session, config: MakeConfig
) -> None:
    session = untold(again(run, config, patience_seconds=0.2))
    recorder.slow.clear()
    start = time.monotonic()
    with tracked(session):
        pass
    assert time.monotonic() - start < 5
    assert "it is slow to answer" in session.reporter.said[0]  # type: ignore[attr-defined]


def test_a_run_that_is_played_is_told_and_started_again_it_tells_nothing_twice(
    recorder: Recorder, run: Session, config: MakeConfig
) -> None:
    session = again(run, config, patience_seconds=60)
    play(open_session(session.config))
    assert len(session.run.metrics()) > 11  # what was found is recorded again
    told = [(b.round, b.stage) for b in recorder.told]
    assert len(told) == len(set(told)) == 11
    play(open_session(session.config))
    assert len(recorder.told) == 11
    assert Cursor.read(session.run, "mlflow").lines == len(session.run.metrics())


def test_trackers_are_in_no_key(run: Session, config: MakeConfig) -> None:
    tracking = run.config.model_copy(update={"track": TrackSettings(to=("wandb",))})
    assert tracking.identity() == run.config.identity()


def test_what_is_told_of_the_config_is_no_secret(
    recorder: Recorder, run: Session, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hidden")
    session = again(run, config, patience_seconds=60)
    values = session.config.model_dump(mode="json")
    values["prompts"]["source"] = "https://me:hidden@host/x.jsonl?sig=hidden"
    told = Story(session.run, make_config(values, "test")).hyperparameters
    assert told["prompts.source"] == "https://host/x.jsonl"
    assert told["train.lr"] == 3e-4
    assert "hidden" not in json.dumps(told)


def test_warnings_of_stability_are_alerts(run: Session, config: MakeConfig) -> None:
    session = again(run, config)
    lines = session.run.metrics()
    path = session.run.metrics_path
    path.unlink()
    for line in lines:
        worse = {"unselected_reverse_kl": 90.0} if line["stage"] == "select" else {}
        session.run.append(line | (worse if line["round"] else {}))
    story = Story(RunFolder(session.config.runs, "run"), session.config)
    alerts = {(b.round, b.stage): b.alerts for _, b in story.batches(0) if b and b.alerts}
    assert list(alerts) == [(1, "select")]
    assert alerts[1, "select"][0].startswith("the student loses what it is not trained on")


def test_the_command_tells_a_finished_run_and_says_how_much(
    recorder: Recorder,
    run: Session,
    config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = again(run, config)
    runs = session.config.runs
    for expected in ("mlflow: 11 lines of run run told", "mlflow: 0 lines of run run told"):
        monkeypatch.setattr(sys, "argv", ["tip", "track", "run", "--to", "mlflow", "--runs", runs])
        with pytest.raises(SystemExit) as it:
            cli.main()
        assert it.value.code == 0
        assert expected in capsys.readouterr().out
    recorder.down = True
    shutil.rmtree(session.run.path / "track")
    with pytest.raises(StoreError, match="mlflow: no route to host"):
        track(session.run, ["mlflow"], None)


def test_what_cannot_be_tracked_is_one_line(run: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--to x: expected tensorboard, mlflow, wandb, trackio"):
        track(run.run, ["x"], None)
    with pytest.raises(ConfigError, match="run run tracks to nobody: name one with --to"):
        track(run.run, [], None)
    monkeypatch.setitem(tracker.PACKAGES, "wandb", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install 'tip-opd\[wandb\]'"):
        track(run.run, ["wandb"], None)
    assert not (run.run.path / "track").exists()


def test_a_cursor_that_is_no_cursor_is_named(run: Session, config: MakeConfig) -> None:
    session = again(run, config)
    path = Path(Cursor.path(session.run, "mlflow"))
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(StoreError, match=r"mlflow.json: unreadable; delete it"):
        Cursor.read(session.run, "mlflow")
