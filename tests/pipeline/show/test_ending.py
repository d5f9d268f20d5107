"""A run ends with what came of it, an answer to read, and where its student is."""

import pytest
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.pipeline.show.run import run_and_show
from tip.storage.runs import RunFolder

from ..conftest import Listening, MakeConfig


def test_a_run_with_problems_ends_with_its_numbers_before_and_after(
    config: MakeConfig, asked: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated = {**asked, "limit": 12, "reverse_kl": True}
    settings = config("ends", rounds=1, rollout={"prompts": 8}, evaluate=evaluated)
    run_and_show(settings, Reporter(quiet=True), None)
    shown = " ".join(capsys.readouterr().out.split())
    metrics = RunFolder(settings.runs, "ends").metrics()
    first, last = (line for line in metrics if line["stage"] == "evaluate")
    assert f"{first['reverse_kl']:.4f} {last['reverse_kl']:.4f}" in shown
    assert "answered right, of 12 problems" in shown
    assert "three of its answers after 1 round: | " in shown
    assert "tip export ends FOLDER" in shown
    final = RunFolder(settings.runs, "ends").final
    assert final.is_symlink()
    assert (final / "config.json").is_file()


def test_a_run_without_problems_says_whose_numbers_they_are(
    shared: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = shared("plain", rounds=2, rollout={"prompts": 8})
    run_and_show(settings, Reporter(quiet=True), None)
    shown = " ".join(capsys.readouterr().out.split())
    scored = [m for m in RunFolder(settings.runs, "plain").metrics() if m["stage"] == "score"]
    assert f"{scored[0]['reverse_kl']:.4f} {scored[1]['reverse_kl']:.4f}" in shown
    assert "each before its training" in shown
    assert "three of its rollouts of round 1, before its training" in shown


def test_a_folder_in_place_of_the_link_is_left_and_told(config: MakeConfig) -> None:
    settings, listening = config("copied", rounds=1, rollout={"prompts": 8}), Listening()
    mine = RunFolder(settings.runs, "copied").final / "mine"
    mine.mkdir(parents=True)
    play(open_session(settings, listening))
    assert mine.is_dir()
    assert any("final is a folder, not a link: remove it" in line for line in listening.said)
