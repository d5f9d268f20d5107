"""What `auto` stands for where results depend on it, decided once: when a run is first started.

From then on the run's record says it, so that a run goes on with what it was begun with, whatever
is installed meanwhile. Keys hold what it stands for and never `auto`.
"""

import importlib.util
from typing import Any

from ...stages.engines.settings import EngineName
from ...stages.models.device import resolve_device
from ...storage.runs import RunRecord, RunView
from .run import RunConfig

_ENGINES = ("rollout", "evaluate")


def decided(config: RunConfig, before: RunRecord | None) -> tuple[RunConfig, list[str]]:
    """Return a config in which nothing that results depend on is `auto`, and what is to be told.

    before: the run's record, of which all stays; None, or one without a config, where it has not
    begun. Raises `ConfigError` for a device that is not there.
    """
    known, update, told = (before.config if before else {}), dict[str, Any](), list[str]()
    for name in _ENGINES:
        section = getattr(config, name)
        if section is not None and section.engine == "auto":
            engine = (known.get(name) or {}).get("engine") or _engine_here(config)
            update[name] = section.model_copy(update={"engine": engine})
            told.append(f"note: {name}.engine = 'auto' is {engine!r} in this run")
    if config.train.tail == "auto":
        why = _no_residual(config)
        tail = (known.get("train") or {}).get("tail", "residual" if why is None else True)
        update["train"] = config.train.model_copy(update={"tail": tail})
        if not known and why is not None:
            told.append(f"note: train.tail = 'auto' is true in this run: {why}")
    return (config.model_copy(update=update) if update else config), told


def _engine_here(config: RunConfig) -> EngineName:
    """Return vLLM's name where it is installed and has a GPU to run on, else that of the other."""
    return "vllm" if _on_gpu(config) and importlib.util.find_spec("vllm") else "transformers"


def _no_residual(config: RunConfig) -> str | None:
    """Return why a run's tail has no residual, None where it has one.

    A replay trains as the run did whose rollouts it takes, for they and their scores are the same.
    """
    train, rollout, score = config.train, config.rollout, config.score
    if rollout.replay is not None:
        record = RunView(config.runs, rollout.replay).about()
        tail = ((record.config if record else {}).get("train") or {}).get("tail")
        return None if tail == "residual" else f"that of run {rollout.replay} had no residual"
    cut = rollout.cut
    if cut is None and rollout.temperature != 1:
        cut = f"temperature = {rollout.temperature:g}"
    if score.support == "sampled":
        return "score.support = 'sampled' has no tail"
    if train.loss != "reverse_kl":
        return f"a residual was measured for reverse KL alone, not for {train.loss!r}"
    if cut:
        return f"it wants tokens from the whole vocabulary at temperature 1, but rollout.{cut}"
    if score.engine == "server" or (score.engine == "vllm" and not _on_gpu(config)):
        return f"score.engine = {score.engine!r} cannot be asked for the student's ids here"
    return None


def _on_gpu(config: RunConfig) -> bool:
    return resolve_device(config.device).type == "cuda"
