"""What this process holds in memory: one thing at a time, loaded when it is asked for.

A vLLM process takes most of a GPU, and training all of it. So models are dropped before such a
process starts or a training begins, and the process ends before a model is loaded. Nobody else
loads, starts, closes or releases anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..storage.facts import EngineGap
from ..storage.ledger import Ledger
from .engines.local.engine import LocalEngine
from .engines.probe import measured_gap, refuse_gross, usual_limit
from .engines.protocols import Engine, Scorer
from .engines.server.scorer import ServerScorer
from .engines.vllm.engine import VllmEngine
from .engines.vllm.scorer import VllmScorer, refuse_other_runner
from .engines.vllm.spec import EngineSpec
from .evaluate.verdicts import Verifier
from .models.card import ModelCard
from .models.cpu.heap import give_back_freed_memory
from .models.language_model import LanguageModel
from .models.load import load_model
from .models.settings import ServerSettings
from .models.weights import Weights
from .train.states import States

Sequences = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Embedded:
    """Generation by the embedded engine, `batch_size` rows together.

    spans: whether a batch of rollouts takes rows of several shards. graphs: see `LocalEngine`.
    """

    weights: Weights
    batch_size: int
    spans: bool = False
    graphs: bool = False


@dataclass(frozen=True)
class InVllm:
    """Generation by a vLLM process, which is compared with the embedded engine before use.

    probes: sequences to compare on. reference: the embedded engine's log-probs of their tokens
    after the first, sequence by sequence, where they are known already.
    """

    weights: Weights
    spec: EngineSpec
    probes: Sequences
    reference: tuple[float, ...] | None = None


Generator = Embedded | InVllm


@dataclass(frozen=True)
class Reader:
    """Scoring by a vLLM process. top: ids fetched a position.

    given_ids: whether keys say that it is asked for the student's ids.
    """

    weights: Weights
    spec: EngineSpec
    top: int
    given_ids: bool


@dataclass(frozen=True)
class Served:
    """Scoring by a server. needed: tokens of the longest sequence. top: ids a position."""

    card: ModelCard
    server: ServerSettings
    needed: int
    top: int
    tolerance: float


@dataclass(frozen=True)
class Held:
    """An engine ready for use, and how far it is from the embedded one where that was measured."""

    engine: Engine
    gap: EngineGap | None = None


Reference = Callable[["InVllm"], np.ndarray | None]
"""Gives the embedded engine's log-probs of the probes, None where they cannot be had."""


