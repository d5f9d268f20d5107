"""Silence lasts as long as its block."""

import pytest
from tip.stages.models.quiet import quiet
from transformers.utils import logging


@pytest.mark.parametrize("bars", [True, False])
def test_bars_and_words_are_afterwards_as_they_were_before(*, bars: bool) -> None:
    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    try:
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        logging.set_verbosity_info()
        with quiet():
            assert not logging.is_progress_bar_enabled()
            assert logging.get_verbosity() == logging.ERROR
        assert logging.is_progress_bar_enabled() is bars
        assert logging.get_verbosity() == logging.INFO
    finally:
        (logging.enable_progress_bar if before[0] else logging.disable_progress_bar)()
        logging.set_verbosity(before[1])
