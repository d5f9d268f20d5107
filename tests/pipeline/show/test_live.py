"""A run in one calm screen on a terminal; off it, every line as it comes."""

import io
import re

from rich.console import Console
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.pipeline.show.live import Screen
from tip.storage.runs import RunFolder

from ..conftest import MakeConfig

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def screen_of(config, out: io.StringIO, *, terminal: bool) -> Screen:
    console = Console(file=out, force_terminal=terminal, width=140, height=40)
    return Screen(RunFolder(config.runs, config.name), config.rounds, console)


def test_a_terminal_sees_rounds_stage_and_time_left_and_nothing_of_it_stays(
    config: MakeConfig,
) -> None:
    settings, out = config(rounds=2, rollout={"prompts": 8}), io.StringIO()
    screen = screen_of(settings, out, terminal=True)
    session = open_session(settings, screen)
    with screen.open():
        screen.say("note: this stays")
        play(session)
        shown = Console(file=io.StringIO(), width=140)
        shown.print(screen._screen())
    text = shown.file.getvalue()
    assert "run: 2 of 2 rounds" in text
    assert "rollout KL" in text
    assert "round 1   train" in text
    plain = _ESCAPES.sub("", out.getvalue())
    assert "about" in plain
    assert "left; Ctrl-C stops" in plain
    assert plain.startswith("note: this stays") or "\nnote: this stays" in plain
    assert "\x1b[2K" in out.getvalue(), "the screen is drawn over itself"


def test_a_log_gets_every_line(config: MakeConfig) -> None:
    settings, out = config(rounds=1, rollout={"prompts": 8}), io.StringIO()
    screen = screen_of(settings, out, terminal=False)
    with screen.open():
        play(open_session(settings, screen))
    stages = [line.split()[2] for line in out.getvalue().splitlines()]
    assert stages == ["rollout", "score", "select", "train"]


def test_a_round_that_is_found_does_not_shorten_the_time_left(config: MakeConfig) -> None:
    play(open_session(config(rounds=1, rollout={"prompts": 8}, train={"horizon": 4})))
    settings = config(rounds=3, rollout={"prompts": 8}, train={"horizon": 4})
    screen = screen_of(settings, io.StringIO(), terminal=True)
    with screen.open():
        assert "run: 1 of 3 rounds" in screen._head()
        assert "left" not in screen._head(), "nothing is known of how long a round takes"
