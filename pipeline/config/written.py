"""A config written down for others: as TOML, without secrets and places of this machine."""

import json
import re
from typing import Any

from .run import RunConfig

_PLACES = ("store", "runs", "workers", "track")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def public(config: RunConfig) -> dict[str, Any]:
    """Return a config's values that may be shown to anybody, as JSON has them.

    Left out: folders, workers and trackers of a machine, what is null (TOML cannot say it, and it
    is a default), and of an address its user, password and query.
    """
    values = config.model_dump(mode="json", exclude_none=True)
    return _clean({name: v for name, v in values.items() if name not in _PLACES})


def as_toml(values: dict[str, Any]) -> str:
    """Return nested values as TOML: a value's own settings first, then its sections."""
    return "\n".join(_lines(values, ())).strip() + "\n"


def without_secrets(text: str) -> str:
    """Return a text in which no address has a user, a password or a query (which may be signed)."""
    text = re.sub(r"(?<=://)[^/?#\s]*@", "", text)
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1", text)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: _clean(inner) for name, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list) else value


def _lines(values: dict[str, Any], place: tuple[str, ...]) -> list[str]:
    sections = {name: v for name, v in values.items() if isinstance(v, dict)}
    own = [f"{_key(n)} = {_value(v)}" for n, v in values.items() if n not in sections]
    head = [f"\n[{'.'.join(map(_key, place))}]"] if place and (own or not sections) else []
    below = [line for n, v in sections.items() for line in _lines(v, (*place, n))]
    return [*head, *own, *below]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(n)} = {_value(v)}' for n, v in value.items())}}}"
    # JSON's escapes are TOML's; of what TOML wants escaped JSON leaves one character
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
