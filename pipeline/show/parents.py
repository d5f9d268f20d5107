"""What is known of what a student comes of: its models, their identity and licences, its prompts.

Asked are their folders, the cache of the hub's client, and the hub itself where it can be reached
at once. What none of them says is unknown, and is said to be.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...stages.models.folder import read_json
from ...stages.models.settings import ModelSettings
from ...storage.errors import TipError
from ...storage.files import user_path
from ...storage.runs import RunFolder, record_of
from ..config.run import RunConfig
from ..config.written import without_secrets
from .markdown import table, text

UNKNOWN = "unknown"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_TERMS = re.compile(r"(licen[cs]e|notice|copying)([._-].*)?", re.IGNORECASE)
_PATIENCE_SECONDS = 5.0  # a card is written whether the hub answers or not


@dataclass(frozen=True)
class Parent:
    """A model that a student comes of.

    name: as the config has it, without the path of a folder of this machine. hub: its name on the
    hub, None for a folder. license: the identifier that its card gives. terms: files of its folder
    that say how it may be used.
    """

    role: str
    name: str
    hub: str | None
    revision: str | None
    fingerprint: str | None
    license: str | None
    terms: tuple[Path, ...]


def parent(role: str, settings: ModelSettings, fingerprint: str | None) -> Parent:
    """Return what is known of a parent; nothing that cannot be read or reached is an error."""
    folder = user_path(settings.model)
    if folder.is_dir():
        card, terms = _card_in(folder), _terms_in(folder)
        found = _license(card), terms
        base = _base_of(folder)
        if base is not None and found[0] is None:  # an adapter, under the terms of what it changes
            found = parent(role, settings.model_copy(update={"model": base}), None)
            found = found.license, (*terms, *found.terms)
        return Parent(role, folder.name, None, None, fingerprint, *found)
    name = settings.model
    if not _HUB_NAME.fullmatch(name):
        return Parent(role, Path(name).name, None, None, fingerprint, None, ())
    cached = _cached(name, settings.revision)
    license_ = None if cached is None else _license(_card_in(cached))
    terms = () if cached is None else _terms_in(cached)
    license_ = license_ or _asked(name, settings.revision)
    return Parent(role, name, name, settings.revision, fingerprint, license_, terms)


def parents_of(run: RunFolder, config: RunConfig) -> tuple[Parent, Parent]:
    """Return what is known of a run's first student and of its teacher."""
    content = record_of(run).content or {}
    return (
        parent("student", config.student, content.get("student.model")),
        parent("teacher", config.teacher, content.get("teacher.model")),
    )


def parents_table(parents: Sequence[Parent]) -> str:
    """Return who the parents are."""
    return table(
        ("role", "model", "revision", "fingerprint", "licence"),
        [
            (
                p.role,
                p.name,
                "a folder" if p.hub is None else p.revision or "none given",
                p.fingerprint or UNKNOWN,
                p.license or UNKNOWN,
            )
            for p in parents
        ],
    )


def prompts_of(run: RunFolder, config: RunConfig) -> str:
    """Return where the prompts came from."""
    source, digest = config.prompts, (record_of(run).content or {}).get("prompts.source")
    rows = [
        ("source", without_secrets(source.source)),
        ("subset", source.subset or "none given"),
        ("split", source.split),
        ("rows", "all" if source.limit is None else f"the first {source.limit:,}"),
        ("digest of the rendered prompts", digest or UNKNOWN),
        ("licence", UNKNOWN),
        ("prompts a round", f"{config.rollout.prompts:,}"),
        ("answers to each", config.rollout.samples),
    ]
    return table(("prompts", ""), rows)


def terms_of(parents: Sequence[Parent]) -> str:
    """Return what is said of the parents' licences, and of what they leave open."""
    lines = [
        f"* {p.role} `{text(p.name)}`: "
        + (f"`{text(p.license)}`, as its card says" if p.license else "its card names no licence")
        + (f"; files: {', '.join(text(path.name) for path in p.terms)}" if p.terms else "")
        for p in parents
    ]
    return "\n".join(
        [
            *lines,
            "",
            "The licences of both models and of the prompts may bind what was made from them; "
            "where one is unknown here, look it up before you share or use this.",
        ]
    )


def _terms_in(folder: Path) -> tuple[Path, ...]:
    return tuple(
        path for path in sorted(folder.iterdir()) if path.is_file() and _TERMS.fullmatch(path.name)
    )


def _base_of(folder: Path) -> str | None:
    try:
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    except (OSError, TipError):
        return None
    return base if isinstance(base, str) and base else None


def _card_in(folder: Path) -> Mapping[str, Any]:
    """Return the front matter of a model's card, nothing where there is none that can be read."""
    from huggingface_hub import metadata_load

    try:
        return metadata_load(folder / "README.md") or {}
    except Exception:  # whatever a stranger's card makes of a parser, the card is only asked
        return {}


def _license(card: Mapping[str, Any]) -> str | None:
    """Return the licence that a card names; `other` comes with the name that it is given."""
    license_ = card.get("license")
    if license_ == "other" and isinstance(card.get("license_name"), str):
        return card["license_name"]
    return license_ if isinstance(license_, str) else None


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the folder of a hub name in the cache of the hub's client, None without one."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _asked(name: str, revision: str | None) -> str | None:
    """Return the licence that the hub tells of a model, None where it cannot be asked."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, revision=revision, timeout=_PATIENCE_SECONDS)
    except Exception:  # no network, no such name, no rights: whatever it is, it is not known
        return None
    return _license({} if info.card_data is None else info.card_data.to_dict())
