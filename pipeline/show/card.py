"""A student's model card: what it was made of and how, what that came to, how to make it again.

Everything is read from the run's record, its metrics and what the store says of the checkpoint.
What none of them holds is said to be unknown or not measured; no number is made for the card.
"""

import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ... import __version__
from ...stages.select.rulebook import taken
from ...storage.facts import CheckpointFacts, SelectionFacts
from ...storage.runs import RoundPointers, RunFolder, record_of
from ...storage.store.artifacts import Artifact, file_hash
from ...storage.store.store import Store
from ..config.run import RunConfig
from ..config.written import as_toml, public
from ..metrics import ByRound, EvaluateMetrics, by_round, costs
from .cells import count, number, percent, seconds
from .markdown import fenced, front_matter, table, text
from .parents import UNKNOWN, Parent, parents_table, prompts_of, terms_of

NAME = "README.md"
NOT_MEASURED = "not measured"
_LIBRARIES = ("torch", "transformers", "safetensors")


@dataclass(frozen=True)
class Exported:
    """A student that is written for others: of which run, after how many rounds, and as what.

    form: what is said of the weights, such as `bfloat16`. adapter: whether it is an adapter alone.
    """

    run: RunFolder
    config: RunConfig
    number: int
    store: Store
    checkpoint: Artifact
    form: str
    adapter: bool

    @property
    def name(self) -> str:
        """Return how people name it."""
        return f"{self.run.name}@{self.number}"

    @property
    def rounds(self) -> ByRound:
        """Return the metrics up to this student, those of rounds that a branch shares too."""
        found = by_round(_lines(self.run))
        return {n: of for n, of in found.items() if n <= self.number}


def model_card(student: Exported, folder: Path, parents: Sequence[Parent]) -> str:
    """Return the card of what lies in a folder. parents: the first student, then the teacher."""
    rounds = student.rounds
    played = {n: of for n, of in rounds.items() if n < student.number}
    first, teacher = parents
    return (
        "\n\n".join(
            [
                _front_matter(student, first),
                f"# {text(student.name)}",
                _opening(student, first, teacher),
                "## Parents",
                parents_table(parents),
                "## Data",
                prompts_of(student.run, student.config),
                "## Rule",
                _rule(student),
                "## Training",
                _training(student, played),
                "## Held-out numbers",
                _held_out(rounds, student.number),
                "## Cost",
                _cost(rounds, played),
                "## Hashes and versions",
                _hashes(student, folder),
                "## How to make it again",
                _again(student),
                "## Licences",
                terms_of(parents),
            ]
        )
        + "\n"
    )


def _opening(student: Exported, first: Parent, teacher: Parent) -> str:
    rounds = "1 round" if student.number == 1 else f"{student.number} rounds"
    return (
        f"`{text(first.name)}` after {rounds} of on-policy distillation from "
        f"`{text(teacher.name)}`, made by tip {__version__}: in each round the student answered "
        "prompts, the teacher scored every token of the answers, a rule selected tokens, and the "
        f"student was trained on those. Weights: {student.form}."
    )


def _lines(run: RunFolder) -> list[dict[str, Any]]:
    """Return a run's metrics, before them those of the rounds that it shares with its origin."""
    own, began = run.metrics(), run.branch()
    if began is None:
        return own
    origin = RunFolder(run.path.parent, began[0])
    shared = _lines(origin) if origin.config_path.is_file() else []
    return [*(line for line in shared if line["round"] < began[1]), *own]


def _front_matter(student: Exported, first: Parent) -> str:
    relation = "adapter" if student.adapter else "finetune"
    return front_matter(
        {
            "base_model": first.hub,
            "base_model_relation": None if first.hub is None else relation,
            "library_name": "peft" if student.adapter else "transformers",
            "pipeline_tag": "text-generation",
            "license": first.license,
            "tags": ["tip", "distillation", "on-policy-distillation"],
            "tip_run": record_of(student.run).id,
        }
    )


def _rule(student: Exported) -> str:
    key = (student.run.round(student.number - 1) or RoundPointers()).selection
    selection = None if key is None else student.store.find("selection", key)
    settings = student.config.select
    keep, tokens = taken(settings.rule, settings.keep, settings.count)
    if selection is not None:  # which knows it, whatever became of the rule's file
        kept = SelectionFacts.of(selection)
        keep, tokens = (kept.keep, kept.count) if kept.keep or kept.count else (keep, tokens)
    budget = f"{tokens}" if keep is None else f"{keep * 100:g} % of the"
    budget += f" tokens of each {settings.scope}"
    rows = [
        ("rule", Path(settings.rule).name),
        ("budget", budget),
        ("condition", settings.where or "none"),
        ("parameters", ", ".join(f"{n} = {v:g}" for n, v in settings.params.items()) or "defaults"),
        ("corrected weights", "yes" if settings.corrected else "no"),
        ("weight of a rollout", settings.rollout_weight or "1"),
    ]
    if selection is None:
        rows.append(("SQL of the rule", f"{UNKNOWN}: its selection is gone from the store"))
        return table(("selection", ""), rows)
    facts = SelectionFacts.of(selection)
    rows.append(("kept in the last round", f"{facts.kept:,} of {facts.trainable:,} tokens"))
    return f"{table(('selection', ''), rows)}\n\n{fenced('sql', facts.sql)}"


