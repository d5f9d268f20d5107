"""TOML in, one value out: every mistake in one line that says what was expected."""

import tomllib
from pathlib import Path

import pytest
from tip.pipeline.config.toml import apply_change, load_config, make_config
from tip.storage.errors import ConfigError

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_example_loads(path: Path) -> None:
    assert load_config(path).name == path.stem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.lrr=1", "train.lrr: unknown key; did you mean lr"),
        ("zzz=1", "zzz: unknown key; known here:"),
        ("select.keep=0", "select.keep = 0: input should be greater than 0"),
        ("select.keep=1.5", "select.keep = 1.5: input should be less than or equal to 1"),
        ("select.count=0", "select.count = 0: input should be greater than or equal to 1"),
        ("train.loss=kl", "train.loss = 'kl': input should be 'reverse_kl', 'forward_kl', 'jsd', "),
        ("rollout.replay=x", "rollout.replay = 'x' names the run itself"),
        ("rounds", "--set rounds: expected key=value"),
        ("rounds.more=1", "rounds is a value, not a section"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(
    tmp_path: Path, change: str, message: str
) -> None:
    path = tmp_path / "x.toml"
    path.write_text('rounds = 1\n[student]\nmodel="s"\n[teacher]\nmodel="t"\n[prompts]\nsource="p"')
    with pytest.raises(ConfigError) as caught:
        load_config(path, [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_count_beside_a_share_is_refused_with_both_names(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(Path("examples/smollm2-gsm8k.toml").read_text())
    changes = ["select.keep=0.1", "select.count=2"]
    with pytest.raises(ConfigError, match=r"select: keep = 0\.1 and count = 2: .* not both$"):
        load_config(path, changes)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("rounds = 1")
    with pytest.raises(ConfigError, match="student: missing; it has no default"):
        load_config(path)


def test_broken_toml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("rounds = \n")
    with pytest.raises(ConfigError, match=r"not TOML: .*line 1"):
        load_config(path)


def test_a_byte_order_mark_before_a_config_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(Path("examples/smollm2-gsm8k.toml").read_text(), encoding="utf-8-sig")
    assert load_config(path).rounds


def test_a_missing_file_points_at_the_examples(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "x.toml")


def test_set_reads_toml_values_and_bare_words(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[student]\nmodel="s"\n[teacher]\nmodel="t"\n[prompts]\nsource="p"')
    changes = [
        "train.betas=[0.9, 0.95]",
        "select.rule=random",
        "prompts.chat_kwargs.thinking=false",
    ]
    config = load_config(path, changes)
    assert config.train.betas == (0.9, 0.95)
    assert config.select.rule == "random"
    assert config.prompts.chat_kwargs == {"thinking": False}


def test_a_change_may_fill_a_section_that_is_left_out_by_default() -> None:
    config = make_config({"name": "r", **tomllib.loads(NEEDED)}, "a test")
    values = config.model_dump(mode="json")
    assert values["train"]["lora"] is None
    apply_change(values, "train.lora.rank=8", "--vary")
    lora = make_config(values, "a test").train.lora
    assert lora is not None
    assert lora.rank == 8


NEEDED = '[student]\nmodel="s"\n[teacher]\nmodel="t"\n[prompts]\nsource="p"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"seed = {'9' * 5000}", "not TOML: Exceeds the limit"),
        (f"seed = {'[' * 20_000}", "not TOML: maximum recursion depth"),
        ("name = 1979-05-27", "1979-05-27 is no value of a setting; write a text in quotes"),
        ('store = "a\\u0000b"', "store: holds the character NUL"),
        ("seed = 9223372036854775808", "seed = 9223372036854775808: input should be less"),
        ("train.lr = 9007199254740993", "train.lr = 9007199254740993: too many digits"),
        ("evaluate.chat_kwargs = {a = inf}\nevaluate.source = 'p'", "holds inf or nan"),
    ],
)
def test_what_no_setting_can_hold_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"{text}\n{NEEDED}")
    with pytest.raises(ConfigError) as it:
        load_config(path)
    assert said in str(it.value)


def test_several_lines_and_a_time_are_texts_and_a_name_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(NEEDED)
    assert load_config(path, ["store=1\nrounds=3"]).store == "1\nrounds=3"
    assert load_config(path, ["store=07:32:00.5"]).store == "07:32:00.5"
    assert load_config(path, name='a" # b').name == 'a" # b'
    with pytest.raises(ConfigError, match="a text holds what is no character"):
        load_config(path, ["store=\udcff"])
