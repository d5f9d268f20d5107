"""What engines are asked for prompts: a request a sample, told apart by its rollout's id."""

from collections.abc import Sequence

from ...storage.keys import rollout_id
from ..prompts.render import Prompt
from .protocols import Request


def requests_of(prompts: Sequence[Prompt], samples: int) -> list[Request]:
    """Return what an engine is asked: prompt by prompt, sample by sample, as tables are ordered."""
    return [Request(p.ids, rollout_id(p.hash, s)) for p in prompts for s in range(samples)]
