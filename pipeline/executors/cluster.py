"""A Ray cluster: one that is there, or one of this host that is started, and ends with the run.

Ray takes SIGTERM and the screen for itself; both are given back.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...storage.errors import ConfigError
from ..actors import Share, require_ray

_PATIENCE = 10.0  # seconds for a host to answer
_OBJECTS = 100 << 20  # bytes of Ray's shared memory: works and their results are small


class Cluster:
    """A connection to a cluster.

    address: see `WorkersSettings`. A process that is connected already stays so, also in the end.
    Raises `ConfigError` where there is no cluster.
    """

    def __init__(self, address: str) -> None:
        require_ray()
        import ray  # an extra, and heavy

        self._name = f"the cluster at {address}" if address else "this host"
        self._ours = not ray.is_initialized()
        if self._ours:
            with _signals_kept(), self._reported(address):
                _connect(address)
        _silence_raylets()

    @property
    def node(self) -> str:
        """Return Ray's id of this host."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def described(self) -> str:
        """Return in words what there is."""
        nodes = _nodes()
        gpus = sum(node.get("GPU", 0) for node in nodes)
        cpus = sum(node.get("CPU", 0) for node in nodes)
        hosts = f"{len(nodes)} host{'s' if len(nodes) > 1 else ''}"
        return f"{cpus:g} CPUs and {gpus:g} GPUs on {hosts}"

    def places(self, share: Share, wanted: int | None) -> int:
        """Return how many actors there are to be.

        wanted: as set, None for all that there is room for. Raises `ConfigError` for more.
        """
        room = sum(_room(node, share) for node in _nodes())
        if not room or (wanted or 0) > room:
            asked = f"workers.actors = {wanted} of" if wanted else "an actor of"
            each = f" {share} each" if wanted else f" {share}"
            raise ConfigError(
                f"{asked}{each}, but {self._name} has room for {room}: {self.described()}; lower "
                "workers.actors, cpus (or threads) or gpus, or add hosts"
            )
        return wanted or room

    def close(self) -> None:
        """End the connection, and a cluster that was started for it."""
        import ray

        if self._ours:
            ray.shutdown()

    @contextmanager
    def _reported(self, address: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            if address:
                raise ConfigError(
                    f"workers.address = {address!r}: no Ray cluster answers there ({reason}): "
                    "start one with `ray start --head`, or leave the address out for one of this "
                    "host"
                ) from error
            raise ConfigError(
                f"Ray cannot start a cluster on this host ({reason}): start one with "
                "`ray start --head` and set workers.address = 'auto', or workers.executor = 'here'"
            ) from error


def _connect(address: str) -> None:
    import ray

    head = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if ":" in head:
        # where nobody listens, Ray tries for minutes, and fills the screen
        host, _, port = head.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    ours: dict[str, Any] = {}
    if not address:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
        ours = {"include_dashboard": False, "object_store_memory": _OBJECTS}
    ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **ours)


def _nodes() -> list[dict[str, float]]:
    """Return what each host that lives has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _room(node: dict[str, float], share: Share) -> int:
    """Return how many actors fit a host."""
    by_cpus = node.get("CPU", 0) // share.cpus
    if not share.gpus:
        return int(by_cpus)
    # two actors never share parts of two GPUs
    gpus = node.get("GPU", 0)
    by_gpus = gpus * (1 // share.gpus) if share.gpus < 1 else gpus // share.gpus
    return int(min(by_cpus, by_gpus))


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep what SIGTERM does: Ray would make it a bare exit, without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _silence_raylets() -> None:
    """Keep what Ray says of a lost actor off the standard output: it is told here in a line.

    No setting does so, `log_to_driver` included.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None
