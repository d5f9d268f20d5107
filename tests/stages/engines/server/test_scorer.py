"""A teacher behind HTTP: the same table as one in memory, and one line for all that goes wrong."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Served
from tiny import Shard, load, prompts, score_settings, shard, write_model
from tip.stages.arrays.ragged import from_lists
from tip.stages.engines.server.scorer import ServerScorer, probe_ids, scored_of
from tip.stages.models.card import ModelCard
from tip.stages.models.served import read_served_card
from tip.stages.models.settings import ServerSettings, TeacherSettings
from tip.stages.score.by_engine import score_with_engine
from tip.stages.score.separate import score_teacher
from tip.storage.errors import ConfigError, ModelError
from tokenizers import AddedToken
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    student = write_model(tmp_path_factory.mktemp("student"), "qwen3", seed=1)
    teacher = write_model(tmp_path_factory.mktemp("teacher"), "llama", seed=2)
    return shard(student, teacher, prompts(5, 2, 9), samples=2, max_tokens=10, stop_ids=(1, 2, 3))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("other"), "llama", seed=3)


@pytest.fixture
def served(made: Shard) -> Iterator[Served]:
    server = Served(made.teacher)
    yield server
    server.stop()


def card(folder: Path) -> ModelCard:
    return read_served_card(TeacherSettings(model=str(folder)))


def scorer(served: Served, made: Shard, said: list[str] | None = None, **changes: Any) -> Any:
    terms = {"needed": 24, "top": 60, "tolerance": 1e-3}
    settings = {"url": served.url, "patience_seconds": 20}
    for name, value in changes.items():
        (terms if name in terms else settings)[name] = value
    return ServerScorer(
        ServerSettings(**settings),
        card(made.teacher),
        say=(said if said is not None else []).append,
        **terms,  # type: ignore[arg-type]
    )


def table_of(asked: Any, made: Shard) -> Any:
    settings = score_settings(mode="separate", engine="server", engine_top=60)
    table, _ = score_with_engine(
        asked, made.rollouts, settings, dtype="float32", student_vocabulary=60
    )
    return table


def test_what_a_server_is_known_by_holds_no_special_token_and_none_beyond_the_head(
    made: Shard, tmp_path: Path
) -> None:
    shutil.copytree(made.teacher, tmp_path / "flagged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "flagged")
    flagged = [AddedToken(f"w{i}", special=True) for i in range(10, 50)]
    tokenizer.add_tokens([*flagged, AddedToken("beyond")])
    tokenizer.save_pretrained(tmp_path / "flagged")
    changed = card(tmp_path / "flagged")
    known = set(probe_ids(changed, 48).tolist())
    assert known
    assert known.isdisjoint(changed.special_ids)
    assert max(known) < changed.head_rows


def test_a_served_teacher_gives_the_table_of_one_in_memory(served: Served, made: Shard) -> None:
    expected, _ = score_teacher(
        load(made.teacher), made.rollouts, score_settings(), student_vocabulary=60
    )
    table = table_of(scorer(served, made), made)
    for name in ("rollout", "position", "ids"):
        assert table[name].equals(expected[name])
    ours, theirs = (from_lists(t["logprobs"]).values.astype(float) for t in (table, expected))
    np.testing.assert_allclose(ours, theirs, rtol=2**-10, atol=3e-5)


def test_rollouts_travel_in_batches_some_at_once(served: Served, made: Shard) -> None:
    asked = scorer(served, made, batch=2, parallel=3)
    served.asked.clear()
    served.most_parallel, served.awaited = 0, 3
    sequences = [np.arange(2, 12)] * 7
    ticks: list[int] = []
    answers = asked.score(sequences, [3] * 7, 4, tick=ticks.append)
    assert sorted(served.asked) == [1, 1, 2, 2, 2]  # the last one asks for known tokens
    assert served.most_parallel == 3
    assert ticks == [14, 14, 14, 7]  # tokens
    assert [len(a.ids) for a in answers] == [7] * 7


def test_answers_keep_the_order_of_their_sequences(served: Served, made: Shard) -> None:
    asked = scorer(served, made, batch=3)
    sequences = [np.array([2, *range(3, 5 + n)]) for n in range(6)]
    for sequence, answer in zip(sequences, asked.score(sequences, [1] * 6, 4), strict=True):
        np.testing.assert_array_equal(answer.ids[:, 0], sequence[1:])


@pytest.mark.parametrize("fault", [503, 429, 500, "drop"])
def test_a_request_that_fails_is_asked_again(served: Served, made: Shard, fault: Any) -> None:
    said: list[str] = []
    asked = scorer(served, made, said)
    served.faults = [fault, fault]
    table_of(asked, made)
    assert any("is away" in text for text in said)


def test_a_server_that_hangs_is_asked_again(served: Served, made: Shard) -> None:
    asked = scorer(served, made, timeout_seconds=0.3)
    served.faults = ["slow"]
    assert len(asked.score([np.arange(2, 9)], [1], 4)[0].ids) == 6


@pytest.mark.parametrize("body", [b"null", b"[]", b'{"message": null}', b'{"error": {}}', "cut"])
def test_a_refusal_that_says_nothing_is_asked_again(served: Served, made: Shard, body: Any) -> None:
    asked = scorer(served, made)
    served.faults = [body if body == "cut" else (502, body)]
    assert len(asked.score([np.arange(2, 9)], [1], 4)[0].ids) == 6


def test_patience_begins_when_the_server_is_away(served: Served, made: Shard) -> None:
    asked = scorer(served, made, timeout_seconds=0.5, patience_seconds=0.4)
    served.faults = ["slow"]
    assert len(asked.score([np.arange(2, 9)], [1], 4)[0].ids) == 6


def test_an_interrupt_ends_the_wait_for_a_server(made: Shard) -> None:
    gone = Served(made.teacher)
    asked = scorer(gone, made, patience_seconds=40)
    gone.stop()
    before, begin = threading.active_count(), time.monotonic()
    main = threading.main_thread().ident
    threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        asked.score([np.arange(2, 9)] * 8, [1] * 8, 4)
    while threading.active_count() > before and time.monotonic() - begin < 20:
        time.sleep(0.05)
    assert time.monotonic() - begin < 20


def test_an_interrupt_ends_the_process_though_requests_are_under_way(
    served: Served, made: Shard
) -> None:
    program = (
        "import sys, numpy as np\n"
        "from tip.stages.engines.server.scorer import ServerScorer\n"
        "from tip.stages.models.served import read_served_card\n"
        "from tip.stages.models.settings import ServerSettings, TeacherSettings\n"
        "card = read_served_card(TeacherSettings(model=sys.argv[1]))\n"
        "s = ServerScorer(ServerSettings(url=sys.argv[2]), card, needed=24, top=60,\n"
        "                 tolerance=1, say=print)\n"
        "s.score([np.arange(2, 9)] * 8, [1] * 8, 4)"
    )
    served.slow_seconds = 60
    served.faults = [None] * 3 + ["slow"] * 8  # it starts with a name, a vocabulary and a probe
    asking = subprocess.Popen(
        [sys.executable, "-c", program, str(made.teacher), served.url], stderr=subprocess.DEVNULL
    )
    while len(served.faults) > 7:
        assert asking.poll() is None
        time.sleep(0.05)
    asking.send_signal(signal.SIGINT)
    try:
        assert asking.wait(20) != 0
    finally:
        asking.kill()


def test_a_server_that_changes_its_model_unnoticed_is_refused(
    served: Served, made: Shard, other: Path
) -> None:
    asked = scorer(served, made)
    served.folder = other
    with pytest.raises(ModelError, match="holds another model than at first"):
        asked.score([np.arange(2, 9)], [1], 4)


def test_a_server_that_restarts_is_waited_for(made: Shard) -> None:
    first = Served(made.teacher)
    said: list[str] = []
    asked = scorer(first, made, said)
    first.stop()
    again: list[Served] = []
    timer = threading.Timer(1.0, lambda: again.append(Served(made.teacher, port=first.port)))
    timer.start()
    assert len(asked.score([np.arange(2, 9)], [1], 4)[0].ids) == 6
    again[0].stop()
    assert any("is away" in text for text in said)


def test_a_server_that_comes_back_with_another_model_is_refused(made: Shard, other: Path) -> None:
    first = Served(made.teacher)
    asked = scorer(first, made)
    first.stop()
    second = Served(other, port=first.port)
    second.faults = ["drop"]
    with pytest.raises(
        ModelError, match="holds another model than at first under the name 'teacher'"
    ):
        asked.score([np.arange(2, 9)], [1], 4)
    second.stop()


def test_a_server_that_stays_away_is_one_line(made: Shard) -> None:
    gone = Served(made.teacher)
    gone.stop()
    begin = time.monotonic()
    with pytest.raises(ModelError, match=r"does not answer.*vllm serve MODEL --max-logprobs 60"):
        scorer(gone, made, patience_seconds=0.6)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b"{}", b"[]", b'{"data": "x"}'])
def test_an_answer_of_something_else_is_one_line(
    served: Served, made: Shard, answer: bytes
) -> None:
    served.faults = [answer]
    with pytest.raises(ModelError, match="answers what no vLLM server does"):
        scorer(served, made)


def test_a_name_that_is_not_served_is_one_line(served: Served, made: Shard) -> None:
    with pytest.raises(ModelError, match=r"serves teacher, but teacher.server.name = 'else'"):
        scorer(served, made, name="else")


def test_another_vocabulary_is_one_line(served: Served, made: Shard) -> None:
    served.detokenize = lambda _: "other words"
    with pytest.raises(ModelError, match="must share one vocabulary"):
        scorer(served, made)


def test_the_same_vocabulary_passes(served: Served, made: Shard) -> None:
    said: list[str] = []
    served.detokenize = card(made.teacher).tokenizer.decode
    scorer(served, made, said)
    assert not said


def test_a_server_without_a_tokenizer_is_told_to_be_unchecked(served: Served, made: Shard) -> None:
    said: list[str] = []
    scorer(served, made, said)
    assert any("vocabulary is not compared" in text for text in said)


def test_too_few_log_probs_are_noticed_before_any_work(served: Served, made: Shard) -> None:
    served.most_logprobs = 20
    with pytest.raises(ConfigError, match=r"start it with --max-logprobs 60"):
        scorer(served, made)


def test_a_context_too_short_is_noticed_before_any_work(served: Served, made: Shard) -> None:
    served.longest = 24
    with pytest.raises(ConfigError, match=r"--max-model-len 25"):
        scorer(served, made)


def test_an_address_may_end_in_v1(served: Served, made: Shard) -> None:
    assert scorer(served, made, url=f"{served.url}/v1/").name == "teacher"


@pytest.mark.parametrize(
    "positions",
    [
        None,
        [None],
        [None, {"3": {"logprob": -1.0}, "4": {"logprob": -2.0}}],
        [None, {"2": {"logprob": -1.0}}],
        [None, {"2": {"logprob": "x"}, "4": {"logprob": -2.0}}],
        [None, [1, 2]],
    ],
)
def test_log_probs_of_other_tokens_are_refused(positions: Any) -> None:
    with pytest.raises(ModelError, match="are not those of the tokens asked"):
        scored_of(positions, np.array([7, 2]), 1, 2, "http://x")
