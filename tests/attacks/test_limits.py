"""Full disks, limits and permissions: one line, nothing committed is lost, and room is enough.

Commands run in children of a process that has imported everything, so that each can be given its
own limits. Full disks are small ones in memory where this user may mount, and everywhere a call
that fails as on a full disk.
"""

import json
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..pipeline.conftest import asked, maker, problems  # noqa: F401  # fixtures
from .damage import HANG_SECONDS, LOOKS, VERIFY, Ended, as_toml, differences, finished, refusal

ROUNDS = 2

# Reads a request a line, runs it in a child, and writes its exit code.
NURSERY = """
import contextlib, ctypes, errno, importlib, json, os, resource, signal, sys, traceback
from pathlib import Path
import pyarrow.parquet
import tip.cli, tip.pipeline.rounds.play, tip.pipeline.rounds.branching, tip.pipeline.plan.plan
import tip.pipeline.show.status, tip.pipeline.show.listing, tip.pipeline.show.verify
import tip.pipeline.show.plan

FAILING = [(os, "fsync"), (os, "link"), (os, "rename"), (os, "mkdir"), (os, "ftruncate"),
           (Path, "write_bytes"), (Path, "write_text"), (pyarrow.parquet, "write_table")]


def fail_from(first):
    calls = 0

    def failing(real):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls >= first:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)
        return call

    for owner, name in FAILING:
        setattr(owner, name, failing(getattr(owner, name)))


def child(request):
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    err = os.open(request["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(err, 2)
    os.environ.update(request["environment"])
    if request["file_size"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
    if request["fails_from"]:
        fail_from(request["fails_from"])
    if request["humble"]:  # root passes over permissions by a capability: give all of them up
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(header, none) == 0
    sys.argv = ["tip", *request["arguments"]]
    try:
        tip.cli.main()
    finally:
        if request["tells"]:
            Path(request["tells"]).write_text(" ".join(sorted(sys.modules)))


def learn(path):
    for name in Path(path).read_text().split():
        if name.startswith(("tip.", "transformers.", "torch.", "polars.", "rich.")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        try:
            child(request)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if request["tells"]:
        learn(request["tells"])
    print(code, flush=True)
"""


