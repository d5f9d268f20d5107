"""A run is the one that it was: other settings, or another file under a name, are noticed."""

import shutil
from pathlib import Path

import pytest
from tip.pipeline.rounds.identity import check
from tip.pipeline.session import look_at
from tip.pipeline.show.views import run_lines
from tip.storage.errors import ConfigError, StoreError
from tip.storage.keys import key_of

from ..conftest import Listening, MakeConfig, played


@pytest.fixture
def prompts(tmp_path: Path, problems: Path) -> Path:
    """A file of prompts of a test's own, to be changed."""
    return Path(shutil.copy(problems / "train.jsonl", tmp_path / "prompts.jsonl"))


def without_first(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"rule": "all", "keep": 0.1}, ["keep = 0.1"]),
        ({"rule": "horizon", "keep": None, "count": 3}, ["count = 3"]),
        ({"rule": "horizon", "keep": None, "count": 1}, ["count = 1"]),
        ({"rule": "all", "keep": 1.0}, []),
        ({"rule": "all", "keep": 0.2}, ["keep = 0.2"]),
        ({"rule": "q3", "keep": 0.1}, []),
    ],
)
def test_a_budget_that_the_rule_does_not_take_is_told(
    config: MakeConfig, asked: dict[str, object], told: list[str]
) -> None:
    reporter = Listening()
    check(look_at(config(select=asked), reporter))
    found = [line for line in reporter.said if "of what it ranks" in line]
    assert found == [
        f"note: rule `{asked['rule']}` takes 100% of what it ranks: select.{what} says nothing to "
        "it; another rule does (`tip rules`)"
        for what in told
    ]


def test_a_run_is_listed_with_the_share_that_its_rule_takes(config: MakeConfig) -> None:
    settings = config(rounds=1, select={"rule": "all"}, rollout={"prompts": 4})
    played(settings)
    (line,) = run_lines(settings.runs)
    assert (line.rule, line.keep, line.count) == ("all", 1.0, None)


@pytest.mark.parametrize("what", ["rule", "prompts"])
def test_a_file_that_changed_under_a_run_is_noticed(
    config: MakeConfig, tmp_path: Path, prompts: Path, what: str
) -> None:
    rule = tmp_path / "mine.sql"
    rule.write_text("SELECT *, reverse_kl AS importance FROM tokens")
    source = {"source": str(prompts), "template": "raw"}
    settings = config(rounds=1, select={"rule": str(rule)}, prompts=source)
    played(settings)
    if what == "rule":
        rule.write_text("SELECT *, -reverse_kl AS importance FROM tokens")
    else:
        without_first(prompts)
    with pytest.raises(ConfigError, match="names has changed since it was started"):
        played(settings)


def test_the_order_of_prompts_in_their_file_is_not_what_a_run_is(
    config: MakeConfig, prompts: Path
) -> None:
    settings = config(rounds=1, prompts={"source": str(prompts), "template": "raw"})
    before = played(settings).run.round(0)
    prompts.write_text("".join(reversed(prompts.read_text().splitlines(keepends=True))))
    assert played(settings).run.round(0) == before
    shutil.rmtree(settings.store)
    shutil.rmtree(settings.runs)
    assert played(settings).run.round(0) == before


def test_a_run_of_an_earlier_version_is_known_by_its_file(
    config: MakeConfig, prompts: Path
) -> None:
    settings = config(rounds=1, prompts={"source": str(prompts), "template": "raw"})
    session = played(settings)
    record = session.run.about()
    assert record is not None
    in_order = key_of([p.hash for p in session.inputs.prompts])
    old = {**record.content, "prompts.source": in_order}  # type: ignore[dict-item]
    session.run.save(record.model_copy(update={"content": old}))
    played(settings)
    without_first(prompts)
    with pytest.raises(ConfigError, match="names has changed since it was started"):
        played(settings)


def test_a_run_is_not_continued_with_other_settings(config: MakeConfig) -> None:
    played(config(rounds=1))
    with pytest.raises(ConfigError, match=r"select.keep = 0.2, now it is 0.1"):
        played(config(rounds=1, select={"keep": 0.1}))


def test_a_run_that_lost_its_config_does_not_begin_anew_in_silence(config: MakeConfig) -> None:
    session = played(config(rounds=1))
    session.run.config_path.unlink()
    with pytest.raises(StoreError, match=r"config.json is gone, but 1 rounds of the run are here"):
        played(config(rounds=1))


def test_a_damaged_line_of_metrics_is_met_before_any_work(config: MakeConfig) -> None:
    session = played(config(rounds=1))
    lines = session.run.metrics_path.read_text()
    session.run.metrics_path.write_text("[]\n" + lines)
    with pytest.raises(StoreError, match=r"metrics.jsonl, line 1: damaged"):
        played(config(rounds=2, train={"horizon": 8}))
    assert session.run.round(1) is None