class Holder:
    """The models, engines and scorers of one process.

    at_once: models held together; 1 where a student and a teacher take turns. folder_of: where the
    files of weights are on this host that are made or fetched when they are first needed.
    attention: name of transformers' implementation. say: tells a person. ledger: what seconds go
    into.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        at_once: Literal[1, 2],
        folder_of: Callable[[Weights], Path],
        attention: str = "sdpa",
        say: Callable[[str], None],
        ledger: Ledger | None = None,
    ) -> None:
        self.device, self.ledger = device, ledger or Ledger()
        self._at_once, self._attention, self.say = at_once, attention, say
        self._folder_of = folder_of
        self.states = States(self.ledger)
        """The training states that this process leaves, which are written while it goes on."""
        self._models: dict[str, tuple[Weights, LanguageModel]] = {}
        self._process: tuple[EngineSpec, VllmEngine] | None = None
        self._gap: EngineGap | None = None
        self._scorer: tuple[Reader | Served, Scorer] | None = None
        self._verifier: tuple[tuple[str, float], Verifier] | None = None
        self._fitting: int | None = None  # tokens of a scoring batch, after one that did not fit

    def model(self, weights: Weights) -> LanguageModel:
        """Return a model for use; the last one of its role stays, others as far as they may."""
        held = self._models.get(weights.role)
        if held is not None and held[0] == weights:
            return held[1]
        self._make_room(weights)
        model = self._load(weights, getattr(torch, weights.dtype))
        self._models[weights.role] = weights, model
        return model

    def trainee(self, weights: Weights, *, on_host: bool = False) -> LanguageModel:
        """Return a model in float32 to be trained, which its user alone holds; all else goes.

        One that is held in float32 is given away. on_host: for who makes it smaller before the
        device sees it.
        """
        held = None if on_host else self._in_float32(weights)
        self.release()
        if held is not None:
            return held
        return self._read(self._card(weights), torch.float32, on_host=on_host)

    def read_back(
        self, weights: Weights, folder: Path, dtype: str, *, on_host: bool = False
    ) -> LanguageModel:
        """Return the model of a folder that was exported from weights; its user alone holds it."""
        card = replace(weights.card, folder=folder)
        return self._read(card, getattr(torch, dtype), on_host=on_host)

    def adopt(self, weights: Weights, model: LanguageModel) -> None:
        """Hold a model that its user has done with as what weights name, whose bits it has.

        In place of others, as if it had been loaded. One that lies elsewhere than on this holder's
        device is let go.
        """
        if model.device != self.device:
            return
        self._make_room(weights)
        self._models[weights.role] = weights, replace(model, card=self._card(weights))

    def generator(self, wanted: Generator, reference: Reference) -> Held:
        """Return an engine that generates.

        A vLLM process is built from the model's folder, compared with the embedded engine's
        log-probs of a few prompts, and kept until other weights or other work need its place.
        """
        if isinstance(wanted, Embedded):
            return Held(
                LocalEngine(self.model(wanted.weights), wanted.batch_size, graphs=wanted.graphs)
            )
        if not self._runs(wanted.spec):
            self._start(wanted, reference)
        assert self._process is not None
        return Held(self._process[1], self._gap)

    def scorer(self, wanted: Reader | Served) -> Scorer:
        """Return what reads sequences and gives a teacher's log-probs."""
        if self._process is not None and self._process[1].closed:
            self._end_process()  # it has failed, and the scorer with it
        if self._scorer is None or self._scorer[0] != wanted:
            make = self._read_by_server if isinstance(wanted, Served) else self._read_by_vllm
            self._scorer = wanted, make(wanted)  # type: ignore[arg-type]
        return self._scorer[1]

    def verifier(self, kind: Literal["math", "exact"], timeout: float) -> Verifier:
        """Return what decides answers; its process stays for the next shard."""
        if self._verifier is None or self._verifier[0] != (kind, timeout):
            self._end_verifier()
            self._verifier = (kind, timeout), Verifier(kind, timeout=timeout)
        return self._verifier[1]

    def release(self) -> None:
        """Forget all models and end vLLM, and give back what torch keeps of earlier ones."""
        self._models.clear()
        self._end_process()
        self._give_back()

    def close(self) -> None:
        """Let go of everything, and wait for what is being written; may be called again."""
        self._scorer = None
        self._end_verifier()
        self.release()
        if (failed := self.states.close()) is not None:
            self.say(f"note: {failed}")

    def _in_float32(self, weights: Weights) -> LanguageModel | None:
        """Return the model of weights where it is held, in float32; of another one nothing."""
        held = self._models.get(weights.role)
        return held[1] if held and held[0] == weights and weights.dtype == "float32" else None

    def _make_room(self, weights: Weights) -> None:
        """Let go of what may not be held beside a model of these weights."""
        others = [role for role in self._models if self._at_once == 1 or role == weights.role]
        for role in others:
            del self._models[role]
        self._end_process()

    def _load(self, weights: Weights, dtype: torch.dtype) -> LanguageModel:
        self.states.settle()  # masters and moments in memory were part of what training took
        return self._read(self._card(weights), dtype)

    def _read(self, card: ModelCard, dtype: torch.dtype, *, on_host: bool = False) -> LanguageModel:
        device = torch.device("cpu") if on_host else self.device
        with self.ledger.of("loading"):
            self._give_back()  # what was freed since lies scattered, and would not be used again
            return load_model(card, device, dtype, attention=self._attention)

    def _card(self, weights: Weights) -> ModelCard:
        """Return the card of weights that are files of this host."""
        if weights.checkpoint is None and weights.card.adapter is None:
            return weights.card
        return replace(weights.card, folder=self._folder_of(weights), adapter=None)

    def _vllm(self, spec: EngineSpec, weights: Weights) -> VllmEngine:
        with self.ledger.of("loading"):
            self.states.settle()  # its process takes what memory there is
        return VllmEngine(replace(spec, folder=self._card(weights).folder))

    def _give_back(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        give_back_freed_memory()

    def _start(self, wanted: InVllm, reference: Reference) -> None:
        self._end_process()
        expected = reference(wanted)
        self.release()
        process, gap = self._vllm(wanted.spec, wanted.weights), None
        role = wanted.weights.role
        try:
            if expected is not None:
                gap = measured_gap(process, as_arrays(wanted.probes), expected)
                folder = self._card(wanted.weights).folder
                refuse_gross(gap, gap_limit(wanted.weights), folder)
        except BaseException:
            process.close()
            raise
        self._process, self._gap = (wanted.spec, process), gap
        if gap is None:
            return
        self.say(
            f"note: vLLM {process.facts.version} holds the {role}: log-probs differ from the "
            f"trainer's by {gap.mean:.2g} nats on average over {gap.tokens} tokens"
        )

    def _read_by_vllm(self, wanted: Reader) -> Scorer:
        def start(batch_tokens: int | None) -> VllmEngine:
            self._fitting = batch_tokens or self._fitting
            fitting = self._fitting or wanted.spec.batch_tokens
            spec = replace(wanted.spec, batch_tokens=fitting)
            if not self._runs(spec):
                same = self._scorer is not None and self._scorer[0] == wanted
                kept = self._scorer if same else None  # one that starts itself again stays
                self.release()
                self._process, self._gap = (spec, self._vllm(spec, wanted.weights)), None
                self._scorer = kept
            assert self._process is not None
            return self._process[1]

        scorer = VllmScorer(start, self.say)
        refuse_other_runner(scorer, wanted.given_ids)
        if not scorer.given_ids:
            self.say(
                "note: this vLLM cannot be asked for given ids (its V2 runner can): the student's "
                f"ids are kept where they are among the teacher's top "
                f"{min(wanted.top, scorer.vocabulary)}"
            )
        return scorer

    def _runs(self, spec: EngineSpec) -> bool:
        """Return whether the process of a spec is there; one that has failed is not."""
        return self._process is not None and (
            self._process[0] == spec and not self._process[1].closed
        )

    def _read_by_server(self, wanted: Served) -> Scorer:
        return ServerScorer(
            wanted.server,
            wanted.card,
            needed=wanted.needed,
            top=wanted.top,
            tolerance=wanted.tolerance,
            say=self.say,
            ledger=self.ledger,
        )

    def _end_process(self) -> None:
        if self._process is not None:
            self._process[1].close()
            self._process = self._gap = None
            if self._scorer is not None and isinstance(self._scorer[0], Reader):
                self._scorer = None

    def _end_verifier(self) -> None:
        if self._verifier is not None:
            self._verifier[1].close()
            self._verifier = None


def as_arrays(sequences: Sequences) -> list[np.ndarray]:
    """Return sequences of token ids as engines take them."""
    return [np.asarray(ids, dtype=np.int64) for ids in sequences]


def gap_limit(weights: Weights) -> float:
    """Return the gap in nats beyond which an engine is refused: as set, or that of its type."""
    vllm = weights.vllm
    return usual_limit(weights.dtype, vllm.quantization) if vllm.max_gap is None else vllm.max_gap
