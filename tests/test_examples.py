"""The examples are configs that load, and say what they need."""

import json
import re
from pathlib import Path

import pytest
from shapes import write_cache
from tip.pipeline.config.toml import load_config
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.plan.target import card, on_card
from tip.pipeline.session import look_at

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIGS = sorted(EXAMPLES.glob("*.toml"))
# Parameters of the students, from their model cards; the trained state is 16 bytes of each.
STUDENTS = {
    "llama-70b-8b": 8.03e9,
    "qwen25-14b-1.5b": 1.54e9,
    "qwen3-8b-4b": 4.02e9,
    "ray-cluster": 1.72e9,
}
STATE_BYTES, SAVED_BYTES = 16, 12


def text_of(name: str) -> str:
    return (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_example_loads(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_every_example_for_a_gpu_has_its_figures_checked() -> None:
    on_gpus = {path.stem for path in CONFIGS if load_config(path).device == "cuda"}
    assert on_gpus == set(CARDS)


@pytest.mark.parametrize("name", STUDENTS)
def test_an_example_says_what_training_needs_on_its_card(name: str) -> None:
    said = re.search(r"#   train .*?(\d+) GB of float32 weights, gradients", text_of(name))
    assert said is not None
    assert int(said[1]) == pytest.approx(STUDENTS[name] * STATE_BYTES / 1e9, abs=1)


@pytest.mark.parametrize("name", STUDENTS)
def test_an_example_says_what_a_training_state_takes_on_disk(name: str) -> None:
    said = re.findall(r"(\d+) GB a training state|a snapshot is (\d+) GB", text_of(name))
    assert len(said) == 2
    for figure in (int(a or b) for a, b in said):
        assert figure == pytest.approx(STUDENTS[name] * SAVED_BYTES / 1e9, abs=1)


@pytest.mark.parametrize("name", STUDENTS)
def test_an_example_does_not_spend_its_time_on_snapshots(name: str) -> None:
    gigabytes = STUDENTS[name] * SAVED_BYTES / 1e9
    settings = load_config(EXAMPLES / f"{name}.toml").train
    assert settings.snapshot_seconds > 10 * gigabytes  # at 1 GB/s, under a tenth of the time


# GB of the cards that the examples are for.
CARDS = {
    "eight-gpus": 80,
    "llama-70b-8b": 80,
    "one-24gb": 24,
    "one-80gb": 80,
    "qwen25-14b-1.5b": 40,
    "qwen3-8b-4b": 80,
    "ray-cluster": 40,
    "two-slurm-nodes": 80,
}
PROBLEM = "+1="  # what the built-in tokenizer knows


@pytest.mark.parametrize("name", CARDS)
def test_an_example_fits_the_card_that_it_is_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(write_cache(tmp_path)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("tip.pipeline.checks._refuse_missing", lambda *_: None)
    config = load_config(EXAMPLES / f"{name}.toml")
    data = tmp_path / "p.jsonl"
    texts = ["1" * length + PROBLEM for length in range(5, 5 + config.rollout.prompts)]
    longest = config.prompts.max_tokens or 512
    texts.append("1" * (longest - 10) + PROBLEM)
    data.write_text("\n".join(json.dumps({"prompt": t, "answer": "1"}) for t in texts))
    changes = {
        "store": tmp_path / "s",
        "runs": tmp_path / "r",
        "prompts.source": data,
        "evaluate.source": data,
        "evaluate.format": "{prompt}",
    }
    asked = load_config(EXAMPLES / f"{name}.toml", [f'{k}="{v}"' for k, v in changes.items()])
    plan = plan_of(look_at(on_card(asked)), target=card(CARDS[name]))
    assert {need.stage: need.fits(plan.target) for need in plan.memory} == {
        need.stage: True for need in plan.memory
    }
    assert f"--card {CARDS[name]}" in text_of(name) or f"{CARDS[name]} GB" in text_of(name)
