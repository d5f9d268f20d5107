"""The process that owns vLLM: token ids and numbers in, arrays out, over a pipe to its parent.

It ends when the pipe closes or its parent is gone, and with it go all memory that vLLM took and
the folder of its temporary files. vLLM is imported here and nowhere else. The arrays are cut from
vLLM's flat lists of log-probs, a request at a time as it finishes, so no Python object a token
outlives its request.

    python -m tip.stages.engines.vllm.worker FOLDER FILE_DESCRIPTOR
"""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ...arrays.mass import up_to_mass
from ..protocols import Scored
from .messages import EngineFacts, Finished, Generation, Response, Scoring


def _vllm() -> Any:
    """Return the package; by name, since most machines that check types lack it."""
    return importlib.import_module("vllm")


def _final_only() -> Any:
    """Return the kind of output that comes once, when a request is finished."""
    return importlib.import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY


def start(spec: dict[str, Any]) -> Any:
    """Return vLLM's `LLM` for the arguments of a spec; `None` stands for vLLM's own default."""
    chosen = {name: value for name, value in spec.items() if value is not None}
    chosen["skip_tokenizer_init"] = True  # token ids in, token ids out
    if chosen.get("enable_chunked_prefill") is False and _keeps_states(chosen):
        chosen["enable_prefix_caching"] = False  # where a prefix ends, its prompt is cut
    return _vllm().LLM(
        generation_config="vllm",  # no defaults of sampling from the model's folder
        logprobs_mode="raw_logprobs",  # at temperature 1, whatever sampling does
        disable_log_stats=True,
        **chosen,
    )


def _keeps_states(arguments: dict[str, Any]) -> bool:
    """Return whether layers of a model keep states (Mamba's, convolutions') in place of keys."""
    arguments_of = importlib.import_module("vllm.engine.arg_utils").EngineArgs
    model = arguments_of(**arguments).create_model_config()
    return model.is_hybrid or model.has_inner_state


class Worker:
    """Steps the engine while there is work, and answers its parent in between."""

    def __init__(self, llm: Any) -> None:
        self.engine = llm.llm_engine
        # request -> how to cut its output
        self.waiting: dict[str, Callable[[Any], Response | Scored]] = {}
        self.done: dict[str, Response | Scored] = {}
        self.wanted: list[str] = []
        self.told: set[str] = set()  # wanted requests that the parent knows to be finished

    def facts(self) -> EngineFacts:
        """Return what the parent has to know of the engine."""
        config = self.engine.vllm_config
        return EngineFacts(
            version=_vllm().__version__,
            vocabulary=config.model_config.get_vocab_size(),
            longest=config.model_config.max_model_len,
            batch_tokens=config.scheduler_config.max_num_batched_tokens,
            given_ids=bool(config.use_v2_model_runner),
        )

    def serve(self, pipe: Connection) -> None:
        """Answer messages until the parent closes the pipe."""
        while True:
            if not self.engine.has_unfinished_requests() or pipe.poll():
                try:
                    name, value = pipe.recv()
                except EOFError:
                    return
                getattr(self, f"on_{name}")(value)
            self._step()
            self._tell(pipe)

    def _step(self) -> None:
        """Let the engine compute once, and keep what it finished."""
        if not self.engine.has_unfinished_requests():
            return
        for output in self.engine.step():
            if output.finished:
                self.done[output.request_id] = self.waiting.pop(output.request_id)(output)

    def _tell(self, pipe: Connection) -> None:
        """Tell the parent of wanted requests that have finished; hand over the last of them."""
        if not self.wanted:
            return
        finished = {name for name in self.wanted if name in self.done}
        if new := finished - self.told:
            tokens = sum(len(self.done[name].ids) for name in new)
            pipe.send(("tick", Finished(len(new), tokens)))
            self.told = finished
        if len(finished) == len(self.wanted):
            pipe.send(("done", [self.done.pop(name) for name in self.wanted]))
            self.wanted, self.told = [], set()

    def on_generate(self, order: Generation) -> None:
        """Begin responses."""
        terms = order.sampling
        stop_ids = np.array(terms.stop_ids, dtype=np.int64)

        def cut(output: Any) -> Response:
            return response(output.outputs[0], stop_ids, terms.top_mass, terms.top_most)

        for name, prompt, seed in zip(order.names, order.prompts, order.seeds, strict=True):
            params = _vllm().SamplingParams(
                temperature=terms.temperature,
                top_p=terms.top_p,
                top_k=terms.top_k,
                max_tokens=terms.max_tokens,
                seed=seed,
                stop_token_ids=list(terms.stop_ids),
                ignore_eos=True,  # the stop ids say everything
                logprobs=terms.top_most,
                flat_logprobs=True,
                detokenize=False,
                output_kind=_final_only(),
            )
            self._add(name, prompt, params, cut)

    def on_score(self, order: Scoring) -> None:
        """Begin scoring."""
        given = order.given or [None] * len(order.names)
        for name, sequence, first, ids in zip(
            order.names, order.sequences, order.starts, given, strict=True
        ):
            params = _vllm().SamplingParams(
                temperature=0.0,
                max_tokens=1,  # the least that vLLM accepts; it is thrown away
                prompt_logprobs=order.top,
                prompt_logprob_token_ids=ids,
                prompt_logprob_start=None if ids is None else first - 1,
                ignore_eos=True,
                flat_logprobs=True,
                detokenize=False,
                output_kind=_final_only(),
            )
            self._add(name, sequence, params, lambda output, first=first: scores(output, first))

    def on_want(self, names: list[str]) -> None:
        """Remember what the parent waits for."""
        self.wanted = names

    def on_abort(self, names: list[str]) -> None:
        """Drop requests, begun or finished. None of them is waited for."""
        self.engine.abort_request([name for name in names if name in self.waiting])
        for name in names:
            self.waiting.pop(name, None)
            self.done.pop(name, None)

    def _add(
        self, name: str, ids: list[int], params: Any, cut: Callable[[Any], Response | Scored]
    ) -> None:
        self.waiting[name] = cut
        self.engine.add_request(name, {"prompt_token_ids": ids}, params)


