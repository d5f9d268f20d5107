"""A teacher's server is met before the first rollouts."""

import pytest
from served import Served
from tip.pipeline.rounds.play import play
from tip.pipeline.rounds.served import ask_once, meet_server
from tip.pipeline.session import look_at, open_session
from tip.storage.errors import ConfigError, ModelError

from ..conftest import PAIR, Listening, MakeConfig, played, serving


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"longest": 60}, ConfigError, "start it with --max-model-len 75"),
        ({"most_logprobs": 20}, ConfigError, "start it with --max-logprobs 36"),
        ({"detokenize": lambda _: "other"}, ModelError, "has other tokens than the tokenizer"),
    ],
)
def test_a_server_that_will_not_do_is_refused_before_the_rollouts(
    config: MakeConfig,
    served: Served,
    changes: dict[str, object],
    error: type[Exception],
    said: str,
) -> None:
    for name, value in changes.items():
        setattr(served, name, value)
    session = open_session(config(**serving(served)))
    with pytest.raises(error, match=said):
        play(session)
    assert list(session.store.list()) == []


def test_a_server_that_is_away_may_come_later(config: MakeConfig, served: Served) -> None:
    served.stop()
    listening = Listening()
    meet_server(open_session(config(**serving(served)), listening))
    said = listening.said[-1]
    assert said.startswith(f"note: {served.url}: the teacher's server does not answer")
    assert said.endswith("it is needed when the first rollouts are there")


def test_another_model_than_that_of_the_stored_scores_is_refused(
    config: MakeConfig, served: Served
) -> None:
    begun = played(config(**serving(served))).config
    session = look_at(begun.model_copy(update={"name": "again"}))
    assert ask_once(session).endswith("which are those of the stored scores")
    served.folder = PAIR / "student"
    with pytest.raises(ModelError, match="is not the model that made the scores stored"):
        ask_once(session)


def test_a_run_that_is_finished_asks_nobody(config: MakeConfig, served: Served) -> None:
    begun = played(config(**serving(served))).config
    asked = len(served.asked)
    play(open_session(begun))
    assert len(served.asked) == asked
