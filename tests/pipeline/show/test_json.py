"""Every command that prints facts prints them as JSON, too: a line a thing, and nothing else."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tip.pipeline.doctor.show import examine_and_show
from tip.pipeline.progress import Reporter
from tip.pipeline.session import Session
from tip.pipeline.show.config import print_settings
from tip.pipeline.show.housekeeping import print_folders
from tip.pipeline.show.listing import print_artifacts, print_rules, print_sizes
from tip.pipeline.show.plan import plan_and_print
from tip.pipeline.show.status import print_run, print_runs
from tip.stages.select.rulebook import builtin_rules

from ..conftest import MakeConfig, played


@pytest.fixture(scope="module")
def session(shared: MakeConfig) -> Session:
    return played(shared("facts", rounds=1, rollout={"prompts": 8}))


def plan(session: Session) -> None:
    plan_and_print(session.config, Reporter(quiet=True), None, None, as_json=True)


FACTS: dict[str, tuple[Callable[[Session], object], set[str]]] = {
    "status": (lambda s: print_run(s.run, as_json=True), {"round", "rollout_kl", "loss"}),
    "runs": (lambda s: print_runs(s.config.runs, as_json=True), {"run", "trained", "accuracy"}),
    "folders": (
        lambda s: print_folders(s.config.runs, as_json=True),
        {"run", "state_bytes", "branch_of"},
    ),
    "artifacts": (
        lambda s: print_artifacts(s.config.store, None, as_json=True),
        {"kind", "key", "bytes", "inputs"},
    ),
    "sizes": (lambda s: print_sizes(s.config.store, s.config.runs, as_json=True), {"kind"}),
    "rules": (lambda _: print_rules(as_json=True), {"rule", "group", "sql", "params"}),
    "settings": (lambda _: print_settings("train", (), as_json=True), {"name", "default"}),
    "doctor": (lambda s: examine_and_show(s.config, load=False, as_json=True), {"verdict"}),
    "plan": (plan, {"rounds", "memory", "response_tokens"}),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_are_lines_of_json(
    name: str, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    show, wanted = FACTS[name]
    show(session)
    lines: list[dict[str, Any]] = [json.loads(s) for s in capsys.readouterr().out.splitlines()]
    assert lines
    assert all(wanted <= line.keys() for line in lines)
    if name == "rules":
        assert {line["rule"] for line in lines} == set(builtin_rules())
    if name == "status":
        assert [line["round"] for line in lines] == [0]
