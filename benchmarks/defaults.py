"""Baselines as torch and transformers come, without what this project sets.

A process that computes lets oneDNN multiply float32 matrices and takes attention apart into matrix
products, where that is faster (`stages/models/cpu/`). A baseline that is somebody else's code would
profit from both; it runs without them. Memory stays tuned: a process cannot go back, and every
baseline is faster for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tip.stages.models.cpu.products import precision
from tip.stages.models.language_model import LanguageModel


@contextmanager
def defaults(*models: LanguageModel) -> Iterator[None]:
    """Give models the attention, and the process the matrix products, that they come with."""
    own = [model.model.config._attn_implementation for model in models]
    for model in models:
        model.model.set_attn_implementation("sdpa")
    try:
        with precision("highest"):
            yield
    finally:
        for model, attention in zip(models, own, strict=True):
            model.model.set_attn_implementation(attention)


def by_default(work: Callable[[], object], *models: LanguageModel) -> Callable[[], None]:
    """Return work that runs with the defaults of torch and transformers."""

    def inner() -> None:
        with defaults(*models):
            work()

    return inner
