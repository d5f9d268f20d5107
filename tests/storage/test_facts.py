"""Facts are read by name and type, whatever version wrote them."""

from pathlib import Path

import pytest
from tip.storage.errors import StoreError
from tip.storage.facts import EngineGap, RolloutFacts
from tip.storage.store.store import Store


def test_facts_come_back_from_a_manifest(tmp_path: Path) -> None:
    gap = EngineGap(mean=1e-6, rms=2e-6, tokens=9)
    facts = RolloutFacts(rollouts=2, tokens=9, truncated=1, engine_gap=gap)
    artifact, _ = Store(tmp_path).ensure("rollouts", {"of": 1}, lambda _: facts.dump())
    assert RolloutFacts.of(artifact) == facts
    assert "made_by" not in artifact.facts


def test_facts_of_another_version_are_read_for_what_is_known_of_them(tmp_path: Path) -> None:
    stored = {"rollouts": 2, "tokens": 9, "truncated": 1, "of_tomorrow": [1]}
    artifact, _ = Store(tmp_path).ensure("rollouts", {"of": 1}, lambda _: stored)
    assert RolloutFacts.of(artifact).engine_gap is None


def test_a_fact_that_is_missing_is_named_with_its_artifact(tmp_path: Path) -> None:
    artifact, _ = Store(tmp_path).ensure("rollouts", {"of": 1}, lambda _: {"rollouts": 2})
    with pytest.raises(StoreError, match=rf"rollouts {artifact.key}: .*fact tokens") as it:
        RolloutFacts.of(artifact)
    assert "\n" not in str(it.value)
