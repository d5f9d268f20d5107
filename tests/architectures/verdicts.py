"""The verdict on one architecture: two rounds are played, and every number is computed again.

What it is held against is transformers alone: float64, eager attention, one sequence at a time, no
cache, no batch. A log-prob is that of a prefix: a model whose prefix changes with what follows
cannot write.
"""

import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers
from recipes import STOPS, UNBUILDABLE, class_of, write_tiny
from safetensors.torch import load_file
from tiny import load, sampling
from tip.pipeline.checks import check_inputs
from tip.pipeline.config.toml import make_config
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, open_session
from tip.stages.arrays.ragged import Ragged
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.engines.protocols import Request
from tip.stages.models.language_model import LanguageModel
from tip.stages.signals.alignment import predicting_states, token_logprobs
from tip.stages.train.data import load_training_data
from tip.stages.train.step import SelectiveStep
from tip.stages.train.train import _trainable, accumulate
from tip.stages.train.worlds.alone import Alone
from tip.storage.errors import ConfigError, ModelError
from torch import Tensor

NATS = 1e-4  # of a log-prob, a divergence
OF_GRADIENT = 1e-5  # of its largest entry
ROUNDS = 2
_DENSE = 1e-30

Outcome = Literal["right", "refused", "fault", "not built"]


@dataclass(frozen=True)
class Verdict:
    """What became of an architecture.

    reason: why it was refused or not built, or what is wrong. gaps: the largest of each kind.
    """

    kind: str
    outcome: Outcome
    reason: str = ""
    gaps: dict[str, float] = field(default_factory=dict)
    trace: str = ""

    @property
    def name(self) -> str:
        """Return the name of the class."""
        return class_of(self.kind)


def judge(kind: str, folder: Path) -> Verdict:
    """Return the verdict on a kind of `recipes.py`. folder: empty, for all that is written."""
    if kind in UNBUILDABLE:
        return Verdict(kind, "not built", UNBUILDABLE[kind])
    torch.set_num_threads(1)
    gaps, step = Gaps(), "the recipe"
    try:
        for seed, role in enumerate(("student", "teacher"), 1):
            write_tiny(folder / role, kind, seed)
        step = "the run"
        session = open_session(make_config(_settings(folder), "test"))
        if (refused := _refusal(session, folder)) is not None:
            return Verdict(kind, *refused)
        step = "the check"
        wrong = _wrong(Played(session, folder), gaps)
    except Exception as error:
        return Verdict(kind, "fault", f"{step}: {_words(error)}", gaps, traceback.format_exc())
    return Verdict(kind, "fault" if wrong else "right", "; ".join(wrong), gaps)


def _refusal(session: Session, folder: Path) -> tuple[Outcome, str] | None:
    """Play a run; return how it was refused, None where it was not."""
    try:
        check_inputs(session.inputs)
        play(session)
    except (ModelError, ConfigError) as error:
        reason = str(error).replace(f"{folder}/", "")
        if "\n" in reason:
            return "fault", f"a refusal of many lines: {_words(error)}"
        if made := [artifact.kind for artifact in session.store.list()]:
            return "fault", f"refused after {made[0]}: {reason}"
        return "refused", reason
    return None


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def _settings(folder: Path) -> dict[str, Any]:
    """Return a config of two small rounds whose responses end at different times."""
    random = np.random.default_rng(5)
    rows = [
        {"prompt": "".join(random.choice(list("3456789+-"), 2 + n % 5)), "answer": "1"}
        for n in range(10)
    ]
    source = folder / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"source": str(source), "template": "raw", "verifier": "exact"}
    return {
        "name": "run",
        "rounds": ROUNDS,
        "threads": 1,
        "device": "cpu",
        "store": str(folder / "store"),
        "runs": str(folder / "runs"),
        "student": {"model": str(folder / "student")},
        "teacher": {"model": str(folder / "teacher")},
        "prompts": {"source": str(source), "template": "raw"},
        "rollout": {"prompts": 5, "samples": 2, "max_tokens": 16, "student_top_max": 8},
        "score": {"teacher_top_max": 8},
        "select": {"rule": "random", "keep": 0.5},
        # the bucket's gradient can be held against a dense one, a residual's mean alone
        "train": {"tail": True, "lr": 1e-3, "rollouts_per_step": 4, "warmup_steps": 1} | _EXPORT,
        "evaluate": asked | {"max_tokens": 8, "temperature": 0, "limit": 4},
    }


