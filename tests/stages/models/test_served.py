"""A served teacher is known by its weights where they are here, else by what is declared of it."""

from pathlib import Path

import pytest
from tiny import load, write_model
from tip.stages.models.card import ModelCard
from tip.stages.models.served import read_served_card
from tip.stages.models.settings import ServerSettings, TeacherSettings


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("teacher"), "llama", seed=2)


def card(folder: Path) -> ModelCard:
    return read_served_card(TeacherSettings(model=str(folder)))


def test_a_teacher_without_weights_here_is_known_by_what_is_declared(
    teacher: Path, tmp_path: Path
) -> None:
    for path in teacher.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    one = card(tmp_path)
    assert one.fingerprint != card(teacher).fingerprint
    assert one.fingerprint == card(tmp_path).fingerprint
    revised = TeacherSettings(model=str(tmp_path), revision="2")
    assert read_served_card(revised).fingerprint != one.fingerprint
    served = [
        read_served_card(
            TeacherSettings(model=str(tmp_path), server=ServerSettings(url="http://x", name=name))
        ).fingerprint
        for name in (None, "a", "b")
    ]
    assert served[0] == one.fingerprint
    assert len({*served}) == 3


def test_a_teacher_whose_weights_are_here_is_known_by_them(teacher: Path) -> None:
    assert card(teacher).fingerprint == load(teacher).card.fingerprint
