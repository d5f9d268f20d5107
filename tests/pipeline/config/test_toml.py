"""Configs: one home per default, every mistake in one line."""

from pathlib import Path

import pytest
from tip.pipeline.config.same import same_run
from tip.pipeline.config.toml import load_config, make_config
from tip.storage.errors import ConfigError

EXAMPLES = Path(__file__).parents[3] / "examples"
LEAST = {
    "name": "x",
    "student": {"model": "s"},
    "teacher": {"model": "t"},
    "prompts": {"source": "p"},
}


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
        ("train.loss=kl", "train.loss = 'kl': input should be 'reverse_kl', 'forward_kl' or 'jsd'"),
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


def test_only_what_changes_results_makes_another_run() -> None:
    before = make_config(LEAST, "x").model_dump(mode="json")
    assert same_run(before, make_config(LEAST | {"rounds": 20, "store": "other"}, "x")) == []
    assert same_run(before, make_config(LEAST | {"seed": 1}, "x")) == ["seed"]
    changed = make_config(LEAST | {"select": {"keep": 0.5}}, "x")
    assert same_run(before, changed) == ["select.keep"]


def test_several_samples_at_temperature_0_are_refused() -> None:
    evaluate = {"source": "p", "temperature": 0, "samples": 4}
    with pytest.raises(ConfigError, match="samples = 4 with temperature = 0"):
        make_config(LEAST | {"evaluate": evaluate}, "x")


SERVED = {
    "score": {"mode": "separate", "engine": "server"},
    "teacher": {"model": "t", "server": {"url": "http://one:8000"}},
}


def test_a_run_goes_on_after_its_server_moved() -> None:
    before = make_config(LEAST | SERVED, "x").model_dump(mode="json")
    moved = SERVED | {"teacher": {"model": "t", "server": {"url": "http://two:8000"}}}
    assert same_run(before, make_config(LEAST | moved, "x")) == []
    renamed = {"model": "t", "server": {"url": "http://one:8000", "name": "other"}}
    changed = make_config(LEAST | SERVED | {"teacher": renamed}, "x")
    assert same_run(before, changed) == ["teacher.server.name"]


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_several_gpus_and_a_numbered_one_are_refused(who: str) -> None:
    four = LEAST | {who: {"model": "m", "vllm": {"tensor_parallel": 4}}}
    with pytest.raises(ConfigError, match=rf"{who}.vllm.tensor_parallel = 4 .*device = 'cuda:1'"):
        make_config(four | {"device": "cuda:1"}, "x")
    make_config(four | {"device": "cuda"}, "x")
