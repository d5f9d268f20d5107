"""What rules and store hold is told whole: every rule, every artifact, and what is damaged."""

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from rich.console import ConsoleOptions
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.pipeline.show.listing import (
    print_artifacts,
    print_query,
    print_rules,
    print_sizes,
)
from tip.pipeline.show.verify import verify_store
from tip.stages.select.rulebook import GROUPS, builtin_rules
from tip.storage.errors import ConfigError, InputError, StoreError
from tip.storage.store.store import Store

from ..conftest import MakeConfig

COUNT = "SELECT round, count(*) AS tokens FROM tokens GROUP BY round ORDER BY round"


def test_every_built_in_rule_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_rules()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert {line.split()[0] for line in lines} >= set(builtin_rules())
    reading = {line.split()[0] for line in lines if re.search(r"(teacher|student)\* ", line)}
    assert reading == {name for name, rule in builtin_rules().items() if rule.reads_sampled}
    firsts = [line.strip() if line.strip().endswith(":") else line.split()[0] for line in lines]
    groups = [word[:-1] for word in firsts if word[:-1] in GROUPS]
    assert groups == [group for group in GROUPS if group != "reward"], "nothing gives rewards yet"
    for before, rule, after in (
        ("uncertainty:", "low_logprob", "disagreement:"),
        ("position:", "kat", "control:"),
    ):
        assert firsts.index(before) < firsts.index(rule) < firsts.index(after)


def test_a_question_is_answered_on_the_screen_or_in_a_file(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = open_session(config(rounds=2, rollout={"prompts": 8}))
    play(session)
    runs = session.config.runs
    print_query(COUNT, "run", None, runs, tmp_path / "all.csv")
    counted = pl.read_csv(tmp_path / "all.csv")
    assert counted["round"].to_list() == [0, 1]
    print_query(COUNT, "run", [1], runs, None)
    assert str(counted["tokens"][1]) in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"\.parquet or \.csv"):
        print_query(COUNT, "run", None, runs, tmp_path / "all.txt")
    with pytest.raises(ConfigError, match="no scored round"):
        print_query(COUNT, "run", [7], runs, None)
    endless = "SELECT count(*) FROM tokens a, tokens b, tokens c, tokens d WHERE a.jsd < d.jsd"
    with pytest.raises(InputError, match="tip sql --timeout"):
        print_query(endless, "run", None, runs, None, 0.2)


def test_a_question_to_a_run_that_is_not_there_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run nobody under .*; `tip status"):
        print_query(COUNT, "nobody", None, str(tmp_path), None)


@pytest.mark.parametrize(
    "look",
    [
        lambda root: print_artifacts(root, None),
        print_sizes,
        lambda root: verify_store(root, f"{root}/runs"),
    ],
    ids=["ls", "du", "verify"],
)
def test_a_damaged_manifest_is_told_after_all_that_is_whole(
    look: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    whole, _ = store.ensure("probe", {"of": 1}, lambda _: {})
    damaged, _ = store.ensure("probe", {"of": 2}, lambda _: {})
    look(str(tmp_path))
    assert "damaged" not in capsys.readouterr().out
    path = tmp_path / "probe" / damaged.key[:2] / damaged.key / "manifest.json"
    path.unlink()
    path.write_text("{")
    with pytest.raises(StoreError, match="1 damaged, listed above") as caught:
        look(str(tmp_path))
    assert "\n" not in str(caught.value)
    shown = capsys.readouterr().out
    told = shown.index(f"{damaged.key}/manifest.json is damaged")
    if "bytes" in shown:  # of what is whole
        assert shown.index("probe") < told
    if "made from" in shown:
        assert shown.index(whole.key[:8]) < told


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("'infinity'::DATE AS a", "column 'a' holds a date outside of the years"),
        ("INTERVAL 1 DAY AS a", "cast such columns to VARCHAR"),
        ("[1] AS a", "CSV format does not support nested data"),
    ],
)
def test_an_answer_that_cannot_be_written_is_refused(
    shared: MakeConfig, tmp_path: Path, answer: str, said: str
) -> None:
    session = open_session(shared(rounds=1, rollout={"prompts": 8}))
    play(session)
    with pytest.raises(InputError, match=said):
        print_query(f"SELECT {answer}", "run", None, session.config.runs, tmp_path / "a.csv")


@pytest.mark.parametrize("kind", ["Tokens!", "nonsense", ""])
def test_a_kind_that_is_none_is_refused_and_the_kinds_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"kind '{kind}': expected rollouts, .* or probe"):
        print_artifacts(str(tmp_path), kind)


def test_a_terminal_of_ascii_is_given_a_table_of_ascii(
    shared: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(shared(rounds=1, rollout={"prompts": 8}))
    play(session)
    monkeypatch.setattr(ConsoleOptions, "ascii_only", property(lambda _: True))
    print_query(COUNT, "run", None, session.config.runs, None)
    assert capsys.readouterr().out.isascii()


def test_a_key_that_is_none_is_damage_of_what_points_to_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="what points to it is damaged"):
        Store(tmp_path).find("tokens", "../x")
