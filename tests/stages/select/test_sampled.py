"""Which rules bias a residual: those that look at the sampled token, and by how much.

Responses of 4 places over 5 tokens, all 625 of them once, each with its probability: the selection
is the real one, and so is the loss. A rule that does not see what was sampled keeps a place for all
tokens or for none, and the mean of its gradients is the dense one exactly.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tip.stages.select.rulebook import builtin_rules
from tip.stages.select.select import select
from tip.stages.select.settings import SelectSettings
from tip.stages.signals.divergences import features
from tip.stages.signals.loss import bucket_loss_
from tip.stages.signals.objective import Objective
from tip.stages.signals.residual import Residual
from tip.stages.signals.support import merge_ids, teacher_support
from tip.storage.columns import TOKENS
from token_tables import _table, rollout_table, write_parts
from torch import Tensor

PLACES, VOCABULARY = 4, 5
# and how far they are; the rank in `ier_fused` reads it, too, but changes no choice here
READING = {
    "aopd": 0.1768,
    "dial": 0.01463,
    "excess_loss": 0.416,
    "excess_loss_bottom": 0.1766,
    "excess_loss_ends": 0.01941,
    "fire_opd": 0.0052,
    "ier": 0.1293,
    "ier_fused": 0.0,
    "iw_opd": 0.01949,
    "low_logprob": 0.032,
    "power": 0.07613,
    "sdar": 0.4129,
}


@dataclass(frozen=True)
class World:
    """Four contexts. dense: [T, V] gradients. estimates: [T, V, V], by the sampled token.

    tokens, rollouts: the tables of all responses, whose probabilities are `chances` [V^T].
    """

    dense: Tensor
    estimates: Tensor
    responses: np.ndarray
    chances: np.ndarray
    tokens: list[Path]
    rollouts: list[Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, PLACES, VOCABULARY, generator=generator).double()
    # sure, sure, uncertain, uncertain; near the teacher and far from it: all four types
    logits *= torch.tensor([2.0, 2.0, 0.5, 0.5])[:, None]
    teacher = (logits + torch.tensor([0.2, 3.0, 0.2, 2.0])[:, None] * other).log_softmax(1)
    exact = logits.clone().requires_grad_()
    log_p = exact.log_softmax(1)
    (log_p.exp() * (log_p - teacher)).sum().backward()
    assert exact.grad is not None
    log_p = log_p.detach()
    every = torch.arange(VOCABULARY).repeat(PLACES)
    own = torch.stack([log_p.argmax(1), teacher.argmax(1)], 1).repeat_interleave(VOCABULARY, 0)
    groups = [
        (every[:, None], torch.ones(len(every), 1).bool()),
        (own, torch.ones_like(own).bool()),
    ]
    ids, valid = merge_ids(groups, VOCABULARY)
    p, q = (x.repeat_interleave(VOCABULARY, 0) for x in (log_p, teacher))
    gradient = logits.repeat_interleave(VOCABULARY, 0)
    outside = ~(own == every[:, None]).any(1)
    residual = Residual(every, log_p.flatten(), outside, 2.0)
    objective = Objective("reverse_kl", residual=residual)
    bucket_loss_(gradient, teacher_support(q, ids, valid), objective)
    numbers = features(p, q, every, ids, valid)._asdict()
    responses = np.array(list(itertools.product(range(VOCABULARY), repeat=PLACES)))
    place = np.tile(np.arange(PLACES), len(responses))
    chosen = place * VOCABULARY + responses.ravel()
    rollouts = np.random.default_rng(0).permutation(len(responses)) + 1
    table = _table(
        {name: values.numpy()[chosen] for name, values in numbers.items()}
        | {
            "rollout": np.repeat(rollouts, PLACES),
            "position": place,
            "token": responses.ravel(),
            "trainable": np.ones(len(place), bool),
            "special": np.zeros(len(place), bool),
            "drift": np.zeros(len(place)),
        },
        TOKENS,
    )
    order = np.argsort(rollouts)
    folder = tmp_path_factory.mktemp("world")
    return World(
        exact.grad,
        gradient.view(PLACES, VOCABULARY, VOCABULARY),
        responses[order],
        np.exp(log_p.numpy()[np.arange(PLACES), responses].sum(1))[order],
        write_parts(folder / "tokens", table),
        write_parts(folder / "rollouts", rollout_table(table)),
    )


def bias(world: World, rule: str, folder: Path) -> float:
    """Return how far the mean gradient of what a rule keeps is from the dense one, relative to it.

    Drawn rules are judged by what they draw in proportion to.
    """
    text = builtin_rules()[rule].file.replace("-- draw: sample\n", "")
    (folder / "rule.sql").write_text(text)
    cuts = {"entropy_cut": 1.0, "divergence_cut": 0.3}
    settings = SelectSettings(rule=str(folder / "rule.sql"), keep=0.5, **cuts)
    table, _ = select(world.tokens, world.rollouts, settings, seed=1, vocabulary=VOCABULARY)
    weights = np.zeros((len(world.responses), PLACES))
    weights[table["rollout"].to_numpy() - 1, table["position"].to_numpy()] = table["weight"]
    weights = torch.tensor(weights * world.chances[:, None])
    places = torch.arange(PLACES)
    found = (weights[:, :, None] * world.estimates[places, torch.tensor(world.responses)]).sum(0)
    expected = weights.sum(0)[:, None] * world.dense
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("rule", sorted({*builtin_rules()} - {"opsa"}))  # which has no residual
def test_a_rule_is_marked_where_it_biases_the_residual(
    world: World, rule: str, tmp_path: Path
) -> None:
    found = bias(world, rule, tmp_path)
    assert builtin_rules()[rule].reads_sampled == (rule in READING)
    assert found == pytest.approx(READING.get(rule, 0), rel=0.02, abs=1e-9)
