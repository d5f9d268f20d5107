"""Each tracker's own library holds what it was told, once, and goes on with the run it knows."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tip.pipeline.tracking.tracker import opener

from ..conftest import MakeConfig, played
from .telling import tell, told


def read_board(folder: Path) -> tuple[list[tuple[str, int, float]], list[str]]:
    """Return the scalars (name, step, value) and the texts of event files."""
    from tensorboardX.proto.event_pb2 import Event

    scalars, texts = [], []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, the record, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.append((value.tag, event.step, value.simple_value))
                else:
                    texts.append(value.tensor.string_val[0].decode())
    return scalars, texts


def test_tensorboard_has_them_as_scalars_and_texts(tmp_path: Path) -> None:
    tell(tmp_path, "tensorboard")
    scalars, texts = read_board(tmp_path / "tensorboard")
    assert sorted(scalars) == [
        ("select/kept", 1, 9.0),
        ("train/loss", 0, 1.5),
        ("train/residual/nats", 0, 0.25),
        ("train/step_loss", 0, 2.0),
        ("train/step_loss", 1, 1.0),
    ]
    assert any("it is ⟦2⟧" in text for text in texts)
    assert any("the student loses ground" in text for text in texts)
    assert any("train.lr = 1e-05" in text for text in texts)


def test_a_run_that_is_played_twice_is_on_the_board_once(config: MakeConfig) -> None:
    small = config(rounds=1, rollout={"prompts": 32}, track={"to": ["tensorboard"]})
    for _ in range(2):
        session = played(small)
    scalars, texts = read_board(session.run.path / "track" / "tensorboard")
    (train,) = {m["loss"] for m in session.run.metrics() if m["stage"] == "train"}
    assert [v for name, _, v in scalars if name == "train/loss"] == [pytest.approx(train)]
    (losses,) = {tuple(m["losses"]) for m in session.run.metrics() if m["stage"] == "train"}
    told = [v for name, _, v in scalars if name == "train/step_loss"]
    assert told == pytest.approx(list(losses))
    assert sum("⟦" in text and "⟧" in text for text in texts) == 1


PLAY = """
import json, sys
from tip.pipeline.config.toml import make_config
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
play(open_session(make_config(json.loads(sys.argv[1]), "test")))
"""


@pytest.mark.soak
def test_a_killed_run_has_every_point_on_the_board_once(config: MakeConfig) -> None:
    small = config(rollout={"prompts": 32}, track={"to": ["tensorboard"]})
    cursor = Path(small.runs) / "run" / "track" / "tensorboard.json"
    child = subprocess.Popen([sys.executable, "-c", PLAY, small.model_dump_json()])
    deadline = time.monotonic() + 120
    while not cursor.exists() or json.loads(cursor.read_text())["lines"] < 2:
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.1)  # not between the tracker's answer and the cursor's writing
    child.send_signal(signal.SIGKILL)
    child.wait()
    session = played(small)
    scalars, _ = read_board(cursor.with_suffix(""))
    points = [(name, step) for name, step, _ in scalars]
    assert len(points) == len(set(points))
    assert {("train/loss", 0), ("train/loss", 1), ("score/reverse_kl", 0)} <= set(points)
    assert json.loads(cursor.read_text())["lines"] == len(session.run.metrics())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    import mlflow

    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    yield f"file://{tmp_path}/mlruns"
    mlflow.set_tracking_uri(None)


def test_mlflow_has_one_run_with_histories_parameters_and_texts(files: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tell(tmp_path, "mlflow")
    client = MlflowClient(files)
    experiment = client.get_experiment_by_name("tip")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mine"
    assert run.data.params == {"train.lr": "1e-05"}
    history = client.get_metric_history(run.info.run_id, "train/step_loss")
    assert [(m.step, m.value) for m in history] == [(0, 2.0), (1, 1.0)]
    assert run.data.metrics["select/kept"] == 9.0
    assert run.data.tags["alert.select.1"] == "the student loses ground"
    assert [a.path for a in client.list_artifacts(run.info.run_id, "rollouts")] == [
        "rollouts/round-0000.md"
    ]
    assert run.info.status == "FINISHED"


def test_mlflow_that_is_away_says_so_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(Exception, match=r"127\.0\.0\.1"):
            opener("mlflow")(told(tmp_path, "mlflow"))
    finally:
        mlflow.set_tracking_uri(None)


OWN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from telling import tell
tell(Path(sys.argv[2]), sys.argv[3])
"""


def tell_apart(folder: Path, name: str, *, said: str | None = None, **environment: str) -> str:
    """Tell in a process of its own: these libraries read their environment once.

    said: what it ends with, None where it ends well.
    """
    (folder / "own.py").write_text(OWN)
    arguments = [str(Path(__file__).parent), str(folder), name]
    done = subprocess.run(
        [sys.executable, str(folder / "own.py"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=300,
    )
    assert (done.returncode == 0) == (said is None), done.stderr
    assert (said or "") in done.stderr
    return done.stdout


def test_trackio_has_one_run_with_values_and_an_alert(tmp_path: Path) -> None:
    said = tell_apart(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "db"), NO_PROXY="*")
    assert said == ""
    import sqlite3

    (path,) = (tmp_path / "db").glob("tip*.db")
    with sqlite3.connect(path) as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        alerts = base.execute("SELECT title, text, step FROM alerts").fetchall()
    assert {name for name, _, _ in rows} == {"mine-01234567"}
    text = " ".join(bytes(metrics).decode() for _, _, metrics in rows)
    assert text.count('"train/loss"') == 1
    assert text.count('"train/step_loss"') == 2
    assert "it is ⟦2⟧" in text
    assert alerts == [("round 1 select", "the student loses ground", 1)]


def test_wandb_keeps_them_in_its_journal_without_a_network(tmp_path: Path) -> None:
    tell_apart(tmp_path, "wandb", WANDB_MODE="offline", WANDB_API_KEY="")
    journals = list((tmp_path / "wandb").rglob("run-0123456789abcdef.wandb"))
    assert len(journals) == 2
    data = b"".join(path.read_bytes() for path in journals)
    for word in (b"train/loss", b"train/step_loss", b"select/kept", b"the student loses ground"):
        assert word in data
    assert list((tmp_path / "wandb").rglob("*.table.json"))


@pytest.mark.soak
def test_wandb_without_a_key_asks_nobody(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_API_KEY": ""}
    said = "no API key: set WANDB_API_KEY, or WANDB_MODE=offline"
    tell_apart(tmp_path, "wandb", said=said, WANDB_MODE="online", **home)
