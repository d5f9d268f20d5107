"""A verdict from a process of its own: a class that crashes, hangs or grows takes none along."""

import contextlib
import os
import tempfile
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from verdicts import Verdict, judge

SECONDS = 300.0  # a class takes five; this is for one that never ends

# A fork of a server that has imported what is slow to import.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["transformers.models.auto.modeling_auto", "tip.pipeline.rounds.play", "tip.stages.holder"]
)


def judge_apart(kind: str, seconds: float = SECONDS) -> Verdict:
    """Return the verdict on a kind; a fault where its process ends or takes too long."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder, ours:
        process = _CONTEXT.Process(target=_judge, args=(kind, folder, theirs))
        process.start()
        theirs.close()
        try:
            if ours.poll(seconds):
                with contextlib.suppress(EOFError):
                    return ours.recv()
                process.join()
                return Verdict(kind, "fault", f"its process ended with {process.exitcode}")
            return Verdict(kind, "fault", f"no verdict in {seconds:g} s")
        finally:
            process.kill()
            process.join()


def _judge(kind: str, folder: str, verdict: Connection) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": f"{folder}/cache"}
    silence = os.open(os.devnull, os.O_WRONLY)  # bars and warnings of a hundred classes
    for stream in (1, 2):
        os.dup2(silence, stream)
    models = Path(folder, "models")
    models.mkdir()
    verdict.send(judge(kind, models))
