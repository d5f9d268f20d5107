"""Head and loss on a GPU: fused, plain, and what three products in bfloat16 take.

    python benchmarks/gpu/head_loss.py [--tokens 8192 65536] [--width 2048] [--out FOLDER]
    python benchmarks/gpu/head_loss.py --small

needs a GPU, torch and triton, and of tip no more than these files: it need not be installed. With
`--small` it runs anywhere, in Triton's interpreter: what it prints then are no timings.

Random states and head in float32, supports of 88 ids a token, reverse KL. Each work counts with the
median of its turns. Memory is the rise above states, head and supports, less both gradients [N, D]
and [V, D]; the fused loss's copy of the head in bfloat16 is part of it, and told apart.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SLOTS, ROWS = 88, 8192  # of the products that are the floor: more would not be faster
PLAIN, FUSED = (1 << 24, 1 << 26), (1 << 26, 7 << 24, 1 << 28)  # chunks; 2^24 and 7 x 2^24 usual
MB = 1 << 20


def main() -> None:
    """Print and write the lines of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a minute case on a CPU")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    if options.small:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
        options.tokens, options.width, options.vocabulary = [96], 32, 9_001
    elif not torch.cuda.is_available():
        parser.error("no GPU is visible here: --small runs in Triton's interpreter")
    find_tip()
    device = torch.device("cpu" if options.small else "cuda")
    lines = []
    for tokens in options.tokens:
        lines += Bench(tokens, options.width, options.vocabulary, device, options.turns).lines()
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"device": name_of(device), "torch": torch.__version__, "lines": lines})
    (options.out / "head_loss.json").write_text(text + "\n", encoding="utf-8")


def find_tip() -> None:
    """Let `tip` be this checkout, and do without pydantic where it is not installed.

    The loss reads no settings; of what declares them it imports the names of losses alone.
    """
    folder = Path(tempfile.mkdtemp())
    (folder / "tip").symlink_to(Path(__file__).resolve().parents[2])
    sys.path.insert(0, str(folder))
    if importlib.util.find_spec("pydantic") is None:
        names: Any = types.ModuleType("pydantic")
        names.BaseModel, names.ConfigDict, names.Field = object, dict, lambda **_: None
        names.field_validator = lambda *_: lambda method: method
        sys.modules["pydantic"] = names


