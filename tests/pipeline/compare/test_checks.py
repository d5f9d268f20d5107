"""What would stop a comparison halfway is met before anything is played."""

from pathlib import Path

import pytest
from tip.pipeline.compare.checks import jobs_of
from tip.pipeline.compare.rows import ALL_TOKENS, NO_REFRESH, rows_of
from tip.pipeline.config.run import RunConfig
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.storage.errors import ConfigError, InputError, TipError
from tip.storage.runs import RunFolder, RunRecord

from ..conftest import Listening, MakeConfig

QUIET = Reporter(quiet=True)


def nothing_is_made(config: RunConfig) -> bool:
    return not [*Path(config.store).glob("*/*/*/manifest.json"), *Path(config.runs).glob("*/*")]


def test_a_comparison_of_another_length_needs_another_name(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    short = config(evaluate=asked, rounds=1, rollout={"prompts": 32})
    job = jobs_of(short, [ALL_TOKENS], [0], QUIET)[0]
    play(open_session(job.config))
    jobs_of(short, rows_of(["q3"], [0.2]), [0], QUIET)
    said = r"run run-all-1-s0 .* begun otherwise, with rounds = 1: .*--name"
    longer = short.model_copy(update={"rounds": 2})
    with pytest.raises(ConfigError, match=said):
        jobs_of(longer, rows_of(["q3"], [0.2]), [0], QUIET)
    # gone further by hand, its learning rate has still been laid out for one round
    play(open_session(job.config.model_copy(update={"rounds": 2})))
    with pytest.raises(ConfigError, match=said):
        jobs_of(longer, [ALL_TOKENS], [0], QUIET)
    with pytest.raises(ConfigError, match="with rounds = 2"):
        jobs_of(short, [ALL_TOKENS], [0], QUIET)


def test_a_run_that_was_begun_with_other_settings_is_named_with_them(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    settings = config(evaluate=asked, rounds=1, rollout={"prompts": 32})
    play(open_session(jobs_of(settings, [ALL_TOKENS], [0], QUIET)[0].config))
    other = config(evaluate=asked, rounds=1, rollout={"prompts": 32}, train={"lr": 1e-5})
    with pytest.raises(ConfigError, match=r"run run-all-1-s0 .* train\.lr = 0\.0003: .*--name"):
        jobs_of(other, [ALL_TOKENS], [1, 0], QUIET)


def test_a_rule_of_a_later_row_is_tried_before_the_first_is_played(
    config: MakeConfig, asked: dict[str, object], tmp_path: Path
) -> None:
    rule = tmp_path / "mine.sql"
    rule.write_text("SELECT *, no_such_column AS importance FROM tokens")
    settings = config(evaluate=asked)
    with pytest.raises(InputError, match="no_such_column"):
        jobs_of(settings, rows_of([str(rule)], [0.2]), [0], QUIET)
    assert nothing_is_made(settings)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("rollout.prompts=32,1000", "rollout.prompts = 1000"),
        ("evaluate.source=nowhere.jsonl", "nowhere.jsonl"),
        (f"train.loss=jsd select.where={'position<200' * 9}", "at most 100 characters"),
    ],
)
def test_a_variation_that_cannot_be_played_is_met_before_any_is(
    config: MakeConfig, asked: dict[str, object], vary: str, said: str
) -> None:
    settings = config(evaluate=asked)
    with pytest.raises(TipError, match=said):
        jobs_of(settings, rows_of(["all"], [0.2], [vary]), [0], QUIET)
    assert nothing_is_made(settings)


