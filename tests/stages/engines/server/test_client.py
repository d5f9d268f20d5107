"""Questions are asked again while a server is away, and cut off when nobody waits for answers."""

import asyncio
import pickle
import re
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

import pytest
from served import Served
from tip.stages.engines.server.client import Ask, Refused, ServerClient, awaited
from tip.stages.models.settings import ServerSettings
from tip.storage.errors import ConfigError, ModelError


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served(Path("unused"))
    yield server
    server.stop()


def client(served: Served, said: list[str] | None = None, **changes: Any) -> ServerClient:
    settings = ServerSettings(**({"url": served.url, "patience_seconds": 20} | changes))
    return ServerClient(
        settings, command="vllm serve M", say=(said if said is not None else []).append
    )


def models(asked: ServerClient) -> Ask[str]:
    async def ask() -> str:
        return (await asked.json("/v1/models"))["data"][0]["id"]

    return ask


def test_a_question_is_answered(served: Served) -> None:
    asked = client(served)
    assert asked.answer(models(asked)) == "teacher"
    assert served.keys == {None}


def test_a_key_in_the_environment_is_shown(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    asked = client(served)
    asked.answer(models(asked))
    assert served.keys == {"Bearer s3cret"}


def test_a_caller_with_an_event_loop_may_ask(served: Served) -> None:
    async def notebook() -> list[str]:
        asked = client(served, parallel=2)
        with asked.answers([models(asked)] * 6) as answers:
            return [awaited(a) for a in answers]

    assert asyncio.run(notebook()) == ["teacher"] * 6


def test_after_an_absence_the_server_must_prove_itself_before_it_answers(served: Served) -> None:
    said: list[str] = []
    asked, order = client(served, said), []

    async def ask() -> str:
        order.append("ask")
        return await models(asked)()

    async def prove() -> None:
        order.append("prove")

    served.faults = ["drop", None, 503]
    with asked.answers([ask], prove) as (first,):
        assert awaited(first) == "teacher"
    assert order == ["ask", "prove", "ask"]
    with asked.answers([ask, ask], prove) as answers:
        assert [awaited(a) for a in answers] == ["teacher"] * 2
    assert order.count("prove") == 2
    assert len(said) == 2


def test_what_proves_another_server_is_raised(served: Served) -> None:
    asked = client(served)

    async def prove() -> None:
        raise ModelError("it is another one")

    served.faults = [503]
    with (
        pytest.raises(ModelError, match="another one"),
        asked.answers([models(asked)], prove) as (answer,),
    ):
        awaited(answer)


def test_a_refusal_is_raised_with_the_servers_words(served: Served) -> None:
    asked = client(served)
    served.faults = [(418, b'{"error": {"message": "a\\nteapot"}}')]
    with pytest.raises(Refused, match=r"/v1/models: HTTP 418: a teapot") as caught:
        asked.answer(models(asked))
    assert caught.value.words == "a teapot"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.words) == (str(caught.value), "a teapot")


def test_a_server_out_of_memory_is_not_asked_again(served: Served) -> None:
    asked = client(served)
    served.faults = [(500, b'{"message": "CUDA out of memory"}')]
    with pytest.raises(Refused, match="out of memory"):
        asked.answer(models(asked))


def test_a_server_that_stays_away_is_one_line_with_the_way_out(served: Served) -> None:
    asked = client(served, patience_seconds=0)
    served.faults = [503]
    with pytest.raises(ModelError, match=r"does not answer \(HTTP 503: busy\).*`vllm serve M`"):
        asked.answer(models(asked))


def test_an_address_that_is_none_is_one_line(served: Served) -> None:
    asked = client(served, url="http://localhost:99999")
    with pytest.raises(ConfigError, match=r"'http://localhost:99999' is no address .*port"):
        asked.answer(models(asked))


def test_a_server_that_is_away_is_told_of_once_with_the_reason(served: Served) -> None:
    said: list[str] = []
    asked = client(served, said)
    served.faults = ["drop", "drop", 503]
    asked.answer(models(asked))
    assert len(said) == 1
    assert re.search(r"is away \(\S+ .*\); trying again", said[0])  # words, no class's name


def test_requests_under_way_are_cut_off_when_nobody_waits(served: Served) -> None:
    asked = client(served, parallel=2)
    served.slow_seconds, served.faults = 30, [None, "slow", "slow"]
    begin = time.monotonic()

    def fail() -> None:
        with asked.answers([models(asked)] * 8) as answers:
            wait(answers, return_when=FIRST_COMPLETED)  # whichever came first was not slow
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert time.monotonic() - begin < 25
