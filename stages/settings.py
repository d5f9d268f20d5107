"""What a user can set for each stage: the one home of every default.

Every class is frozen and strict: an unknown name is refused. Units stand in the text below each
field. Fields marked *not in a key* change speed or memory, never a result. No torch is imported:
a config is read and checked on any machine.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, le=1)]


Count = Annotated[int, Field(ge=1)]


Natural = Annotated[int, Field(ge=0)]


Positive = Annotated[float, Field(gt=0)]


NotNegative = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """Frozen and strict base of all sections."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