class Nursery:
    """Runs commands of `tip` in children that have what they need already imported."""

    def __init__(self, folder: Path) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def tip(
        self,
        *arguments: str,
        file_size: int = 0,
        fails_from: int = 0,
        humble: bool = False,
        tells: str = "",
        **environment: str,
    ) -> Ended:
        """Run a command line.

        file_size: bytes of a file at most. fails_from: the first write that fails. humble: obey
        permissions. tells: a file for what it has imported, which later children find there.
        """
        request = {
            "arguments": arguments,
            "environment": environment,
            "file_size": file_size,
            "fails_from": fails_from,
            "humble": humble,
            "tells": tells,
            "out": str(self._out),
            "err": str(self._err),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        ready, _, _ = select.select([self._process.stdout], [], [], HANG_SECONDS)
        assert ready, f"{arguments} hangs"
        code = int(self._process.stdout.readline())
        return Ended(code, self._out.read_text(), self._err.read_text())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Yield a folder with a path that is the same in all tests: results are compared whole."""
    with tempfile.TemporaryDirectory(prefix="tip-limits-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def nursery(folder: Path) -> Iterator[Nursery]:
    nursery = Nursery(folder)
    yield nursery
    nursery.close()


class Place:
    """A config whose store, runs, cache and temporary files can each be given their own disk."""

    def __init__(self, folder: Path, source: Path, evaluate: dict[str, object]) -> None:
        self.folder = folder
        self.store, self.runs = folder / "disk" / "store", folder / "runs" / "runs"
        self.temporary, self.cache = folder / "tmp", folder / "cache"
        self.config = folder / "run.toml"
        settings = maker(folder, source)(
            rounds=ROUNDS,
            store=str(self.store),
            runs=str(self.runs),
            rollout={"prompts": 8, "max_tokens": 16},
            train={"rollouts_per_step": 4, "snapshot_seconds": 0},
            evaluate={**evaluate, "max_tokens": 16, "limit": 8},
        )
        self.config.write_text(as_toml(settings.model_dump(mode="json", by_alias=True)))

    def clear(self) -> None:
        for path in (self.store.parent, self.runs.parent, self.temporary, self.cache):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        return {"TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(self.cache)}

    def command(self, arguments: tuple[str, ...]) -> list[str]:
        return [a.format(store=self.store, runs=self.runs) for a in arguments]

    def leftovers(self) -> list[str]:
        """Return what nobody needs and nobody has removed."""
        unfinished = [*self.store.glob(".drafts/*"), *self.store.glob(".probes/*")]
        unfinished += [*self.runs.rglob("*.part"), *self.runs.glob("*/work/*")]
        unfinished += [*self.temporary.glob("tip-*/*"), *self.store.glob("*/*/*/claim-*")]
        return [str(path) for path in unfinished]


@pytest.fixture(scope="module")
def kept(
    folder: Path,
    nursery: Nursery,
    problems: Path,  # noqa: F811
    asked: dict[str, object],  # noqa: F811
) -> tuple[Place, dict[str, Any]]:
    place = Place(folder, problems, asked)
    place.clear()
    ended = run(nursery, place, tells=str(folder / "modules"))
    assert ended.code == 0, ended
    assert place.leftovers() == []
    return place, finished(place.store, place.runs, "run", ROUNDS)


@pytest.fixture
def place(kept: tuple[Place, dict[str, Any]]) -> Place:
    kept[0].clear()
    return kept[0]


@pytest.fixture
def whole(kept: tuple[Place, dict[str, Any]]) -> dict[str, Any]:
    return kept[1]


@contextmanager
def disk(path: Path, options: str, *, bind: bool = False) -> Iterator[None]:
    """Mount a disk of its own, in memory; or, `bind`, the folder itself with other options."""
    source = ["--bind", str(path)] if bind else ["-t", "tmpfs", "-o", options, "tip"]
    mounted = subprocess.run(["mount", *source, str(path)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this user cannot mount: {mounted.stderr.strip()}")
    try:
        if bind:
            remount(path, options)
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


def check_stopped(nursery: Nursery, place: Place, ended: Ended) -> None:
    """Check that a run ended in one line, and that what it had committed is whole."""
    assert "error: " in ended.err or ended.code == 0, ended
    if ended.code:
        refusal(ended)
    if place.store.is_dir():
        found = nursery.tip(*place.command(VERIFY), **place.environment)
        assert found.code == 0, found


def check_continued(nursery: Nursery, place: Place, whole: dict[str, Any]) -> None:
    """Check that the same command now ends as if nothing had been."""
    ended = nursery.tip("run", str(place.config), **place.environment)
    assert ended.code == 0, ended
    assert differences(finished(place.store, place.runs, "run", ROUNDS), whole) == []
    assert place.leftovers() == []


def run(nursery: Nursery, place: Place, **limits: Any) -> Ended:
    return nursery.tip("run", str(place.config), **place.environment, **limits)


KB = 1024
STORE_SIZES = [n * 40 * KB for n in range(1, 31)]  # the last is enough
RUNS_SIZES = [n * 160 * KB for n in range(1, 31)]  # two states and a snapshot, 1.2 MB each


def fill_disk(
    nursery: Nursery, place: Place, whole: dict[str, Any], full: Path, size: int
) -> Ended:
    with disk(full, f"size={size}"):
        ended = run(nursery, place)
        check_stopped(nursery, place, ended)
        remount(full, "size=64m")
        check_continued(nursery, place, whole)
    return ended


@pytest.mark.parametrize("size", [120 * KB, 480 * KB])
def test_a_full_disk_of_the_store_is_one_line(
    nursery: Nursery, place: Place, whole: dict[str, Any], size: int
) -> None:
    assert fill_disk(nursery, place, whole, place.store.parent, size).code == 2


@pytest.mark.soak
def test_a_disk_of_the_store_may_be_full_anywhere(
    nursery: Nursery, place: Place, whole: dict[str, Any]
) -> None:
    codes = []
    for size in STORE_SIZES:
        place.clear()
        codes.append(fill_disk(nursery, place, whole, place.store.parent, size).code)
    assert codes[0] == 2
    assert codes[-1] == 0


@pytest.mark.soak
def test_a_disk_of_the_runs_may_be_full_anywhere(
    nursery: Nursery, place: Place, whole: dict[str, Any]
) -> None:
    codes, notes = [], 0
    for size in RUNS_SIZES:
        place.clear()
        ended = fill_disk(nursery, place, whole, place.runs.parent, size)
        codes.append(ended.code)
        notes += "note: no snapshot" in ended.all
    assert codes[0] == 2
    assert codes[-1] == 0
    assert notes  # a snapshot that finds no room stops nothing


def fail_writes(nursery: Nursery, place: Place, whole: dict[str, Any], first: int) -> int:
    ended = run(nursery, place, fails_from=first)
    check_stopped(nursery, place, ended)
    check_continued(nursery, place, whole)
    return ended.code


@pytest.mark.parametrize("first", [40])
def test_a_write_that_fails_as_on_a_full_disk_is_one_line(
    nursery: Nursery, place: Place, whole: dict[str, Any], first: int
) -> None:
    assert fail_writes(nursery, place, whole, first) == 2


@pytest.mark.soak
def test_any_write_may_fail(nursery: Nursery, place: Place, whole: dict[str, Any]) -> None:
    first, code = 1, 2
    while code:
        place.clear()
        code = fail_writes(nursery, place, whole, first)
        first += 1 + first // 12
    assert first > 30


@pytest.mark.soak
@pytest.mark.parametrize("size", [kb * KB for kb in (1, 2, 4, 8, 16, 50, 150)])
def test_a_file_size_limit_is_one_line(
    nursery: Nursery, place: Place, whole: dict[str, Any], size: int
) -> None:
    ended = run(nursery, place, file_size=size)
    assert ended.code == 2
    check_stopped(nursery, place, ended)
    check_continued(nursery, place, whole)


@pytest.mark.soak
@pytest.mark.parametrize("which", ["store", "runs", "round", "kind"])
def test_a_folder_without_permission_is_one_line(
    nursery: Nursery, place: Place, whole: dict[str, Any], which: str
) -> None:
    place.store.mkdir()
    (place.runs / "run" / "rounds").mkdir(parents=True)
    (place.store / "rollouts").mkdir()
    closed = {
        "store": place.store,
        "runs": place.runs / "run",
        "round": place.runs / "run" / "rounds",
        "kind": place.store / "rollouts",
    }[which]
    closed.chmod(0o555)
    ended = run(nursery, place, humble=True)
    closed.chmod(0o755)
    assert ended.code == 2
    assert str(closed) in refusal(ended)
    check_stopped(nursery, place, ended)
    check_continued(nursery, place, whole)


@pytest.mark.soak
def test_a_store_that_cannot_be_written_can_be_looked_at(
    nursery: Nursery, place: Place, whole: dict[str, Any]
) -> None:
    assert run(nursery, place).code == 0
    looks = [place.command(arguments) for arguments in (*LOOKS.values(), VERIFY)]
    looks.append(["run", str(place.config), "--dry-run"])
    longer = ["run", str(place.config), "--set", f"rounds={ROUNDS + 1}"]
    with (
        disk(place.store.parent, "ro,bind", bind=True),
        disk(place.runs.parent, "ro,bind", bind=True),
    ):
        for arguments in looks:
            ended = nursery.tip(*arguments, **place.environment)
            assert ended.code == 0, ended
        for arguments in (longer, longer[:2]):
            line = refusal(nursery.tip(*arguments, **place.environment))
            assert str(place.store) in line or str(place.runs) in line
    check_continued(nursery, place, whole)


@pytest.mark.soak
@pytest.mark.parametrize("inodes", [1, 2, 3, 4, 6])
def test_no_room_for_temporary_files_is_one_line(
    nursery: Nursery, place: Place, whole: dict[str, Any], inodes: int
) -> None:
    with disk(place.temporary, f"size=4k,nr_inodes={inodes}"):
        ended = run(nursery, place)
        check_stopped(nursery, place, ended)
        if ended.code:
            assert str(place.temporary) in refusal(ended)
    check_continued(nursery, place, whole)


@pytest.mark.soak
def test_no_room_for_what_is_remembered_costs_nothing(
    nursery: Nursery, place: Place, whole: dict[str, Any]
) -> None:
    with disk(place.cache, "size=4k,nr_inodes=2"):
        assert run(nursery, place).code == 0
    assert differences(finished(place.store, place.runs, "run", ROUNDS), whole) == []
    assert place.leftovers() == []
