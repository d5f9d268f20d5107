"""What rules would choose on a run that is there: by round, beside its own; nothing written."""

from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.compare.on_run import print_choices
from tip.pipeline.compare.rows import Tokens
from tip.pipeline.session import Session
from tip.storage.errors import TipError

from ..conftest import MakeConfig, played


@pytest.fixture(scope="module")
def session(shared: MakeConfig) -> Session:
    return played(shared("mine", rounds=2, rollout={"prompts": 16}, select={"rule": "soft_or"}))


def test_each_round_has_a_line_a_rule(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(Path(session.config.store).rglob("*")) + sorted(session.run.path.rglob("*"))
    print_choices("mine", session.config.runs, ["q3", "soft_or"], [0.1, Tokens(2)], None)
    assert files == sorted(Path(session.config.store).rglob("*")) + sorted(
        session.run.path.rglob("*")
    )
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    lines = [line[:2] for line in words if line and line[0] in ("0", "1") and len(line) > 5]
    rules = ["soft_or", "random", "q3"]
    assert lines == 2 * [[number, rule] for number in ("0", "1") for rule in rules]
    titles = [" ".join(line[3:5]) for line in words if line[:3] == ["chosen", "at", "2"]]
    assert titles == ["tokens, by"]
    assert ["common", "tokens", "at", "10%,", "round", "1"] in [line[:6] for line in words]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (("nobody", [], [], None), "no run nobody under"),
        (("mine", [], [], [0, 7]), "has no scored round 7; it has 0, 1"),
        (("mine", ["q33"], [], None), "there is no rule `q33`"),
    ],
)
def test_what_is_not_there_is_named(session: Session, asked: Any, why: str) -> None:
    name, *others = asked
    with pytest.raises(TipError, match=why):
        print_choices(name, session.config.runs, *others)
