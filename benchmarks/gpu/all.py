"""All that a GPU is measured by, in parts of at most four minutes, each in a process of its own.

    python benchmarks/gpu/all.py [PART ...] [--small] [--json FILE]

needs a GPU and what the interpreter has: torch, transformers, pyarrow, scipy, rich; tip itself need
not be installed, and there is no network in it. A part that needs a package that is not here is
left out and says so. A part that fails gives a row with the reason, and the others go on; the exit
code is 1 then. `--small` runs the same code on a CPU: figures say nothing of a GPU then.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = (
    "ceilings",
    "body",
    "step",
    "loss",
    "scoring",
    "waiting",
    "rollouts",
    "round",
    "demo",
    "tests",
)
SECONDS = 240  # of a part
PRELOADED = ["torch", "transformers.models.qwen3.modeling_qwen3"]
Rows = list[dict[str, Any]]


def main() -> int:
    """Measure, print and write; return the exit code."""
    # this file's own folder is no place to import from: its names are those of `benchmarks/`, too
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != HERE]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="on a CPU, with shapes of no weight")
    parser.add_argument("--json", type=Path, default=Path("bench/gpu.json"), metavar="FILE")
    options = parser.parse_args()
    if wrong := [part for part in options.parts if part not in PARTS]:
        parser.error(f"{wrong[0]} is no part: expected some of {', '.join(PARTS)}")
    import torch

    if not options.small and not torch.cuda.is_available():
        parser.error("no GPU is visible here: --small runs the same code on a CPU")
    with TemporaryDirectory() as name:
        prepare(Path(name), options.small)
        from tip.benchmarks.gpu.table import show

        # one at a time; figures of no weight may disturb each other
        with ThreadPoolExecutor(2 if options.small else 1) as pool:
            work = partial(measured, small=options.small)
            rows = [row for found in pool.map(work, options.parts or PARTS) for row in found]
        found = about(options.small) | {"rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        show(found)
    return int(any(row["failed"] for row in rows))


def prepare(folder: Path, small: bool) -> None:
    """Let this process and those that it starts find this checkout as `tip`, and all by a path.

    `pydantic` is `without_pydantic.py` where it is not installed. Compiled programs are kept in the
    folder: what compiling costs is what it costs the first time.
    """
    (folder / "tip").symlink_to(HERE.parents[1])
    try:
        import pydantic  # noqa: F401
    except ImportError:
        (folder / "pydantic.py").symlink_to(HERE / "without_pydantic.py")
    first = [str(folder), str(HERE.parent)]
    sys.path[:0] = first
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*first, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "programs"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    if small:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported


def measured(part: str, small: bool) -> Rows:
    """Return the rows of a part, among them one that says why where it fails or takes too long."""
    return list(_rows(part, small))


def _rows(part: str, small: bool) -> Iterator[dict[str, Any]]:
    context = get_context("spawn")  # a fork of who has looked for a GPU could use none
    if small:
        context = get_context("forkserver")  # its processes start with what they all need
        context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=play, args=(part, small, theirs))
    start = time.monotonic()
    process.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, start + SECONDS - time.monotonic())):
            row = ours.recv()
            if row is None:
                process.join(10)
                break
            print(f"{part}: {row['work']}", file=sys.stderr, flush=True)
            yield row
        else:
            yield failure(part, f"it has not ended after {SECONDS} s")
    except EOFError:
        process.join()
        yield failure(part, f"its process ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()


def failure(part: str, reason: str) -> dict[str, Any]:
    """Return the row of a part that failed."""
    from tip.benchmarks.gpu.measure import Row

    return asdict(Row(part, note=reason, failed=True)) | {"part": part, "met": None}


def play(part: str, small: bool, sent: Connection) -> None:
    """Send the rows of a part, and None when it has ended. Runs in the part's own process."""
    import torch
    from tip.benchmarks.gpu.measure import Setting

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what works print is no part of the table
    setting = Setting(torch.device("cpu" if small else "cuda"), small)
    card = card_of(small)
    try:
        for row in importlib.import_module(f"tip.benchmarks.gpu.{part}").rows(setting):
            sent.send(asdict(row) | {"part": part, "met": None if small else row.met, "card": card})
    # Whatever a part fails of (memory, a driver, a kernel), the others are to be measured.
    except Exception as problem:
        first = str(problem).strip().splitlines() or [""]
        sent.send(failure(part, f"{type(problem).__name__}: {first[0][:300]}") | {"card": card})
    sent.send(None)


def about(small: bool) -> dict[str, Any]:
    """Return on what, with what and when this was measured."""
    return {
        "card": card_of(small),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "date": time.strftime("%Y-%m-%d"),
    }


def card_of(small: bool) -> str:
    """Return what the device is called."""
    import torch

    return "a CPU, all small" if small else torch.cuda.get_device_name()


if __name__ == "__main__":
    sys.exit(main())
