"""Runs from Python: frames of their tables, rollouts that show themselves, nothing changed."""

import signal
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
import tip
import torch
from tip.pipeline.notebook.rollout import Rollout
from tip.pipeline.notebook.run import Run
from tip.storage.errors import ConfigError

from .conftest import MakeConfig


@pytest.fixture(scope="module")
def run(shared: MakeConfig) -> Run:
    return tip.run(shared("looked", rounds=2, rollout={"prompts": 8}))


class Words(HTMLParser):
    """Keeps the text of a page and the names of its tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags = "", []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def test_a_run_is_opened_by_its_name_and_gives_its_tables(run: Run, shared: MakeConfig) -> None:
    runs = shared().runs
    opened = tip.open_run("looked", runs)
    assert opened.rounds["round"].to_list() == [0, 1]
    assert opened.tokens(round=1)["round"].unique().to_list() == [1]
    kept = opened.selection().height
    assert opened.sql("SELECT count(*) AS n FROM selection")["n"].to_list() == [kept]
    assert opened.rollouts()["response"].null_count() == 0
    assert opened.teacher(0).height == opened.tokens(0).height
    assert opened.evaluation().height == 0
    assert opened.metrics["stage"].to_list().count("train") == 2
    assert tip.open_run(f"{runs}/looked").name == "looked"
    with pytest.raises(ConfigError, match="no run nobody"):
        tip.open_run("nobody", runs)


def test_a_rollout_shows_its_text_and_what_was_selected(run: Run) -> None:
    shown = run.rollout(3, round=1)
    whole = run.sql("SELECT prompt, response FROM rollouts ORDER BY rollout", 1).row(3)
    assert (shown.prompt, shown.response) == whole
    page = Words(shown._repr_html_())
    assert page.text.endswith(shown.prompt + shown.response)
    assert shown.html().count("text-decoration:underline") == shown.tokens["selected"].sum() > 0
    assert "student_entropy 0 to" in shown.html("student_entropy")
    with pytest.raises(ConfigError, match="text: no column of numbers"):
        shown.html("text")
    with pytest.raises(ConfigError, match="has 8 rollouts; expected 0 to 7"):
        run.rollout(8)


def test_what_a_model_wrote_is_text_and_no_markup(run: Run) -> None:
    hostile = "<script>alert(1)</script>"
    real = run.rollout(0)
    tokens = real.tokens.with_columns(text=pl.lit(hostile))
    page = Words(Rollout("x", 0, 0, 1, hostile, tokens)._repr_html_())
    assert set(page.tags) == {"div", "span"}
    assert page.text.count(hostile) == 1 + tokens.height


def test_the_plane_counts_every_trainable_token(run: Run) -> None:
    plane = run.plane()
    assert plane.counts["tokens"].sum() == run.tokens().filter("trainable").height
    assert plane.types["share_of_tokens"].sum() == pytest.approx(1)
    assert Words(plane._repr_html_()).tags.count("rect") == plane.counts.height + 1


def test_looking_changes_nothing_of_the_process_or_the_disk(run: Run) -> None:
    def state() -> tuple[object, ...]:
        files = {p: p.stat().st_mtime_ns for p in Path(run.config["runs"]).rglob("*")}
        files |= {p: p.stat().st_mtime_ns for p in Path(run.config["store"]).rglob("*")}
        handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
        return files, handlers, torch.get_num_threads(), torch.get_rng_state().tolist()

    before = state()
    for look in (run.tokens, run.plane, lambda: run.rollout(0), lambda: run.rounds):
        look()
    assert state() == before
