"""Joint scoring against the two forward passes with their heads.

Fused numbers are held against plain ones: by how many nats entropies and divergences differ.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from tip.benchmarks.scoring import SETTINGS, plain, random_rollouts
from tip.stages.score.joint import score_joint
from tip.stages.signals.fused_features import lack
from tip.stages.signals.support import largest

from .measure import Row, Setting, compiling, rise_mb, row, timed
from .qwen3 import VOCABULARY, half, make

FUSED = SETTINGS.model_copy(update={"fused": True})


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the scoring of a shard, eager and compiled, without its check."""
    student, teacher = (make(name, setting, half(setting)) for name in ("1.7B", "4B"))
    count, prompt, response = setting.pick((16, 128, 1024), (4, 6, 10))
    rollouts = random_rollouts(student.vocabulary, count, prompt, response)

    def compiled() -> None:
        with compiling(student, setting), compiling(teacher, setting):
            score_joint(student, teacher, rollouts, SETTINGS)

    works: dict[str, Callable[[], object]] = {
        "joint scoring": lambda: score_joint(student, teacher, rollouts, SETTINGS),
        "joint scoring, layers compiled": compiled,
        "plain": lambda: plain(student, teacher, rollouts),
    }
    reason = lack(setting.device)
    if reason is None:

        def both() -> None:
            with compiling(student, setting), compiling(teacher, setting):
                score_joint(student, teacher, rollouts, FUSED)

        works["joint scoring, fused"] = lambda: score_joint(student, teacher, rollouts, FUSED)
        works["joint scoring, fused, layers compiled"] = both
    found = timed(works, setting)
    floor = found.pop("plain").median
    for work, taken in found.items():
        yield row(
            work,
            taken,
            f"two forward passes with heads, eager, {floor:.3g} s",
            floor,
            at=f"1.7B by 4B, {count * response:,} tokens",
            wanted="<= 1.2",
            rise_mb=rise_mb(works[work], setting),
            most_mb=1_500,
            note="MB beyond both models",
            before="1.20 s, 1.71 x; + 700 MB" if work == "joint scoring" else "",
        )
    yield from _largest(setting)
    if reason is not None:
        yield Row("joint scoring, fused", wanted="<= 1.2", note=f"left out: {reason}")
        return
    expected, others = (
        score_joint(student, teacher, rollouts, each)[1] for each in (SETTINGS, FUSED)
    )
    off = max(
        float(np.abs(expected[name].to_numpy() - others[name].to_numpy()).max())
        for name in ("student_entropy", "teacher_entropy", "reverse_kl", "forward_kl", "jsd")
    )
    yield Row(
        "fused scores against plain ones",
        at="the largest difference",
        value=off,
        low=off,
        high=off,
        unit="nats",
        baseline="the plain numbers of the same shard",
        wanted="<= 0.0001 nats",
    )


def _largest(setting: Setting) -> Iterator[Row]:
    """Yield the search for the most probable ids of a chunk, against torch's own."""
    count, width = setting.pick(110, 4), setting.pick(VOCABULARY, 64 * 256)
    logits = torch.randn(count, width, device=setting.device)
    found = timed(
        {"folded": lambda: largest(logits, 64), "topk": lambda: logits.topk(64, dim=1)}, setting
    )
    yield row(
        "the 64 largest of a row",
        found["folded"],
        f"torch.topk, {found['topk'].median:.3g} s",
        found["topk"].median,
        at=f"{count} rows, V = {width:,}",
    )
