"""A round whose student and teacher are held by vLLM: same tables, fresh weights, found again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tip.pipeline.config.run import RunConfig
from tip.pipeline.config.toml import make_config
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages.arrays.ragged import from_lists
from tip.stages.engines.probe import probe_sequences, reference_logprobs
from tip.stages.engines.protocols import Scored
from tip.stages.engines.vllm.engine import VllmEngine
from tip.stages.engines.vllm.spec import EngineSpec
from tip.stages.models.load import load_model
from tip.stages.score.separate import score_teacher
from tip.storage.errors import DisagreementError
from tip.storage.tables import read_table
from vllm_pair import needs_vllm, widened

from ..conftest import PAIR, contents

pytestmark = needs_vllm


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory, problems: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("vllm")
    asked = {"template": "raw", "max_tokens": 64}
    held_out = {"source": str(problems / "held_out.jsonl"), "temperature": 0, "verifier": "exact"}
    return {
        "name": "vllm",
        "rounds": 1,
        "store": str(folder / "store"),
        "runs": str(folder / "runs"),
        "threads": 1,
        "student": {
            "model": str(widened(PAIR / "student", folder / "student")),
            "vllm": {"cpu_cache_gb": 1},
        },
        "teacher": {"model": str(PAIR / "teacher"), "vllm": {"cpu_cache_gb": 1}},
        "prompts": {"source": str(problems / "train.jsonl"), "template": "raw"},
        "rollout": {"prompts": 64, "max_tokens": 64, "engine": "vllm"},
        "score": {"mode": "separate", "engine": "vllm"},
        "train": {"lr": 3e-4, "rollouts_per_step": 16, "export_dtype": "float32"},
        "evaluate": asked | held_out | {"engine": "vllm"},
    }


@pytest.fixture(scope="module")
def ran(values: dict[str, Any]) -> Session:
    session = open_session(config(values))
    play(session)
    return session


def config(values: dict[str, Any], **changes: Any) -> RunConfig:
    changed = {
        k: values[k] | v if isinstance(values.get(k), dict) else v for k, v in changes.items()
    }
    return make_config(values | changed, "test")


def stage(session: Session, name: str) -> list[dict[str, Any]]:
    return [m for m in session.run.metrics() if m["stage"] == name]


def test_the_teachers_table_is_the_one_transformers_makes(ran: Session) -> None:
    pointers = ran.run.round(0)
    assert pointers is not None
    card = ran.inputs.teacher_card
    teacher = load_model(card, ran.device, torch.float32)
    for source, signals in zip(pointers.of("rollouts"), pointers.of("teacher"), strict=True):
        rollouts, made = ran.store.find("rollouts", source), ran.store.find("teacher", signals)
        assert rollouts is not None
        assert made is not None
        expected, _ = score_teacher(
            teacher,
            read_table([ran.store.path(rollouts, "rollouts")]),
            ran.config.score,
            student_vocabulary=36,
        )
        table = read_table([ran.store.path(made, "teacher")])
        same = [
            a == b
            for a, b in zip(table["ids"].to_pylist(), expected["ids"].to_pylist(), strict=True)
        ]
        assert np.mean(same) > 0.99  # a mass that ends at 0.99 up to rounding may go either way
        mean = [float(np.mean(from_lists(t["logprobs"]).values)) for t in (table, expected)]
        assert mean[0] == pytest.approx(mean[1], abs=0.01)
        np.testing.assert_allclose(table["entropy"], expected["entropy"], atol=1e-4)
        np.testing.assert_allclose(
            np.exp(table["tail"].to_numpy()[same]),
            np.exp(expected["tail"].to_numpy()[same]),
            atol=5e-6,
        )


def test_each_engine_is_fresh_and_its_gap_is_on_record(ran: Session) -> None:
    gap = stage(ran, "rollout")[0]["engine_gap_mean"]
    assert gap < 1e-4
    assert stage(ran, "evaluate")[-1]["engine_gap_mean"] < 1e-4  # of the trained student
    # the first student is loaded once to be compared with; a checkpoint has its log-probs with it
    assert len(list(ran.store.list("reference"))) == 1
    probes = probe_sequences(ran.inputs.everything_asked())
    moved = [
        reference_logprobs(ran.executor.holder.model(s), probes)  # type: ignore[attr-defined]
        for s in (ran.student(0), ran.student(1))
    ]
    stale = np.abs(moved[0] - moved[1]).mean()
    assert stale > 0.01  # stale weights would have been refused
    assert stage(ran, "score")[0]["sampling_gap_rms"] < 1e-4


def test_the_student_learns_as_it_does_on_the_transformers_engine(
    ran: Session, values: dict[str, Any]
) -> None:
    other = open_session(
        config(
            values,
            name="local",
            rollout={"engine": "transformers"},
            score={"engine": "transformers"},
            evaluate={"engine": "transformers"},
        )
    )
    play(other)
    for name in ("reverse_kl", "entries", "student_mass"):
        ours, theirs = (stage(s, "score")[0][name] for s in (ran, other))
        assert ours == pytest.approx(theirs, rel=0.25)  # of 64 other rollouts
    before = [stage(s, "evaluate")[0]["accuracy"] for s in (ran, other)]
    assert before[0] == before[1]  # greedy answers of equal weights
    ours, theirs = stage(ran, "evaluate")[-1], stage(other, "evaluate")[-1]
    assert ours["low"] <= theirs["high"]
    assert theirs["low"] <= ours["high"]


def test_a_run_that_is_found_starts_no_engine(
    ran: Session, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("an engine was started")

    before = contents(ran)
    monkeypatch.setattr("tip.stages.holder.VllmEngine", refuse)
    again = open_session(config(values))
    play(again)
    assert contents(again) == before


def test_a_gap_beyond_the_limit_is_refused_and_nothing_is_stored(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the process, which answers as an engine of other weights does."""

    def start(engine: VllmEngine, spec: EngineSpec) -> None:
        engine.spec, engine.vocabulary, engine.given_ids = spec, 36, False

    def score(_: VllmEngine, sequences: list[np.ndarray], *__: Any) -> list[Scored]:
        return [Scored(s[1:, None], np.full((len(s) - 1, 1), -3.0), None) for s in sequences]

    def close(engine: VllmEngine) -> None:
        closed.append(engine)

    closed: list[VllmEngine] = []
    monkeypatch.setattr(VllmEngine, "__init__", start)
    monkeypatch.setattr(VllmEngine, "score", score)
    monkeypatch.setattr(VllmEngine, "close", close)
    changed = config(
        values,
        store=str(tmp_path / "store"),
        runs=str(tmp_path / "runs"),
        evaluate={"every": 1},
    )
    session = open_session(changed)
    with pytest.raises(DisagreementError, match="vLLM's log-probs differ from the trainer's"):
        play(session)
    assert closed
    assert {a.kind for a in session.store.list()} == {"reference"}
