"""What engines are asked and answer travels between processes as it is."""

import pickle

import numpy as np
from tip.stages.engines.protocols import Request, Sampling, Scored


def test_requests_and_answers_pickle() -> None:
    request, sampling = Request((1, 2), 3), Sampling(1.0, 0.9, 0, 8, (1,), 7)
    assert pickle.loads(pickle.dumps((request, sampling))) == (request, sampling)
    answer = Scored(np.array([[5, 6]]), np.array([[-0.1, -2.0]]), None)
    again = pickle.loads(pickle.dumps(answer))
    np.testing.assert_array_equal(again.ids, answer.ids)
    np.testing.assert_array_equal(again.logprobs, answer.logprobs)
    assert again.given is None
