"""What trackers are told: a batch a line of metrics, under names that stay.

`train/loss`, `evaluate/reverse_kl`, ... by round; `train/step_loss` by optimiser step, counted over
all rounds. A batch is made of the run's lines, pointers and store alone, so it is the same whenever
it is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...stages.models.card import load_tokenizer
from ...storage.errors import TipError
from ...storage.runs import RoundPointers, RunFolder
from ...storage.store.artifacts import Artifact
from ...storage.store.store import Store
from ...storage.tables import read_table
from ...storage.visible import visible
from ..config.run import RunConfig
from ..config.written import public
from ..inputs import Inputs
from ..metrics import by_round
from ..progress import Reporter
from ..stability import held_out_warning, warning

_MARKS = ("⟦", "⟧")  # around what was selected


@dataclass(frozen=True)
class Shown:
    """A rollout in words: its prompt, and its response with the selected tokens in marks."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Batch:
    """What one line of metrics says.

    values: by name, of the round. steps: (step, loss in nats) of a training. rollouts: a few of the
    round's. alerts: warnings of stability.
    """

    round: int
    stage: str
    values: dict[str, float]
    steps: tuple[tuple[int, float], ...] = ()
    rollouts: tuple[Shown, ...] = ()
    alerts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Story:
    """What there is to tell of a run. run: a folder object that no other thread reads."""

    run: RunFolder
    config: RunConfig

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Return the config by dotted names, without secrets and places of this machine."""
        return dict(_flat(public(self.config), ""))

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of metrics."""
        return self.run.metrics()

    def batches(self, start: int) -> Iterator[tuple[int, Batch | None]]:
        """Yield (lines read, what the last of them says) for each line after `start`.

        None for a stage that an earlier line told of: a run that is started again finds what it
        has made, and says so once more.
        """
        lines = self.lines()
        told = {_identity(line) for line in lines[:start]}
        for number, line in enumerate(lines[start:], start):
            new = _identity(line) not in told
            told.add(_identity(line))
            yield number + 1, self._batch(lines[: number + 1]) if new else None

    def _batch(self, lines: Sequence[Mapping[str, Any]]) -> Batch:
        line = lines[-1]
        number, stage = int(line["round"]), str(line["stage"])
        return Batch(
            number,
            stage,
            dict(_numbers(line, f"{stage.replace(' ', '_')}/")),
            self._steps(lines) if stage == "train" else (),
            self._rollouts(number) if stage == "train" else (),
            tuple(self._alerts(lines, number, stage)),
        )

    def _steps(self, lines: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
        line = lines[-1]
        before = {e["round"]: e.get("steps", 0) for e in lines[:-1] if e["stage"] == "train"}
        start = sum(count for number, count in before.items() if number < line["round"])
        losses = enumerate(line.get("losses") or ())
        return tuple((start + n, loss) for n, loss in losses if loss is not None)

    def _alerts(self, lines: Sequence[Mapping[str, Any]], number: int, stage: str) -> Iterator[str]:
        said = {"select": warning, "evaluate": held_out_warning}.get(stage)
        text = None if said is None else said(by_round(lines), number, self.config)
        if text is not None:
            yield text

    def _rollouts(self, number: int) -> tuple[Shown, ...]:
        """Return the first rollouts of a round; none where its tables are gone."""
        most = self.config.track.rollouts
        pointers = self.run.round(number) or RoundPointers()
        if not most or not pointers.rollouts or pointers.selection is None:
            return ()
        try:
            source = self._found("rollouts", pointers.rollouts[0])
            selection = self._found("selection", pointers.selection)
            wanted = ["rollout", "prompt_ids", "response_ids"]
            rows = read_table([self._store.path(source, "rollouts")], wanted)
            chosen = read_table([self._store.path(selection, "selection")], ["rollout", "position"])
        except TipError:
            return ()
        shown = rows.slice(0, most).to_pylist()
        marked: dict[int, set[int]] = {row["rollout"]: set() for row in shown}
        for rollout, position in zip(
            chosen["rollout"].to_pylist(), chosen["position"].to_pylist(), strict=True
        ):
            if rollout in marked:
                marked[rollout].add(position)
        return tuple(
            Shown(
                visible(self._tokenizer.decode(row["prompt_ids"])),
                self._marked(row["response_ids"], marked[row["rollout"]]),
            )
            for row in shown
        )

    def _marked(self, ids: Sequence[int], chosen: set[int]) -> str:
        texts = [self._tokenizer.decode([token]) for token in ids]
        opening, closing = _MARKS
        out = ""
        for position, text in enumerate(texts):
            inside, after = position in chosen, position + 1 in chosen
            begins = inside and position - 1 not in chosen
            out += f"{opening * begins}{text}{closing * (inside and not after)}"
        return visible(out)

    def _found(self, kind: str, key: str) -> Artifact:
        artifact = self._store.find(kind, key)
        if artifact is None:
            raise TipError(f"{kind} {key} is gone")
        return artifact

    @cached_property
    def _store(self) -> Store:
        return Store(self.config.store, write=False)

    @cached_property
    def _tokenizer(self) -> Any:
        """Return a tokenizer of its own: another thread may be at work with the process's."""
        card = Inputs(self.config, Reporter(quiet=True), look=True).student_card
        return deepcopy(load_tokenizer(card.vocabulary_folder, card.code))


def _identity(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line["round"], line["stage"], line.get("asked")


def _numbers(line: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line by name, those of its sections by `section/name`."""
    for name, value in line.items():
        if isinstance(value, bool) or name == "round":
            continue
        if isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
        elif isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
