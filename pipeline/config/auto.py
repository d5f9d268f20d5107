"""What `auto` stands for where results depend on it, decided once: when a run is first started.

From then on the run's record says it, so that a run goes on with what it was begun with, whatever
is installed meanwhile. Keys hold what it stands for and never `auto`.
"""

import importlib.util
from typing import Any, get_args

from ...stages.engines.settings import EngineName
from ...stages.models.device import resolve_device
from ...stages.select.rulebook import load_rule
from ...stages.settings import Divergence
from ...storage.errors import TipError
from ...storage.runs import RunFolder, RunView
from .run import RunConfig

_ENGINES = ("rollout", "evaluate")
_MEASURED = "reverse_kl"  # the one loss whose residual was held against its bucket


def decided(
    config: RunConfig, run: RunFolder, origin: str | None = None
) -> tuple[RunConfig, list[str]]:
    """Return a config in which nothing that results depend on is `auto`, and what is to be told.

    run: where the run is, or would be; of one that has begun all stays. origin: `RUN@N` that it
    branches off. Raises `ConfigError` for a device that is not there.
    """
    record = run.about() if any(run.rounds()) else None
    known, update, told = (record.config if record else {}), dict[str, Any](), list[str]()
    for name in _ENGINES:
        section = getattr(config, name)
        if section is not None and section.engine == "auto":
            engine = (known.get(name) or {}).get("engine") or _engine_here(config)
            update[name] = section.model_copy(update={"engine": engine})
            told.append(f"note: {name}.engine = 'auto' is {engine!r} in this run")
    if config.train.tail == "auto":
        tail, why = (_tail_in(known), None) if known else _tail(config, origin)
        update["train"] = config.train.model_copy(update={"tail": tail})
        if why is not None:
            told.append(f"note: train.tail = 'auto' is {_word(tail)} in this run: {why}")
    return (config.model_copy(update=update) if update else config), told


def _engine_here(config: RunConfig) -> EngineName:
    """Return vLLM's name where it is installed and has a GPU to run on, else that of the other."""
    return "vllm" if _on_gpu(config) and importlib.util.find_spec("vllm") else "transformers"


def _tail(config: RunConfig, origin: str | None) -> tuple[Any, str | None]:
    """Return the tail of a run that has not begun, and why it is none with a residual.

    A branch goes on, and a replay trains, as the run did from which it has its rollouts.
    """
    if (why := _no_residual(config)) is not None:
        return True, why
    followed = origin.partition("@")[0] if origin else config.rollout.replay
    record = RunView(config.runs, followed).about() if followed else None
    tail = "residual" if record is None else _tail_in(record.config)
    return tail, None if tail == "residual" else f"that of run {followed} is"


def _tail_in(known: dict[str, Any]) -> Any:
    """Return the tail that a record says; of the oldest, which say none, it was a bucket."""
    return (known.get("train") or {}).get("tail", True)


def _no_residual(config: RunConfig) -> str | None:
    """Return why a run cannot have a residual, or why nobody knows what it would do."""
    rollout, engine = config.rollout, config.score.engine
    spelt = [config.train.loss, *_spelt(config.select.rule)]
    others = [loss for loss in spelt if loss in get_args(Divergence) and loss != _MEASURED]
    cut = None if rollout.replay else rollout.cut
    if cut is None and not rollout.replay and rollout.temperature != 1:
        cut = f"temperature = {rollout.temperature:g}"
    if config.score.support == "sampled":
        return "score.support = 'sampled' has no tail"
    if others:
        return f"a residual was measured for reverse KL alone, not for {others[0]!r}"
    if cut:
        return f"it wants tokens from the whole vocabulary at temperature 1, but rollout.{cut}"
    if engine == "server" or (engine == "vllm" and not _on_gpu(config)):
        return f"score.engine = {engine!r} cannot be asked for the student's ids here"
    return None


def _spelt(rule: str) -> list[str]:
    """Return the losses that a rule names; none of one that cannot be read: a check says so."""
    try:
        return load_rule(rule).losses
    except TipError:
        return []


def _on_gpu(config: RunConfig) -> bool:
    return resolve_device(config.device).type == "cuda"


def _word(tail: Any) -> str:
    """Return a tail as a config file has it."""
    return str(tail).lower() if isinstance(tail, bool) else repr(tail)
