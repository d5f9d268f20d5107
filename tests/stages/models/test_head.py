"""The head gives the same logits in pieces as at once."""

import pytest
import torch
from tip.stages.arrays import chunks
from tip.stages.models.head import Head


def test_a_head_with_a_bias_adds_it() -> None:
    head = Head(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))
    assert head.logits(torch.tensor([[1.0, 1.0, 1.0]])).tolist() == [[2.0, 3.0, 4.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_pieces_hold_every_row_once_with_the_logits_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, biased: bool
) -> None:
    monkeypatch.setattr(chunks, "_CACHE_ELEMENTS", 22)  # two rows of a vocabulary of eleven
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((12, 3), (11, 3), (11,))
    )
    head = Head(weight, bias if biased else None)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = torch.nn.functional.linear(
        hidden.to(wide), weight.to(wide), bias.to(wide) if biased else None
    )
    rows = []
    for place, logits in head.pieces(hidden, chunk=5, vocabulary=11):
        rows.append(list(range(12)[place]))
        assert logits.dtype == wide
        torch.testing.assert_close(logits, expected[place])
    assert rows == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9], [10, 11]]


def test_logits_are_written_into_the_room_that_is_given_and_no_further() -> None:
    room = torch.zeros(3, 2)
    logits = Head(torch.eye(2)).logits(torch.ones(2, 2), room)
    assert logits.data_ptr() == room.data_ptr()
    assert room.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
