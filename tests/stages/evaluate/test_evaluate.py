"""An evaluation asks every problem, and its table says what came of each answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tiny import load, sampling, write_model
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.evaluate.evaluate import evaluate, evaluate_inputs, summary_of
from tip.stages.evaluate.settings import EvaluateSettings
from tip.stages.evaluate.verdicts import Verifier
from tip.stages.models.language_model import LanguageModel
from tip.stages.prompts.render import Prompt
from tip.storage.columns import EVALUATION, schema
from tip.storage.keys import ids_hash, key_of
from tip.storage.tables import write_table

PROBLEMS = [
    Prompt(ids, ids_hash(list(ids)), ids, answer, number)
    for number, (ids, answer) in enumerate([((4, 5), "w7"), ((6, 7, 8), "w9"), ((9,), "w2")])
]


class Boxing:
    """A tokenizer that puts the first word of a response into a box."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def decode(self, ids: Any, **options: Any) -> str:
        words = self.tokenizer.decode(ids, **options).split()
        return f"\\boxed{{{words[0]}}} {' '.join(words[1:])}" if words else ""


def settings(**changes: Any) -> EvaluateSettings:
    usual = {"source": "x", "samples": 4, "verifier": "exact", "resamples": 200}
    return EvaluateSettings(**usual | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), vocabulary=12)


def answers(model: LanguageModel, problems: Sequence[Prompt], verifier: Verifier) -> pa.Table:
    terms = sampling(max_tokens=4, stop_ids=(1, 2), top_most=0)
    tokenizer = Boxing(model.card.tokenizer)
    return evaluate(LocalEngine(model, 5), tokenizer, problems, settings(), terms, verifier)


@pytest.fixture(scope="module")
def table(folder: Path) -> pa.Table:
    model = load(folder)
    return answers(model, PROBLEMS, Verifier("exact", timeout=5.0))


def test_rows_stand_problem_by_problem_and_sample_by_sample(
    table: pa.Table, tmp_path: Path
) -> None:
    assert table.schema == schema(EVALUATION)
    found = list(
        zip(*(table[n].to_pylist() for n in ("problem", "sample", "expected")), strict=True)
    )
    assert found == [(p.hash, sample, p.answer) for p in PROBLEMS for sample in range(4)]
    write_table(tmp_path / "evaluation.parquet", table, EVALUATION)


def test_a_row_is_right_when_its_boxed_answer_is_the_expected_one(table: pa.Table) -> None:
    verdicts = set()
    for row in table.to_pylist():
        words = row["response"].split()
        answer = words[0].removeprefix("\\boxed{").removesuffix("}") if words else None
        assert row["answer"] == answer
        assert row["correct"] == (answer == row["expected"]) == (row["verdict"] == "right")
        verdicts.add(row["verdict"])
    assert verdicts >= {"right", "wrong"}


def test_length_and_stop_reason_are_those_of_the_ids(table: pa.Table) -> None:
    rows = table.to_pylist()
    assert {row["stop_reason"] for row in rows} == {"stop", "length"}
    assert all(row["length"] == 4 for row in rows if row["stop_reason"] == "length")
    assert all(1 <= row["length"] <= 4 for row in rows)


def test_the_summary_counts_right_and_truncated_answers(table: pa.Table) -> None:
    summary = summary_of(table, settings())
    rows = table.to_pylist()
    assert (summary.problems, summary.samples) == (3, 4)
    assert summary.mean == pytest.approx(sum(row["correct"] for row in rows) / 12)
    assert summary.truncated == sum(row["stop_reason"] == "length" for row in rows) / 12
    solved = {row["problem"] for row in rows if row["correct"]}
    assert summary.pass_at[4] == pytest.approx(len(solved) / 3)
    assert summary.low <= summary.mean <= summary.high


def test_shards_one_after_the_other_are_the_evaluation_of_all_problems(
    folder: Path, table: pa.Table
) -> None:
    model, verifier = load(folder), Verifier("exact", timeout=5.0)
    shards = [answers(model, part, verifier) for part in (PROBLEMS[:2], PROBLEMS[2:])]
    whole = pa.concat_tables(shards)
    assert whole.equals(table)
    assert summary_of(whole, settings()) == summary_of(table, settings())


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"batch_size": 3}, True),
        ({"resamples": 5}, True),
        ({"every": 5}, True),
        ({"samples": 5}, False),
        ({"verifier": "math"}, False),
        ({"timeout": 9.0}, False),
    ],
    ids=str,
)
def test_the_key_knows_what_changes_a_verdict_and_nothing_else(
    changed: dict[str, Any], same: bool
) -> None:
    def key(**changes: Any) -> str:
        return key_of(
            evaluate_inputs("model", "torch.float32", PROBLEMS, settings(**changes), sampling())
        )

    assert (key(**changed) == key()) == same


def test_comparing_texts_keeps_the_keys_of_before_normalisation() -> None:
    versions = {
        verifier: evaluate_inputs("m", "d", PROBLEMS, settings(verifier=verifier), sampling())[
            "version"
        ]
        for verifier in ("exact", "math")
    }
    assert versions == {"exact": 1, "math": 3}
