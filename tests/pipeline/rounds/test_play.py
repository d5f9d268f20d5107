"""Rounds over the store: found, continued, shared, extended, replayed, branched."""

import shutil
import signal
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tip.pipeline.metrics import by_round
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.branching import branch
from tip.pipeline.rounds.play import play
from tip.pipeline.rounds.single import rollout_round, score_round, select_round, train_round
from tip.pipeline.rounds.training import _past_training
from tip.pipeline.session import Session, open_session
from tip.stages.train import train as train_module
from tip.storage.errors import ConfigError, StoreError

from ..conftest import MakeConfig, contents, numbers


class Killed(BaseException):
    """Stands for a process that ends: no handler of the code under test may stop it."""


def killed(*_: Any) -> None:
    raise Killed


class KillingReporter(Reporter):
    """Ends the process in the middle of a stage's progress."""

    def __init__(self, stage: str, after: int) -> None:
        super().__init__(quiet=True)
        self.stage, self.left = stage, after

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Any:
        def tick(count: int) -> None:
            if self.stage in title:
                self.left -= count
                if self.left < 0:
                    raise Killed(title)

        yield tick


def played(config: Any) -> Session:
    session = open_session(config)
    play(session)
    return session


def test_a_finished_run_makes_nothing_when_started_again(config: MakeConfig) -> None:
    first = played(config())
    before = contents(first)
    again = played(config())
    made = numbers(again, "rollout", "generated_tokens")
    scored = numbers(again, "score", "teacher_tokens_scored")
    assert (made[2:], scored[2:]) == ([0, 0], [0, 0])
    assert numbers(again, "train", "fresh") == [True, True, False, False]
    assert contents(again) == before