def response(output: Any, stop_ids: np.ndarray, top_mass: float, top_most: int) -> Response:
    """Return a finished response.

    vLLM gives a row of 1 + `top_most` entries a token: the sampled one, then the most probable.
    """
    ids = np.array(output.token_ids, dtype=np.int32)
    flat = output.logprobs
    rows = np.array(flat.logprobs, dtype=np.float32).reshape(len(ids), -1)
    named = np.array(flat.token_ids, dtype=np.int32).reshape(len(ids), -1)
    kept = up_to_mass(np.exp(rows[:, 1 : 1 + top_most].astype(np.float64)), top_mass)
    stopped = bool(len(ids)) and bool(np.isin(ids[-1], stop_ids))
    top = named[:, 1 : 1 + top_most][kept]
    return Response(ids, rows[:, 0], top, kept.sum(1).astype(np.int32), stopped)


def scores(output: Any, first: int) -> Scored:
    """Return what vLLM says of the positions from `first` on."""
    flat = output.prompt_logprobs
    begin = flat.start_indices[first]
    count = len(flat.start_indices) - first
    ids = np.array(flat.token_ids[begin:], dtype=np.int32).reshape(count, -1)
    logprobs = np.array(flat.logprobs[begin:], dtype=np.float32).reshape(count, -1)
    return Scored(ids, logprobs, output.prompt_token_id_logprobs)


def _end_with_parent(parent: int, scratch: str) -> None:
    """End this process when its parent is gone: a pipe is read only between two steps."""
    while os.getppid() == parent:
        time.sleep(1)
    _end_group(scratch)


def _lead_group() -> None:
    """Become the leader of a process group, which all that vLLM starts belongs to.

    Python's resource tracker stays outside: it outlives a group that is killed, and removes the
    shared memory (168 MB an engine) that nobody else does then.
    """
    resource_tracker.ensure_running()
    os.setsid()  # Ctrl-C reaches the parent, which then ends the group


_ending = threading.Lock()


def _end_group(scratch: str) -> None:
    """End this process and all that it started: off the CPU a child of vLLM's holds the model.

    That child looks after no parent. vLLM's own clean-up at exit is left out: it can hang where a
    step was cut off, and memory goes either way. Children are waited for here, since an init may
    be slow to do so; the group has theirs. Where the parent was killed, nobody else is left to
    remove the temporary files.
    """
    _ending.acquire()  # never let go: the main thread and the watching one may come at once
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Serve the pipe given by number on the command line."""
    _lead_group()
    scratch, pipe = sys.argv[1], Connection(int(sys.argv[2]))
    watch = threading.Thread(target=_end_with_parent, args=(os.getppid(), scratch), daemon=True)
    watch.start()
    try:
        _, spec = pipe.recv()
        worker = Worker(start(spec))
        pipe.send(("ready", worker.facts()))
        worker.serve(pipe)
    except BaseException as error:  # told to the parent, which knows what to say of it
        traceback.print_exc()
        with contextlib.suppress(OSError):  # the parent is gone, too
            pipe.send(("failed", f"{type(error).__name__}: {error}"))
    sys.stdout.flush()
    sys.stderr.flush()
    _end_group(scratch)


if __name__ == "__main__":
    main()