def _training(student: Exported, played: ByRound) -> str:
    settings, facts = student.config.train, CheckpointFacts.of(student.checkpoint)
    tail = {True: "one more bucket", False: "left out", "residual": "residual"}[settings.tail]
    lora = settings.lora
    rows = [
        ("rounds", student.number),
        ("loss", settings.loss),
        ("tail", tail),
        ("weights", "all" if lora is None else f"adapters of rank {lora.rank}"),
        ("peak learning rate", f"{settings.lr:g}, {settings.schedule}"),
        ("rollouts a step", settings.rollouts_per_step),
        ("passes over a round", settings.epochs),
        ("seed", student.config.seed),
        ("tokens trained on in the last round", count(facts.trained_tokens)),
        ("loss of the last round, nats", number(facts.loss)),
    ]
    lines = [
        (
            n,
            number(None if of.score is None else of.score.reverse_kl) or NOT_MEASURED,
            count(None if of.train is None else of.train.trained_tokens) or NOT_MEASURED,
            number(None if of.train is None else of.train.loss) or NOT_MEASURED,
        )
        for n, of in played.items()
    ]
    headings = ("round", "reverse KL of its rollouts, nats", "tokens trained on", "loss, nats")
    return f"{table(('training', ''), rows)}\n\n{table(headings, lines)}"


def _held_out(rounds: ByRound, trained: int) -> str:
    """Return the numbers of the first student and of this one, where somebody asked for them."""
    before, after = (None if n not in rounds else rounds[n].evaluate for n in (0, trained))
    known = after or before
    if known is None:
        return f"{NOT_MEASURED.capitalize()}: the run asked no held-out problems."
    rows = [
        ("answered right (95 % interval)", _right(before), _right(after)),
        *(
            (name, *(_mean(each, column) for each in (before, after)))
            for name, column in _MEANS.items()
        ),
    ]
    return (
        f"{table(('', 'before', f'after {trained} rounds'), rows)}\n\n"
        f"{known.problems} problems, answers to each: {known.samples}. Intervals are bootstraps "
        "over problems; those of the divergences were not measured."
    )


_MEANS = {
    "reverse KL to the teacher, nats a token": "reverse_kl",
    "forward KL, nats a token": "forward_kl",
    "Jensen-Shannon divergence, nats a token": "jsd",
    "same first choice as the teacher": "agreement",
}


def _right(asked: EvaluateMetrics | None) -> str:
    if asked is None:
        return NOT_MEASURED
    return f"{percent(asked.accuracy)} ({percent(asked.low)} to {percent(asked.high)})"


def _mean(asked: EvaluateMetrics | None, column: str) -> str:
    return number(None if asked is None else getattr(asked, column)) or NOT_MEASURED


def _cost(rounds: ByRound, played: ByRound) -> str:
    whole = costs(played)
    by_stage: dict[str, float] = defaultdict(float)
    for n, of_round in rounds.items():
        for stage, line in of_round.every().items():
            if n in played or stage.startswith("evaluate"):
                by_stage[stage] += line.seconds
    lines = [line for of in rounds.values() for line in of.every().values()]
    memory = max((line.peak_memory_mb for line in lines), default=0)
    gpu = max((line.peak_gpu_memory_mb or 0 for line in lines), default=0)
    rows = [
        ("teacher tokens scored", count(whole.scored)),
        ("teacher tokens reused", count(whole.reused)),
        ("tokens trained on", count(whole.trained)),
        *((f"seconds of {stage}", seconds(spent)) for stage, spent in by_stage.items()),
        ("peak memory, MB", count(memory) if memory else NOT_MEASURED),
        ("peak memory of the GPU, MB", count(gpu) if gpu else "none was used"),
    ]
    return table(("cost", ""), rows)


def _hashes(student: Exported, folder: Path) -> str:
    checkpoint = student.checkpoint
    written = sorted(folder.glob("*.safetensors"))
    rows = [
        ("key of the training", checkpoint.key),
        ("fingerprint of the checkpoint", CheckpointFacts.of(checkpoint).fingerprint),
        ("content of the checkpoint", checkpoint.content),
        *((f"sha256 of {path.name}", file_hash(path)) for path in written),
        ("written with", f"tip {__version__}, Python {platform.python_version()}"),
        *((name, version(name)) for name in _LIBRARIES),
        ("versions at the training", f"{UNKNOWN}: runs do not record them"),
    ]
    return table(("what", ""), rows)


def _again(student: Exported) -> str:
    record, config = record_of(student.run), student.config
    values = public(config) | {"rounds": student.number}
    planned = record.horizon_rounds or config.rounds
    lines = [f"tip export {student.name} FOLDER{' --adapter' if student.adapter else ''}"]
    if record.branch is not None:
        origin = f"{record.branch.run}@{record.branch.rounds}"
        lines.insert(0, f"tip run config.toml --from {origin}   # play that run first")
    else:
        lines.insert(0, "tip run config.toml")
    told = ""
    if planned != student.number and config.train.horizon is None:
        lines[0] = lines[0].replace("config.toml", f"config.toml --set rounds={planned}", 1)
        told = f" Its learning rates are those of a schedule over {planned} rounds."
    if student.form != config.train.export_dtype and not student.adapter:
        lines[-1] += f" --dtype {student.form}"
    return (
        f"{fenced('toml', as_toml(values))}\n\nas `config.toml`.{told}\n\n"
        f"{fenced('sh', chr(10).join(lines))}"
    )
