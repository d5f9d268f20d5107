"""A teacher behind an OpenAI-compatible vLLM server: prompt log-probs over HTTP.

Token ids go there and log-probs come back, a few rollouts a request, some requests at once. A
server that is away is waited for; one that holds another model than at first is refused. Source:
the completions interface of `vllm serve` 0.32 (`prompt_logprobs`, `/v1/models`, `/detokenize`).
"""

import contextlib
import http.client
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from ....storage.errors import ConfigError, ModelError
from ...models.card import ModelCard
from ...models.settings import ServerSettings
from ..protocols import Tick, silent

# Ids shown to the server, by which the model behind it is known again.
PROBE_TOKENS = 48


_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0  # seconds between two tries: doubled each time


_AWAY = (429, 500, 502, 503, 504)  # HTTP codes of a server that may answer later


Scored = list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]


class Away(Exception):
    """The server cannot be reached, or says that it cannot answer now."""


class ServerScorer:
    """Asks a server, and knows whether it still holds the same model."""

    given_ids = False  # completions take no ids to score

    def __init__(
        self,
        settings: ServerSettings,
        card: ModelCard,
        *,
        needed: int,
        top: int,
        tolerance: float,
        say: Callable[[str], None],
    ) -> None:
        """Find the server and show that it can do the work.

        needed: tokens of the longest sequence. top: ids a position. tolerance: mean gap in nats
        that the same model may show. Raises `ModelError` for a server that is not there, has
        another model or another vocabulary, and `ConfigError` for limits that are too low.
        """
        self.settings, self.vocabulary = settings, card.head_rows
        self._card, self._say, self._tolerance = card, say, tolerance
        self._needed, self._top = needed, min(top, card.head_rows)
        self._stop = threading.Event()  # set when nobody waits for answers any more
        self._probe_ids = probe_ids(card, needed)
        self.name = self._patiently(self._find_model)
        self._patiently(self._check_vocabulary)
        self.probe: np.ndarray = self._patiently(self._ask_probe)

    def score(
        self,
        sequences: Sequence[np.ndarray],
        starts: Sequence[int],
        top: int,
        given: Sequence[np.ndarray | None] | None = None,
        tick: Tick = silent,
    ) -> Scored:
        """Return what the teacher says; see `Scorer`. given: not possible here.

        Raises `ModelError` where the server holds another model at the end than at first.
        """
        if given is not None:
            raise ValueError("completions take no ids to score")
        size = self.settings.batch
        batches = [range(i, min(i + size, len(sequences))) for i in range(0, len(sequences), size)]
        most = min(top, self.vocabulary)

        def ask(rows: range) -> Scored:
            asked = [sequences[row] for row in rows]
            answers = self._patiently(lambda: self._completions(asked, most))
            return [
                rows_of(answer, sequence, int(starts[row]), most, self._where)
                for row, answer, sequence in zip(rows, answers, asked, strict=True)
            ]

        out: Scored = []
        try:
            for answer in _begin(ask, batches, self.settings.parallel, self._stop):
                # a wait without limit is not interrupted: polars has SIGINT restart system calls
                part = answer.result(threading.TIMEOUT_MAX)
                out += part
                tick(len(part))
        except BaseException:
            self._stop.set()
            raise
        self._patiently(self._same_model)
        return out

    @property
    def _where(self) -> str:
        return self.settings.url.rstrip("/").removesuffix("/v1")

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Return what `ask` gives; while the server is away, try again with growing pauses.

        After an absence the server must show that it holds the same model.
        """
        wait, since = _FIRST_WAIT, None
        while True:
            try:
                if since is not None and hasattr(self, "probe"):
                    self._same_model()
                return ask()
            except Away as error:
                if since is None:
                    since = time.monotonic()
                    self._say(f"note: {self._where} is away ({error}); trying again")
                left = self.settings.patience_seconds - (time.monotonic() - since)
                if left <= 0:
                    raise ModelError(
                        f"{self._where}: the teacher's server does not answer ({error}) for "
                        f"{self.settings.patience_seconds:g} s; start it (`vllm serve MODEL "
                        f"--max-logprobs {self._top}`), or raise teacher.server.patience_seconds; "
                        "what is scored so far is kept"
                    ) from error
                if self._stop.wait(min(wait, max(left, 0.05))):
                    raise
                wait = min(2 * wait, _LONGEST_WAIT)

    def _same_model(self) -> None:
        if self._find_model() != self.name:
            raise ModelError(f"{self._where}: no longer serves the model {self.name!r}")
        gap = float(np.abs(self._ask_probe() - self.probe).mean())
        if not gap <= self._tolerance:
            raise ModelError(
                f"{self._where}: holds another model than at first under the name {self.name!r} "
                f"(log-probs of known tokens differ by {gap:.3g} nats); nothing of it is stored"
            )

    def _find_model(self) -> str:
        """Return the name of the model there, after checking it and its longest sequence."""
        listed = self._json("/v1/models")
        models = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(models, list) or not all(isinstance(m, dict) for m in models):
            raise self._nonsense("/v1/models", listed)
        names = [str(m.get("id")) for m in models]
        wanted = self.settings.name or (names[0] if len(names) == 1 else None)
        if wanted not in names:
            raise ModelError(
                f"{self._where}: serves {', '.join(names) or 'nothing'}, but teacher.server.name = "
                f"{self.settings.name!r}: name one of them"
            )
        longest = models[names.index(str(wanted))].get("max_model_len")
        if isinstance(longest, int) and longest < self._needed + 1:
            raise ConfigError(
                f"{self._where}: reads at most {longest} tokens, but prompt, response and one more "
                f"take {self._needed + 1}: start it with --max-model-len {self._needed + 1}, or "
                "lower rollout.max_tokens"
            )
        return str(wanted)

    def _check_vocabulary(self) -> None:
        """Raise `ModelError` where the server's tokenizer writes the probe's ids otherwise."""
        ids = self._probe_ids.tolist()
        try:
            text = self._json("/detokenize", {"model": self.name, "tokens": ids})["prompt"]
        except (ModelError, KeyError, TypeError):
            self._say(f"note: {self._where} has no /detokenize: its vocabulary is not compared")
            return
        if text != self._card.tokenizer.decode(ids):
            raise ModelError(
                f"{self._where}: {self.name} has other tokens than the tokenizer of "
                f"{self._card.folder}: teacher.model and the served model must share one vocabulary"
            )

    def _ask_probe(self) -> np.ndarray:
        """Return the log-probs of the probe's tokens after the first; the limits are tried too."""
        answer = self._completions([self._probe_ids], self._top)[0]
        return rows_of(answer, self._probe_ids, 1, self._top, self._where)[1][:, 0]

    def _completions(self, sequences: Sequence[np.ndarray], top: int) -> list[Any]:
        """Return the `prompt_logprobs` of each sequence."""
        value = self._json(
            "/v1/completions",
            {
                "model": self.name,
                "prompt": [s.tolist() for s in sequences],
                "max_tokens": 1,
                "temperature": 0,
                "prompt_logprobs": top,
            },
        )
        choices = value.get("choices") if isinstance(value, dict) else None
        if not isinstance(choices, list) or len(choices) != len(sequences):
            raise self._nonsense("/v1/completions", value)
        try:
            ordered = sorted(choices, key=lambda c: c["index"])
            return [c["prompt_logprobs"] for c in ordered]
        except (KeyError, TypeError) as error:
            raise self._nonsense("/v1/completions", value) from error

    def _json(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(f"{self._where}{path}", headers=_headers())
        if body is not None:
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=self.settings.timeout_seconds) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            raise self._refused(path, error) from error
        except (OSError, http.client.HTTPException) as error:  # refused, reset, cut off, timed out
            reason = getattr(error, "reason", None) or error
            raise Away(str(reason) or type(error).__name__) from error
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._nonsense(path, text[:200]) from error

    def _refused(self, path: str, error: urllib.error.HTTPError) -> Exception:
        text = _message(error)
        if error.code in _AWAY and "out of memory" not in text.lower():
            return Away(f"HTTP {error.code}: {text}")
        if "logprobs" in text and "greater than max allowed" in text:
            return ConfigError(
                f"{self._where}: gives fewer log-probs a position than score.engine_top = "
                f"{self._top} ({text}): start it with --max-logprobs {self._top}"
            )
        return ModelError(f"{self._where}{path}: HTTP {error.code}: {text}")

    def _nonsense(self, path: str, value: Any) -> ModelError:
        shown = " ".join(str(value).split())[:120]
        return ModelError(
            f"{self._where}{path}: answers what no vLLM server does ({shown}); teacher.server.url "
            "must be that of `vllm serve`"
        )


