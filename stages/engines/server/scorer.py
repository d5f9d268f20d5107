"""A teacher behind an OpenAI-compatible vLLM server: prompt log-probs over HTTP.

Token ids go there and log-probs come back, a few rollouts a request, some requests at once. A
server that is away is waited for; one that holds another model than at first is refused. Source:
the completions interface of `vllm serve` 0.32 (`prompt_logprobs`, `/v1/models`, `/detokenize`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....storage.errors import ConfigError, ModelError
from ....storage.ledger import Ledger
from ...models.card import ModelCard
from ...models.settings import ServerSettings
from ..protocols import Scored, Tick, silent
from .client import Ask, Refused, ServerClient, awaited

VERSION = 2  # of the probe
_KNOWN_TOKENS = 48
"""Ids shown to the server, by which the model behind it is known again."""


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
        ledger: Ledger | None = None,
    ) -> None:
        """Find the server and show that it can do the work.

        needed: tokens of the longest sequence. top: ids a position. tolerance: mean gap in nats
        that the same model may show. ledger: where waiting for its answers is counted. Raises
        `ModelError` for a server that is not there, has another model or another vocabulary, and
        `ConfigError` for limits that are too low.
        """
        self.settings, self.vocabulary = settings, card.head_rows
        self._card, self._say, self._tolerance = card, say, tolerance
        self._needed, self._top = needed, min(top, card.head_rows)
        self._ledger = ledger or Ledger()
        self._probe_ids = probe_ids(card, needed)
        command = f"vllm serve MODEL --max-logprobs {self._top}"
        self._client = ServerClient(settings, command=command, say=say)
        self.name = self._client.answer(self._find_model)
        self._client.answer(self._check_vocabulary)
        self.probe = self._client.answer(self._ask_probe)

    def score(
        self,
        sequences: Sequence[np.ndarray],
        starts: Sequence[int],
        top: int,
        given: Sequence[np.ndarray | None] | None = None,
        tick: Tick = silent,
    ) -> list[Scored]:
        """Return what the teacher says; see `Scorer`. given: not possible here.

        Raises `ModelError` where the server holds another model at the end than at first.
        """
        if given is not None:
            raise ValueError("completions take no ids to score")
        most = min(top, self.vocabulary)

        def batch(first: int) -> Ask[list[Scored]]:
            rows = slice(first, first + self.settings.batch)
            asked, begins = sequences[rows], starts[rows]

            async def ask() -> list[Scored]:
                answers = await self._completions(asked, most)
                return [
                    scored_of(answer, sequence, int(begin), most, self._where)
                    for answer, sequence, begin in zip(answers, asked, begins, strict=True)
                ]

            return ask

        asks = [batch(first) for first in range(0, len(sequences), self.settings.batch)]
        out: list[Scored] = []
        with self._client.answers(asks, prove=self._same_model) as answers:
            for answer in answers:
                with self._ledger.of("waiting"):
                    part = awaited(answer)
                out += part
                tick(sum(len(scored.ids) for scored in part))
        self._client.answer(self._same_model)
        return out

    @property
    def _where(self) -> str:
        return self._client.where

    async def _same_model(self) -> None:
        if await self._find_model() != self.name:
            raise ModelError(f"{self._where}: no longer serves the model {self.name!r}")
        gap = float(np.abs(await self._ask_probe() - self.probe).mean())
        if not gap <= self._tolerance:
            raise ModelError(
                f"{self._where}: holds another model than at first under the name {self.name!r} "
                f"(log-probs of known tokens differ by {gap:.3g} nats); nothing of it is stored"
            )

    async def _find_model(self) -> str:
        """Return the name of the model there, after checking it and its longest sequence."""
        listed = await self._client.json("/v1/models")
        models = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(models, list) or not all(isinstance(m, dict) for m in models):
            raise self._client.nonsense("/v1/models", listed)
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

    async def _check_vocabulary(self) -> None:
        """Raise `ModelError` where the server's tokenizer writes the probe's ids otherwise."""
        ids = self._probe_ids.tolist()
        try:
            asked = {"model": self.name, "tokens": ids}
            text = (await self._client.json("/detokenize", asked))["prompt"]
        except (ModelError, KeyError, TypeError):
            self._say(f"note: {self._where} has no /detokenize: its vocabulary is not compared")
            return
        if text != self._card.tokenizer.decode(ids):
            raise ModelError(
                f"{self._where}: {self.name} has other tokens than the tokenizer of "
                f"{self._card.folder}: teacher.model and the served model must share one vocabulary"
            )

    async def _ask_probe(self) -> np.ndarray:
        """Return the log-probs of the probe's tokens after the first; the limits are tried too."""
        answer = (await self._completions([self._probe_ids], self._top))[0]
        return scored_of(answer, self._probe_ids, 1, self._top, self._where).logprobs[:, 0]

    async def _completions(self, sequences: Sequence[np.ndarray], top: int) -> list[Any]:
        """Return the `prompt_logprobs` of each sequence."""
        asked = {
            "model": self.name,
            "prompt": [s.tolist() for s in sequences],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": top,
        }
        try:
            value = await self._client.json("/v1/completions", asked)
        except Refused as error:
            if "logprobs" in error.words and "greater than max allowed" in error.words:
                raise ConfigError(
                    f"{self._where}: gives fewer log-probs a position than score.engine_top = "
                    f"{self._top} ({error.words}): start it with --max-logprobs {self._top}"
                ) from error
            raise
        choices = value.get("choices") if isinstance(value, dict) else None
        if not isinstance(choices, list) or len(choices) != len(sequences):
            raise self._client.nonsense("/v1/completions", value)
        try:
            ordered = sorted(choices, key=lambda c: c["index"])
            return [c["prompt_logprobs"] for c in ordered]
        except (KeyError, TypeError) as error:
            raise self._client.nonsense("/v1/completions", value) from error


def probe_inputs(fingerprint: str, dtype: str, length: int) -> dict[str, Any]:
    """Return what makes the probe of a teacher's name: the printable value behind its key.

    length: of the log-probs that the server gave.
    """
    return {
        "version": VERSION,
        "teacher": fingerprint,
        "dtype": dtype,
        "tokens": [_KNOWN_TOKENS, length],
    }


def probe_ids(card: ModelCard, longest: int) -> np.ndarray:
    """Return known ids of a vocabulary, none special, spread over it: the same ones each time."""
    known = {i for i in card.tokenizer.get_vocab().values() if i < card.head_rows}
    named = sorted(known - {*card.special_ids})
    drawn = np.random.default_rng(0).integers(len(named), size=min(_KNOWN_TOKENS, longest))
    return np.asarray(named, dtype=np.int64)[drawn]


def scored_of(positions: Any, sequence: np.ndarray, start: int, top: int, where: str) -> Scored:
    """Return what a server says of a sequence's tokens from `start` on.

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
    return Scored(ids, logprobs, None)
