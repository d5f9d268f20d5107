"""The page: one HTML file with all that it shows, or a folder whose rollouts are read when seen.

Plain JavaScript draws it: a plane, lines, bars and text need no library, and one would be as large
as all rollouts of a run. A policy in the page lets nothing else run and nothing be fetched.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from ... import __version__
from ...storage.files import replacing
from .pack import as_json

# In the order in which they are read; each may use the ones before it.
_SCRIPTS = (
    "data",
    "dom",
    "state",
    "colours",
    "head",
    "plane",
    "brush",
    "charts",
    "curves",
    "rollouts",
    "tokens",
    "token",
    "ledger",
    "comparison",
    "live",
    "main",
)
_PAGE = files(__name__.rpartition(".")[0]) / "page"


@dataclass(frozen=True)
class Content:
    """What a page shows.

    runs: facts of each. sheets: rollouts in the page by name, as JSON. live: what the page compares
    to learn that there is more; None where it is not served. made: when, for people.
    """

    title: str
    made: str
    runs: Sequence[Mapping[str, Any]]
    comparisons: Sequence[Mapping[str, Any]]
    sheets: Iterable[tuple[str, str]] = ()
    live: str | None = None
    bundle: bool = False


def render(content: Content) -> str:
    """Return the page as HTML."""
    script, style = _script(), _read("style.css")
    facts = {"runs": content.runs, "comparisons": content.comparisons, "live": content.live}
    return (
        Environment(autoescape=True)
        .from_string(_read("page.html"))
        .render(
            title=content.title,
            made=content.made,
            version=__version__,
            policy=_policy(script, style, content),
            style=Markup(style),
            script=Markup(script),
            facts=Markup(as_json(facts)),
            sheets=[(name, Markup(text)) for name, text in content.sheets],
            runs=content.runs,
            comparisons=content.comparisons,
            answers=any(run["answers"] for run in content.runs),
            live=content.live is not None,
        )
    )


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises `OSError`."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def sheet_file(name: str, text: str) -> str:
    """Return the file of a bundle that holds a rollout. text: its JSON."""
    return f'tipSheet("{name}",{text});\n'


def _read(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _script() -> str:
    """Return all modules as one, so that a page from a disk needs no second file."""
    parts = [_read(f"{name}.js") for name in _SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def _policy(script: str, style: str, content: Content) -> str:
    """Return what may run in the page: this script, this style, and a bundle's own files."""
    hashes = [_hash(text) for text in (script, style)]
    own = " 'self' file:" if content.bundle else ""
    parts = ["default-src 'none'", f"script-src {hashes[0]}{own}", f"style-src {hashes[1]}"]
    parts += ["base-uri 'none'", "form-action 'none'"]
    parts += ["connect-src 'self'"] if content.live is not None else []
    return "; ".join(parts)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
