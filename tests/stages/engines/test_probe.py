"""An engine is held against numbers that were kept, and a gross gap is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import load, log_probs, write_model
from tip.stages.engines.probe import (
    PROBE_TOKENS,
    PROBES,
    gap_of,
    measured_gap,
    probe_key,
    probe_sequences,
    reference_logprobs,
    refuse_gross,
    usual_limit,
)
from tip.stages.engines.protocols import Scored
from tip.stages.prompts.render import Prompt
from tip.storage.errors import DisagreementError

SEQUENCES = [np.array([7, 8, 9, 10]), np.array([11, 12, 13])]


class Skewed:
    """An engine whose log-probs are a model's and some nats more."""

    given_ids = False
    vocabulary = 60

    def __init__(self, folder: Path, nats: float) -> None:
        self.folder, self.nats = folder, nats

    def score(self, sequences: Sequence[np.ndarray], *_: Any) -> list[Scored]:
        out = []
        for sequence in sequences:
            rows = log_probs(self.folder, sequence[:1].tolist(), sequence[1:].tolist())
            own = np.take_along_axis(rows, sequence[1:, None], 1) + self.nats
            out.append(Scored(sequence[1:, None], own, None))
        return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "qwen3", seed=1)


def prompt(ids: Sequence[int]) -> Prompt:
    return Prompt(tuple(ids), "h", tuple(ids), None, 0)


def test_probes_are_a_few_prompts_that_have_a_token_to_predict() -> None:
    prompts = [prompt([1]), *[prompt(range(n)) for n in (2, 3, 4, 2000, 5)]]
    found = probe_sequences(prompts)
    assert [len(s) for s in found] == [2, 3, 4, PROBE_TOKENS][:PROBES]


def test_a_key_is_of_the_ids_and_their_order() -> None:
    others = [SEQUENCES[::-1], SEQUENCES[:1], [np.concatenate(SEQUENCES)]]
    assert probe_key(SEQUENCES) == probe_key([s.astype(np.int32) for s in SEQUENCES])
    assert len({probe_key(s) for s in [SEQUENCES, *others]}) == 4


def test_reference_log_probs_are_the_models_and_pass_through_json(folder: Path) -> None:
    reference = reference_logprobs(load(folder), SEQUENCES)
    rows = [log_probs(folder, s[:1].tolist(), s[1:].tolist()) for s in SEQUENCES]
    own = [r[np.arange(len(r)), s[1:]] for r, s in zip(rows, SEQUENCES, strict=True)]
    np.testing.assert_allclose(reference, np.concatenate(own), atol=1e-5)
    kept = np.asarray(json.loads(json.dumps(reference.tolist())))
    np.testing.assert_array_equal(kept, reference)


def test_the_gap_is_what_an_engine_is_off_by(folder: Path) -> None:
    reference = reference_logprobs(load(folder), SEQUENCES)
    gap = measured_gap(Skewed(folder, -0.25), SEQUENCES, reference)
    assert gap.mean == pytest.approx(0.25, abs=1e-4)
    assert gap.rms == pytest.approx(0.25, abs=1e-4)
    assert gap.tokens == 5


def test_a_gap_has_the_mean_of_sizes_and_the_root_of_the_mean_square() -> None:
    gap = gap_of(np.array([3.0, -4.0]))
    assert (gap.mean, gap.rms, gap.tokens) == (3.5, pytest.approx(12.5**0.5), 2)


def test_a_gap_beyond_the_limit_is_refused_with_the_way_out() -> None:
    gap = gap_of(np.array([0.3]))
    refuse_gross(gap, 0.3, "m")
    with pytest.raises(DisagreementError, match=r"m: .*another model.*vllm.max_gap"):
        refuse_gross(gap, 0.29, "m")


def test_a_gap_that_is_no_number_is_refused() -> None:
    with pytest.raises(DisagreementError, match="nan nats"):
        refuse_gross(gap_of(np.array([np.nan])), 10.0, "m")


def test_a_coarser_type_may_be_further_off() -> None:
    limits = [usual_limit("float32", None), usual_limit("bfloat16", None)]
    assert sorted([*limits, usual_limit("bfloat16", "fp8")]) == [*limits, 0.5]
