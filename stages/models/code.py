"""Python code that comes with a model: run only where the user says so, and then kept with it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ...storage.errors import ModelError


def code_files(folder: Path) -> list[Path]:
    """Return the Python files of a model folder, by name."""
    return sorted(folder.glob("*.py"))


def code_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of each code file by its name: code decides what is computed."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in code_files(folder)}


def refuse_own_code(folder: Path, config: dict[str, Any], *, trusted: bool) -> None:
    """Raise `ModelError` where a model's config names code that may not be run, or is not there."""
    named = config.get("auto_map")
    if not isinstance(named, dict) or not named:
        return
    if not trusted:
        raise ModelError(
            f"{folder}: this model runs Python code of its own ({', '.join(sorted(named))}): read "
            "it, and if you trust its author set trust_remote_code = true for it"
        )
    for target in named.values():
        text = target if isinstance(target, str) else next((t for t in target if t), "")
        module = text.partition(".")[0]
        if "--" not in text and not (folder / f"{module}.py").is_file():  # else of another repo
            raise ModelError(f"{folder}: its config names {text}, but there is no {module}.py")


def own_class(folder: Path) -> Any | None:
    """Return the model class that a folder's config names, None where it names none.

    transformers' `AutoModelForCausalLM` keeps the class that it met first for a config class: a
    second folder with the same config code and another model's would be loaded as the first.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module  # heavy

    config = json.loads((folder / "config.json").read_text("utf-8"))
    named = (config.get("auto_map") or {}).get("AutoModelForCausalLM")
    return None if named is None else get_class_from_dynamic_module(named, folder)
