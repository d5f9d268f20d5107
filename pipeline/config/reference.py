"""Every setting: its dotted name, what values it takes, its default, what it means."""

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from ...stages.settings import BY_CONTENT, NOT_IN_KEY, Settings
from .run import RunConfig
from .toml import section_of

_REQUIRED = "required"
_CHANGES = {
    None: "results; a new key",
    BY_CONTENT: "results; its content is in the key",
    NOT_IN_KEY: "speed, memory or length only",
}


@dataclass(frozen=True)
class Setting:
    """A setting. default: as TOML writes it. changes: what another value changes."""

    name: str
    values: str
    default: str
    changes: str
    meaning: str


def settings(section: type[Settings] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """Yield all settings in the order of their declaration, those of sections after their own."""
    inner: list[tuple[str, type[Settings]]] = []
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        meaning = " ".join((field.description or "").split())
        if below is not None:
            inner.append((f"{prefix}{name}.", below))
            continue
        default = (
            _REQUIRED
            if field.is_required()
            else written(field.get_default(call_default_factory=True))
        )
        yield Setting(
            f"{prefix}{name}",
            _values(field.annotation),
            default,
            _CHANGES[section.mark(name)],
            meaning,
        )
    for below_prefix, below in inner:
        yield from settings(below, below_prefix)


def values_of(config: Settings, prefix: str = "") -> dict[str, str]:
    """Return the value of every setting of a config, as TOML writes it, by its dotted name."""
    found: dict[str, str] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Settings):
            found |= values_of(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = written(value)
    return found


def written(value: Any) -> str:
    """Return a value as TOML writes it; `none` for what TOML leaves out."""
    if value is None:
        return "none"
    if isinstance(value, Settings):
        value = value.model_dump(mode="json")
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _values(annotation: Any) -> str:
    """Return the values that a type allows, for people."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _values(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(written(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return ", ".join("none" if a is type(None) else _values(a) for a in get_args(annotation))
    if origin in (tuple, list):
        inner = [_values(a) for a in get_args(annotation) if a is not Ellipsis]
        return f"list of {', '.join(dict.fromkeys(inner))}"
    if origin is dict:
        return "table"
    names = {str: "text", int: "count", float: "number", bool: "true, false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def markdown() -> str:
    """Return docs/SETTINGS.md."""
    lines = [
        "# Settings",
        "",
        "Every setting of a config, rendered from the settings' classes by "
        "`docs/make_pages.py`; `tip config` prints the same. In TOML a dotted name is a section "
        "and a key: `train.lr` is `lr` under `[train]`; on the command line "
        "`--set train.lr=1e-5`. *Changes*: what another value changes; whatever is in a key is "
        "made anew and stored beside the old.",
    ]
    section = None
    for each in settings():
        head = each.name.rpartition(".")[0]
        if head != section:
            section = head
            title = f"[{head}]" if head else "The run"
            lines += ["", f"## {title}", "", "| setting | values | default | changes | meaning |"]
            lines += ["|---|---|---|---|---|"]
        cells = (f"`{each.name}`", each.values, f"`{each.default}`", each.changes, each.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"
