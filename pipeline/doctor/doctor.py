"""All checks in order: each is made, whatever became of the others that it does not need."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ...stages.select.check import check_selection
from ...stages.select.rulebook import load_rule
from ...storage.errors import TipError
from .. import checks
from ..checks import Check, evaluates
from ..config.run import RunConfig
from ..rounds.generators import check_room
from ..rounds.losses import check_losses
from ..rounds.replay import replayed
from ..rounds.residual import check_teacher
from . import at_work, machine, room
from .examined import Examined, NotLookedError


@dataclass(frozen=True)
class Finding:
    """What a check came to.

    text: what was looked at; of `warn` and `fail` what is wrong, with the way out; of `-` why
    nobody could look.
    """

    verdict: Literal["ok", "warn", "fail", "-"]
    name: str
    text: str


def examine(config: RunConfig, *, load: bool) -> Iterator[Finding]:
    """Give what each check comes to, when it does. load: read weights, and start vLLM."""
    examined = Examined(config)
    causes: dict[str, list[str]] = {}  # of a check that did not pass: the first ones that did not
    for check in (*_BEFORE, *map(_of_inputs, checks.CHECKS), *_AFTER, *_LOADING):
        if not check.when(config):
            continue
        lacking = list(dict.fromkeys(name for need in check.needs for name in causes.get(need, ())))
        if check in _LOADING and not load:
            finding = Finding("-", check.name, "not looked at: --no-load")
        elif lacking:
            finding = Finding("-", check.name, f"not looked at: it needs {', '.join(lacking)}")
        else:
            finding = _made(check, examined)
        if finding.verdict not in ("ok", "warn"):
            causes[check.name] = lacking or [check.name]
        yield finding


def _made(check: Check[Examined], examined: Examined) -> Finding:
    try:
        text = check.look(examined)
    except NotLookedError as error:
        return Finding("-", check.name, f"not looked at: {error}")
    except TipError as error:
        return Finding("fail", check.name, " ".join(str(error).split()))
    finally:
        notes = examined.notes.taken()
    if notes:
        return Finding("warn", check.name, "; ".join(notes))
    return Finding("ok", check.name, text)


def _of_inputs(check: Check) -> Check[Examined]:
    return replace(check, look=lambda examined: check.look(examined.inputs))


def _rule(examined: Examined) -> str:
    settings = examined.config.select
    check_selection(settings)
    check_losses(examined.config)
    rule = load_rule(settings.rule)
    share = rule.keep or settings.keep
    budget = f"{settings.count:,}" if share is None else f"{share:.0%}"
    return f"{rule.name}: {budget} of the tokens of each {settings.scope}"


def _max_model_len(examined: Examined) -> str:
    check_room(examined.session)
    return "the longest prompt and response fit"


def _residual(examined: Examined) -> str:
    check_teacher(examined.session)
    return "which of the student's ids are in a support is known"


def _replay(examined: Examined) -> str:
    config = examined.config
    for number in range(config.rounds):
        replayed(examined.session, str(config.rollout.replay), number)
    return f"{config.rollout.replay} has {config.rounds:,} rounds of rollouts"


def _replays(config: RunConfig) -> bool:
    return config.rollout.replay is not None


def _corrects(config: RunConfig) -> bool:
    return config.train.tail == "residual"


def _student_in_vllm(config: RunConfig) -> bool:
    sections = [config.rollout, *([config.evaluate] if config.evaluate else [])]
    return "vllm" in {section.engine for section in sections}


def _teacher_in_vllm(config: RunConfig) -> bool:
    return config.score.engine == "vllm"


def _teacher_here(config: RunConfig) -> bool:
    return config.score.engine == "transformers"


def _in_a_cluster(config: RunConfig) -> bool:
    """Tell whether there is to be one already: one of a run's own begins and ends with it."""
    return config.workers.executor == "ray" and bool(config.workers.address)


def _served(config: RunConfig) -> bool:
    return config.score.engine == "server"


_SESSION = ("device", "store", "run folder")
_WEIGHTS = ("student weights", "teacher weights")
_KNOWN = (*_SESSION, "student", "teacher", "vocabulary", "prompts", "problems")

_ROOM = (*_KNOWN, *_WEIGHTS, "max_model_len", "replay")

_BEFORE: tuple[Check[Examined], ...] = (
    Check("versions", (), machine.versions),
    Check("device", (), machine.device),
    Check("store", (), machine.store),
    Check("run folder", (), machine.run_folder),
    Check("run", ("run folder",), machine.run),
    Check("rule", (), _rule),
)
_AFTER: tuple[Check[Examined], ...] = (
    Check("cluster", ("workers",), machine.cluster, _in_a_cluster),
    Check("verifier", ("problems",), at_work.verifier, evaluates),
    Check("server", _KNOWN, at_work.server, _served),
    Check(
        "max_model_len",
        (*_KNOWN, "engines"),
        _max_model_len,
        lambda config: _student_in_vllm(config) or _teacher_in_vllm(config),
    ),
    Check("residual", (*_KNOWN, "engines"), _residual, _corrects),
    Check("replay", _SESSION, _replay, _replays),
    Check("run contents", (*_KNOWN, "rule", "run"), machine.contents),
    Check("memory", _ROOM, room.memory),
    Check("disk", _ROOM, room.disk),
)
_LOADING: tuple[Check[Examined], ...] = (
    Check("student loaded", ("device", "store", "student weights"), at_work.student),
    Check(
        "teacher loaded",
        ("device", "store", "teacher weights"),
        at_work.teacher,
        _teacher_here,
    ),
    Check(
        "student in vLLM",
        ("max_model_len", "student loaded"),
        at_work.student_in_vllm,
        _student_in_vllm,
    ),
    Check(
        "teacher in vLLM",
        ("max_model_len", "teacher weights"),
        at_work.teacher_in_vllm,
        _teacher_in_vllm,
    ),
)
NAMES = tuple(check.name for check in (*_BEFORE, *checks.CHECKS, *_AFTER, *_LOADING))