def _begin(
    ask: Callable[[range], Scored], batches: Sequence[range], parallel: int, stop: threading.Event
) -> list[Future[Scored]]:
    """Return the answers to come, in order; threads ask for them until `stop` is set.

    An exit of this process does not wait for the threads, as it does for those of an executor: a
    request under way may take minutes.
    """
    answers: list[Future[Scored]] = [Future() for _ in batches]
    waiting: queue.SimpleQueue[tuple[range, Future[Scored]]] = queue.SimpleQueue()
    for item in zip(batches, answers, strict=True):
        waiting.put(item)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while not stop.is_set():
                rows, answer = waiting.get_nowait()
                try:
                    answer.set_result(ask(rows))
                except BaseException as error:  # raised again where the answer is awaited
                    answer.set_exception(error)

    for _ in range(min(parallel, len(batches))):
        threading.Thread(target=work, daemon=True).start()
    return answers


def probe_ids(card: ModelCard, longest: int) -> np.ndarray:
    """Return known ids of a vocabulary, spread over it, the same ones each time."""
    tokenizer = card.tokenizer
    special = set(tokenizer.all_special_ids)
    named = [i for i in sorted(tokenizer.get_vocab().values()) if i not in special]
    drawn = np.random.default_rng(0).integers(len(named), size=min(PROBE_TOKENS, longest))
    return np.asarray(named, dtype=np.int64)[drawn]


