"""The demo's configs are ordinary ones: what it plays can be typed."""

from pathlib import Path

import pytest
from tip.pipeline.config.toml import load_config
from tip.pipeline.demo.show import CHOICES, TEMPLATE, Choice

from ..conftest import PAIR


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.name)
def test_each_choice_is_a_config_file_that_loads(choice: Choice, tmp_path: Path) -> None:
    path = tmp_path / f"{choice.name}.toml"
    path.write_text(
        TEMPLATE.format(
            path=path, folder=tmp_path, pair=PAIR, rounds=3, rule=choice.rule, keep=choice.keep
        )
    )
    config = load_config(path)
    assert (config.name, config.rounds) == (choice.name, 3)
    assert (config.select.rule, config.select.keep) == (choice.rule, choice.keep)


def test_choices_share_one_store_and_differ_in_what_they_select_alone(tmp_path: Path) -> None:
    texts = [
        TEMPLATE.format(path="p", folder=tmp_path, pair=PAIR, rounds=3, rule=c.rule, keep=c.keep)
        for c in CHOICES
    ]
    lines = [[x for x in text.splitlines() if x[:4] not in ("rule", "keep")] for text in texts]
    assert len(set(texts)) == len(CHOICES)
    assert lines[0] == lines[1] == lines[2]
