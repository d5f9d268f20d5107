"""What is seen of long work, and its peak memory: of this process alone, on a GPU of one stage."""

import io
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from tip.pipeline.pace import Pace
from tip.pipeline.progress import Reporter, Stopwatch, peak_memory
from tip.stages.engines.protocols import Spared

CPU = torch.device("cpu")


def test_a_child_has_a_peak_of_its_own_whatever_its_parent_held() -> None:
    held = b"x" * (1 << 30)
    program = (
        "import torch; from tip.pipeline.progress import peak_memory\n"
        "print(peak_memory(torch.device('cpu'))['peak_memory_mb'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert peak_memory(CPU)["peak_memory_mb"] > len(held) >> 20 > int(done.stdout) > 10


def test_the_peak_on_a_gpu_begins_anew_with_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [3 << 20]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: peaks[-1])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: peaks.append(1 << 20))
    told = [peak_memory(torch.device("cuda"))["peak_gpu_memory_mb"] for _ in range(2)]
    assert told == [3, 1]
    assert peak_memory(CPU).keys() == {"peak_memory_mb"}


def test_a_log_gets_the_lines_that_stay_and_no_bar() -> None:
    out = io.StringIO()
    reporter = Reporter(Console(file=out))
    with reporter.bar("rollout", 8, "rollouts") as tick:
        tick(8)
    reporter.say("round 0 [bold]: " + "x" * 200)
    assert out.getvalue() == "round 0 [bold]: " + "x" * 200 + "\n"


def test_a_terminal_sees_a_bar_with_its_unit_and_nothing_of_it_stays() -> None:
    out = io.StringIO()
    reporter = Reporter(Console(file=out, force_terminal=True, width=100))
    with reporter.bar("rollout", 8, "rollouts") as tick:
        tick(4)
        tick(4)
    assert "8/8" in out.getvalue()
    assert "rollouts" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")  # the line is erased


def test_a_quiet_reporter_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(quiet=True)
    reporter.say("round 0")
    with reporter.bar("rollout", 8, "rollouts") as tick:
        tick(8)
    assert capsys.readouterr() == ("", "")


def test_a_stopwatch_tells_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("tip.pipeline.progress.time.perf_counter", lambda: now[0])
    watch = Stopwatch()
    now[0] = 12.34567
    assert watch.seconds == 2.346


def test_a_log_of_long_work_gets_a_line_after_one_two_and_four_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("tip.pipeline.pace.time.monotonic", lambda: now[0])
    out = io.StringIO()
    with Reporter(Console(file=out)).bar("round 0 rollout", 1000, "tokens") as tick:
        for _ in range(50):  # for five minutes
            now[0] += 6
            tick(10)
    assert out.getvalue().splitlines() == [
        "round 0 rollout: 10%, 2 tokens/s, about 0:09:00 left",
        "round 0 rollout: 20%, 2 tokens/s, about 0:08:00 left",
        "round 0 rollout: 40%, 2 tokens/s, about 0:06:00 left",
    ]


def test_what_is_spared_brings_work_nearer_to_its_end_and_counts_for_no_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("tip.pipeline.pace.time.monotonic", lambda: now[0])
    pace = Pace(1000, "tokens")
    pace.add(Spared(200))  # found
    now[0] += 30  # a model is loaded
    pace.add(50)
    assert (pace.far, pace.rate, pace.left) == ("25%", None, None)
    now[0] += 10
    pace.add(100)
    pace.add(Spared(150))
    assert (pace.far, pace.rate, pace.left) == ("50%", 10.0, 20.0)
    assert str(pace) == "50%, 10 tokens/s, about 0:00:20 left"


def test_slow_work_tells_seconds_apiece(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("tip.pipeline.pace.time.monotonic", lambda: now[0])
    pace = Pace(9, "runs")
    for _ in range(3):
        pace.add(1)
        now[0] += 90
    assert str(pace) == "3/9 runs, 135.0 s a run, about 0:13:30 left"
