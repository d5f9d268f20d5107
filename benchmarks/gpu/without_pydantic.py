"""Stands where pydantic is not installed: declarations keep their defaults, nothing is checked.

The works that are measured read settings and write facts, and both are declared with pydantic. A
machine that is lent for measuring may have torch and transformers alone; there this file is found
by the name `pydantic` (`all.py` sees to it). What reads what others wrote (a config, a manifest)
asks pydantic for checks, which are not here: it is refused.
"""

from collections.abc import Callable
from typing import Any

STANDS_IN = True
"""By which this is told from pydantic."""


class BaseModel:
    """Fields by their names, with the defaults that their classes declare."""

    def __init__(self, **values: Any) -> None:
        known = {
            name
            for kind in type(self).__mro__
            for name in vars(kind).get("__annotations__", {})
            if not name.startswith("_")
        }
        missing = {name for name in known if not hasattr(type(self), name)} - values.keys()
        if wrong := sorted(missing | (values.keys() - known)):
            raise TypeError(f"{type(self).__name__}: {wrong[0]} is missing, or unknown")
        vars(self).update(values)

    def model_copy(self, *, update: dict[str, Any] | None = None) -> Any:
        """Return the same with some other values."""
        return type(self)(**vars(self) | (update or {}))


class TypeAdapter:
    """What would read others' values as a type."""

    def __init__(self, _: Any) -> None:
        pass

    def validate_json(self, *_: Any, **__: Any) -> Any:
        """Refuse: without pydantic nothing is checked."""
        raise ModuleNotFoundError("No module named 'pydantic'", name="pydantic")


class ValidationError(ValueError):
    """Is never raised here."""


def ConfigDict(**_: Any) -> dict[str, Any]:  # pydantic's name
    """Return nothing: there is nothing to configure."""
    return {}


def Field(*_: Any, default_factory: Callable[[], Any] | None = None, **__: Any) -> Any:
    """Return a field's default, where it stands for one."""
    return None if default_factory is None else default_factory()


def AfterValidator(check: Any) -> Any:
    """Return the check, which nobody calls."""
    return check


def field_validator(*_: Any, **__: Any) -> Any:
    """Return a decorator that leaves a method as it is."""
    return lambda method: method


model_validator = field_validator
