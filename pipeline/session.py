"""What the stages of a run share: store, run folder, prompts, and models loaded when first needed.

A run whose artifacts all exist loads no weights at all.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..stages.evaluate.settings import EvaluateSettings
from ..stages.models.card import ModelCard, read_card
from ..stages.models.cpu.heap import give_back_freed_memory
from ..stages.models.device import resolve_device, resolve_dtype
from ..stages.models.language_model import LanguageModel
from ..stages.models.load import load_model
from ..stages.models.served import read_served_card
from ..stages.models.settings import ModelSettings
from ..stages.models.vocabulary import check_compatible
from ..stages.prompts.order import round_prompts
from ..stages.prompts.render import Prompt, needed_columns, render_prompts
from ..stages.prompts.settings import TextSettings
from ..storage.errors import ConfigError
from ..storage.runs import RunFolder
from ..storage.sources.rows import read_rows
from ..storage.store.store import Artifact, Store
from .config.run import RunConfig
from .engines import Engines
from .progress import Reporter, Stopwatch, peak_memory


@dataclass(frozen=True)
class Student:
    """A student as the stages see it: where it lies and which training made it.

    key: of the training that made it, or the fingerprint of the first student.
    """

    settings: ModelSettings
    fingerprint: str
    key: str


class Session:
    """A run in progress. Everything expensive is made once, when first asked for."""

    def __init__(
        self, config: RunConfig, reporter: Reporter | None = None, *, look_only: bool = False
    ) -> None:
        """Open the store and the run folder of a config; no model is loaded.

        look_only: make no store where there is none.
        """
        self.config = config
        self.reporter = reporter or Reporter(quiet=True)
        self.run = RunFolder(config.runs, config.name)
        if not look_only or "://" in config.store or Path(config.store).expanduser().is_dir():
            self.store = Store(config.store)
        self.device = resolve_device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        self._loaded: dict[str, tuple[str, LanguageModel]] = {}
        self._trained: dict[str, ModelCard] = {}
        self.engines = Engines(self)

    @cached_property
    def student_card(self) -> ModelCard:
        """Return the card of the first student."""
        return read_card(self.config.student)

    @cached_property
    def teacher_card(self) -> ModelCard:
        """Return the teacher's card, after showing that it speaks the student's tokens."""
        served = self.config.teacher.server is not None
        card = (read_served_card if served else read_card)(self.config.teacher)
        for note in check_compatible(self.student_card, card):
            self.reporter.say(f"note: {note}")
        return card

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Return all distinct prompts of the source, rendered."""
        config = self.config
        room = self.student_card.context - config.rollout.max_tokens
        if room < 1:
            raise ConfigError(
                f"rollout.max_tokens = {config.rollout.max_tokens} leaves no room for a prompt in "
                f"the student's context of {self.student_card.context} tokens: lower it"
            )
        longest = min(room, config.prompts.max_tokens or room)
        return self._render(config.prompts, None, longest, config.prompts.too_long)

    @cached_property
    def problems(self) -> list[Prompt]:
        """Return the evaluation's problems, rendered."""
        settings = self.evaluation
        longest = self.student_card.context - settings.max_tokens
        return self._render(settings, settings.answer, longest, "refuse")

    @property
    def evaluation(self) -> EvaluateSettings:
        """Return the evaluation's settings, or say that there are none."""
        if self.config.evaluate is None:
            raise ConfigError(
                "the config has no [evaluate] section: add one with `source`, `format` and `answer`"
            )
        return self.config.evaluate

    def check_inputs(self) -> None:
        """Meet a user's mistakes before any work: in vocabularies, prompts and problems."""
        names = ["teacher_card"]
        if self.config.evaluate is not None:
            names.append("problems")
        for name in names:
            getattr(self, name)
        if self.config.rollout.replay is None:
            self.round_prompts(0)

    def store_if_there(self) -> Store | None:
        """Return the store, None where a session that only looks found none."""
        return getattr(self, "store", None)

    def round_prompts(self, number: int) -> list[Prompt]:
        """Return the prompts of a round, in order."""
        hashes = [p.hash for p in self.prompts]
        config = self.config
        chosen = round_prompts(hashes, config.rollout.prompts, number, config.data_seed)
        return [self.prompts[i] for i in chosen]

    def student(self, number: int) -> Student:
        """Return the student that round `number` starts with."""
        if number == 0:
            fingerprint = self.student_card.fingerprint
            return Student(self.config.student, fingerprint, fingerprint)
        key = (self.run.round(number - 1) or {}).get("checkpoint")
        artifact = None if key is None else self.store.find("checkpoint", key)
        if artifact is None:
            raise ConfigError(
                f"round {number} of run {self.run.name} has no student yet: round {number - 1} is "
                "not trained. `tip run` plays all rounds in order"
            )
        return self.trained(artifact)

    def trained(self, checkpoint: Artifact) -> Student:
        """Return the student of a checkpoint."""
        folder, fingerprint = self.store.folder(checkpoint), checkpoint.facts["fingerprint"]
        update = {"model": str(folder), "revision": None}
        settings = self.config.student.model_copy(update=update)
        card = replace(self.student_card, folder=folder, fingerprint=fingerprint)
        self._trained[settings.model] = card
        return Student(settings, fingerprint, checkpoint.key)

    def card(self, settings: ModelSettings) -> ModelCard:
        """Return the card of one of the run's models, read once.

        A trained student keeps the first one's tokenizer, stop ids and sizes.
        """
        if settings == self.config.student:
            return self.student_card
        if settings == self.config.teacher:
            return self.teacher_card
        return self._trained.get(settings.model) or read_card(settings)

    def dtype(self, settings: ModelSettings) -> torch.dtype:
        """Return a model's compute type in rollout and scoring."""
        return resolve_dtype(settings.dtype, self.device)

    def model(self, role: str, settings: ModelSettings) -> LanguageModel:
        """Return a loaded model; one a role is held, the one asked for last."""
        wanted = settings.model_dump_json()
        name, model = self._loaded.get(role, ("", None))
        if model is None or name != wanted:
            self._loaded.pop(role, None)
            self.engines.close()  # a vLLM process leaves no room beside it
            model = load_model(settings, self.device, self.dtype(settings), self.card(settings))
            self._loaded[role] = (wanted, model)
        return model

    def release(self, role: str) -> None:
        """Forget a loaded model, so that its memory is free for the next stage."""
        self._loaded.pop(role, None)
        self._empty_cache()

    def release_all(self) -> None:
        """Forget all loaded models, and give back what torch keeps of models forgotten before."""
        self._loaded.clear()
        self._empty_cache()

    def _empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        give_back_freed_memory()

    def _render(
        self, settings: TextSettings, answer: str | None, longest: int, too_long: Any
    ) -> list[Prompt]:
        training = answer is None
        teacher_format = self.config.teacher.format if training else None
        needed = needed_columns(settings, teacher_format=teacher_format, answer_column=answer)
        section = "prompts" if training else "evaluate"
        rows = read_rows(
            settings.source,
            subset=settings.subset,
            split=settings.split,
            limit=settings.limit,
            needed=needed,
            section=section,
        )
        prompts, facts = render_prompts(
            rows,
            settings,
            self.student_card.tokenizer,
            teacher_tokenizer=self.teacher_card.tokenizer if teacher_format else None,
            teacher_format=teacher_format,
            answer_column=answer,
            longest=longest,
            teacher_longest=self._teacher_room() if teacher_format else None,
            too_long=too_long,
        )
        if facts.duplicates or facts.too_long:
            self.reporter.say(
                f"note: {settings.source}: {facts.rows} rows, {facts.duplicates} duplicates and "
                f"{facts.too_long} too long left out"
            )
        return prompts

    def teacher_prompts(self) -> dict[str, tuple[int, ...]] | None:
        """Return the teacher's own prompts by hash, None where it is shown the student's."""
        if self.config.teacher.format is None:
            return None
        return {p.hash: p.teacher_ids for p in self.prompts}

    def shown_prompts(self, source: Artifact) -> list[tuple[int, ...]] | None:
        """Return the teacher's own prompts of a shard of rollouts, None where it has none."""
        own = self.teacher_prompts()
        if own is None:
            return None
        if missing := [h for h in source.inputs["prompts"] if h not in own]:
            raise ConfigError(
                f"teacher.format cannot be filled for {len(missing)} prompts of the rollouts: they "
                f"are not in prompts.source = {self.config.prompts.source!r} (a replay needs the "
                "prompts of the run that it replays)"
            )
        return [own[h] for h in source.inputs["prompts"]]

    def _teacher_room(self) -> int:
        return self.teacher_card.context - self.config.rollout.max_tokens


def report(
    session: Session, number: int, stage: str, watch: Stopwatch, text: str, **numbers: Any
) -> None:
    """Say what a stage did in one line, and record it with all its numbers."""
    seconds = watch.seconds
    session.reporter.say(f"round {number:<3} {stage:<9} {text} [{seconds:.1f} s]")
    session.run.record(
        {
            **numbers,
            "round": number,
            "stage": stage,
            "seconds": seconds,
            **peak_memory(session.device),
        }
    )
