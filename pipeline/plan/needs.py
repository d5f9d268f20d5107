"""What a stage needs of a device's memory, by what it is for."""

from dataclasses import dataclass, fields, replace

from .target import Target


@dataclass(frozen=True)
class Parts:
    """Bytes of a device at the height of a stage, by what they are for.

    loading: what a model is read from beside itself. process: Python and its libraries.
    """

    parameters: float = 0
    gradients: float = 0
    moments: float = 0
    activations: float = 0
    logits: float = 0
    cache: float = 0
    loading: float = 0
    process: float = 0

    @property
    def total(self) -> float:
        """Return their sum."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True)
class Need:
    """What one stage needs of a device. parts: None where the size of a model is not known.

    about: what it is counted for. least: bytes that are no estimate: weights, or masters with
    their gradients and moments. devices: so many need it each. share: of a device that may be used.
    sequence: bytes of cache for one more sequence, where what is left is filled with them.
    """

    stage: str
    about: str
    parts: Parts | None
    least: float | None
    devices: int = 1
    share: float = 1.0
    sequence: float = 0.0

    @property
    def bytes(self) -> float | None:
        """Return the bytes that it needs, None where they are not known."""
        return None if self.parts is None else self.parts.total

    def room(self, target: Target) -> float:
        """Return the bytes of a device that the stage may have."""
        return min(target.usable, self.share * target.total)

    def fits(self, target: Target) -> bool | None:
        """Tell whether a device has them, None where that is not known."""
        return None if self.parts is None else self.parts.total <= self.room(target)

    def with_more(self, **more: float) -> "Need":
        """Return it with bytes added to parts."""
        if self.parts is None:
            return self
        added = {name: getattr(self.parts, name) + size for name, size in more.items()}
        return replace(self, parts=replace(self.parts, **added))


def chunk(elements: int, target: Target) -> int:
    """Return the bytes of a chunk of logits; on a CPU what is made of them is made in pieces."""
    return (4 if target.on_cpu else 12) * elements
