"""How a case ends: alone in a forked process, watched by its time, its memory and what it says.

Run as a program this is the process that is forked: it has imported what is heavy and started no
thread, so that a fork of it is whole.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 90.0  # a hang is endless; a template has 20 s, and other work may share the machine
_BYTES = 6 << 30  # addresses beyond those of the forked process: keeps the machine itself usable
MOST_KB = 3 << 20
_NOTES = ("note:", "round", "warning:")


@dataclass(frozen=True)
class Ending:
    """What a case came to: code of the exit, None for one that was killed."""

    code: int | None
    error: str
    kilobytes: int
    seconds: float

    @property
    def lines(self) -> list[str]:
        """Return what was said on standard error, but for notes."""
        return [x for x in self.error.splitlines() if x.strip() and not x.startswith(_NOTES)]

    def check(self) -> None:
        """Show that it is success, or one line: no traceback, no hang, no memory without end."""
        assert self.code in (0, 2), self
        assert "Traceback" not in self.error, self
        assert self.kilobytes < MOST_KB, self
        if self.code == 2:
            assert len(self.lines) == 1, self
            assert self.lines[0].startswith("error: "), self


class Forks:
    """The process that is forked, and what it is asked."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "200"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, call: str, folder: Path, *arguments: str) -> Ending:
        """Return how one of `CALLS` ends in a folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([call, str(folder), arguments]) + "\n")
        self._process.stdin.flush()
        return Ending(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(SECONDS)


@contextmanager
def forks(folder: Path) -> Iterator[Forks]:
    """Give a process to be forked, which lives as long as the block."""
    process = Forks(folder)
    try:
        yield process
    finally:
        process.close()


def _command(*arguments: str) -> None:
    from tip.cli import main

    sys.argv = ["tip", *arguments]
    main()


def _model(template: str, load: str) -> None:
    """Do with the model in this folder what a run does: its card, a prompt, its sizes, weights."""
    import torch
    from tip.stages.models.card import look_at_card, read_card
    from tip.stages.models.load import load_model, load_on_meta
    from tip.stages.models.settings import ModelSettings
    from tip.stages.models.size import shape_of
    from tip.stages.models.vocabulary import check_compatible
    from tip.stages.prompts.render import Room, render_prompts
    from tip.stages.prompts.settings import TextSettings
    from tip.storage.sources.rows import Row

    settings = ModelSettings(model=".")
    card = read_card(settings)
    look_at_card(settings)
    check_compatible(card, card)
    text = TextSettings.model_validate({"source": "x.jsonl", "template": template})
    row = Row(1, {"prompt": "Q 90-56-23 A"}, "x.jsonl")
    render_prompts([row], text, card.tokenizer, longest=Room(100, "lower"))
    shape_of(card)
    load_on_meta(card)
    if load:
        torch.set_num_threads(1)
        load_model(card, torch.device("cpu"), torch.float32)


def _rows(source: str) -> None:
    from tip.storage.sources.rows import read_rows

    read_rows(source, needed=("prompt", "answer"))


def one_line(call: Callable[[], Any]) -> int:
    """Return the exit code of a call, an error said as the command line says it."""
    from tip.storage.errors import TipError
    from tip.storage.visible import visible

    try:
        call()
    except TipError as error:
        print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    return 0


CALLS: dict[str, Callable[..., None]] = {"tip": _command, "model": _model, "rows": _rows}


def _child(call: str, folder: str, arguments: list[str], error: Path) -> None:
    code = 1
    try:
        said = os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(said, 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        os.chdir(folder)
        code = one_line(lambda: CALLS[call](*arguments))
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(child: int, error: Path) -> dict[str, Any]:
    began = time.monotonic()
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        seconds = time.monotonic() - began
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        if seconds > SECONDS:
            os.kill(child, signal.SIGKILL)
            used, code = os.wait4(child, 0)[2], None
            break
        time.sleep(0.002)
    text = error.read_text(errors="replace") if error.exists() else ""
    return {"code": code, "error": text[:4000], "kilobytes": used.ru_maxrss, "seconds": seconds}


def serve(folder: Path) -> None:
    """Fork for each line of standard input, and say in a line how it ended."""
    import tip.pipeline.plan.plan
    import tip.pipeline.rounds.play
    import tip.pipeline.session
    import tip.pipeline.show.listing
    import tip.pipeline.show.plan
    import tip.pipeline.show.status
    import tip.pipeline.show.verify
    import tip.stages.models.load  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    error = folder / "error.txt"
    for line in sys.stdin:
        call, where, arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(call, where, arguments, error)
        print(json.dumps(_ended(child, error)), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
