"""The oracle's importance is the one that full per-token gradients give."""

from pathlib import Path

import numpy as np
import torch
from tip.stages.arrays.ragged import Ragged
from tip.stages.models.card import read_card
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings
from tip.stages.signals.objective import Objective
from tip.stages.signals.supports import Supports
from tip.stages.train.data import TrainingData
from tip.stages.train.oracle import oracle

PAIR = Path(__file__).parents[3] / "pipeline" / "demo" / "pair"


def test_importance_is_phi_squared_over_m_of_whole_gradients() -> None:
    card = read_card(ModelSettings(model=str(PAIR / "student")))
    student = load_model(card, torch.device("cpu"), torch.float32)
    rng = np.random.default_rng(0)
    vocabulary = student.vocabulary
    responses = rng.integers(2, vocabulary, (2, 4))
    log_q = torch.randn(8, vocabulary, generator=torch.manual_seed(0)).log_softmax(1)
    whole = np.tile(np.arange(vocabulary, dtype=np.int32), 8)
    counts = np.full(8, vocabulary)
    data = TrainingData(
        rollouts=np.array([11, 22]),
        prompts=Ragged(np.array([2, 4, 5, 2, 4, 5], dtype=np.int32), np.array([3, 3])),
        responses=Ragged(responses.astype(np.int32).ravel(), np.array([4, 4])),
        old_logprobs=Ragged(np.zeros(8, dtype=np.float32), np.array([4, 4])),
        trainable=np.array([4, 4]),
        selected=np.array([4, 4]),
        positions=np.tile(np.arange(4), 2),
        weights=np.ones(8, dtype=np.float32),
        supports=Supports(
            Ragged(whole, counts),
            Ragged(log_q.numpy().ravel(), counts),
            np.full(8, np.nan, dtype=np.float32),
        ),
    )
    found = oracle(student, data, np.array([0, 1]), Objective("reverse_kl"))
    gradients = []
    student.model.requires_grad_(True)
    for row in range(2):
        ids = torch.tensor([[*data.prompts.row(row), *data.responses.row(row)]])
        log_p = student.model(ids).logits[0, 2:-1].log_softmax(1)
        losses = (log_p.exp() * (log_p - log_q[4 * row : 4 * row + 4])).sum(1)
        for loss in losses:
            parts = torch.autograd.grad(loss, list(student.model.parameters()), retain_graph=True)
            gradients.append(torch.cat([p.flatten() for p in parts]).double())
    every = torch.stack(gradients)
    phi = every @ every.mean(0)
    m = every.square().sum(1)
    np.testing.assert_allclose(found["phi"], phi, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["m"], m, rtol=1e-4)
    expected = torch.where(phi > 0, phi.square() / m, 0)
    np.testing.assert_allclose(found["importance"], expected, rtol=1e-3, atol=1e-8)
    assert list(found["rollout"]) == [11] * 4 + [22] * 4
