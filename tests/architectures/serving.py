"""Verdicts on kinds in vLLM from one process that imports it once, and forks for each of them.

python serving.py FILE_DESCRIPTOR
"""

import contextlib
import sys
import tempfile
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from forked import ForkedChild
from in_vllm import InVllm, judge, refused
from tip.stages.engines.vllm import engine

SECONDS = 300.0  # a kind takes five; this is for one that never ends


def serve(pipe: Connection) -> None:
    """Answer kinds with verdicts until the pipe closes."""
    from vllm.model_executor.models import registry

    # it looks at a class of models in a process of its own; a fork is one
    registry._run_in_subprocess = lambda look: look()
    engine.Child = ForkedChild
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(_judge_apart(pipe.recv()))


def _judge_apart(kind: str) -> InVllm:
    """Return the verdict from a fork; one that ends or takes too long has failed."""
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder, ours:
        process = context.Process(target=_judge, args=(kind, Path(folder, "model"), theirs))
        process.start()
        theirs.close()
        try:
            if not ours.poll(SECONDS):
                return InVllm(kind, "fails", reason=f"no verdict in {SECONDS:g} s")
            with contextlib.suppress(EOFError):
                return ours.recv()
            process.join()
            return InVllm(kind, "fails", reason=f"its process ended with {process.exitcode}")
        finally:
            process.kill()
            process.join()


def _judge(kind: str, folder: Path, verdict: Connection) -> None:
    torch.set_num_threads(1)
    try:
        found = judge(kind, folder)
    except Exception as error:
        found = refused(kind, f"{type(error).__name__}: {error}")
    verdict.send(found)


if __name__ == "__main__":
    import_module("transformers.models.auto.modeling_auto")
    import_module("vllm.v1.worker.cpu_worker")
    serve(Connection(int(sys.argv[1])))
