"""A run on a cluster of its own ends with all of it, however that is, and goes on to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.storage.store.store import Store

from ..conftest import MakeConfig, numbers, played
from .test_on_ray import RUN, TWO, whole

pytestmark = pytest.mark.soak


AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # Ray's own look for its end by the minute


def processes_of(marker: str, but: tuple[str, ...] = ()) -> list[int]:
    """Return the processes whose environment holds a marker. but: names that are left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            held = marker.encode() in (folder / "environ").read_bytes()
            name = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if held and not name.startswith(but or "\0"):
            found.append(int(folder.name))
    return found


def toml(values: dict[str, Any], prefix: str = "") -> str:
    """Return plain values as TOML; what is None is left out."""
    plain = {k: v for k, v in values.items() if not isinstance(v, dict) and v is not None}
    lines = [f"{k} = {json.dumps(v)}" for k, v in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{key}]", toml(value, f"{prefix}{key}.")]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("number", "group", "code", "said"),
    [
        (signal.SIGTERM, False, 143, "told to end (SIGTERM); the same command continues"),
        (signal.SIGINT, True, 130, "stopped; the same command continues"),  # Ctrl-C reaches all
        (signal.SIGKILL, False, -9, ""),
    ],
)
def test_a_run_that_is_ended_leaves_no_process_and_goes_on(
    config: MakeConfig, tmp_path: Path, number: int, group: bool, code: int, said: str
) -> None:
    settings = config(**RUN, workers=TWO)
    values = settings.model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "run.toml").write_text(toml(values))
    marker = f"TIP_TEST_RAY={tmp_path}"
    process = subprocess.Popen(
        [sys.executable, "-m", "tip.cli", "run", str(tmp_path / "run.toml")],
        env=os.environ | dict([marker.split("=", 1)]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    store = Store(settings.store)
    until = time.monotonic() + 120
    while not any(store.list("rollouts")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(processes_of(marker)) > 3  # the run, Ray's own, the actors
    (os.killpg if group else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err.strip().endswith(said), err
    assert "Traceback" not in err
    until = time.monotonic() + 30
    left_out = AGENTS if number == signal.SIGKILL else ()
    while processes_of(marker, left_out):
        assert time.monotonic() < until, processes_of(marker, left_out)
        time.sleep(0.1)
    kept = sum(1 for _ in store.list("rollouts"))
    assert kept < 3
    session = open_session(settings.model_copy(update={"workers": config().workers}))
    play(session)
    elsewhere = {"store": str(tmp_path / "s2"), "runs": str(tmp_path / "r2")}
    once = played(config(**RUN, **elsewhere))
    assert whole(session) == whole(once)
    reused = numbers(session, "rollout", "reused_tokens")[-1]
    assert reused > 0
