"""What is known of a run without weights: both models' cards, prompts, problems.

Everything is made once, when first asked for. Looking (`look`) hashes and downloads no weights: a
card then says nothing of weights that were never hashed here.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from ..stages.evaluate.settings import EvaluateSettings
from ..stages.models.card import ModelCard, look_at_card, read_card
from ..stages.models.device import resolve_device, resolve_dtype
from ..stages.models.served import read_served_card
from ..stages.models.vocabulary import check_compatible
from ..stages.models.weights import Weights
from ..stages.prompts.dates import date_notes
from ..stages.prompts.notes import notes_on
from ..stages.prompts.order import all_rounds, shards
from ..stages.prompts.render import Prompt, Room, needed_columns, render_prompts
from ..stages.prompts.settings import TextSettings
from ..storage.errors import ConfigError
from ..storage.sources.rows import Row, read_rows, unused
from ..storage.store.store import Artifact
from .config.run import RunConfig
from .progress import Reporter

_OR_SKIP = ", or set prompts.too_long = 'skip'"


class Inputs:
    """Cards, prompts and problems of a config. Raises `TipError` for what does not serve."""

    def __init__(self, config: RunConfig, reporter: Reporter, *, look: bool = False) -> None:
        self.config, self._reporter, self._look = config, reporter, look
        self._cut: list[list[int]] = []  # the rounds cut so far, each a list of places of prompts

    def say(self, note: str) -> None:
        """Tell a person what is odd, though it can be used."""
        self._reporter.say(f"note: {note}")

    def of(self, config: RunConfig) -> "Inputs":
        """Return what is known of another config, found as this is."""
        return Inputs(config, self._reporter, look=self._look)

    @cached_property
    def student_card(self) -> ModelCard:
        """Return the card of the first student."""
        return (look_at_card if self._look else read_card)(self.config.student)

    @cached_property
    def teacher_card(self) -> ModelCard:
        """Return the teacher's card, after showing that it speaks the student's tokens."""
        card = self.teacher_card_alone
        for note in check_compatible(self.student_card, card):
            self.say(note)
        return card

    @cached_property
    def teacher_card_alone(self) -> ModelCard:
        """Return the teacher's card, whatever the student is."""
        settings = self.config.teacher
        if settings.server is not None:
            return read_served_card(settings, look=self._look)
        return (look_at_card if self._look else read_card)(settings)

    @property
    def first_student(self) -> Weights:
        """Return the student that round 0 starts with."""
        card = self.student_card
        return Weights("student", card, card.fingerprint, self._dtype, self.config.student.vllm)

    def teacher(self, engine: str) -> Weights:
        """Return the teacher as an engine computes it, shown to speak the student's tokens."""
        _ = self.teacher_card
        return self.teacher_alone(engine)

    def teacher_alone(self, engine: str) -> Weights:
        """Return the teacher as an engine computes it, whatever the student is.

        `auto` of a server is bfloat16: the device here says nothing of it, and vLLM makes bfloat16
        of most weights.
        """
        settings, card = self.config.teacher, self.teacher_card_alone
        served = engine == "server" and settings.dtype == "auto"
        dtype = "bfloat16" if served else _dtype(settings.dtype, self.config.device)
        return Weights("teacher", card, card.fingerprint, dtype, settings.vllm)

    @property
    def _dtype(self) -> str:
        return _dtype(self.config.student.dtype, self.config.device)

    @cached_property
    def prompt_rows(self) -> list[Row]:
        """Return the rows that prompts are made of; rendering takes them away."""
        return self._rows(self.config.prompts, None)

    @cached_property
    def problem_rows(self) -> list[Row]:
        """Return the rows that problems are made of; rendering takes them away."""
        return self._rows(self.evaluation, self.evaluation.answer)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Return all distinct prompts of the source, rendered."""
        settings = self.config.prompts
        rows = self.prompt_rows
        del self.prompt_rows  # a million of them take a gigabyte
        way = f"lower rollout.max_tokens = {self.config.rollout.max_tokens}{_OR_SKIP}"
        longest, teacher_longest = (Room(tokens, way) for tokens in self.rooms)
        if settings.max_tokens is not None and settings.max_tokens < longest.tokens:
            longest = Room(settings.max_tokens, f"raise prompts.max_tokens{_OR_SKIP}")
        return self._render(rows, settings, None, (longest, teacher_longest), settings.too_long)

    @cached_property
    def problems(self) -> list[Prompt]:
        """Return the evaluation's problems, rendered."""
        settings = self.evaluation
        rows = self.problem_rows
        del self.problem_rows
        way = f"lower evaluate.max_tokens = {settings.max_tokens}"
        longest, teacher_longest = (Room(tokens, way) for tokens in self.problem_rooms)
        return self._render(rows, settings, settings.answer, (longest, teacher_longest), "refuse")

    @property
    def rooms(self) -> tuple[int, int]:
        """Return the longest prompts in tokens that leave room for a response.

        The first is the student's, the second that of a teacher with a prompt of its own; else both
        read the same.
        """
        tokens = self.config.rollout.max_tokens
        student, teacher = self.student_card, self.teacher_card
        if self.config.teacher.format is None:
            both = _room("rollout", tokens, student=student, teacher=teacher)
            return both, both
        return _room("rollout", tokens, student=student), _room("rollout", tokens, teacher=teacher)

    @property
    def problem_rooms(self) -> tuple[int, int]:
        """Return the longest problems in tokens that leave room for an answer, as `rooms` does."""
        settings, tokens = self.evaluation, self.evaluation.max_tokens
        if not settings.reverse_kl:  # no teacher reads it
            alone = _room("evaluate", tokens, student=self.student_card)
            return alone, alone
        student, teacher = self.student_card, self.teacher_card
        if self.config.teacher.format is None:
            both = _room("evaluate", tokens, student=student, teacher=teacher)
            return both, both
        own = _room("evaluate", tokens, student=student)
        return own, _room("evaluate", tokens, teacher=teacher)

    @property
    def evaluation(self) -> EvaluateSettings:
        """Return the evaluation's settings, or say that there are none."""
        if self.config.evaluate is None:
            raise ConfigError(
                "the config has no [evaluate] section: add one with `source`, `format` and `answer`"
            )
        return self.config.evaluate

    def everything_asked(self) -> list[Prompt]:
        """Return all prompts and problems that an engine may be given."""
        return [*self.prompts, *(self.problems if self.config.evaluate else [])]

    def round(self, number: int) -> list[Prompt]:
        """Return the prompts of a round, in order."""
        while len(self._cut) <= number:
            self._cut.append(next(self._rounds))
        return [self.prompts[i] for i in self._cut[number]]

    @cached_property
    def _rounds(self) -> Iterator[list[int]]:
        config = self.config
        hashes = [p.hash for p in self.prompts]
        return all_rounds(hashes, config.rollout.prompts, config.data_seed)

    def round_shards(self, number: int) -> list[tuple[Prompt, ...]]:
        """Return the prompts of a round, cut into shards."""
        return [tuple(shard) for shard in shards(self.round(number))]

    def shown(self, source: Artifact) -> tuple[tuple[int, ...], ...] | None:
        """Return the teacher's own prompts of a shard of rollouts, None where it has none."""
        if self.config.teacher.format is None:
            return None
        own = self._shown_by_hash
        if missing := [h for h in source.inputs["prompts"] if h not in own]:
            raise ConfigError(
                f"teacher.format cannot be filled for {len(missing)} prompts of the rollouts: they "
                f"are not in prompts.source = {self.config.prompts.source!r} (a replay needs the "
                "prompts of the run that it replays)"
            )
        return tuple(own[h] for h in source.inputs["prompts"])

    @property
    def longest_shown(self) -> int:
        """Return the tokens of the longest prompt that the teacher is shown."""
        if self.config.teacher.format is None:
            longest = max(len(p.ids) for p in self.prompts)
        else:
            longest = max(len(ids) for ids in self._shown_by_hash.values())
        if self.config.evaluate:
            longest = max(longest, *(len(p.ids) for p in self.problems))
        return longest

    @cached_property
    def _shown_by_hash(self) -> dict[str, tuple[int, ...]]:
        """Return what the teacher is shown of each prompt, and of each problem that it scores."""
        scored = self.config.evaluate is not None and self.config.evaluate.reverse_kl
        problems = {p.hash: p.teacher_ids for p in self.problems} if scored else {}
        return problems | {p.hash: p.teacher_ids for p in self.prompts}

    def _teacher_format(self, settings: TextSettings) -> str | None:
        """Return what the teacher is shown of such rows in place of the student's prompt."""
        read = not isinstance(settings, EvaluateSettings) or settings.reverse_kl
        return self.config.teacher.format if read else None

    def _rows(self, settings: TextSettings, answer: str | None) -> list[Row]:
        own = self._teacher_format(settings)
        return read_rows(
            settings.source,
            subset=settings.subset,
            split=settings.split,
            limit=settings.limit,
            needed=needed_columns(settings, teacher_format=own, answer_column=answer),
            lists=() if settings.messages is None else (settings.messages,),
            section="prompts" if answer is None else "evaluate",
        )

    def _render(
        self,
        rows: list[Row],
        settings: TextSettings,
        answer: str | None,
        rooms: tuple[Room, Room],
        too_long: Any,
    ) -> list[Prompt]:
        teacher_format = self._teacher_format(settings)
        prompts, facts = render_prompts(
            rows,
            settings,
            self.student_card.tokenizer,
            teacher_tokenizer=self.teacher_card.tokenizer if teacher_format else None,
            teacher_format=teacher_format,
            answer_column=answer,
            longest=rooms[0],
            teacher_longest=rooms[1] if teacher_format else None,
            too_long=too_long,
            rows_of_heads=self._rows_of_heads(settings),
        )
        if facts.duplicates or facts.too_long:
            self.say(
                f"{settings.source}: {facts.rows} rows, {facts.duplicates} duplicates and "
                f"{facts.too_long} too long left out"
            )
        self._say_what_is_odd(settings, prompts, own=teacher_format is not None)
        return prompts

    def _rows_of_heads(self, settings: TextSettings) -> tuple[int, int]:
        """Return the ids of the models that read a prompt, and of the teacher that has its own."""
        student = self.student_card.head_rows
        if isinstance(settings, EvaluateSettings) and not settings.reverse_kl:
            return student, student  # no teacher reads it, and none needs to be there
        teacher = self.teacher_card.head_rows
        own = self._teacher_format(settings) is not None
        return student if own else min(student, teacher), teacher

    def _say_what_is_odd(self, settings: TextSettings, prompts: list[Prompt], *, own: bool) -> None:
        card, source = self.student_card, settings.source
        shown = [p.ids for p in prompts] + [p.teacher_ids for p in prompts if own]
        notes = notes_on(shown, card.special_ids, card.stop_ids, settings.template, card.first_id)
        notes += unused(source, settings.subset, settings.split)
        if settings.template == "chat":
            template = card.tokenizer.chat_template
            notes += date_notes(template, settings.date, settings.chat_kwargs)
        for note in notes:
            self.say(f"{source}: {note}")


def _room(section: str, tokens: int, **readers: ModelCard) -> int:
    """Return what models that read prompts and responses of so many tokens leave for a prompt.

    Raises `ConfigError` where one leaves nothing.
    """
    who, card = min(readers.items(), key=lambda reader: reader[1].context)
    if card.context <= tokens:
        raise ConfigError(
            f"{section}.max_tokens = {tokens} leaves no room for a prompt in the {who}'s context "
            f"of {card.context} tokens: lower it"
        )
    return card.context - tokens


def _dtype(name: str, device: str) -> str:
    return str(resolve_dtype(name, resolve_device(device))).removeprefix("torch.")
