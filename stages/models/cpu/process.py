"""What a process that computes on a CPU is told, once, before it loads a model.

Each of the three changes speed, memory and last digits only, and can be turned off. Whoever only
looks leaves the process as it is.
"""

import torch

from .attention import NAME, register
from .heap import keep_freed_memory
from .products import use_faster_products
from .settings import CpuSettings

PLAIN = "sdpa"  # transformers' own attention by torch's fused kernel


def set_up(device: torch.device, threads: int, settings: CpuSettings) -> str:
    """Make this process ready for models on a device; return the attention to load them with.

    threads: of a CPU, 0 for as many as torch chooses.
    """
    if threads:
        torch.set_num_threads(threads)
    if device.type != "cpu":
        return PLAIN
    if settings.heap:
        keep_freed_memory()
    if settings.products:
        use_faster_products()
    if settings.attention:
        register()
        return NAME
    return PLAIN
