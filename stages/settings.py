"""What the settings of all stages have in common: frozen, strict, and marked for keys.

Each stage's own settings stand in its `settings.py`, the one home of every default. An unknown name
is refused, and so is infinity; a file's values are read strictly (`make_config`): `true` is no
number. Units stand in the text below each field. No torch is imported: a config is read and
checked on any machine.

Every field decides one of three things, and a mark says which:

* without a mark, it is in its stage's key by itself (`key`);
* `BY_CONTENT`: the key holds what it stands for (a model's fingerprint, a prompt's token ids, a
  step's learning rate), so it is no part of `key`, but of what a run is (`identity`);
* `NOT_IN_KEY`: it changes speed or memory, or how far a run goes; of a result at most the rounding.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

Fraction = Annotated[float, Field(gt=0, le=1)]
_INT64 = (1 << 63) - 1
Count = Annotated[int, Field(ge=1, le=_INT64)]
Natural = Annotated[int, Field(ge=0, le=_INT64)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Divergence = Literal["reverse_kl", "forward_kl", "jsd", "jeffreys"]
"""Between the live student and the stored teacher, over support and tail: a loss.

`reverse_kl`: KL(student || teacher), `forward_kl`: KL(teacher || student), `jeffreys`: the sum."""
Loss = Literal[Divergence, "suppress"]
"""What is minimised: a divergence, or the log-prob of what was sampled, which asks no teacher."""
TokenLoss = Literal[Loss, "none"]
"""What is minimised at one token. `none`: it counts in the denominator and adds nothing."""
TOKEN_LOSSES: tuple[TokenLoss, ...] = get_args(TokenLoss)


@dataclass(frozen=True)
class Mark:
    """What a field is to keys."""

    name: str


NOT_IN_KEY = Mark("not in a key")
BY_CONTENT = Mark("by content")


class Settings(BaseModel):
    """Base of all sections."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:  # no path and no SQL can hold one
            raise ValueError("holds the character NUL")
        return value

    def key(self) -> dict[str, Any]:
        """Return what a stage's key holds of these settings by themselves, as JSON has it."""
        return self._marked({None})

    def identity(self) -> dict[str, Any]:
        """Return what makes a run another one where it differs, as JSON has it."""
        return self._marked({None, BY_CONTENT})

    def _marked(self, wanted: set[Mark | None]) -> dict[str, Any]:
        plain = self.model_dump(mode="json")
        found = {}
        for name in type(self).model_fields:
            if self.mark(name) not in wanted:
                continue
            value = getattr(self, name)
            found[name] = value._marked(wanted) if isinstance(value, Settings) else plain[name]
        return found

    @classmethod
    def mark(cls, name: str) -> Mark | None:
        """Return the mark of a field."""
        metadata = cls.model_fields[name].metadata
        return next((m for m in metadata if isinstance(m, Mark)), None)
