"""Joint scoring against the two forward passes with their heads."""

from collections.abc import Callable, Iterator

from tip.benchmarks.scoring import SETTINGS, plain, random_rollouts
from tip.stages.score.joint import score_joint

from .measure import Row, Setting, compiling, rise_mb, row, timed
from .qwen3 import half, make


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
