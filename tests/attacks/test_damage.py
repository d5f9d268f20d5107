"""What is damaged is named before it is used, made again, or not needed; numbers never change."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tip.storage.store.claims import Patience

from ..pipeline.conftest import asked, one_thread, problems  # noqa: F401  # fixtures
from .damage import (
    AGAIN,
    CELLS,
    LOOKS,
    NAMED,
    VERIFY,
    Kind,
    Scene,
    differences,
    mend,
    outcome,
    refusal,
    set_up,
    spoil,
    table,
)

PAGE = Path(__file__).parents[2] / "docs" / "RELIABILITY.md"
DRAWS = {"bit": 2}
SAMPLE = Random(7).sample(CELLS, 7)
# What their reader takes for a whole file: nothing may show another number than before.
WHOLE = ("bit", "block", "swapped", "number")


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory,
    problems: Path,  # noqa: F811
    asked: dict[str, object],  # noqa: F811
) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tip.storage.store.store.Patience", lambda: Patience(0.05, 0.5))
        scene = Scene(tmp_path_factory.mktemp("damage"), problems, asked)
        yield scene
    shutil.rmtree(scene.folder.parent)


def ids(cells: list[tuple[Kind, str]]) -> list[str]:
    return [f"{kind.what}-{damage}" for kind, damage in cells]


@pytest.mark.parametrize(("kind", "damage"), SAMPLE, ids=ids(SAMPLE))
def test_some_damages_come_to_what_the_table_says(scene: Scene, kind: Kind, damage: str) -> None:
    path = spoil(scene, kind, damage, draw=0)
    assert outcome(scene, kind, path) in kind.outcomes[damage]


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "damage"), CELLS, ids=ids(CELLS))
def test_every_damage_comes_to_what_the_table_says(scene: Scene, kind: Kind, damage: str) -> None:
    for draw in range(DRAWS.get(damage, 1)):
        path = spoil(scene, kind, damage, draw)
        found = outcome(scene, kind, path)
        assert found in kind.outcomes[damage]
        if found == NAMED:
            path = spoil(scene, kind, damage, draw)
            mend(scene, path, refusal(scene.use(kind.use)))
            ended = scene.use(kind.use)
            assert ended.code == 0, ended
            assert differences(scene.final(kind.use), scene.whole[kind.use]) == []


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "damage"), CELLS, ids=ids(CELLS))
def test_who_looks_at_a_damage_sees_no_other_numbers(scene: Scene, kind: Kind, damage: str) -> None:
    before = scene.before
    if kind.without is not None and damage in WHOLE:
        set_up(scene, kind)
        before = {name: scene.look(name) for name in LOOKS}
    spoil(scene, kind, damage, draw=0)
    for name in LOOKS:
        ended = scene.look(name)
        if ended.code:
            refusal(ended)
        elif damage in WHOLE:
            assert numbers(ended.out) <= numbers(before[name].out), name


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "damage"), CELLS, ids=ids(CELLS))
def test_verify_names_every_damage_and_what_was_made_from_it(
    scene: Scene, kind: Kind, damage: str
) -> None:
    path = spoil(scene, kind, damage, draw=0)
    ended = scene.tip(*VERIFY)
    unseen = damage == "gone" and path.name in UNMISSED
    unseen |= path.name == "metrics.jsonl" and kind.outcomes[damage] == AGAIN  # as a kill leaves it
    if not kind.verified or unseen or (damage == "swapped" and not kind.verified_swap):
        assert ended.code == 0 or kind.outcomes[damage] == NAMED
        return
    refusal(ended)
    assert any(str(place) in ended.out for place in (path, path.parent))
    for heir, round in kind.heirs:
        key = scene.manifest(heir, round).parent.name
        assert f"made from what is damaged: {heir} {key}" in ended.out


# What is not there is not missed: an artifact exists by its manifest, a state may be let go.
UNMISSED = ("manifest.json", "state.safetensors", "0001.json", "metrics.jsonl")


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\w.]*", text))


def test_the_page_says_what_the_tests_show() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), f"expected in {PAGE.name}:\n{table()}"
