"""What an engine says of a teacher becomes the support that the teacher itself would give.

The engine here is a plain float64 computation behind the engines' interface: what is cut from its
answers is held against the same distributions cut the long way.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny import Shard, load, log_probs, prompts, score_settings, shard, write_model
from tip.stages.arrays.ragged import from_lists
from tip.stages.engines.protocols import Scored, Tick, silent
from tip.stages.score.by_engine import score_with_engine
from tip.stages.score.separate import score_student, score_teacher
from tip.storage.errors import DisagreementError, NumericsError

VOCABULARY = 60
NATS = 3e-5


class PlainScorer:
    """Scores with transformers in float64; `skew` nats are added in every batch but not alone.

    Given ids are refused as vLLM refuses them: none at a position, or ids beyond the vocabulary.
    """

    def __init__(self, folder: Any, *, given_ids: bool = False, skew: float = 0.0) -> None:
        self.folder, self.given_ids, self.skew = folder, given_ids, skew
        self.vocabulary = VOCABULARY

    def score(
        self,
        sequences: Sequence[np.ndarray],
        starts: Sequence[int],
        top: int,
        given: Sequence[np.ndarray | None] | None = None,
        tick: Tick = silent,
    ) -> list[Scored]:
        out = []
        most = min(top, self.vocabulary)
        for place, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
            found = log_probs(self.folder, sequence[:start].tolist(), sequence[start:].tolist())
            found = found + (self.skew if len(sequences) > 1 else 0)
            order = np.argsort(-found, axis=1, kind="stable")[:, :most]
            ids = np.concatenate([sequence[start:, None], order], 1)
            values = np.take_along_axis(found, ids, 1).astype(np.float32)
            asked, rows = None, None if given is None else given[place]
            if rows is not None:
                assert 0 not in rows.shape
                assert rows.min() >= -1
                assert rows.max() < self.vocabulary
                asked = np.take_along_axis(found, np.maximum(rows, 0), 1)
                asked = np.where(rows < 0, -np.inf, asked).astype(np.float32)
            out.append(Scored(ids.astype(np.int32), values, asked))
            tick(len(ids))
        return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    student = write_model(tmp_path_factory.mktemp("student"), "qwen3", seed=1)
    teacher = write_model(tmp_path_factory.mktemp("teacher"), "llama", seed=2)
    return shard(student, teacher, prompts(5, 2, 9), samples=2, max_tokens=10, stop_ids=(1, 2, 3))


def scored(
    made: Shard, scorer: Any, rollouts: pa.Table | None = None, **changes: Any
) -> tuple[Any, dict]:
    settings = score_settings(mode="separate", engine="vllm", **changes)
    return score_with_engine(
        scorer,
        made.rollouts if rollouts is None else rollouts,
        settings,
        dtype="float32",
        student_vocabulary=VOCABULARY,
    )


def with_top(rollouts: pa.Table, change: Callable[[list[int], list[int]], Any]) -> pa.Table:
    """Return rollouts with other student ids. change: from ids and counts of a rollout."""
    columns = [rollouts[name].to_pylist() for name in ("top_ids", "top_counts")]
    for name, values in zip(
        ("top_ids", "top_counts"), zip(*map(change, *columns), strict=True), strict=True
    ):
        place = rollouts.column_names.index(name)
        column = pa.array(values, type=rollouts[name].type)
        rollouts = rollouts.set_column(place, rollouts.field(name), column)
    return rollouts


def uneven(ids: list[int], counts: list[int]) -> tuple[list[int], list[int]]:
    """Return fewer ids at each position than at the one before it, and the most again."""
    kept = [max(0, count - t % 4) for t, count in enumerate(counts)]
    starts = np.cumsum([0, *counts])
    return [i for s, k in zip(starts, kept, strict=False) for i in ids[s : s + k]], kept


@pytest.mark.parametrize("rows", [1, 3, 2048], ids="{} tokens at once".format)
@pytest.mark.parametrize("given", [True, False], ids=["given ids", "its whole vocabulary"])
def test_an_engine_that_knows_every_id_gives_the_teachers_own_table(
    made: Shard, given: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tip.stages.score.by_engine._ROWS", rows)
    rollouts = with_top(made.rollouts, uneven)
    expected, _ = score_teacher(
        load(made.teacher), rollouts, score_settings(), student_vocabulary=VOCABULARY
    )
    scorer = PlainScorer(made.teacher, given_ids=given)
    table, facts = scored(made, scorer, rollouts, engine_top=32 if given else VOCABULARY)
    for name in ("rollout", "position", "ids"):
        assert table[name].equals(expected[name])
    ours, theirs = (from_lists(t["logprobs"]).values.astype(float) for t in (table, expected))
    np.testing.assert_allclose(ours, theirs, rtol=2**-10, atol=NATS)
    outside = [np.exp(t["tail"].to_numpy()) for t in (table, expected)]
    np.testing.assert_allclose(*outside, atol=3e-6)  # one minus a sum of float32 log-probs
    if not given:
        np.testing.assert_allclose(table["entropy"], expected["entropy"], atol=NATS)
    assert facts.teacher_check_gap < 1e-6


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
        lost.append(facts.lost_mass)
        masses.append(facts.student_mass)
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
            return [replace(a, ids=np.roll(a.ids, 1, 0)) for a in answers]

    with pytest.raises(DisagreementError, match="answers for other tokens"):
        scored(made, Shifted(made.teacher))


def test_an_engine_that_says_otherwise_of_a_rollout_alone_is_refused(made: Shard) -> None:
    with pytest.raises(DisagreementError, match="scored alone"):
        scored(made, PlainScorer(made.teacher, skew=-0.01))


def test_a_log_prob_that_is_no_number_is_refused(made: Shard) -> None:
    with pytest.raises(NumericsError, match="not finite"):
        scored(made, PlainScorer(made.teacher, skew=float("nan")))


def test_a_student_that_led_no_ids_asks_for_none(made: Shard) -> None:
    rollouts = with_top(made.rollouts, lambda _, counts: ([], [0] * len(counts)))
    expected, _ = score_teacher(
        load(made.teacher), rollouts, score_settings(), student_vocabulary=VOCABULARY
    )
    table, _ = scored(made, PlainScorer(made.teacher, given_ids=True), rollouts, engine_top=32)
    assert table["ids"].equals(expected["ids"])


def test_ids_that_the_teacher_lacks_are_not_asked_for(made: Shard) -> None:
    fewer = with_top(made.rollouts, lambda ids, counts: (ids[:-1], [*counts[:-1], counts[-1] - 1]))
    more = with_top(made.rollouts, lambda ids, counts: ([*ids[:-1], VOCABULARY + 5], counts))
    scorer = PlainScorer(made.teacher, given_ids=True)
    expected, table = (scored(made, scorer, rollouts)[0] for rollouts in (fewer, more))
    assert table["ids"].equals(expected["ids"])


class Changed(PlainScorer):
    """Answers otherwise than it should. change: of ids, log-probs and those of given ids."""

    def __init__(self, folder: Any, change: Callable[..., Any]) -> None:
        super().__init__(folder, given_ids=True)
        self.change = change

    def score(self, *args: Any, **kwargs: Any) -> Any:
        answers = super().score(*args, **kwargs)
        return [Scored(*self.change(a.ids, a.logprobs, a.given)) for a in answers]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i, lp, g: (i, lp + 9, g), r"a log-prob of .* no distribution.*raw_logprobs"),
        (lambda i, lp, g: (i, lp, None if g is None else g + 9), "a log-prob of"),
        (
            lambda i, lp, g: (
                i,
                np.minimum(lp + 1.5, 0),
                None if g is None else np.minimum(g + 1.5, 0),
            ),
            r"a mass of .* no distribution",
        ),
        (lambda i, lp, g: (i, np.where(np.arange(lp.shape[1]) == 2, np.nan, lp), g), "not finite"),
        (lambda i, lp, g: (i, lp, None), "leaves out the student's ids"),
        (lambda i, lp, g: (i, lp, g if g is None else g[1:]), "leaves out the student's ids"),
        (
            lambda i, lp, g: (i, lp, g if g is None else np.roll(g, 1, 0)),
            "log-probs that differ by",
        ),
    ],
    ids=["positive", "positive given", "mass", "nan", "none given", "short", "shifted"],
)
def test_an_answer_that_is_no_distribution_is_refused(
    made: Shard, change: Callable[..., Any], words: str
) -> None:
    with pytest.raises((NumericsError, DisagreementError), match=words):
        scored(made, Changed(made.teacher, change), check_rows=0)
