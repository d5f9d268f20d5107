"""Attention masks that are made without asking a GPU what is in them.

transformers looks whether a mask hides anything, and whether a row holds one sequence or several,
to leave out what nobody needs. Each look makes the host wait for all that the GPU has to do. Here
both answers are known beforehand: a sequence has a row of its own, and where a mask is given
something is padded.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_unread: ContextVar[bool] = ContextVar("_unread", default=False)


@contextmanager
def masks_unread(device: torch.device) -> Iterator[None]:
    """Let bodies inside the block make masks without reading them; on a CPU, where it is free, not.

    A mask that hides nothing is then applied all the same, which changes rounding alone.
    """
    if device.type == "cpu":
        yield
        return
    _install()
    token = _unread.set(True)
    try:
        yield
    finally:
        _unread.reset(token)


@functools.cache
def _install() -> None:
    """Put the known answers into transformers, for who is inside the block; once a process.

    A version that has no such function asks some other way, and waits.
    """
    from transformers import masking_utils  # heavy

    for name, answer in (("find_packed_sequence_indices", None), ("fast_all", False)):
        asked = getattr(masking_utils, name, None)
        if asked is not None:
            setattr(masking_utils, name, _answering(asked, answer))


def _answering(asked: Any, answer: Any) -> Any:
    @functools.wraps(asked)
    def known(*args: Any, **kwargs: Any) -> Any:
        return answer if _unread.get() else asked(*args, **kwargs)

    return known