def _headers() -> dict[str, str]:
    """Return the headers of a request; the key is where `vllm serve` itself looks for it."""
    key = os.environ.get("VLLM_API_KEY")
    more = {"Authorization": f"Bearer {key}"} if key else {}
    return {"Content-Type": "application/json", **more}


def _message(error: urllib.error.HTTPError) -> str:
    """Return a server's words of a refusal, in one line; none where they cannot be read."""
    try:
        text = error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""
    value: Any = None
    with contextlib.suppress(ValueError):
        value = json.loads(text)
    for name in ("error", "message"):
        value = value.get(name, value) if isinstance(value, dict) else value
    return " ".join((value if isinstance(value, str) else text).split())[:300]


def rows_of(
    positions: Any, sequence: np.ndarray, start: int, top: int, where: str
) -> tuple[np.ndarray, np.ndarray, None]:
    """Return ids and log-probs [n, 1 + top] of a sequence's positions from `start`.

    positions: a mapping of id to {"logprob": ...} for each token, None for the first. Raises
    `ModelError` where one lacks its own token or has fewer than `top` ids.
    """
    try:
        if len(positions) != len(sequence):
            raise ValueError(f"{len(positions)} positions for {len(sequence)} tokens")
        count = len(sequence) - start
        ids = np.empty((count, 1 + top), dtype=np.int32)
        logprobs = np.empty((count, 1 + top), dtype=np.float32)
        for place, entry in enumerate(positions[start:]):
            token = int(sequence[start + place])
            found = np.array([int(i) for i in entry])
            values = np.array([v["logprob"] for v in entry.values()], dtype=np.float32)
            first = np.argsort(-values, kind="stable")[:top]
            if len(first) < top:
                raise ValueError(f"{len(first)} ids at a position, {top} asked")
            ids[place, 0], logprobs[place, 0] = token, entry[str(token)]["logprob"]
            ids[place, 1:], logprobs[place, 1:] = found[first], values[first]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{where}: its prompt_logprobs are not those of the tokens asked "
            f"({type(error).__name__}: {error}); teacher.server.url must be that of `vllm serve`"
        ) from error
    return ids, logprobs, None