class Bench:
    """One number of tokens."""

    def __init__(
        self, tokens: int, width: int, vocabulary: int, device: torch.device, turns: int
    ) -> None:
        from tip.stages.models.head import Head
        from tip.stages.signals.support import Support

        random = torch.Generator(device).manual_seed(0)
        make = partial(torch.randn, generator=random, device=device)
        self.tokens, self.turns, self.device = tokens, turns, device
        self.states = make(tokens, width)
        self.weight = make(vocabulary, width).mul_(3 / width**0.5).requires_grad_()
        self.weight.grad = torch.zeros_like(self.weight)
        self.head = Head(self.weight)
        step = vocabulary // SLOTS
        ids = torch.randint(step, (tokens, SLOTS), generator=random, device=device)
        ids += torch.arange(SLOTS, device=device) * step
        logs = make(tokens, SLOTS + 1).log_softmax(1)
        there = torch.ones_like(ids, dtype=torch.bool)
        self.support = Support(ids, there, logs[:, 1:].contiguous(), logs[:, 0].contiguous())
        self.weights = torch.full((tokens,), 1 / tokens, dtype=torch.float64, device=device)

    def lines(self) -> list[dict[str, object]]:
        """Return what each way takes, first the floor."""
        floor = seconds(self.products, self.turns, self.device)
        found = [self.line("three products in bfloat16", floor, floor, 0.0)]
        for name, elements, fused in (
            *(("plain, TF32", elements, False) for elements in PLAIN),
            *(("fused, bfloat16", elements, True) for elements in FUSED),
        ):
            chunk = max(1, elements // self.weight.shape[0])
            work = partial(self.loss, chunk, fused)
            took = seconds(work, self.turns, self.device)
            copy = 2 * self.weight.numel() / MB if fused else 0.0
            found.append(
                self.line(f"{name}, chunk of {chunk} rows", took, floor, copy, self.rise(work))
            )
        self.kernels(found)
        print(f"  gradients of both ways differ by {self.difference():.1e} of their norm")
        return found

    def line(
        self, what: str, took: float, floor: float, copy: float, rise: float | None = None
    ) -> dict[str, object]:
        """Print one line and return it."""
        memory = "" if rise is None else f"  + {rise:,.0f} MB, {copy:,.0f} of them the head's copy"
        print(
            f"{self.tokens:>7,} tokens  {what:<40} {took * 1e3:>10.2f} ms  {took / floor:6.2f} x"
            f"{memory}",
            flush=True,
        )
        values = {"seconds": took, "floor": floor, "rise_mb": rise, "copy_mb": copy}
        return {"tokens": self.tokens, "what": what} | values

    def products(self) -> None:
        """Multiply as much as head and loss must, in bfloat16, of numbers that lie ready."""
        if not hasattr(self, "ready"):
            half = self.states[:ROWS].bfloat16(), self.weight.detach().bfloat16()
            self.ready = (*half, half[0] @ half[1].T)
        states, weight, gradient = self.ready
        for start in range(0, self.tokens, ROWS):
            rows = min(ROWS, self.tokens - start)
            torch.mm(states[:rows], weight.T, out=gradient[:rows])
            gradient[:rows] @ weight
            gradient[:rows].T @ states[:rows]

    def loss(self, chunk: int, fused: bool) -> Tensor:
        """Return the gradient of the states, as a training step takes it."""
        from tip.stages.signals.fused import fused_loss
        from tip.stages.signals.loss import sparse_loss
        from tip.stages.signals.objective import Objective

        torch.set_float32_matmul_precision("high")
        how = partial(fused_loss, dtype=torch.bfloat16) if fused else sparse_loss
        objective = Objective("reverse_kl")
        given = (self.states, self.head, self.support, self.weights, objective)
        return how(*given, chunk=chunk)[1]

    def rise(self, work: Callable[[], object]) -> float | None:
        """Return the MB that a work needs beyond the gradients; None on a CPU."""
        if self.device.type != "cuda":
            return None
        self.__dict__.pop("ready", None)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        rise = torch.cuda.max_memory_allocated() - before
        return (rise - self.states.nbytes) / MB

    def kernels(self, found: list[dict[str, object]]) -> None:
        """Add what the kernels take for 256 rows, and the bytes that they move in a second."""
        from tip.stages.models.head import LogitMap
        from tip.stages.signals import kernels

        support, plain = self.support.rows(0, 256), LogitMap()
        logits = self.states[:256] @ self.weight.detach().T
        picked, half = logits.gather(1, support.ids), torch.empty_like(logits, dtype=torch.bfloat16)
        shift, total = kernels.fold(logits, plain)
        *_, share, _ = kernels.reverse_kl(picked, support, shift, total, self.weights[:256])
        for name, each, work in (
            ("fold", 4, lambda: kernels.fold(logits, plain)),
            ("spread", 6, lambda: kernels.spread(logits, shift, share, plain, half)),
            (
                "reverse_kl",
                0,
                lambda: kernels.reverse_kl(picked, support, shift, total, self.weights[:256]),
            ),
        ):
            took = seconds(work, 20 if self.device.type == "cuda" else 1, self.device)
            rate = each * logits.numel() / took / 1e12
            print(f"  kernel {name:<12} {took * 1e6:>10.0f} us  {rate:.2f} TB/s")
            found.append({"kernel": name, "seconds": took, "tb_per_second": rate})

    def difference(self) -> float:
        """Return how far the gradients of both ways are apart, relative to their norm."""
        gradients = []
        for fused in (False, True):
            assert self.weight.grad is not None  # zeros at first, then what the works left
            self.weight.grad.zero_()
            hidden = self.loss(256, fused)
            gradients.append((hidden, self.weight.grad.clone()))
        return max(float((b - a).norm() / a.norm()) for a, b in zip(*gradients, strict=True))


def seconds(work: Callable[[], object], turns: int, device: torch.device) -> float:
    """Return the median of a work's turns, after one that is not counted."""
    took = []
    for _ in range(turns + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return statistics.median(took[1:])


def name_of(device: torch.device) -> str:
    """Return what the device is called."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "a CPU, interpreted"


if __name__ == "__main__":
    main()
