"""Damages of files, a scene with files of every kind to do them to, and what must come of each."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from tip import cli
from tip.pipeline.rounds.branching import branch
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.storage.errors import StoreError
from tip.storage.facts import ProbeFacts
from tip.storage.processes import this_process
from tip.storage.runs import RoundPointers, RunFolder
from tip.storage.store.store import Store

from ..pipeline.conftest import maker
from ..pipeline.killing import Killed, KillingReporter

HANG_SECONDS = 180
BLOCK = 512

# What may come of a damage. Anything else is a fault: other numbers, a traceback, a hang.
NAMED = "named"  # refused in one line that names what is damaged
AGAIN = "again"  # what was damaged is made again, equal to the last bit
SAME = "same"  # nothing that is asked for depends on it

# --- damages ------------------------------------------------------------------------------------


@contextlib.contextmanager
def kept_times(path: Path) -> Iterator[None]:
    """Change a file behind everybody's back: permissions and times are as they were."""
    about = path.stat()
    path.chmod(0o644)
    yield
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    path.chmod(about.st_mode & 0o777)


def bit(path: Path, other: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def block(path: Path, other: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    starts = [at for at in range(0, len(data), BLOCK) if any(data[at : at + BLOCK])]
    at = random.choice(starts)
    data[at : at + BLOCK] = bytes(len(data[at : at + BLOCK]))
    path.write_bytes(data)


def cut(path: Path, other: Path, random: Random) -> None:
    os.truncate(path, random.randrange(1, path.stat().st_size))


def swapped(path: Path, other: Path, random: Random) -> None:
    path.write_bytes(other.read_bytes())


def number(path: Path, other: Path, random: Random) -> None:
    """Change one number and nothing else: every reader of the format finds a whole file."""
    writers = {".parquet": _number_of_table, ".safetensors": _number_of_tensors}
    writers.get(path.suffix, _number_of_text)(path, random)


def gone(path: Path, other: Path, random: Random) -> None:
    path.unlink()


def empty(path: Path, other: Path, random: Random) -> None:
    path.write_bytes(b"")


def _number_of_table(path: Path, random: Random) -> None:
    table = pq.read_table(path)
    names = [f.name for f in table.schema if pa.types.is_integer(f.type)]
    name = random.choice(names)
    values = table[name].to_pylist()
    row = random.choice([n for n, value in enumerate(values) if value is not None])
    values[row] ^= 1
    at = table.schema.get_field_index(name)
    field = table.schema.field(at)
    pq.write_table(table.set_column(at, field, pa.array(values, field.type)), path)


def _number_of_tensors(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    numbers = np.frombuffer(data, np.uint8, offset=begin)
    at = begin + random.randrange(len(numbers))
    data[at] ^= 1
    path.write_bytes(data)
    with safe_open(path, framework="pt") as file:
        assert list(file.keys())


def _number_of_text(path: Path, random: Random) -> None:
    text = path.read_text()
    digits = [m.start() for m in re.finditer(r"(?<=[\s:,\[])\d", text)]
    digits = digits or [m.start() for m in re.finditer(r"\d", text)]
    if not digits:  # no number at all
        digits = [m.start() for m in re.finditer(r"[a-z]", text)]
    at = random.choice(digits)
    text = f"{text[:at]}{int(text[at], 36) % 9 + 1}{text[at + 1 :]}"
    path.write_text(text)


DAMAGES: dict[str, Callable[[Path, Path, Random], None]] = {
    "bit": bit,
    "block": block,
    "cut": cut,
    "swapped": swapped,
    "number": number,
    "gone": gone,
    "empty": empty,
}


# --- the scene ----------------------------------------------------------------------------------


class Hang(BaseException):
    """A command took longer than any of them may."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return self.out + self.err


def tip(*arguments: str) -> Ended:
    """Run a command line in this process, as the installed program runs it."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGALRM)}

    def hang(_: int, __: FrameType | None) -> None:
        raise Hang(" ".join(arguments))

    signal.signal(signal.SIGALRM, hang)
    before, sys.argv = sys.argv, ["tip", *arguments]
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        err.write(traceback.format_exc())
        code = 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.argv = before
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
    return Ended(code, out.getvalue(), err.getvalue())


def refusal(ended: Ended) -> str:
    """Return the one line in which a command was refused, or fail."""
    assert ended.code == 2, ended
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.all
    assert "Traceback" not in ended.all, ended.all
    assert "SafetensorError" not in ended.all, ended.all
    return lines[0]


def as_toml(values: dict[str, Any], prefix: str = "") -> str:
    """Return a config as TOML, which cannot say null."""
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines.append(as_toml(value, f"{prefix}{name}."))
        elif value is not None:
            lines.append(f"{prefix}{name} = {json.dumps(value)}")
    return "\n".join(lines)


LOOKS = {
    "status": ("status", "run", "--runs", "{runs}"),
    "runs": ("status", "--runs", "{runs}"),
    "ls": ("cache", "ls", "--store", "{store}"),
    "du": ("cache", "du", "--store", "{store}"),
    "sql": (
        "sql",
        "SELECT round, count(*), sum(reverse_kl), sum(length) FROM tokens JOIN rollouts "
        "USING (round, rollout) GROUP BY 1 ORDER BY 1",
        "--run",
        "run",
        "--runs",
        "{runs}",
    ),
}
REFERENCES = {"one model": -1.5, "another": -2.5}
USES = {
    "run": ("run", "{config}"),
    "late": ("run", "{config}", "--name", "late", "--set", "seed=5"),
}
VERIFY = ("cache", "verify", "--store", "{store}", "--runs", "{runs}")

# Of a stage's line of metrics: what starting again changes, and what a clock says.
_COSTS = (
    *("seconds", "spent", "fresh", "generated", "reused", "scored"),
    *("teacher_tokens_own", "peak"),
)


def finished(store: Path, runs: Path, name: str, rounds: int) -> dict[str, Any]:
    """Return all that a finished run and its store come to, without what they cost."""
    damaged: list[str] = []
    found = Store(store, write=False).list(damaged=damaged)
    run = RunFolder(runs, name)
    lines = {
        f"{line['round']} {line['stage']}": {
            name: value for name, value in line.items() if not any(c in name for c in _COSTS)
        }
        for line in run.metrics()
    }
    last = run.round(rounds - 1)
    state = None if last is None else run.find_state(str(last.checkpoint))
    assert state is not None, "the run is not finished"
    with safe_open(state / "state.safetensors", framework="pt") as file:
        seal = file.metadata()["seal"]  # the order of these texts in the file is by chance
    return {
        "artifacts": {f"{a.kind} {a.key}": a.content for a in found},
        "metrics": lines,
        "rounds": [(n, p.model_dump()) for n, p in run.rounds()],
        "state": seal,
        "damaged": damaged,
    }


class Scene:
    """A run that was killed in the training of its third round, and what its continuation gives.

    Its folder is put back as it was before each damage, so all paths stay the same.
    """

    def __init__(self, folder: Path, problems: Path, asked: dict[str, object]) -> None:
        self._kept, self.folder = folder / "kept", folder / "scene"
        self._memos = self.folder / "cache"
        self.config = folder / "run.toml"
        make = maker(self.folder, problems)
        settings = make(
            rounds=3,
            rollout={"prompts": 16, "max_tokens": 24},
            # an ended run would keep its last state alone, and nobody see one that was made again
            train={
                "rollouts_per_step": 4,
                "snapshot_seconds": 0,
                "horizon": 20,
                "keep_states": 2,
            },
            evaluate={**asked, "max_tokens": 24, "limit": 16},
        )
        self.config.write_text(as_toml(settings.model_dump(mode="json", by_alias=True)))
        with self.memos():
            with contextlib.suppress(Killed):
                play(open_session(settings, KillingReporter("round 2 train", 2)))
            self._use_reference()
            late = settings.model_copy(update={"name": "late", "seed": 5})
            branch(open_session(late), "run@2")
            self._leave()
        self.folder.rename(self._kept)
        self.restore()
        self.before = {name: self.look(name) for name in LOOKS}
        assert all(ended.code == 0 for ended in self.before.values()), self.before
        self.whole = {}
        for use in (*USES, "reference"):
            ended = self.use(use)
            assert ended.code == 0, ended
            self.whole[use] = self.final(use)
            self.restore()

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def run_folder(self) -> Path:
        return self.runs / "run"

    def _leave(self) -> None:
        """Leave what a killed process does: a claim of its own, and a draft."""
        self.claim.parent.mkdir(parents=True, exist_ok=True)
        process = this_process() | {"born": 1}
        self.claim.write_text(json.dumps({"process": process, "token": "0" * 32, "beats": 7}))
        draft = self.store / ".drafts" / ("d" * 32)
        draft.mkdir()
        draft.with_suffix(".lock").touch()
        shutil.copyfile(self.part("tokens", 0), draft / "draft.parquet")

    def bring_back(self, path: Path) -> None:
        """Put one file back as it was."""
        shutil.copy2(self._kept / path.relative_to(self.folder), path)

    def restore(self) -> None:
        """Put everything back as it was before the first damage."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self._kept, self.folder)

    @contextlib.contextmanager
    def memos(self) -> Iterator[None]:
        """Keep what is remembered of weights in this scene, and forget what this process knows."""
        from tip.stages.models import fingerprint

        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = str(self._memos)
        fingerprint._hashed.clear()
        try:
            yield
        finally:
            fingerprint._hashed.clear()
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before

    def tip(self, *arguments: str) -> Ended:
        """Run a command on this scene."""
        places = {"store": self.store, "runs": self.runs}
        with self.memos():
            return tip(*(argument.format(**places) for argument in arguments))

    def use(self, use: str) -> Ended:
        """Run the command that needs what was damaged."""
        if use == "reference":
            return self._use_reference()
        return self.tip(*(a.format(config=self.config) for a in USES[use]))

    def look(self, name: str) -> Ended:
        """Look at what the run has done."""
        return self.tip(*LOOKS[name])

    def _use_reference(self) -> Ended:
        """Ask for an engine's reference, as a run with vLLM does."""
        try:
            for name, value in REFERENCES.items():
                facts = ProbeFacts(logprobs=[value]).dump()
                Store(self.store).ensure("reference", {"of": name}, lambda _, facts=facts: facts)
        except StoreError as error:
            return Ended(2, "", f"error: {error}\n")
        return Ended(0, "", "")

    def final(self, use: str) -> dict[str, Any]:
        """Return all that a finished run comes to, without what it cost."""
        if use == "reference":
            return {a.key: a.facts for a in Store(self.store, write=False).list("reference")}
        return finished(self.store, self.runs, use, rounds=3)

    # --- where things lie

    def manifest(self, kind: str, round: int) -> Path:
        """Return the manifest of a round's artifact; of an evaluation, the n-th by name."""
        if kind in ("evaluation", "reference"):
            return sorted(self.store.glob(f"{kind}/*/*/manifest.json"))[round]
        pointers = RoundPointers.read(self.run_folder / "rounds" / f"{round:04d}.json")
        assert pointers is not None
        (key,) = pointers.of(kind)
        return self.store / kind / key[:2] / key / "manifest.json"

    def part(self, kind: str, round: int, name: str | None = None) -> Path:
        """Return a part of a round's artifact."""
        (path,) = self.manifest(kind, round).parent.glob(f"*/{name or f'{kind}.parquet'}")
        return path

    def state(self, round: int) -> Path:
        """Return the training state after a round."""
        key = self.manifest("checkpoint", round).parent.name
        return self.run_folder / "states" / key / "state.safetensors"

    @property
    def snapshot(self) -> Path:
        """Return what the kill left of the third round's training."""
        (path,) = self.run_folder.glob("work/*/state.safetensors")
        return path

    @property
    def claim(self) -> Path:
        """Return a claim on the checkpoint that was being made."""
        key = self.snapshot.parent.name
        return self.store / "checkpoint" / key[:2] / key / "claim-1"

    @property
    def memo(self) -> list[Path]:
        """Return what is remembered of the models' weights."""
        return sorted((self._memos / "tip" / "fingerprints").iterdir())


# --- kinds of files, and what must come of each damage ------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of file. what: as the table of docs/RELIABILITY.md calls it."""

    what: str
    find: Callable[[Scene], Path]
    other: Callable[[Scene], Path] | None
    """Another file of its kind, which may lie in its place; None where there is none."""
    outcomes: dict[str, str]
    """What comes of each damage when the run goes on; `or`: it depends on where it hits."""
    without: Callable[[Scene], Path] | None = None
    """What else is gone, so that this is needed."""
    use: str = "run"
    verified: bool = True
    """Whether `tip cache verify` finds what is there and is not what was written."""
    verified_swap: bool = True
    """Whether it also finds another file in its place."""
    heirs: tuple[tuple[str, int], ...] = ()
    """Kinds and rounds of artifacts that were made from it."""


def _each(word: str, **others: str) -> dict[str, str]:
    return dict.fromkeys(DAMAGES, word) | others


def _manifest(kind: str, round: int, other: int, **more: Any) -> Kind:
    return Kind(
        f"{kind}: `manifest.json`",
        lambda scene: scene.manifest(kind, round),
        lambda scene: scene.manifest(kind, other),
        _each(NAMED, gone=AGAIN),
        **more,
    )


def _part(
    kind: str, round: int, other: int, name: str | None = None, swap: str | None = None, **more: Any
) -> Kind:
    return Kind(
        f"{kind}: `{name or f'{kind}.parquet'}`",
        lambda scene: scene.part(kind, round, name),
        lambda scene: scene.part(kind, other, swap or name),
        _each(NAMED),
        **more,
    )


_AFTER_CHECKPOINT = (("rollouts", 2), ("teacher", 2), ("tokens", 2), ("selection", 2))
KINDS = [
    *(_manifest(kind, 2, 1) for kind in ("rollouts", "teacher", "tokens", "selection")),
    _manifest("checkpoint", 1, 0),
    _manifest("evaluation", 1, 0),
    _manifest("reference", 1, 0, use="reference"),
    _part("rollouts", 2, 1, heirs=(("teacher", 2), ("tokens", 2), ("selection", 2))),
    _part("teacher", 2, 1),
    _part("tokens", 2, 1, without=lambda scene: scene.manifest("selection", 2)),
    _part("selection", 2, 1),
    _part("checkpoint", 1, 0, "model.safetensors", heirs=_AFTER_CHECKPOINT),
    # Checkpoints agree in these files: one of them in another's place is the damage.
    *(
        _part("checkpoint", 1, 1, name, swap, heirs=_AFTER_CHECKPOINT)
        for name, swap in (
            ("config.json", "generation_config.json"),
            ("generation_config.json", "config.json"),
            ("tokenizer.json", "tokenizer_config.json"),
            ("tokenizer_config.json", "config.json"),
        )
    ),
    _part("evaluation", 1, 0),
    Kind(
        "claim of a process that has ended",
        lambda scene: scene.claim,
        lambda scene: scene.snapshot,
        _each(SAME),
        verified=False,
    ),
    Kind(
        "draft of a process that has ended",
        lambda scene: next((scene.store / ".drafts").glob("*/draft.parquet")),
        lambda scene: scene.part("tokens", 1),
        _each(SAME),
        verified=False,
    ),
    Kind(
        "run: training state",
        lambda scene: scene.state(1),
        lambda scene: scene.state(0),
        _each(NAMED, gone=AGAIN),
        without=lambda scene: scene.snapshot.parent,
    ),
    Kind(
        "run: snapshot",
        lambda scene: scene.snapshot,
        lambda scene: scene.state(1),
        _each(SAME),
    ),
    Kind(
        "run: `config.json`",
        lambda scene: scene.run_folder / "config.json",
        lambda scene: scene.runs / "late" / "config.json",
        _each(NAMED),
        verified_swap=False,
    ),
    Kind(
        "branch: `config.json`",
        lambda scene: scene.runs / "late" / "config.json",
        lambda scene: scene.run_folder / "config.json",
        _each(NAMED),
        use="late",
        verified_swap=False,
    ),
    Kind(
        "run: `rounds/0001.json`",
        lambda scene: scene.run_folder / "rounds" / "0001.json",
        lambda scene: scene.run_folder / "rounds" / "0000.json",
        _each(NAMED, gone=AGAIN),
    ),
    Kind(
        "run: `metrics.jsonl`",
        lambda scene: scene.run_folder / "metrics.jsonl",
        None,
        # a line that only lacks its end is one that a kill has cut: it is told again
        _each(NAMED, bit=f"{NAMED} or {AGAIN}", block=f"{NAMED} or {AGAIN}")
        | dict.fromkeys(("cut", "gone", "empty"), AGAIN),
    ),
    Kind(
        "run: `lock`",
        lambda scene: scene.run_folder / "lock",
        None,
        _each(AGAIN),
        verified=False,
    ),
    Kind(
        "remembered digest of a model's weights",
        lambda scene: scene.memo[0],
        lambda scene: scene.memo[1],
        _each(AGAIN),
        verified=False,
    ),
]
CELLS = [
    (kind, damage)
    for kind in KINDS
    for damage in DAMAGES
    if damage != "swapped" or kind.other is not None
]


def set_up(scene: Scene, kind: Kind) -> None:
    """Put a scene back as it was, but for what would keep a file of a kind from being needed."""
    scene.restore()
    if kind.without is not None:
        needless = kind.without(scene)
        if needless.is_dir():
            shutil.rmtree(needless)
        else:
            needless.unlink()


def spoil(scene: Scene, kind: Kind, damage: str, draw: int) -> Path:
    """Put a scene back as it was, damage a file of a kind, and return where it lies."""
    set_up(scene, kind)
    path, before = kind.find(scene), kind.find(scene).read_bytes()
    random = Random(f"{kind.what} {damage} {draw}")
    with kept_times(path) if damage != "gone" else contextlib.nullcontext():
        DAMAGES[damage](path, path if kind.other is None else kind.other(scene), random)
    assert not path.exists() or path.read_bytes() != before, "nothing was damaged"
    return path


def names(line: str, scene: Scene, path: Path) -> bool:
    """Tell whether a line names a file, or the artifact or the run that it belongs to."""
    within = [path, *path.parents][: len(path.relative_to(scene.folder).parts) - 2]
    run = f"run {path.parent.name} in {scene.runs}" if path.parent.parent == scene.runs else None
    return any(str(place) in line for place in within) or (run is not None and run in line)


def differences(now: Any, whole: Any, at: str = "") -> list[str]:
    """Say where two finished runs differ: nothing for two that came to the same."""
    if isinstance(now, dict) and isinstance(whole, dict):
        keys = sorted(now.keys() | whole.keys())
        return [d for k in keys for d in differences(now.get(k), whole.get(k), f"{at}/{k}")]
    return [] if now == whole else [f"{at}: {now}, not {whole}"]


def outcome(scene: Scene, kind: Kind, path: Path) -> str:
    """Use what was damaged, and return what came of it; fail for what may not come of it."""
    before = path.read_bytes() if path.exists() else None
    ended = scene.use(kind.use)
    if ended.code:
        line = refusal(ended)
        assert names(line, scene, path), line
        return NAMED
    wrong = differences(scene.final(kind.use), scene.whole[kind.use])
    assert not wrong, wrong
    after = path.read_bytes() if path.exists() else None
    return SAME if after in (None, before) else AGAIN


def mend(scene: Scene, path: Path, told: str) -> None:
    """Do what a refusal says is the way out."""
    inside = path.relative_to(scene.folder).parts
    if inside[0] == "store":
        shutil.rmtree(scene.store.joinpath(*inside[1:4]))
    elif path.name == "state.safetensors":
        shutil.rmtree(path.parent)
    elif path.parent.name == "rounds":
        path.unlink()
    elif path.name == "metrics.jsonl":
        line = re.search(r"line (\d+)", told)
        assert line is not None, told
        lines = path.read_bytes().split(b"\n")
        del lines[int(line[1]) - 1]
        path.write_bytes(b"\n".join(lines))
    else:
        scene.bring_back(path)


WORDS = {NAMED: "named", AGAIN: "made again", SAME: "no matter"}


def table() -> str:
    """Return the table of docs/RELIABILITY.md."""
    rows = [["file", *DAMAGES], ["---"] * (len(DAMAGES) + 1)]
    for kind in KINDS:
        cells = ["" if (kind, damage) not in CELLS else kind.outcomes[damage] for damage in DAMAGES]
        rows.append([kind.what, *(re.sub(r"\w+", _word, cell) for cell in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _word(match: re.Match[str]) -> str:
    return WORDS.get(match[0], match[0])
