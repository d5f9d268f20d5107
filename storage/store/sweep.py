"""Removal of what dead writers left behind: drafts, uncommitted parts, claims, probes."""

from collections.abc import Callable

from ..errors import StoreError
from .artifacts import Artifact
from .claims import is_claim
from .drafts import GRACE_SECONDS, abandoned, sweep_drafts
from .places import PROBES, Place, folder_name, is_unique, located, removed, unique

Find = Callable[[str, str], Artifact | None]


def sweep(place: Place, find: Find, older_than_seconds: float) -> list[str]:
    """Remove leftovers whose folder has been quiet for so long; return what was removed."""
    removed = sweep_drafts(place.drafts, older_than_seconds)
    now = _now(place)
    for probe in list(place.entries(PROBES)):
        if now - probe.modified >= max(older_than_seconds, GRACE_SECONDS):
            place.remove(probe.name)
            removed.append(probe.name)
    youngest: dict[tuple[str, str], float] = {}
    names: dict[tuple[str, str], set[str]] = {}
    for entry in place.entries(""):
        at = located(entry.name)
        if at is not None:
            folder = (at.kind, at.key)
            youngest[folder] = max(entry.modified, youngest.get(folder, entry.modified))
            names.setdefault(folder, set()).add(at.rest.split("/", 1)[0])
    for (kind, key), modified in youngest.items():
        if now - modified >= older_than_seconds:
            removed += _sweep_folder(place, find, (kind, key), names[kind, key])
    return removed


def _sweep_folder(place: Place, find: Find, at: tuple[str, str], names: set[str]) -> list[str]:
    removed = []
    for name in sorted(names):
        where = f"{folder_name(*at)}/{name}"
        if is_claim(name):
            place.remove(where)
        elif not is_unique(name):
            continue
        else:
            with abandoned(place.drafts, name) as free:
                # Only under the lock is it certain that no commit is about to happen.
                if not free or _holds(find, at, name):
                    continue
                place.remove_folder(where)
        removed.append(where)
    return removed


def _holds(find: Find, at: tuple[str, str], draft: str) -> bool:
    """Tell whether a draft is a committed one, or with a damaged manifest might be."""
    try:
        artifact = find(*at)
    except StoreError:
        return True
    return artifact is not None and artifact.draft == draft


def _now(place: Place) -> float:
    """Return the time by the place's own clock."""
    name = f"{PROBES}/{unique()}"
    with removed(place, name):
        place.create(name, b"now")
        return {entry.name: entry.modified for entry in place.entries(PROBES)}[name]
