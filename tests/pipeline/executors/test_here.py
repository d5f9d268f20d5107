"""This process is set up when the first work has to be made, and not to find what is there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.executors import here as module
from tip.pipeline.executors.here import Here
from tip.pipeline.progress import Tick
from tip.pipeline.works.work import Made
from tip.stages.holder import Holder
from tip.storage.store.store import Store

from ..conftest import Listening, MakeConfig


@dataclass(frozen=True)
class Probe:
    """A work of three shards, which makes one small artifact, unless that is there."""

    name: str
    there: bool
    holders: list[Holder]
    unit = "shards"
    size = 3

    def found(self, store: Store) -> tuple[Made, ...] | None:
        return self._made(store) if self.there else None

    def ensure(self, holder: Holder, store: Store, tick: Tick) -> tuple[Made, ...]:
        self.holders.append(holder)
        tick(1)
        return self._made(store)

    def _made(self, store: Store) -> tuple[Made, ...]:
        return (Made(*store.ensure("probe", {"name": self.name}, lambda _: {})),)


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what this process is set up with, time after time."""
    given: list[Any] = []

    def note(*arguments: Any) -> str:
        given.append(arguments)
        return "sdpa"

    monkeypatch.setattr(module, "set_up", note)
    return given


def test_what_is_found_ticks_at_once_and_sets_nothing_up(
    config: MakeConfig, tmp_path: Path, set_up: list[Any]
) -> None:
    reporter = Listening()
    here = Here(config(), Store(tmp_path), reporter)
    here.map([Probe("a", True, []), Probe("b", True, [])], "probe")
    here.close()
    assert reporter.ticks == {"probe": [3, 3]}
    assert set_up == []


def test_what_is_missing_is_made_in_order_with_one_holder(
    config: MakeConfig, tmp_path: Path, set_up: list[Any]
) -> None:
    reporter, holders = Listening(), []
    here = Here(config(), Store(tmp_path), reporter)
    works = [Probe("a", False, holders), Probe("b", True, holders), Probe("c", False, holders)]
    made = here.map(works, "probe")
    here.close()
    assert [each.artifact.inputs["name"] for (each,) in made] == ["a", "b", "c"]
    assert reporter.ticks == {"probe": [1, 3, 1]}
    assert (len(holders), len({*map(id, holders)}), len(set_up)) == (2, 1, 1)