_EXPORT = {"export_dtype": "float32"}  # so that the next round's numbers are those of the masters


class Gaps(dict[str, float]):
    """The largest difference of each kind, by its name."""

    def found(self, name: str, gap: float) -> None:
        """Keep a difference where it is larger than those before; what is no number is infinite."""
        self[name] = max(self.get(name, 0.0), gap if np.isfinite(gap) else np.inf)


Found = Callable[[str, float], None]


class Played:
    """A run that was played, and transformers' own models of its folders."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session, self.teacher = session, folder / "teacher"
        self._first = folder / "student"

    def student(self, number: int) -> Path:
        """Return the folder of the student that a round starts with."""
        if number == 0:
            return self._first
        (checkpoint,) = self._artifacts(number - 1, "checkpoint")
        return self.session.store.folder(checkpoint)

    def paths(self, number: int, kind: str) -> list[Path]:
        """Return the tables of a kind that a round made."""
        return [self.session.store.path(a, kind) for a in self._artifacts(number, kind)]

    def rows(self, number: int, kind: str) -> list[dict[str, Any]]:
        """Return their rows."""
        return [row for path in self.paths(number, kind) for row in pq.read_table(path).to_pylist()]

    def masters(self, number: int) -> dict[str, Tensor]:
        """Return the float32 weights that a round's training left."""
        pointers = self.session.run.round(number)
        assert pointers is not None
        assert pointers.checkpoint is not None
        state = load_file(self.session.run.state_path(pointers.checkpoint) / "state.safetensors")
        names = [name for name in state if name.startswith("master.")]
        return {name.removeprefix("master."): state[name] for name in names}

    def _artifacts(self, number: int, kind: str) -> list[Any]:
        pointers = self.session.run.round(number)
        assert pointers is not None
        found = [self.session.store.find(kind, key) for key in pointers.of(kind)]
        assert found
        assert all(found)
        return found


def as_it_was(folder: Path, **how: Any) -> Any:
    """Return the model of a folder as the class that its config names."""
    (name,) = json.loads((folder / "config.json").read_text("utf-8"))["architectures"]
    return getattr(transformers, name).from_pretrained(folder, **how)


