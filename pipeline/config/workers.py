"""What a user can set of who runs works: this process, or actors of a Ray cluster."""

import re
from typing import Annotated, Literal

from pydantic import field_validator

from ...stages.settings import NOT_IN_KEY, Count, NotNegative, Settings


class WorkersSettings(Settings):
    """Who runs rollouts, scores and evaluations. Selection and training stay where the run is."""

    executor: Annotated[Literal["here", "ray"], NOT_IN_KEY] = "here"
    """`here`: this process. `ray`: actors of a Ray cluster, each with models or an engine of its
    own. The store and the models must be where all of them see them."""
    address: Annotated[str, NOT_IN_KEY] = ""
    """Of a cluster that is there: `auto` finds that of this host, else HOST:PORT of its head.
    Empty: one of this host alone is started, and ends with the run."""
    actors: Annotated[Count | None, NOT_IN_KEY] = None
    """Actors at most. None: as many as the cluster has room for."""
    cpus: Annotated[Count | None, NOT_IN_KEY] = None
    """CPUs that an actor takes, and its threads where `threads` is 0. None: its threads, which are
    then as many as this process would compute with."""
    gpus: Annotated[NotNegative | None, NOT_IN_KEY] = None
    """GPUs that an actor takes; 0.5 lets two share one. None: on a GPU those of the largest
    `vllm.tensor_parallel` that it runs, at least 1; on a CPU 0."""

    @field_validator("address")
    @classmethod
    def _of_a_head(cls, value: str) -> str:
        if value not in ("", "auto") and not re.fullmatch(r"[^/\s]+:\d{1,5}", value):
            raise ValueError(
                f"{value!r} is no address of a cluster's head: start the run on one of its hosts, "
                "with 'auto', or HOST:PORT as `ray start --head` prints it"
            )
        return value

    @field_validator("gpus")
    @classmethod
    def _whole_beyond_one(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value % 1:
            raise ValueError(f"{value:g} is no share of one GPU and no number of whole ones")
        return value
