"""SmolLM2 on vLLM: a round whose numbers are those of the transformers engine.

That such a round teaches as much is shown with the built-in pair in test_vllm.py, and here in soak.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tip.pipeline.config.run import RunConfig
from tip.pipeline.config.toml import make_config
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages.models.load import load_model
from tip.stages.score.separate import score_teacher
from tip.storage.tables import read_table
from vllm_pair import EXPECTED, needs_vllm

MODELS = Path(os.environ.get("TIP_MODELS", Path(__file__).parents[3] / "models"))
TEACHER, STUDENT = MODELS / "smollm2-135m", MODELS / "smollm2-half"

pytestmark = [
    needs_vllm,
    pytest.mark.soak,  # a real vocabulary; the promise itself is held by the small models' tests
    pytest.mark.skipif(
        not (STUDENT.is_dir() or EXPECTED), reason=f"no {STUDENT}: `make models` makes it"
    ),
]

THINGS = ("apples", "coins", "books", "trains", "letters", "stones", "birds", "chairs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("smollm2")
    rows = [
        {
            "prompt": f"Ann has {a} {thing} and gives {b} away. How many {thing} are left?",
            "answer": str(a - b),
        }
        for a in range(10, 22)
        for b in (2, 5)
        for thing in THINGS
    ]
    for name, part in (("train", rows[::2]), ("held_out", rows[1::8])):
        text = "\n".join(json.dumps(row) for row in part)
        (made / f"{name}.jsonl").write_text(text)
    return made


def config(folder: Path, name: str, **changes: Any) -> RunConfig:
    held_out = {"source": str(folder / "held_out.jsonl"), "max_tokens": 32, "limit": 16}
    values: dict[str, Any] = {
        "name": name,
        "rounds": 1,
        "store": str(folder / "store"),
        "runs": str(folder / "runs"),
        "student": {"model": str(STUDENT)},
        "teacher": {"model": str(TEACHER)},
        "prompts": {"source": str(folder / "train.jsonl")},
        "rollout": {"prompts": 32, "max_tokens": 32},
        "select": {"keep": 0.5},
        "train": {"lr": 3e-4, "warmup_steps": 2, "rollouts_per_step": 4, "batch_tokens": 1024},
        "evaluate": held_out | {"reverse_kl": True, "verifier": "exact"},
    }
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) and key in values else value
    return make_config(values, "test")


def stage(session: Session, name: str) -> list[dict[str, Any]]:
    return [m for m in session.run.metrics() if m["stage"] == name]


@pytest.mark.soak
def test_a_round_on_vllm_teaches_what_a_round_on_transformers_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {}
    for name, engine in (("local", "transformers"), ("vllm", "vllm")):
        session = open_session(
            config(folder, name, rollout={"engine": engine}, evaluate={"engine": engine})
        )
        play(session)
        runs[name] = session
    gap = stage(runs["vllm"], "score")[0]["sampling_gap_rms"]
    assert gap < 1e-3  # nats: float32 kernels of both
    kl = {n: [e["reverse_kl"] for e in stage(s, "evaluate")] for n, s in runs.items()}
    with capsys.disabled():
        print(f"\nsampling gap {gap:.2g} nats; held-out reverse KL {kl}")
    assert kl["vllm"][0] == pytest.approx(kl["local"][0], rel=0.1)  # other rollouts of one student
    assert kl["vllm"][1] < 0.9 * kl["vllm"][0]
    assert kl["vllm"][1] == pytest.approx(kl["local"][1], rel=0.15)
    ours, theirs = (stage(s, "evaluate")[-1] for s in (runs["vllm"], runs["local"]))
    assert ours["low"] <= theirs["high"]
    assert theirs["low"] <= ours["high"]


def test_student_and_teacher_on_vllm_give_the_log_probs_of_transformers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = open_session(
        config(
            folder,
            "both",
            rollout={"prompts": 8, "max_tokens": 24, "engine": "vllm"},
            score={"mode": "separate", "engine": "vllm"},
            evaluate=None,
        )
    )
    play(session)
    scored = stage(session, "score")[0]
    assert scored["sampling_gap_rms"] < 1e-3  # nats: float32 kernels of both
    pointers = session.run.round(0)
    assert pointers is not None
    rollouts, signals = (
        session.store.find(kind, pointers.of(kind)[0]) for kind in ("rollouts", "teacher")
    )
    assert rollouts is not None
    assert signals is not None
    expected, _ = score_teacher(
        load_model(session.inputs.teacher_card, session.device, torch.float32),
        read_table([session.store.path(rollouts, "rollouts")]),
        session.config.score,
        student_vocabulary=session.inputs.student_card.head_rows,
    )
    table = read_table([session.store.path(signals, "teacher")])
    gaps = []
    columns = ("ids", "logprobs")
    for ours, theirs in zip(
        zip(*(table[c].to_pylist() for c in columns), strict=True),
        zip(*(expected[c].to_pylist() for c in columns), strict=True),
        strict=True,
    ):
        known = dict(zip(*theirs, strict=True))
        # ids of the student's that vLLM could not be asked for are missing; none is added
        assert set(ours[0]) <= known.keys() or len(set(ours[0]) - known.keys()) == 1
        gaps += [
            abs(lp - known[i]) / abs(lp - 1) for i, lp in zip(*ours, strict=True) if i in known
        ]
    assert max(gaps) < 2**-9  # two roundings to float16
    lost = scored["lost_mass"]
    with capsys.disabled():
        print(f"\nlost mass {lost:.3f}; largest relative gap {max(gaps):.2g}, {len(gaps)} entries")
    assert 0 < lost < 1
    assert np.isfinite(stage(session, "train")[0]["loss"])
