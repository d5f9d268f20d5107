"""What a residual (`train.tail`) needs of rollouts and teacher signals, shown before any work.

Of a stored support it must be known whether the sampled token is in it for having been sampled
alone, and every token must have had its chance, known in the end.
"""

from collections.abc import Sequence

from ...stages.engines.settings import SamplingSettings
from ...stages.holder import Reader
from ...storage.errors import ConfigError
from ...storage.store.store import Artifact
from ..session import Session
from .generators import reader_of

_WAY_OUT = "or set train.tail = true"


def check_teacher(session: Session) -> None:
    """Raise `ConfigError` where the teacher's engine cannot be asked for the student's ids.

    Which of them are in a support then depends on what the engine had fetched, and that is gone.
    """
    reader = reader_of(session) if session.config.train.tail == "residual" else None
    if reader is not None and not (isinstance(reader, Reader) and reader.given_ids):
        raise ConfigError(
            "train.tail = 'residual' must know which of the student's ids are in a support, but a "
            f"teacher with score.engine = {session.config.score.engine!r} cannot be asked for them "
            f"here: set score.engine = 'transformers' (vLLM on a GPU can be), {_WAY_OUT}"
        )


def check_replayed(session: Session, rollouts: Sequence[Artifact]) -> None:
    """Raise `ConfigError` where rollouts of another run were not sampled as a residual needs it."""
    if session.config.train.tail != "residual":
        return
    for artifact in rollouts:
        names = ("temperature", "top_p", "top_k")
        sampling = SamplingSettings(**{name: artifact.inputs[name] for name in names})
        cut = sampling.cut
        if cut is None and sampling.temperature != 1:  # only who sampled can tell the probability
            cut = f"temperature = {sampling.temperature:g}"
        if cut:
            raise ConfigError(
                "train.tail = 'residual' is right in the mean over tokens sampled from the whole "
                f"vocabulary at temperature 1, but run {session.config.rollout.replay} sampled "
                f"with {cut}: replay another run, {_WAY_OUT}"
            )
