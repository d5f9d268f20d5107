"""Each of two actors has a vLLM engine of its own, and some of the shards."""

from pathlib import Path
from typing import Any

import pytest
import ray
from tip.pipeline.executors.crew import Crew
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from vllm_pair import needs_vllm, widened

from ..conftest import PAIR, MakeConfig, artifacts, numbers, played
from .test_on_ray import TWO, cluster  # noqa: F401  # a fixture

pytestmark = [needs_vllm, pytest.mark.soak]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """Return the actors that have ticked, by title."""
    by_title: dict[str, set[int]] = {}
    pass_on = Crew._pass_on

    def note(self: Crew, words: Any, member: Any, job: Any) -> None:
        by_title.setdefault(job.title, set()).add(member.greeting.process["pid"])
        pass_on(self, words, member, job)

    monkeypatch.setattr(Crew, "_pass_on", note)
    return by_title


@pytest.mark.usefixtures("cluster")
def test_rollouts_answers_and_scores_by_vllm_are_spread_over_actors(
    config: MakeConfig,
    asked: dict[str, object],
    tmp_path: Path,
    heard: dict[str, set[int]],
) -> None:
    small = {"vllm": {"cpu_cache_gb": 1}}
    session = played(
        config(
            rounds=1,
            student={"model": str(widened(PAIR / "student", tmp_path / "student")), **small},
            teacher=small,
            rollout={"prompts": 64, "engine": "vllm"},
            score={"mode": "separate", "engine": "vllm"},
            train={"export_dtype": "float32"},
            evaluate=asked | {"engine": "vllm"},
            workers=TWO,
        )
    )
    assert ray.is_initialized()
    titles = ("round 0 evaluate", "round 0 rollout", "round 0 score (teacher)", "round 1 evaluate")
    assert {title: len(heard[title]) for title in titles} == dict.fromkeys(titles, 2)
    assert numbers(session, "rollout", "engine_gap_mean")[0] < 1e-4
    keys = {a.key for kind in ("rollouts", "teacher") for a in artifacts(session, kind)}
    # who plays it here finds all of it
    again = open_session(session.config.model_copy(update={"workers": config().workers}))
    again.run.path.rename(tmp_path / "away")
    play(again)
    assert {a.key for kind in ("rollouts", "teacher") for a in artifacts(again, kind)} == keys
    assert numbers(again, "rollout", "generated_tokens") == [0]
