"""The configuration of a run: TOML in, one frozen value out, every rule checked before any work.

Sections belong to the stages (`stages/settings.py`); here stands what belongs to the run as a
whole. No model and no GPU is needed to read a config.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...stages.settings import Settings
from ...storage.errors import ConfigError
from ...storage.runs import RunFolder, record_of
from .run import RunConfig

_LONGEST = 200  # characters of a wrong value that are shown


def load_config(path: Path, changes: Sequence[str] = (), name: str | None = None) -> RunConfig:
    """Return the config of a TOML file with `key=value` changes applied.

    name: of the run, as it is, instead of the config's.

    Raises `ConfigError` with the place of the first wrong value and what was expected there.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors write a BOM
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file; see examples/ for some") from error
    except (ValueError, RecursionError) as error:  # or thousands of digits or brackets
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    for change in changes:
        apply_change(values, change, "--set")
    if name is not None:
        values["name"] = name
    values.setdefault("name", path.stem)
    return make_config(values, str(path))


def make_config(values: dict[str, Any], where: str) -> RunConfig:
    """Return the config of plain values, or raise `ConfigError` naming `where`.

    Each value must have its field's own type: `true` is no number, and 2.0 no count. As JSON, so
    that a list serves as a tuple.
    """
    try:
        text = json.dumps(values, default=_as_json)
        config = RunConfig.model_validate_json(text, strict=True)
        _refuse_changed(json.loads(text), config)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first(error)}") from error
    except (ValueError, RecursionError) as error:  # dates, thousands of digits or brackets
        raise ConfigError(f"{where}: {error}") from error
    return config


def config_of(run: RunFolder) -> RunConfig:
    """Return the config that a run was started with. Raises `ConfigError` where there is no run."""
    return make_config(record_of(run).config, str(run.config_path))


def _as_json(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise ValueError(f"{value} is no value of a setting; write a text in quotes")


def _refuse_changed(values: dict[str, Any], config: Settings, prefix: str = "") -> None:
    """Raise `ConfigError` for a number that its type can only hold rounded."""
    for name, value in values.items():
        got = getattr(config, name)
        if isinstance(got, Settings):
            _refuse_changed(value, got, f"{prefix}{name}.")
        elif (list(got) if isinstance(got, tuple) else got) != value:
            raise ConfigError(
                f"{prefix}{name} = {_shown(value)}: too many digits: it would be {got}"
            )


def apply_change(values: dict[str, Any], change: str, option: str) -> None:
    """Change plain values in place. change: `key=value`; option: the one that gave it."""
    key, equals, text = change.partition("=")
    if not equals or not re.fullmatch(r"[a-z_]+(\.[A-Za-z_]\w*)*", key.strip()):
        raise ConfigError(f"{option} {change}: expected key=value, such as train.lr=1e-5")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    except (ValueError, RecursionError) as error:  # thousands of digits or brackets
        raise ConfigError(f"{option} {key.strip()}: {error}") from error
    # a bare word is a string, and so are several lines, and what TOML takes for a date
    whole = parsed.keys() == {"value"} and not isinstance(parsed["value"], date | time)
    value = parsed["value"] if whole else text
    *sections, last = key.strip().split(".")
    for section in sections:
        if values.get(section) is None:  # not there, or a section that is left out by default
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"{option} {change}: {section} is a value, not a section")
    values[last] = value


def _first(error: ValidationError) -> str:
    """Return the first complaint in one line: the dotted key, what is wrong, the way out."""
    about = error.errors()[0]
    key = ".".join(str(part) for part in about["loc"]) or "config"
    if about["type"] == "extra_forbidden":
        known = _fields(about["loc"][:-1])
        near = difflib.get_close_matches(str(about["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if about["type"] == "missing":
        return f"{key}: missing; it has no default"
    if about["type"] == "value_error":
        return f"{key}: {about['msg'].removeprefix('Value error, ')}"
    if about["type"] == "json_invalid":  # what was written comes from `json`, but for its texts
        return "a text holds what is no character (such as a byte that is not UTF-8)"
    return f"{key} = {_shown(about['input'])}: {about['msg'][0].lower()}{about['msg'][1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _fields(place: Iterable[int | str]) -> list[str]:
    model: Any = RunConfig
    for part in place:
        field = model.model_fields.get(part)
        model = None if field is None else section_of(field.annotation)
        if model is None:
            return []
    return sorted(model.model_fields)


def section_of(annotation: Any) -> Any:
    """Return the settings class of a field's type, None for a plain value."""
    kinds = getattr(annotation, "__args__", (annotation,))
    return next((k for k in kinds if hasattr(k, "model_fields")), None)
