"""What an actor of a Ray cluster takes, known without a cluster."""

from dataclasses import dataclass
from importlib.util import find_spec

import torch

from ..stages.models.device import resolve_device
from ..storage.errors import ConfigError
from .config.run import RunConfig


@dataclass(frozen=True)
class Share:
    """What an actor takes of a cluster, and how it computes.

    cpus, gpus: reserved for it. threads: of its CPU computations; they, and not the CPUs, decide
    last digits. device: cpu or cuda, on every host the same.
    """

    cpus: int
    gpus: float
    threads: int
    device: str

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else ""
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{gpus}"


def require_ray() -> None:
    """Raise `ConfigError` where Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigError(
            "workers.executor = 'ray' needs Ray, on every host of the cluster: "
            "pip install 'tip-opd[ray]', or set workers.executor = 'here'"
        )


def share_of(config: RunConfig) -> Share:
    """Return what an actor takes: as set, else what this process would compute with.

    Raises `ConfigError` for GPUs that do not fit the device, or a model that needs more of them.
    """
    workers, device = config.workers, resolve_device(config.device).type
    widest = max(_widths(config).items(), key=lambda item: item[1])
    usual = widest[1] if device == "cuda" else 0
    gpus = float(usual if workers.gpus is None else workers.gpus)
    if (device == "cuda") != (gpus > 0):
        expected = "0, or device = 'cuda'" if device == "cpu" else "1, or device = 'cpu'"
        raise ConfigError(
            f"workers.gpus = {gpus:g}, but models are computed on the device {device}: set "
            f"workers.gpus = {expected}"
        )
    if device == "cuda" and widest[1] > max(1.0, gpus):
        raise ConfigError(
            f"workers.gpus = {gpus:g}, but {widest[0]}.vllm.tensor_parallel = {widest[1]} needs as "
            "many for each actor: raise it, or leave it out"
        )
    threads = config.threads or workers.cpus or (1 if gpus else torch.get_num_threads())
    return Share(workers.cpus or threads, gpus, threads, device)


def threads_of(config: RunConfig) -> int:
    """Return the CPU threads of who runs works, 0 for as many as torch or vLLM chooses."""
    return share_of(config).threads if config.workers.executor == "ray" else config.threads


def _widths(config: RunConfig) -> dict[str, int]:
    """Return how many GPUs each model takes where an actor holds it."""
    generates = {config.rollout.engine, config.evaluate.engine if config.evaluate else None}
    engines = {"student": "vllm" in generates, "teacher": config.score.engine == "vllm"}
    models = {"student": config.student, "teacher": config.teacher}
    return {
        role: models[role].vllm.tensor_parallel if in_vllm else 1
        for role, in_vllm in engines.items()
    }
