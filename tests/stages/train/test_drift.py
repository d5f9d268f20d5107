"""Drift is the estimate k3 of KL(before || after), apart for what was trained on and what not."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import load
from tiny_training import ALL, Round, train_settings
from tip.stages.train.drift import drift
from tip.stages.train.train import train


def test_an_untrained_student_has_not_drifted(untied: Round) -> None:
    found = drift(load(untied.student), untied.data, train_settings())
    assert list(astuple(found)) == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("most", [2, 3, 32])
def test_after_training_it_is_k3_over_all_over_the_selected_and_over_the_other_tokens(
    untied: Round, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tip.stages.train.drift._FEWEST", min(most, 16))
    monkeypatch.setattr("tip.stages.train.drift._MOST", most)
    data, settings, student = untied.data, train_settings(), load(untied.student)
    train(
        student,
        data,
        settings,
        (1e-2,) * 3,
        autocast=torch.float32,
        seed=0,
        start=None,
        state=tmp_path / "t",
        snapshot=tmp_path / "s",
        key="k",
    )
    terms, selected = [], []
    for row in np.unique(np.linspace(0, len(ALL) - 1, min(most, len(ALL))).astype(int)):
        ids = np.concatenate([data.prompts.row(row), data.responses.row(row)])
        with torch.inference_mode():
            logits = student.model(input_ids=torch.tensor(ids)[None]).logits[0].double()
        response = torch.tensor(data.responses.row(row)).long()[:, None]
        predicting = logits[data.prompts.counts[row] - 1 : -1].log_softmax(1)
        change = predicting.gather(1, response)[:, 0].numpy() - data.old_logprobs.row(row)
        terms.append(np.exp(change) - 1 - change)
        positions = set(data.positions[data.tokens(row)].tolist())
        selected.append([t in positions for t in range(len(change))])
    k3, chosen = np.concatenate(terms), np.concatenate(selected)
    assert 0 < chosen.sum() < len(chosen)
    found = drift(student, data, settings)
    expected = [k3.mean(), k3[chosen].mean(), k3[~chosen].mean()]
    assert min(expected) > 1e-4
    assert list(astuple(found)) == pytest.approx(expected, rel=1e-4)
