"""`tip status`: a line a round, a line a run, and a way out where there is none."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from tip.pipeline.show.status import print_run, print_runs
from tip.storage.errors import ConfigError, StoreError
from tip.storage.runs import RunFolder, RunRecord

from .test_views import METRICS


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path, "mine")
    run.save(RunRecord(config={"rounds": 5, "select": {"rule": "q3", "keep": 0.2}}))
    for line in METRICS:
        run.append(line)
    run.point(0, checkpoint="key")
    return run


def lines_of(out: io.StringIO) -> list[str]:
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_a_round_shows_what_it_made_found_and_came_to(run: RunFolder) -> None:
    out = io.StringIO()
    print_run(run, Console(file=out, width=100))
    assert "0 40.0% 0.2500 0.5000 10 50 70 30 0.0100 10.0" in lines_of(out)
    assert "warning" not in out.getvalue()


def test_what_the_seconds_went_into_is_shown_by_stage_where_it_is_known(run: RunFolder) -> None:
    out = io.StringIO()
    print_run(run, Console(file=out, width=100))
    assert "what the seconds went into" not in out.getvalue()
    for number in range(2):
        spent = {"computing": 1.0, "loading": 0.5, "writing": 2.0}
        run.append({"stage": "train", "round": number, "seconds": 3.5, "spent": spent})
    print_run(run, Console(file=out, width=100))
    assert "train 7.0 2.0 1.0 0.0 4.0 0.0" in lines_of(out)


def test_a_run_shows_how_far_it_is_and_what_it_came_to_last(run: RunFolder) -> None:
    out = io.StringIO()
    print_runs(str(run.path.parent), Console(file=out, width=100))
    assert "mine q3 20% 1/5 80.0% 1.5000 0.2500" in lines_of(out)


def test_no_number_is_cut_where_the_screen_is_narrow(run: RunFolder) -> None:
    run.append({"stage": "score", "round": 1, "teacher_tokens_scored": 1234567, "reverse_kl": 42.6})
    out = io.StringIO()
    print_run(run, Console(file=out, width=60))
    assert "…" not in out.getvalue()
    assert "..." not in out.getvalue()


def test_a_run_of_so_many_tokens_shows_their_number(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "few")
    run.save(RunRecord(config={"rounds": 5, "select": {"rule": "q3", "keep": None, "count": 2}}))
    out = io.StringIO()
    print_runs(str(tmp_path), Console(file=out, width=100))
    assert "few q3 2 0/5" in lines_of(out)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("metrics.jsonl", '{"stage": "score", "round": 0}\n[1]\n', "metrics.jsonl, line 2"),
        ("metrics.jsonl", '{"stage": "score", "round": "no"}\n', "has an unusable round"),
        ("config.json", "{", "config.json"),
    ],
)
def test_a_damaged_run_is_named_beside_the_others(
    run: RunFolder, file: str, text: str, words: str
) -> None:
    other = RunFolder(run.path.parent, "other")
    other.save(RunRecord(config={"rounds": 5, "select": {"rule": "q3", "keep": 0.2}}))
    other.point(0, checkpoint="key")
    (other.path / file).write_text(text)
    out = io.StringIO()
    with pytest.raises(StoreError, match="damaged: other; see above"):
        print_runs(str(run.path.parent), Console(file=out, width=100))
    assert "mine q3 20% 1/5 80.0% 1.5000 0.2500" in lines_of(out)
    (line,) = [line for line in lines_of(out) if line.startswith("run other:")]
    assert words in line


def test_where_there_is_nothing_to_show_the_way_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no runs here; start one with `tip run CONFIG`"):
        print_runs(str(tmp_path))
    with pytest.raises(ConfigError, match="no run nobody with finished stages"):
        print_run(RunFolder(tmp_path, "nobody"))


@pytest.mark.parametrize("config", [{"select": 5}, {"rounds": "a"}, {"select": {"keep": "a"}}])
def test_a_record_of_other_types_is_damage(run: RunFolder, config: dict[str, object]) -> None:
    run.save(RunRecord(config=config))
    with pytest.raises(StoreError, match="damaged: mine; see above"):
        print_runs(str(run.path.parent), Console(file=io.StringIO()))


def test_a_count_of_any_size_is_shown(run: RunFolder) -> None:
    run.append({"stage": "train", "round": 0, "trained_tokens": 10**400})
    print_run(run, Console(file=io.StringIO()))