def test_a_run_that_found_everything_loads_no_weights(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(config())

    def refuse(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("tip.stages.holder.load_model", refuse)
    played(config())


def test_another_rule_costs_no_generation_and_no_teacher_in_round_0(config: MakeConfig) -> None:
    played(config())
    other = played(config("other", select={"rule": "random"}))
    assert numbers(other, "rollout", "generated_tokens")[0] == 0
    assert numbers(other, "score", "teacher_tokens_scored")[0] == 0
    assert numbers(other, "rollout", "generated_tokens")[1] > 0


@pytest.mark.parametrize(
    ("stage", "after"), [("rollout", 40), ("score", 1700), ("train", 2), ("round 1 train", 1)]
)
def test_a_run_killed_in_a_stage_continues_to_the_same_artifacts(
    config: MakeConfig, tmp_path: Path, stage: str, after: int
) -> None:
    whole = contents(played(config(store=str(tmp_path / "whole"), runs=str(tmp_path / "r"))))
    settings = config(train={"snapshot_seconds": 0})
    with pytest.raises(Killed):
        play(open_session(settings, KillingReporter(stage, after)))
    assert contents(played(settings)) == whole


def test_a_killed_process_continues_to_the_same_artifacts(
    config: MakeConfig, tmp_path: Path
) -> None:
    whole = contents(played(config(store=str(tmp_path / "whole"), runs=str(tmp_path / "r"))))
    settings = config()
    program = (
        "import json, sys\nfrom tip.pipeline.config.toml import make_config\n"
        "from tip.pipeline.rounds.play import play\nfrom tip.pipeline.session import open_session\n"
        "play(open_session(make_config(json.loads(sys.argv[1]), 'test')))"
    )
    child = subprocess.Popen([sys.executable, "-c", program, settings.model_dump_json()])
    deadline = time.monotonic() + 120
    while not list(Path(settings.store).glob("teacher/*/*/manifest.json")):
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert contents(played(settings)) == whole


def test_a_run_killed_between_the_last_step_and_the_commit_trains_no_step_again(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(played(config(store=str(tmp_path / "whole"), runs=str(tmp_path / "r"))))
    settings, steps = config(train={"snapshot_seconds": 0}), []
    with monkeypatch.context() as patch:
        patch.setattr("tip.pipeline.works.training.export", killed)
        with pytest.raises(Killed):
            played(settings)
    real = train_module._step

    def step(*arguments: Any) -> None:
        steps.append(arguments)
        real(*arguments)

    monkeypatch.setattr(train_module, "_step", step)
    session = played(settings)
    assert contents(session) == whole
    assert len(steps) == 4  # round 1's
    assert not list((session.run.path / "work").iterdir())


def test_a_training_computes_in_the_type_that_its_key_names(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An origin may be trained again on another device, where `auto` would be another type."""
    module, given = "tip.pipeline.works.training", []
    session = played(config(rounds=1))
    (pointers,) = (p for _, p in session.run.rounds())
    work = _past_training(session, 0, pointers)

    def train(*_: Any, autocast: torch.dtype, **__: Any) -> None:
        given.append(autocast)
        raise Killed

    monkeypatch.setattr(f"{module}.train", train)
    for name in ("float32", "bfloat16"):
        other = replace(work, autocast=name, seed=1)
        assert f"torch.{name}" in other.inputs().values()
        with pytest.raises(Killed):
            session.executor.map([other], "train")
    assert given == [torch.float32, torch.bfloat16]


def test_more_rounds_extend_a_run(config: MakeConfig) -> None:
    short = contents(played(config(rounds=1)))
    longer = contents(played(config(rounds=3)))
    assert {kind: values[: len(short[kind])] for kind, values in longer.items()} == short
    assert len(longer["checkpoint"]) == 3


def test_a_round_of_64_prompts_reuses_the_shards_of_one_of_32(config: MakeConfig) -> None:
    small = played(config(rounds=1, rollout={"prompts": 32}))
    large = played(config("large", rounds=1))
    reused = numbers(large, "rollout", "reused_tokens")[0]
    assert reused == numbers(small, "rollout", "tokens")[0]


def test_an_extension_goes_on_from_the_last_state_and_trains_nothing_again(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train": {"horizon": 20}}
    played(config(rounds=3, **settings))
    played(config(rounds=3, **settings))  # a start that finds everything keeps what is needed
    said: list[str] = []
    monkeypatch.setattr(Reporter, "say", lambda _, text: said.append(text))
    played(config(rounds=4, **settings))
    assert not [text for text in said if "training state is gone" in text]


def test_a_start_that_finds_its_first_rounds_keeps_the_snapshot_of_a_later_one(
    config: MakeConfig,
) -> None:
    settings = config(train={"snapshot_seconds": 0})
    with pytest.raises(Killed):
        play(open_session(settings, KillingReporter("round 1 train", 3)))
    session = open_session(settings)
    assert len(list((session.run.path / "work").iterdir())) == 1
    resumed: list[int] = []

    class Watching(Reporter):
        @contextmanager
        def bar(self, title: str, total: int, unit: str) -> Any:
            yield lambda count: resumed.append(count) if title == "round 1 train" else None

    play(open_session(settings, Watching(quiet=True)))
    assert resumed[0] == 3


def test_a_killed_runs_own_work_counts_as_paid(config: MakeConfig) -> None:
    with pytest.raises(Killed):
        play(open_session(config(), KillingReporter("rollout", 40)))
    session = played(config())
    made = by_round(session.run.metrics())[0].rollout
    assert made is not None
    assert (made.generated_tokens, made.reused_tokens) == (made.tokens, 0)


def test_a_line_cut_by_a_kill_costs_that_line_alone(config: MakeConfig) -> None:
    session = played(config(rounds=1))
    before = len(session.run.metrics())
    with session.run.metrics_path.open("a") as file:
        file.write('{"round": 1, "stage": "sel')
    again = played(config(rounds=2))
    assert len(again.run.metrics()) == before + 8


def test_a_replay_generates_nothing_and_asks_no_teacher(config: MakeConfig) -> None:
    played(config())
    replay = played(config("replay", rollout={"replay": "run"}, select={"rule": "random"}))
    assert numbers(replay, "rollout", "generated_tokens") == [0, 0]
    assert numbers(replay, "score", "teacher_tokens_scored") == [0, 0]
    stale = numbers(replay, "score", "off_policy_kl")
    assert stale[0] < 1e-6 < stale[1]
    modes = [
        replay.store.find("tokens", p.of("tokens")[0]).facts["mode"]  # type: ignore[union-attr]
        for _, p in replay.run.rounds()
    ]
    assert modes == ["exact", "support"]


def test_a_replay_of_a_run_that_is_not_there_says_so(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="has no round 0"):
        played(config("replay", rollout={"replay": "nobody"}))


def test_a_branch_shares_its_first_rounds_and_continues_as_the_run_did(config: MakeConfig) -> None:
    origin = played(config(rounds=3))
    settings = config("branch", rounds=3)
    branch(open_session(settings), "run@2")
    twin = played(settings)
    assert contents(twin) == contents(origin)
    other = config("other", rounds=3, select={"rule": "random"})
    branch(open_session(other), "run@1")
    assert numbers(played(other), "rollout", "round") == [1, 2]


def test_a_branch_whose_origin_is_trained_again_holds_one_model(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin's training state is gone: it is made in this process, not beside what it holds."""
    from tip.stages import holder as module

    origin = played(config(rounds=3))
    settings = config("late", rounds=3, seed=5)
    branch(open_session(settings), "run@1")
    for run in (origin.run, open_session(settings).run):
        shutil.rmtree(run.path / "states")
    alive: list[Any] = []
    real, most = module.load_model, []

    def load(card: Any, device: Any, dtype: Any, **more: Any) -> Any:
        model = real(card, device, dtype, **more)
        alive[:] = [ref for ref in alive if ref() is not None]
        alive.append(weakref.ref(model.model))
        most.append((dtype, len(alive)))
        return model

    monkeypatch.setattr(module, "load_model", load)
    again = played(settings)
    assert numbers(again, "train", "fresh") == [True, True]
    # rounds 1 and 2 roll out, score and train; before the first training the origin trains round 0
    assert [count for _, count in most] == [1, 2, 1, 1, 1, 2, 1]


def test_a_branch_beyond_the_trained_rounds_is_refused(config: MakeConfig) -> None:
    played(config(rounds=1))
    with pytest.raises(ConfigError, match="has 1 trained rounds"):
        branch(open_session(config("branch", rounds=3)), "run@2")


def test_a_branch_from_elsewhere_is_not_taken_for_the_one_that_is_there(config: MakeConfig) -> None:
    played(config(rounds=3))
    late = config("late", rounds=3, select={"rule": "random"})
    branch(open_session(late), "run@1")
    played(late)
    branch(open_session(late), "run@1")
    with pytest.raises(ConfigError, match=r"late began from run@1"):
        branch(open_session(late), "run@2")
    with pytest.raises(ConfigError, match="began at its own round 0"):
        branch(open_session(config(rounds=3)), "late@1")
    with pytest.raises(ConfigError, match="shared with run"):
        train_round(open_session(late), 0)


def test_a_run_that_was_refused_before_its_first_round_can_begin_as_a_branch(
    config: MakeConfig,
) -> None:
    played(config(rounds=2))
    late = config("late", rounds=3)
    with pytest.raises(ConfigError, match="has no student yet"):
        rollout_round(open_session(late), 1)
    branch(open_session(late), "run@2")
    assert numbers(played(late), "rollout", "round") == [2]


def test_a_branch_of_a_branch_finds_the_run_that_its_rounds_belong_to(config: MakeConfig) -> None:
    played(config(rounds=3))
    late = config("late", rounds=3, train={"lr": 1e-5})
    branch(open_session(late), "run@2")
    session = played(late)
    shutil.rmtree(session.run.path / "states")
    later = config("later", rounds=2, train={"lr": 1e-6})
    branch(open_session(later), "late@1")
    assert numbers(played(later), "train", "fresh") == [True]


def test_a_branch_into_another_store_is_refused(config: MakeConfig, tmp_path: Path) -> None:
    played(config(rounds=1))
    elsewhere = config("late", rounds=2, store=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="lie in store"):
        branch(open_session(elsewhere), "run@1")


@pytest.mark.parametrize("what", ["rule", "prompts"])
def test_a_file_that_changed_under_a_run_is_noticed(
    config: MakeConfig, tmp_path: Path, problems: Path, what: str
) -> None:
    rule = tmp_path / "mine.sql"
    rule.write_text("SELECT *, reverse_kl AS importance FROM tokens")
    prompts = tmp_path / "prompts.jsonl"
    shutil.copy(problems / "train.jsonl", prompts)
    source = {"source": str(prompts), "template": "raw"}
    settings = config(rounds=1, select={"rule": str(rule)}, prompts=source)
    played(settings)
    if what == "rule":
        rule.write_text("SELECT *, -reverse_kl AS importance FROM tokens")
    else:
        prompts.write_text("".join(prompts.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ConfigError, match="names has changed since it was started"):
        played(settings)


def test_prompts_of_the_teachers_own_are_refused_beside_a_held_out_divergence(
    config: MakeConfig, problems: Path
) -> None:
    asked = {"source": str(problems / "held_out.jsonl"), "reverse_kl": True}
    with pytest.raises(ConfigError, match=r"teacher.format"):
        config(evaluate=asked, teacher={"format": "{prompt}"})


def test_a_training_state_that_is_gone_is_made_again(config: MakeConfig, tmp_path: Path) -> None:
    settings = {"train": {"horizon": 12}}
    elsewhere = {"store": str(tmp_path / "whole"), "runs": str(tmp_path / "r")}
    whole = contents(played(config(rounds=3, **settings, **elsewhere)))
    session = played(config(rounds=2, **settings))
    for state in (session.run.path / "states").iterdir():
        shutil.rmtree(state)
        state.mkdir()
        (state / "state.safetensors.1.part").touch()  # killed while it was made again
    assert contents(played(config(rounds=3, **settings))) == whole


def test_a_state_of_another_training_is_not_started_from(config: MakeConfig) -> None:
    settings = {"train": {"horizon": 12, "keep_states": 2}}
    states = played(config(rounds=2, **settings)).run.path / "states"
    one, two = (folder / "state.safetensors" for folder in sorted(states.iterdir()))
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)
    with pytest.raises(StoreError, match=r"the training state of .* put here by hand; delete it"):
        played(config(rounds=3, **settings))


def test_single_stages_make_what_a_run_makes(config: MakeConfig, tmp_path: Path) -> None:
    whole = contents(played(config(store=str(tmp_path / "whole"), runs=str(tmp_path / "r"))))
    for number in range(2):
        for stage in (rollout_round, score_round, select_round, train_round):
            stage(open_session(config()), number)
    assert contents(open_session(config())) == whole


def test_a_stage_without_what_it_needs_names_the_command(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="tip rollout CONFIG --round 0"):
        score_round(open_session(config()), 0)


def test_a_run_is_not_continued_with_other_settings(config: MakeConfig) -> None:
    played(config(rounds=1))
    with pytest.raises(ConfigError, match=r"select.keep = 0.2, now it is 0.1"):
        played(config(rounds=1, select={"keep": 0.1}))


def test_only_the_last_training_states_are_kept(config: MakeConfig) -> None:
    session = played(config(rounds=3, train={"keep_states": 1}))
    assert len(list((session.run.path / "states").iterdir())) == 1
    assert not list((session.run.path / "work").glob("*"))


def test_an_evaluation_is_made_once_for_all_runs(config: MakeConfig, problems: Path) -> None:
    asked = {
        "source": str(problems / "held_out.jsonl"),
        "template": "raw",
        "temperature": 0,
        "max_tokens": 64,
        "verifier": "exact",
        "reverse_kl": True,
    }
    first = played(config(evaluate=asked))
    other = played(config("other", evaluate=asked, select={"rule": "random"}))
    accuracies = numbers(first, "evaluate", "accuracy")
    assert len(accuracies) == 2
    assert accuracies[0] == numbers(other, "evaluate", "accuracy")[0]
    shards = 2  # of 40 problems
    assert len(list(first.store.list("evaluation"))) == 3 * shards
    divergence = numbers(first, "evaluate", "reverse_kl")
    assert divergence[1] < divergence[0]
