"""What an engine says of a teacher becomes the support that the teacher itself would give.

The engine here is a plain float64 computation behind the engines' interface: what is cut from its
answers is held against the same distributions cut the long way.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tiny import Shard, load, log_probs, prompts, score_settings, shard, write_model
from tip.stages.engines import Tick, silent
from tip.stages.engines.vllm_engine import EngineMemoryError
from tip.stages.ragged import from_lists
from tip.stages.score_separate import score_student, score_teacher
from tip.stages.teachers import (
    VllmScorer,
    cut_support,
    engine_teacher_inputs,
    score_with_engine,
)
from tip.storage.errors import NumericsError

VOCABULARY = 60
NATS = 3e-5


class PlainScorer:
    """Scores with transformers in float64; `skew` nats are added in every batch but not alone."""

    def __init__(self, folder: Any, *, given_ids: bool = False, skew: float = 0.0) -> None:
        self.folder, self.given_ids, self.skew = folder, given_ids, skew
        self.vocabulary = VOCABULARY

    def score(
        self,
        sequences: Sequence[np.ndarray],
        starts: Sequence[int],
        top: int,
        given: Sequence[np.ndarray] | None = None,
        tick: Tick = silent,
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        out = []
        most = min(top, self.vocabulary)
        for place, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
            found = log_probs(self.folder, sequence[:start].tolist(), sequence[start:].tolist())
            found = found + (self.skew if len(sequences) > 1 else 0)
            order = np.argsort(-found, axis=1, kind="stable")[:, :most]
            ids = np.concatenate([sequence[start:, None], order], 1)
            values = np.take_along_axis(found, ids, 1).astype(np.float32)
            asked = None
            if given is not None:
                asked = np.take_along_axis(found, np.maximum(given[place], 0), 1)
                asked = np.where(given[place] < 0, -np.inf, asked).astype(np.float32)
            out.append((ids.astype(np.int32), values, asked))
            tick(1)
        return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    student = write_model(tmp_path_factory.mktemp("student"), "qwen3", seed=1)
    teacher = write_model(tmp_path_factory.mktemp("teacher"), "llama", seed=2)
    return shard(student, teacher, prompts(5, 2, 9), samples=2, max_tokens=10, stop_ids=(1, 2, 3))


def scored(made: Shard, scorer: Any, **changes: Any) -> tuple[Any, dict]:
    settings = score_settings(mode="separate", engine="vllm", **changes)
    return score_with_engine(
        scorer, made.rollouts, settings, dtype="float32", student_vocabulary=VOCABULARY
    )


@pytest.mark.parametrize("given", [True, False], ids=["given ids", "its whole vocabulary"])
def test_an_engine_that_knows_every_id_gives_the_teachers_own_table(
    made: Shard, given: bool
) -> None:
    expected, _ = score_teacher(
        load(made.teacher), made.rollouts, score_settings(), student_vocabulary=VOCABULARY
    )
    scorer = PlainScorer(made.teacher, given_ids=given)
    table, facts = scored(made, scorer, engine_top=32 if given else VOCABULARY)
    for name in ("rollout", "position", "ids"):
        assert table[name].equals(expected[name])
    ours, theirs = (from_lists(t["logprobs"]).values.astype(float) for t in (table, expected))
    np.testing.assert_allclose(ours, theirs, rtol=2**-10, atol=NATS)
    outside = [np.exp(t["tail"].to_numpy()) for t in (table, expected)]
    np.testing.assert_allclose(*outside, atol=3e-6)  # one minus a sum of float32 log-probs
    if not given:
        np.testing.assert_allclose(table["entropy"], expected["entropy"], atol=NATS)
    assert facts["teacher_check_gap"] < 1e-6


def test_ids_that_the_engine_did_not_give_are_in_the_tail_and_reported(made: Shard) -> None:
    student, settings = load(made.student), score_settings()
    lost, masses = [], []
    for top in (2, 8, 60):
        table, _ = scored(made, PlainScorer(made.teacher), engine_top=top)
        total = [
            np.exp(lp.astype(float)).sum() + math.exp(tail)
            for lp, tail in zip(
                table["logprobs"].to_pylist(), table["tail"].to_pylist(), strict=True
            )
            for lp in [np.array(lp, dtype=float)]
        ]
        np.testing.assert_allclose(total, 1, atol=2e-3)  # float16 log-probs
        _, facts = score_student(student, made.rollouts, table, settings)
        lost.append(facts["lost_mass"])
        masses.append(facts["student_mass"])
    assert lost[0] > lost[1] > lost[2] == 0
    assert masses[0] < masses[1] < masses[2]


def test_the_entropy_of_few_ids_is_a_lower_bound_that_rises(made: Shard) -> None:
    found = [
        scored(made, PlainScorer(made.teacher), engine_top=top)[0]["entropy"].to_numpy()
        for top in (1, 4, 16, 60)
    ]
    for less, more in pairwise(found):
        assert (less <= more + 1e-5).all()
    assert found[0].mean() < found[-1].mean() - 0.1


def test_an_answer_about_other_tokens_is_refused(made: Shard) -> None:
    class Shifted(PlainScorer):
        def score(self, *args: Any, **kwargs: Any) -> Any:
            answers = super().score(*args, **kwargs)
            return [(np.roll(i, 1, 0), lp, g) for i, lp, g in answers]

    with pytest.raises(NumericsError, match="answers for other tokens"):
        scored(made, Shifted(made.teacher))


def test_an_engine_that_says_otherwise_of_a_rollout_alone_is_refused(made: Shard) -> None:
    with pytest.raises(NumericsError, match="scored alone"):
        scored(made, PlainScorer(made.teacher, skew=-0.01))


def test_a_log_prob_that_is_no_number_is_refused(made: Shard) -> None:
    with pytest.raises(NumericsError, match="not finite"):
        scored(made, PlainScorer(made.teacher, skew=float("nan")))


def test_a_support_that_is_the_whole_vocabulary_has_no_tail() -> None:
    log_p = np.log(np.array([[0.5, 0.25, 0.125, 0.125]]))
    ids = np.array([[2, 0, 1, 2, 3]])
    answer = ids, np.take_along_axis(log_p, ids, 1).astype(np.float32), None
    led = np.zeros((1, 0), dtype=np.int64), np.zeros((1, 0), dtype=bool)
    settings = score_settings(teacher_top_p=1.0, teacher_top_max=4)
    (kept, values, tail), entropy = cut_support(answer, led, settings, 4, 4)
    assert kept.values.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(np.exp(values.values.astype(float)), np.exp(log_p[0]), rtol=1e-3)
    assert tail[0] == -math.inf
    np.testing.assert_allclose(entropy, -(np.exp(log_p) * log_p).sum(1), atol=1e-6)
    # an id that the student lacks is in the tail
    (kept, _, tail), _ = cut_support(answer, led, settings, 4, 3)
    assert kept.values.tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.exp(tail), 0.125, rtol=1e-5)


class TightEngine:
    """Runs out of memory above 300 tokens a batch, at work, as vLLM does."""

    def __init__(self, batch: int) -> None:
        self.facts = {"vocabulary": 60, "given_ids": False, "batch_tokens": batch}

    def score(self, *_: Any) -> str:
        if self.facts["batch_tokens"] > 300:  # type: ignore[operator]
            raise EngineMemoryError("too little memory")
        return "scored"


def test_a_scoring_that_runs_out_of_memory_goes_on_with_half_the_batch() -> None:
    tried: list[int | None] = []
    said: list[str] = []

    def start(batch: int | None) -> Any:
        tried.append(batch)
        return TightEngine(batch or 1024)

    scorer = VllmScorer(start, said.append)
    assert scorer.score([], [], 1) == "scored"
    assert tried == [None, 512, 256]
    assert "vllm.batch_tokens = 256" in said[-1]


def test_a_scoring_without_memory_for_the_least_batch_gives_up() -> None:
    class Full(TightEngine):
        def score(self, *_: Any) -> str:
            raise EngineMemoryError("too little memory")

    with pytest.raises(EngineMemoryError):
        VllmScorer(lambda batch: Full(batch or 256), lambda _: None).score([], [], 1)


def test_keys_tell_engines_apart_and_leave_the_transformers_key_alone() -> None:
    settings = score_settings(mode="separate", engine="vllm")
    one = engine_teacher_inputs("t", "d", ("k", "c"), None, settings, given_ids=False)
    wider = score_settings(mode="separate", engine="vllm", engine_top=256)
    others = [
        engine_teacher_inputs("t", "d", ("k", "c"), None, settings, given_ids=True),
        engine_teacher_inputs("t", "d", ("k", "c"), None, wider, given_ids=False),
        engine_teacher_inputs(
            "t",
            "d",
            ("k", "c"),
            None,
            score_settings(mode="separate", engine="server"),
            given_ids=False,
        ),
    ]
    assert one not in others
    assert len({str(sorted(o.items())) for o in [one, *others]}) == 4
