"""A model is let in when its numbers come of what stands before a token and no more."""

from pathlib import Path

import pytest
import torch
from model_folders import refusal
from tiny import load, write_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_decoder_passes(tmp_path: Path, dtype: torch.dtype) -> None:
    load(write_model(tmp_path / "model", "bert-generation", is_decoder=True), dtype)


def test_what_reads_the_tokens_that_follow_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "bert-generation", is_decoder=False)
    assert "it is no causal language model" in refusal(folder)
