"""The part of the process itself, with a stand-in for vLLM: what is cut, told and dropped."""

import threading
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tip.stages.engines.protocols import Sampling
from tip.stages.engines.vllm import worker
from tip.stages.engines.vllm.messages import EngineFacts, Generation, Scoring

SAMPLING = Sampling(1.0, 1.0, 0, 2, (1,), 7, 0.9, 2)


def flat(rows: list[list[tuple[int, float]]]) -> Any:
    """Return vLLM's flat log-probs of some positions: (id, log-prob) pairs each."""
    pairs = [pair for row in rows for pair in row]
    starts = np.cumsum([0, *[len(row) for row in rows]])[:-1]
    ids, logprobs = zip(*pairs, strict=True)
    return SimpleNamespace(
        token_ids=list(ids), logprobs=list(logprobs), start_indices=starts.tolist()
    )


class Engine:
    """Finishes one request a step, the oldest first."""

    def __init__(self) -> None:
        self.waiting: dict[str, Any] = {}
        self.computed: list[str] = []
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(get_vocab_size=lambda: 36, max_model_len=128),
            scheduler_config=SimpleNamespace(max_num_batched_tokens=64),
            use_v2_model_runner=0,
        )

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def add_request(self, name: str, prompt: Any, params: Any) -> None:
        self.waiting[name] = prompt["prompt_token_ids"], params

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            del self.waiting[name]

    def step(self) -> list[Any]:
        name = next(iter(self.waiting))
        ids, _ = self.waiting.pop(name)
        self.computed.append(name)
        first = [(ids[0], -0.1), (ids[0], -0.1), (2, -3.0)]
        made = SimpleNamespace(token_ids=[ids[0]], logprobs=flat([first]))
        read = [[(i, -0.5), (i, -0.5)] for i in ids]
        return [
            SimpleNamespace(
                request_id=name,
                finished=True,
                outputs=[made],
                prompt_logprobs=flat(read),
                prompt_token_id_logprobs=None,
            )
        ]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> worker.Worker:
    """Return a worker of the stand-in."""
    vllm = SimpleNamespace(SamplingParams=SimpleNamespace, __version__="stand-in")
    monkeypatch.setattr(worker, "_vllm", lambda: vllm)
    monkeypatch.setattr(worker, "_final_only", lambda: None)
    return worker.Worker(SimpleNamespace(llm_engine=Engine()))


def generation(*names: str) -> Generation:
    return Generation(names, [[5 + i] for i in range(len(names))], range(len(names)), SAMPLING)


def test_an_engine_says_what_it_is(served: worker.Worker) -> None:
    assert served.facts() == EngineFacts("stand-in", 36, 128, 64, False)


def test_a_response_is_cut_from_flat_rows() -> None:
    rows = [
        [(7, -2.0), (4, -0.2), (7, -2.0), (5, -4.0)],
        [(1, -0.01), (1, -0.01), (4, -5.0), (7, -6.0)],
    ]
    output = SimpleNamespace(token_ids=[7, 1], logprobs=flat(rows))
    found = worker.response(output, np.array([1]), 0.9, 3)
    assert found.ids.tolist() == [7, 1]
    assert found.logprobs.tolist() == pytest.approx([-2.0, -0.01])
    assert found.counts.tolist() == [2, 1]  # exp(-0.2) is less than the mass, exp(-0.01) is not
    assert found.top.tolist() == [4, 7, 1]
    assert found.stopped
    assert not worker.response(output, np.array([9]), 0.9, 3).stopped


def test_scores_begin_where_they_are_asked_to() -> None:
    rows = [[(3, -0.5), (4, -0.9)], [(5, -1.5), (6, -1.0)], [(7, -2.5), (8, -2.0)]]
    prompt = flat(rows)
    found = worker.scores(
        SimpleNamespace(prompt_logprobs=prompt, prompt_token_id_logprobs=None), first=1
    )
    assert found.ids.tolist() == [[5, 6], [7, 8]]
    np.testing.assert_allclose(found.logprobs, [[-1.5, -1.0], [-2.5, -2.0]])
    assert found.given is None


def test_dropped_requests_are_not_computed_and_the_rest_is(served: worker.Worker) -> None:
    served.on_generate(generation("a", "b", "c", "d"))
    served._step()  # a is finished, and nobody asks for it
    served.on_abort(["a", "c"])
    while served.engine.has_unfinished_requests():
        served._step()
    assert served.engine.computed == ["a", "b", "d"]
    assert list(served.done) == ["b", "d"]
    assert not served.waiting


def test_what_was_dropped_may_be_asked_for_again(served: worker.Worker) -> None:
    served.on_generate(generation("a"))
    served.on_abort(["a"])
    served.on_generate(generation("a"))
    served._step()
    assert list(served.done) == ["a"]


def test_answers_come_in_the_order_asked_with_what_was_begun_before(served: worker.Worker) -> None:
    near, far = Pipe()
    thread = threading.Thread(target=served.serve, args=(far,), daemon=True)
    thread.start()
    near.send(("generate", generation("a", "b", "c")))
    near.send(("score", Scoring(["s"], [[8, 9, 10]], [1], 1, None)))
    near.send(("want", ["s", "b"]))
    told = []
    while (message := near.recv())[0] == "tick":
        told.append(message[1])
    assert (sum(t.requests for t in told), sum(t.tokens for t in told)) == (2, 3)
    scored, response = message[1]
    assert scored.ids[:, 0].tolist() == [9, 10]
    assert response.ids.tolist() == [6]
    near.close()
    thread.join(10)
    assert not thread.is_alive()
    assert sorted(served.done) == ["a", "c"]  # kept for when they are wanted


@pytest.mark.parametrize("keeps", ["is_hybrid", "has_inner_state", ""])
@pytest.mark.parametrize("chunked", [False, True])
def test_where_prompts_stay_whole_a_model_with_states_has_no_prefix_cache(
    monkeypatch: pytest.MonkeyPatch, keeps: str, chunked: bool
) -> None:
    """vLLM cuts a prompt where a cached prefix of its states ends, and refuses not to."""
    given: dict[str, Any] = {}
    model = SimpleNamespace(**{"is_hybrid": False, "has_inner_state": False} | {keeps: True})

    def arguments(**chosen: Any) -> Any:
        assert chosen["model"] == "m"
        return SimpleNamespace(create_model_config=lambda: model)

    def package(_: str) -> Any:
        return SimpleNamespace(LLM=given.update, EngineArgs=arguments)

    monkeypatch.setattr(worker.importlib, "import_module", package)
    worker.start({"model": "m", "enable_chunked_prefill": chunked, "enable_prefix_caching": None})
    assert given["skip_tokenizer_init"] is True
    expected = False if keeps and not chunked else None
    assert given.get("enable_prefix_caching") is expected
