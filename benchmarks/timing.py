"""Time pieces of work by turns, and lines of results that say what they are compared with.

Every figure is a ratio within one run: the work and its baseline take turns, and each counts with
its fastest turn, since other work on the machine only ever adds time. (On a GPU, which nobody
shares, with its median: `gpu/measure.py`.)
"""

import gc
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def by_turns(works: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the seconds of each work's fastest turn, after one turn that is not counted."""
    return {name: min(seconds) for name, seconds in all_turns(works, turns).items()}


def all_turns(
    works: Mapping[str, Callable[[], object]], turns: int, wait: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Return the seconds of each turn of each work, after one turn that is not counted.

    wait: ends when a device has done what it was given; a turn ends then.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            gc.collect()
            wait()
            start = time.perf_counter()
            work()
            wait()
            if turn:
                taken[name].append(time.perf_counter() - start)
    return taken


def line(
    what: str, value: float, unit: str, baseline: str, ratio: float | None, target: str = ""
) -> dict[str, object]:
    """Return one line of results, and print it. ratio: of value to baseline, as `target` means."""
    shown = "" if ratio is None else f"  {ratio:.3f} x"
    print(
        f"{what:<58} {value:>12,.4g} {unit:<10}{shown:>10}  of {baseline}  [{target}]", flush=True
    )
    return {
        "what": what,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
        "target": target,
    }


def save(name: str, lines: list[dict[str, object]], folder: Path) -> None:
    """Write the lines of one benchmark as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
