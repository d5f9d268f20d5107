"""One run of one round, evaluated before and after, whose works are asked for again."""

import pytest
from tip.pipeline.rounds.training import train_work
from tip.pipeline.session import Session
from tip.pipeline.works.training import TrainWork

from ..conftest import MakeConfig, artifacts, played


@pytest.fixture(scope="module")
def ran(shared: MakeConfig, asked: dict[str, object]) -> Session:
    return played(shared(rounds=1, evaluate=asked))


def training(session: Session) -> TrainWork:
    tables = [artifacts(session, kind) for kind in ("rollouts", "teacher", "selection")]
    return train_work(session, 0, session.student(0), tables[0], tables[1], tables[2][0])
