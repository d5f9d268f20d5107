"""A real model on real problems: the README's first real run, in its own few minutes."""

import os
from pathlib import Path

import pytest
from tip.pipeline.config.toml import load_config
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TIP_DATA", ROOT.parent / "shared" / "data"))
MODELS = Path(os.environ.get("TIP_MODELS", ROOT / "models"))
MISSING = [str(p) for p in (DATA / "gsm8k_test.jsonl", MODELS / "smollm2-half") if not p.exists()]

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"needs {', '.join(MISSING)}: set TIP_DATA, and `make models` or TIP_MODELS",
    ),
]


def test_two_rounds_bring_the_half_model_clearly_nearer_to_its_teacher(tmp_path: Path) -> None:
    changes = [
        f'store="{tmp_path}/store"',
        f'runs="{tmp_path}/runs"',
        f'student.model="{MODELS}/smollm2-half"',
        f'teacher.model="{MODELS}/smollm2-135m"',
        f'prompts.source="{DATA}/gsm8k_train.jsonl"',
        f'evaluate.source="{DATA}/gsm8k_test.jsonl"',
        'prompts.format="{problem}"',
        'evaluate.format="{problem}"',
    ]
    session = open_session(
        load_config(ROOT / "examples" / "smollm2-gsm8k.toml", changes), Reporter()
    )
    play(session)
    divergences = [m["reverse_kl"] for m in session.run.metrics() if m["stage"] == "evaluate"]
    # Measured: 7.53, 1.93, 1.56 nats a token.
    assert len(divergences) == 3
    assert divergences[1] < divergences[0] / 2
    assert divergences[2] < divergences[1]
