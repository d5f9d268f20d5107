"""The embedded engine: the tokens it should take, from the right distribution, in any batch."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import given
from drawing import TEMPERED, assert_drawn_from, expected_distribution
from tiny import load, log_probs, prompts, reference_model, sampling, write_model
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.engines.protocols import Request, Responses, Spared
from tip.stages.models.language_model import LanguageModel
from tip.storage.errors import NumericsError

ARCHITECTURES = [
    *("llama", "qwen2", "qwen3", "mistral", "gpt2", "gemma2", "bloom", "opt", "lfm2"),
    *("mamba", "bamba", "falcon_h1"),
]
LENGTHS = (9, 1, 4, 4, 7, 2, 12, 3)

Folders = dict[str, Path]


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with given(device, globals(), "load"):
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return {a: write_model(tmp_path_factory.mktemp(a), a) for a in ARCHITECTURES}


@pytest.fixture(scope="module")
def model(folders: Folders, device: torch.device) -> LanguageModel:
    return load(folders["qwen3"], device=device)


def requests(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Request]:
    return [Request(p.ids, 1000 + i) for i, p in enumerate(prompts(*lengths, seed=seed))]


def rows(responses: Responses) -> list[list[int]]:
    return [responses.ids.row(i).tolist() for i in range(len(responses.stopped))]


@pytest.mark.parametrize("batch_size", [8, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_responses_are_those_of_transformers_generate(
    folders: Folders, architecture: str, batch_size: int
) -> None:
    asked = requests()
    whole = [
        reference_model(folders[architecture])
        .generate(
            torch.tensor([request.prompt_ids]),
            do_sample=False,
            max_new_tokens=30,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(request.prompt_ids) :]
        .tolist()
        for request in asked
    ]
    stops = {whole[0][2], whole[1][6], whole[2][9]}
    ends = [next((i for i, t in enumerate(row, 1) if t in stops), 30) for row in whole]
    assert len(set(ends)) >= 3, "the rows should end at different steps"
    terms = sampling(temperature=0.0, max_tokens=30, stop_ids=tuple(stops))
    found = LocalEngine(load(folders[architecture]), batch_size).generate(asked, terms)
    assert rows(found) == [row[:end] for row, end in zip(whole, ends, strict=True)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probs_and_top_ids_are_those_of_a_forward_pass_over_the_finished_response(
    folders: Folders, architecture: str
) -> None:
    asked, terms = requests(), sampling(max_tokens=20, top_mass=0.8, top_most=6)
    found = LocalEngine(load(folders[architecture]), 5).generate(asked, terms)
    for i, request in enumerate(asked):
        response = found.ids.row(i)
        reference = log_probs(folders[architecture], request.prompt_ids, response)
        places = np.arange(found.ids.offsets[i], found.ids.offsets[i + 1])
        kept = found.logprobs[places]
        np.testing.assert_allclose(
            kept, reference[np.arange(len(response)), response], rtol=1e-5, atol=2e-5
        )
        for step, place in enumerate(places):
            falling = np.argsort(-reference[step], kind="stable")
            before = np.exp(reference[step][falling]).cumsum() - np.exp(reference[step][falling])
            expected = falling[: min(6, int((before < 0.8).sum()))]
            assert found.top.row(place).tolist() == expected.tolist(), (i, step)


def test_without_top_ids_asked_for_none_are_kept(model: LanguageModel) -> None:
    found = LocalEngine(model, 4).generate(requests(), sampling(top_most=0, top_mass=0.0))
    assert len(found.top.values) == 0
    assert found.top.counts.tolist() == [0] * len(found.ids.values)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 17])
def test_sampled_ids_do_not_depend_on_the_batch(
    model: LanguageModel, batch_size: int, temperature: float
) -> None:
    # Rows end at different steps; in the batch of 40 some stay for a while after their end.
    asked, stops = requests(LENGTHS * 5), tuple(range(1, 6))
    terms = sampling(max_tokens=25, temperature=temperature, stop_ids=stops)
    expected = LocalEngine(model, 40).generate(asked, terms)
    assert len(set(expected.ids.counts.tolist())) > 6
    found = LocalEngine(model, batch_size).generate(asked, terms)
    assert rows(found) == rows(expected)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=1e-5, atol=1e-5)
    assert np.array_equal(found.stopped, expected.stopped)
    assert np.array_equal(found.top.values, expected.top.values)


def test_sampled_ids_do_not_depend_on_the_order_of_requests(model: LanguageModel) -> None:
    asked = requests()
    order = np.random.default_rng(0).permutation(len(asked))
    expected = rows(LocalEngine(model, 3).generate(asked, sampling()))
    found = rows(LocalEngine(model, 3).generate([asked[i] for i in order], sampling()))
    assert found == [expected[i] for i in order]


def test_another_seed_and_another_rollout_id_give_other_responses(model: LanguageModel) -> None:
    engine, asked = LocalEngine(model, 8), requests()
    first = rows(engine.generate(asked, sampling()))
    assert rows(engine.generate(asked, sampling(seed=1))) != first
    again = [replace(r, rollout=r.rollout + 1) for r in asked]
    assert rows(engine.generate(again, sampling())) != first
    assert rows(engine.generate(asked, sampling())) == first


def test_a_stop_token_ends_a_response_and_belongs_to_it(model: LanguageModel) -> None:
    stops = tuple(range(1, 20))
    found = LocalEngine(model, 3).generate(requests(), sampling(stop_ids=stops))
    for row, stopped in zip(rows(found), found.stopped, strict=True):
        assert not set(row[:-1]) & set(stops)
        assert stopped == (row[-1] in stops)
        assert stopped or len(row) == 12
    assert found.stopped.sum() > 0


def test_a_response_ends_at_the_length_limit(model: LanguageModel) -> None:
    found = LocalEngine(model, 3).generate(requests(), sampling(max_tokens=1, stop_ids=()))
    assert found.ids.counts.tolist() == [1] * len(LENGTHS)
    assert not found.stopped.any()


def test_a_stop_token_at_the_length_limit_counts_as_a_stop(model: LanguageModel) -> None:
    asked, terms = requests(), sampling(stop_ids=())
    last = LocalEngine(model, 8).generate(asked, terms).ids.row(0)[-1]
    found = LocalEngine(model, 8).generate(asked, sampling(stop_ids=(int(last),)))
    assert found.stopped[0]


def test_tokens_are_told_as_they_come_and_what_a_row_leaves_of_its_limit(
    model: LanguageModel,
) -> None:
    done: list[int] = []
    terms = sampling(stop_ids=tuple(range(1, 20)))
    found = LocalEngine(model, 3).generate(requests(), terms, done.append)
    drawn = [n for n in done if not isinstance(n, Spared)]
    assert sum(drawn) == found.ids.counts.sum()
    assert max(drawn) == 3  # a step of a batch at a time
    assert sum(done) == terms.max_tokens * len(LENGTHS)


@pytest.mark.parametrize("place", [0, 30])
def test_logits_that_are_not_numbers_are_refused(folders: Folders, place: int) -> None:
    broken = load(folders["llama"])
    with torch.no_grad():
        broken.head.weight[place] = float("nan")
    for temperature in (0.0, 1.0):
        with pytest.raises(NumericsError, match=r"NaN.*while it samples") as it:
            LocalEngine(broken, 4).generate(requests(), sampling(temperature=temperature))
        assert "\n" not in str(it.value)


@pytest.mark.parametrize("terms", TEMPERED, ids=str)
def test_pairs_of_tokens_that_the_engine_samples_follow_the_models_joint_distribution(
    tmp_path: Path, terms: dict[str, Any]
) -> None:
    folder = write_model(tmp_path, "llama", vocabulary=7)
    (start,) = prompts(3, vocabulary=7)
    asked = [Request(start.ids, i) for i in range(20_000)]
    full = {"max_tokens": 2, "stop_ids": (), "top_most": 0} | terms
    found = LocalEngine(load(folder), 20_000).generate(asked, sampling(**full))
    pairs = found.ids.values.reshape(-1, 2)
    counts = np.bincount(pairs[:, 0] * 7 + pairs[:, 1], minlength=49)
    first = expected_distribution(log_probs(folder, start.ids, [0])[0], **terms)
    joint = [
        p * expected_distribution(log_probs(folder, start.ids, [a, 0])[1], **terms)
        for a, p in enumerate(first)
    ]
    assert_drawn_from(counts, np.concatenate(joint))


def test_the_window_matters_to_the_model_that_has_one(
    folders: Folders, tmp_path: Path, device: torch.device
) -> None:
    without = write_model(tmp_path, "mistral", sliding_window=None)
    terms = sampling(temperature=0.0, stop_ids=())
    a, b = (
        LocalEngine(load(f), 8).generate(requests(), terms) for f in (folders["mistral"], without)
    )
    assert rows(a) != rows(b), "else the tests above would show nothing about windows"
    assert load(without).device == device
