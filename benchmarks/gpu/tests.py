"""The numeric tests of the heart on this device: those that take the fixture `device`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from .measure import Row, Setting, left_out

ROOT = Path(__file__).resolve().parents[2]
STAGES = ROOT / "tests" / "stages"
SMALL = "test_log_softmax.py"
SECONDS = 220  # before the part itself is ended, which would leave pytest behind


def files(names: str) -> list[Path]:
    """Return the files of such names that hold tests of each device."""
    found = sorted(STAGES.glob(f"*/**/{names}"))
    return [path for path in found if "device: torch.device" in path.read_text(encoding="utf-8")]


def rows(setting: Setting) -> Iterator[Row]:
    """Yield how many of them pass; those that fail are named, and so is why."""
    work = "numeric tests"
    if (missing := left_out(work, "pytest", "hypothesis")) is not None:
        yield missing
        return
    paths = map(str, files(setting.pick("test_*.py", SMALL)))
    # one that runs on each device has its name among its parameters
    chosen = ["-m", "not soak", "-k", setting.device.type]
    with TemporaryDirectory() as name:
        report = Path(name) / "tests.xml"
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        done = subprocess.run(
            [sys.executable, *command, *chosen, *paths],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if not report.is_file():
            raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
        (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    count, wrong, skipped = (
        sum(int(suite.get(kind, 0)) for kind in kinds)
        for kinds in (("tests",), ("failures", "errors"), ("skipped",))
    )
    names = [
        case.get("name")
        for case in suite.iter("testcase")
        if any(case.find(kind) is not None for kind in ("failure", "error"))
    ]
    passed = count - wrong - skipped
    yield Row(
        work,
        at=f"{count} tests, {skipped} skipped",
        value=passed,
        low=passed,
        high=passed,
        unit="passed",
        baseline="all that ran",
        ratio=passed / max(count - skipped, 1),
        wanted=">= 1",
        note="failed: " + ", ".join(map(str, names)) if wrong else "",
        failed=wrong > 0 or passed == 0,
    )
