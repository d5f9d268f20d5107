"""The demo's configs are ordinary ones: what it plays can be typed."""

from pathlib import Path

import pytest
from tip.pipeline.config.toml import load_config
from tip.pipeline.demo.show import CHOICES, Choice, config_text

from ..conftest import PAIR


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.name)
def test_each_choice_is_a_config_file_that_loads(choice: Choice, tmp_path: Path) -> None:
    path = tmp_path / f"{choice.name}.toml"
    path.write_text(config_text(path, choice, 3, PAIR))
    config = load_config(path)
    assert (config.name, config.rounds) == (choice.name, 3)
    assert (config.select.rule, config.select.keep) == (choice.rule, choice.keep)
    assert config.train.epochs == choice.passes


def test_choices_share_one_store_and_differ_in_what_they_select_and_how_often_they_train(
    tmp_path: Path,
) -> None:
    texts = [config_text(tmp_path / "p.toml", choice, 3, PAIR) for choice in CHOICES]
    lines = [
        [x for x in text.splitlines() if x.split(" =")[0] not in ("rule", "keep", "epochs")]
        for text in texts
    ]
    assert len(set(texts)) == len(CHOICES)
    assert all(other == lines[0] for other in lines)
