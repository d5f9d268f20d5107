"""`engine = "auto"`: which engine generates is decided once, when a run is first started.

From then on the run's record says it, so that a run goes on with what it was begun with, whatever
is installed meanwhile. Keys hold the engine's name and never `auto`.
"""

import importlib.util
from typing import Any

from ...stages.engines.settings import EngineName
from ...stages.models.device import resolve_device
from ...storage.runs import RunRecord
from .run import RunConfig

_SECTIONS = ("rollout", "evaluate")


def with_engines(config: RunConfig, before: RunRecord | None) -> RunConfig:
    """Return a config in which each engine that generates has its name.

    before: the run's record, whose engines stay; None, or one without a config, where it has not
    begun. Raises `ConfigError` for a device that is not there.
    """
    found: dict[str, Any] = {}
    for name in _SECTIONS:
        section = getattr(config, name)
        if section is not None and section.engine == "auto":
            known = ((before.config if before else {}).get(name) or {}).get("engine")
            found[name] = section.model_copy(update={"engine": known or _engine_here(config)})
    return config.model_copy(update=found) if found else config


def _engine_here(config: RunConfig) -> EngineName:
    """Return vLLM's name where it is installed and has a GPU to run on, else that of the other."""
    on_gpu = resolve_device(config.device).type == "cuda"
    return "vllm" if on_gpu and importlib.util.find_spec("vllm") else "transformers"
