"""The oracle: how much each token could teach, from per-token gradients.

For a token with gradient g of its own loss, and G the gradient of the mean loss over the sample:
a step along g alone lowers the mean loss at first order by phi = <G, g> a unit step, and the
best such step gains phi^2 / (2 M) a unit of curvature, M = ||g||^2. That is the importance an
ideal rule would rank by; it costs a backward pass a token and serves to judge rules, on a sample.

Source: TIP, arXiv 2604.14084, theory section: the oracle weight phi / (eta beta M), whose gain is
proportional to phi^2 / M.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..arrays.batching import on_device
from ..engines.protocols import Tick, silent
from ..models.language_model import LanguageModel
from ..signals.alignment import states_at
from ..signals.loss import bucket_loss_
from ..signals.objective import Objective
from .data import TrainingData


def oracle(
    student: LanguageModel,
    data: TrainingData,
    rows: np.ndarray,
    objective: Objective,
    tick: Tick = silent,
) -> dict[str, np.ndarray]:
    """Return rollout, position, phi, M and importance phi^2 / M of the selected tokens of rollouts.

    rows: which of the R rollouts to look at. objective: of every token, whatever its rule says; the
    sampled tokens are put in here. phi is negative where the token's own gradient works
    against the sample's; its importance then counts as 0: a non-negative weight cannot use it.
    """
    student.model.requires_grad_(True)
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    count = 0
    for logits, gradient, _ in _logits(student, data, rows, objective):
        parts = torch.autograd.grad(logits, parameters, gradient, allow_unused=True)
        for summed, part in zip(total, parts, strict=True):
            if part is not None:
                summed.add_(part)
        count += len(logits)
    mean = [t / max(count, 1) for t in total]
    columns: dict[str, list] = {"rollout": [], "position": [], "phi": [], "m": []}
    for logits, gradient, row in _logits(student, data, rows, objective):
        for token, place in enumerate(data.tokens(row)):
            alone = torch.autograd.grad(
                logits[token], parameters, gradient[token], retain_graph=True, allow_unused=True
            )
            phi, norm = _products(mean, alone)
            columns["rollout"].append(data.rollouts[row])
            columns["position"].append(data.positions[place])
            columns["phi"].append(phi)
            columns["m"].append(norm)
        tick(1)
    student.model.requires_grad_(False)
    out = {name: np.asarray(values) for name, values in columns.items()}
    useful = np.maximum(out["phi"], 0)
    out["importance"] = np.divide(
        useful**2, out["m"], out=np.zeros_like(useful), where=out["m"] > 0
    )
    return out


def _logits(
    student: LanguageModel, data: TrainingData, rows: np.ndarray, objective: Objective
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield logits with their graph [n, V], dL/dlogits of each token's own loss, the rollout."""
    for row in rows:
        tokens = data.tokens(row)
        if not len(tokens):
            continue
        ids = np.concatenate([data.prompts.row(row), data.responses.row(row)])[:-1]
        prompt, count = data.prompts.row(row), np.array([len(tokens)])
        states = states_at(student, [ids], [prompt], count, data.positions[tokens])
        logits = student.head.logits(states)
        gradient = logits.detach().clone()
        if objective.loss == "suppress":
            sampled = on_device(data.sampled[tokens].astype(np.int64), student.device)
            objective = replace(objective, tokens=sampled)
        bucket_loss_(gradient, data.support(tokens, student.device), objective)
        yield logits, gradient, int(row)


def _products(mean: list[Tensor], alone: tuple[Tensor | None, ...]) -> tuple[float, float]:
    phi, norm = 0.0, 0.0
    for sum_, part in zip(mean, alone, strict=True):
        if part is not None:
            phi += float(torch.sum(sum_ * part, dtype=torch.float64))
            norm += float(torch.sum(part * part, dtype=torch.float64))
    return phi, norm
