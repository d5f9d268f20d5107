"""What travels between a vLLM process and its owner can travel."""

import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from tip.stages.engines.vllm.messages import EngineFacts, Generation, Response, Scoring
from vllm_pair import SAMPLING


@pytest.mark.parametrize(
    "message",
    [
        EngineFacts("0.32", 36, 128, 64, True),
        Generation(["a"], [[1, 2]], [7], SAMPLING),
        Scoring(["a"], [[1, 2]], [1], 4, [np.array([[3, -1]], dtype=np.int32)]),
        Response(np.array([5]), np.array([-0.5]), np.array([5, 6]), np.array([2]), True),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_arrives_as_it_was_sent(message: Any) -> None:
    again = pickle.loads(pickle.dumps(message))
    assert type(again) is type(message)
    for field in fields(message):
        sent, got = getattr(message, field.name), getattr(again, field.name)
        np.testing.assert_equal(got, sent)