def test_what_the_config_sets_for_some_rules_stops_no_other(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    select = {"params": {"percentile": 0.9}, "corrected": True}
    jobs = jobs_of(
        config(evaluate=asked, select=select), rows_of(["soft_or_clipped", "q3"], [0.2]), [0], QUIET
    )
    assert [job.row.name for job in jobs if job.config.select.params] == ["soft_or_clipped 20%"]
    assert [job.row.name for job in jobs if job.config.select.corrected] == ["random 20%"]


@pytest.mark.parametrize(
    ("select", "rules", "said"),
    [
        (
            {"params": {"percentil": 0.9}},
            ["soft_or_clipped", "horizon"],
            "select.params.percentil: no rule compared .* have delta, lowest, percentile, tokens: ",
        ),
        ({"params": {"tokens": 9}}, ["all"], "they have none"),
        ({"corrected": True}, ["all"], "select.corrected = true .* none is compared"),
    ],
)
def test_what_no_rule_compared_can_take_is_refused(
    config: MakeConfig,
    asked: dict[str, object],
    select: dict[str, object],
    rules: list[str],
    said: str,
) -> None:
    with pytest.raises(ConfigError, match=said):
        jobs_of(config(evaluate=asked, select=select), rows_of(rules, [0.2]), [0], QUIET)


def test_the_control_without_a_teacher_is_left_out_where_supports_lack_what_was_sampled(
    config: MakeConfig, asked: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(["q3"], [0.2])
    drawn = {"score": {"support": "sampled"}, "train": {"loss": "forward_kl"}}
    jobs = jobs_of(config(evaluate=asked, **drawn), rows, [0], Reporter())
    assert "opsa" in {row.rule for row in rows}
    assert [job.row for job in jobs] == [row for row in rows if row.rule != "opsa"]
    assert "`opsa` is left out: it lowers the log-probs of sampled" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="rule eopd gives tokens the loss 'reverse_kl'"):
        jobs_of(config(evaluate=asked, **drawn), rows_of(["eopd"], [0.2]), [0], QUIET)


def test_no_refresh_is_left_out_where_there_are_too_few_prompts_for_it(
    config: MakeConfig, asked: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(["random"], [0.2])
    settings = config(evaluate=asked, rounds=3, rollout={"prompts": 150})
    jobs = jobs_of(settings, rows, [0, 1], Reporter())
    assert [job.row.name for job in jobs] == ["all", "random 20%", "opsa 20%"] * 2
    assert "`no refresh` is left out: its one round holds rounds x" in capsys.readouterr().err
    fewer = settings.model_copy(update={"rounds": 2})
    assert NO_REFRESH in [job.row for job in jobs_of(fewer, rows, [0], QUIET)]


def test_a_tail_that_a_later_row_cannot_have_is_met_before_the_first_is_played(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    settings = config(evaluate=asked, score={"mode": "separate", "engine": "vllm"})
    with pytest.raises(ConfigError, match="cannot be asked"):
        jobs_of(settings, rows_of(["all"], [0.2], ["train.tail=true,residual"]), [0], QUIET)
    assert nothing_is_made(settings)


def test_rows_of_a_comparison_have_one_tail(
    config: MakeConfig, asked: dict[str, object], tmp_path: Path
) -> None:
    """Rows that may have a residual would be compared with rows that may not."""
    settings, listening = config(evaluate=asked), Listening()

    def tails(changes: list[str], name: str = "x") -> set[object]:
        named = settings.model_copy(update={"name": name})
        jobs = jobs_of(named, rows_of(["all", "q3"], [0.2], changes), [0, 1], listening)
        return {job.config.train.tail for job in jobs}

    assert tails([]) == {"residual"}
    assert tails(["train.tail=true,residual"]) == {"residual", True}
    assert not [line for line in listening.said if "train.tail" in line]
    assert tails(["train.loss=reverse_kl,jsd"]) == {True}
    assert listening.said[-1] == (
        "note: train.tail = 'auto' is true in all rows, since in one: a residual was measured for "
        "reverse KL alone, not for 'jsd'"
    )
    # rows that join a comparison which has begun take its tail
    (job, *_) = jobs_of(settings, rows_of(["all"], [0.2]), [0], QUIET)
    values = job.config.model_dump(mode="json")
    values["train"]["tail"] = True
    run = RunFolder(settings.runs, job.config.name)
    run.save(RunRecord(config=values))
    run.point(0, rollouts=("key",))
    assert tails([], settings.name) == {True}