class Plain:
    """transformers' own model of a folder in float64, or in another type."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float64) -> None:
        self.model = self._load(folder, dtype).eval()
        if hasattr(self.model, "set_experts_implementation"):
            self.model.set_experts_implementation("eager")

    @staticmethod
    def _load(folder: Path, dtype: torch.dtype) -> Any:
        try:
            return as_it_was(folder, dtype=dtype, attn_implementation="eager")
        except ValueError:  # a class without eager attention
            return as_it_was(folder, dtype=dtype)

    def log_probs(self, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
        """Return the log-probs [T, V] that predict a response, with their graph."""
        ids = torch.tensor([[*prompt, *response[:-1]]])
        logits = self._whole(ids).logits[0].double()
        return logits[len(prompt) - 1 :].log_softmax(1)

    def _whole(self, ids: Tensor) -> Any:
        try:
            return self.model(input_ids=ids, use_cache=False)
        except RuntimeError:  # it makes a number of the default type, whose range is smaller
            torch.set_default_dtype(torch.float64)
            try:
                return self.model(input_ids=ids, use_cache=False)
            finally:
                torch.set_default_dtype(torch.float32)

    @torch.no_grad()
    def prefixes(self, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
        """Return the same, each from its prefix alone."""
        rows = [self.log_probs([*prompt, *response[:t]], [0]) for t in range(len(response))]
        return torch.cat(rows)


def _wrong(played: Played, gaps: Gaps) -> list[str]:
    """Return what is wrong in a played run; `gaps` is filled."""
    found, lengths = gaps.found, []
    teacher = Plain(played.teacher)
    for number in range(ROUNDS):
        student = Plain(played.student(number))
        check_numbers(played, number, student, teacher, found)
        lengths += [len(row["response_ids"]) for row in played.rows(number, "rollouts")]
    check_gradient(played, found)
    _check_batches(played, found)
    _check_export(played, found)
    limits = {"gradient": np.inf, "gradient beyond rounding": OF_GRADIENT, "export": 0.0}
    wrong = [f"{n} off by {gap:.1e}" for n, gap in gaps.items() if gap > limits.get(n, NATS)]
    return wrong + (["all rows end together"] if len(set(lengths)) == 1 else [])


@torch.no_grad()
def check_numbers(
    played: Played, number: int, student: Plain, teacher: Plain, found: Found
) -> None:
    """Hold rollouts and token numbers of a round against both models."""
    tokens = {(row["rollout"], row["position"]): row for row in played.rows(number, "tokens")}
    for place, row in enumerate(played.rows(number, "rollouts")):
        prompt, response = row["prompt_ids"], row["response_ids"]
        p, q = (model.log_probs(prompt, response) for model in (student, teacher))
        if place < 2:
            found("prefix", (p - student.prefixes(prompt, response)).abs().max().item())
        picked = torch.arange(len(response)), torch.tensor(response)
        drawn = torch.tensor(row["logprobs"], dtype=torch.float64)
        found("rollouts", (drawn - p[picked]).abs().max().item())
        m = torch.logaddexp(p, q) - np.log(2)
        expected = {
            "student_logprob": p[picked],
            "teacher_logprob": q[picked],
            "student_entropy": _mean(p, -p),
            "reverse_kl": _mean(p, p - q),
            "forward_kl": _mean(q, q - p),
            "jsd": 0.5 * (_mean(p, p - m) + _mean(q, q - m)),
        }
        for t in range(len(response)):
            scored = tokens[row["rollout"], t]
            for name, values in expected.items():
                found(name, abs(scored[name] - values[t].item()))


def _mean(log_p: Tensor, values: Tensor) -> Tensor:
    return (log_p.exp() * values).sum(1)


def check_gradient(played: Played, found: Found) -> None:
    """Hold a step's gradient over all rollouts of round 0 against the dense loss in float64."""
    student = load(played.student(0))
    settings = played.session.config.train
    (selection,) = played.paths(0, "selection")
    data = load_training_data(played.paths(0, "rollouts"), played.paths(0, "teacher"), selection)
    _trainable(student, settings)
    step, rows = SelectiveStep(student, settings, torch.float32), np.arange(len(data.rollouts))
    weight = float(data.weights.sum(dtype=np.float64))
    loss, _, _ = accumulate(Alone(), step, data, rows, settings, weight).read()
    plain = Plain(played.student(0))
    total = _dense_loss(played, plain)
    total.backward()
    found("loss", abs(loss - total.item()))
    gap = _gradient_gap(student.model, plain.model)
    found("gradient", gap)
    if gap > OF_GRADIENT:  # an architecture may round that coarsely: then plain float32 does, too
        rounded = Plain(played.student(0))
        rounded.model.float()
        _dense_loss(played, rounded).backward()
        found("gradient beyond rounding", gap - 3 * _gradient_gap(rounded.model, plain.model))


def _gradient_gap(ours: torch.nn.Module, dense: torch.nn.Module) -> float:
    """Return the largest difference of two gradients, relative to the largest entry."""
    theirs = dict(dense.named_parameters())
    gap = largest = 0.0
    for name, parameter in ours.named_parameters():
        pair = [torch.zeros(()) if x.grad is None else x.grad for x in (parameter, theirs[name])]
        gap = max(gap, (pair[0].double() - pair[1].double()).abs().max().item())
        largest = max(largest, pair[1].abs().max().item())
    return gap / max(largest, _DENSE)


