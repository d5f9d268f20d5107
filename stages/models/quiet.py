"""Silence for libraries' own bars and reports: the pipeline shows its own."""

import contextlib
import logging as plain
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let transformers say nothing but errors inside the block; then all is as it was.

    Nor bitsandbytes, which peft imports, and which tells of kernels that nothing here asks for.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    own = plain.getLogger("bitsandbytes")
    before = own.level
    own.setLevel(plain.ERROR)
    try:
        yield
    finally:
        own.setLevel(before)
        if bars:
            logging.enable_progress_bar()
        logging.set_verbosity(level)
