"""Every setting can be looked up: default, values, meaning, and where two configs differ."""

from pathlib import Path

import pytest
from tip.pipeline.config.reference import settings, values_of
from tip.pipeline.config.toml import load_config
from tip.pipeline.show.config import print_difference, print_settings
from tip.storage.errors import ConfigError

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "one-24gb.toml"


def test_every_setting_has_values_a_default_and_a_meaning() -> None:
    every = list(settings())
    assert len(every) == len({each.name for each in every}) > 100
    for each in every:
        assert each.values, each
        assert each.default, each
        assert each.meaning.endswith((".", ")")), each
        assert "Annotated" not in each.values, each
        assert "FieldInfo" not in each.values, each


def test_a_config_has_a_value_for_every_setting_of_its_sections() -> None:
    values = values_of(load_config(EXAMPLE))
    known = {each.name for each in settings()}
    assert values.keys() <= known
    assert {name for name in known if name.startswith("train.")} <= values.keys()
    assert values["train.lora.rank"] == "32"
    assert values["train.clip_token"] == "none"


@pytest.mark.parametrize("word", ["train.lr", "train", "train.lora", None])
def test_a_word_chooses_settings(word: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    print_settings(word, ())
    shown = capsys.readouterr().out
    assert ("train.lr = 1e-06" in shown) is (word != "train.lora")
    assert ("store = " in shown) is (word is None)


def test_a_file_shows_its_own_values_first(capsys: pytest.CaptureFixture[str]) -> None:
    print_settings(str(EXAMPLE), ["train.lr=0.25"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    names = [line[0] for line in lines]
    assert ["train.lr", "0.25", "1e-06"] in lines
    assert names.index("train.lr") < names.index("train.eps")


def test_two_files_differ_where_they_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "one-24gb.toml"
    text = EXAMPLE.read_text()
    other.write_text(text)
    print_difference(EXAMPLE, other)
    assert capsys.readouterr().out == "the same settings\n"
    other.write_text(text.replace("rank = 32", "rank = 16"))
    print_difference(EXAMPLE, other)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "rank" in line]
    assert rows == [["train.lora.rank", "32", "16"]]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lrr", "did you mean train.lr?"),
        ("trian", "did you mean train?"),
        ("qqqqq", "`tip config` lists all"),
        ("gone.toml", "no such config file"),
    ],
)
def test_a_word_that_fits_nothing_is_told_what_does(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        print_settings(word, ())