def _dense_loss(played: Played, student: Plain) -> Tensor:
    """Return the reverse KL over support and tail of the selected tokens of round 0, weighted."""
    chosen = {(row["rollout"], row["position"]): row for row in played.rows(0, "selection")}
    stored = {(row["rollout"], row["position"]): row for row in played.rows(0, "teacher")}
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    for row in played.rows(0, "rollouts"):
        places = [t for t in range(len(row["response_ids"])) if (row["rollout"], t) in chosen]
        log_p = student.log_probs(row["prompt_ids"], row["response_ids"]) if places else None
        for t in places:
            assert log_p is not None
            teacher, factor = stored[row["rollout"], t], chosen[row["rollout"], t]["weight"]
            inside = torch.tensor(teacher["ids"])
            p = log_p[t][inside]
            loss = (p.exp() * (p - torch.tensor(teacher["logprobs"], dtype=torch.float64))).sum()
            if teacher["tail"] is not None:
                outside = torch.ones(log_p.shape[1], dtype=torch.bool)
                outside[inside] = False
                rest = log_p[t][outside].logsumexp(0)
                loss = loss + rest.exp() * (rest - teacher["tail"])
            total, weight = total + factor * loss, weight + factor
    return total / weight


@torch.inference_mode()
def _check_batches(played: Played, found: Found) -> None:
    """Hold a rollout alone against the same in a batch, in another order, and padded."""
    student = load(played.student(0))
    rows = played.rows(0, "rollouts")
    every, alone = _Scored(student, rows), [_Scored(student, [row]) for row in rows]
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = _Scored(student, [rows[i] for i in order])
    longer = {"prompt_ids": [3] * (min(student.card.context, 48) - 8), "response_ids": [4] * 8}
    for i, row in enumerate(rows):
        padded = _Scored(student, [longer, row])
        place = int(np.flatnonzero(order == i)[0])
        for other in (every.of(i), shuffled.of(place), padded.of(1)):
            found("batch", float(np.abs(alone[i].of(0) - other).max()))
    requests = [Request(tuple(row["prompt_ids"]), row["rollout"]) for row in rows]
    one = _generated(student, requests, 1)
    for again in (
        _generated(student, requests, 16),
        _generated(student, [requests[i] for i in order], 4),
    ):
        for request, (ids, logprobs) in again.items():
            same = ids == one[request][0]
            gap = np.abs(logprobs - one[request][1]).max() if same else np.inf
            found("generated in a batch", float(gap))


_TERMS = sampling(max_tokens=16, stop_ids=tuple(STOPS))


class _Scored:
    """Log-probs of some rollouts that the body read in one batch."""

    def __init__(self, student: LanguageModel, rows: Sequence[dict[str, Any]]) -> None:
        prompts = [np.array(row["prompt_ids"]) for row in rows]
        ids = np.concatenate([np.array(row["response_ids"]) for row in rows])
        self.responses = Ragged(ids, np.array([len(row["response_ids"]) for row in rows]))
        states = predicting_states(student, prompts, self.responses, np.arange(len(rows)))
        self.values = token_logprobs(student, states, ids, 1 << 20)

    def of(self, row: int) -> np.ndarray:
        """Return those of a row."""
        return self.values[self.responses.offsets[row] : self.responses.offsets[row + 1]]


def _generated(
    student: LanguageModel, requests: Sequence[Request], batch: int
) -> dict[int, tuple[list[int], np.ndarray]]:
    """Return the ids and log-probs of each response by its rollout."""
    given = LocalEngine(student, batch).generate(requests, _TERMS)
    ends = given.ids.offsets
    return {
        request.rollout: (given.ids.row(i).tolist(), given.logprobs[ends[i] : ends[i + 1]])
        for i, request in enumerate(requests)
    }


def _check_export(played: Played, found: Found) -> None:
    """Hold the last checkpoint, as transformers reads it, against the masters of its training."""
    folder, masters = played.student(ROUNDS), played.masters(ROUNDS - 1)
    again = as_it_was(folder, dtype=torch.float32)
    parameters = dict(again.named_parameters())
    assert parameters.keys() == masters.keys()
    gap = max((parameters[n] - value).abs().max().item() for n, value in masters.items())
    found("export", gap)
    first = dict(load(played.student(0)).model.named_parameters())
    if all(torch.equal(first[name], value) for name, value in masters.items()):
        found("nothing was trained", np.inf)
