"""The store: artifacts by kind and key, made once, shared by processes and hosts.

Guarantees: an artifact exists when its manifest does, and then all its parts do; of several
writers of one key the first wins and the others use what it made; nothing committed is ever
modified; whatever a killed process leaves behind is invisible until `sweep` removes it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..files import user_path
from ..ledger import Ledger
from .artifacts import Artifact, Part, artifact_key, contents_hash, damage, manifest, read_manifest
from .claims import Claim, Patience, acquire
from .drafts import Draft, drafted
from .objects import RemotePlace
from .places import (
    MANIFEST,
    PROBES,
    LocalPlace,
    Place,
    check_kind,
    disk_is_full,
    folder_name,
    located,
    manifest_name,
    removed,
    reported,
    unique,
)
from .sweep import sweep

__all__ = ["Artifact", "Draft", "Make", "Part", "Patience", "Pending", "Size", "Store"]

_log = logging.getLogger(__name__)

Words = list[str]  # `Store.list` takes the name inside its class

Make = Callable[[Draft], dict[str, Any]]
"""Writes the parts of an artifact into a draft and returns its facts."""


@dataclass(frozen=True)
class Size:
    """What the artifacts of one kind take."""

    artifacts: int = 0
    bytes: int = 0
    rows: int = 0


class Store:
    """Artifacts below one root: a folder, or a prefix of a bucket such as `s3://bucket/tip`."""

    def __init__(
        self,
        root: str | Path,
        *,
        write: bool = True,
        cache: Path | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Open a store, creating its folder; or, without `write`, only to look at it.

        Looking makes nothing, not even a folder, and needs no permission to write; a local root
        that is not there is an empty store. `cache` holds local copies of a remote store's parts
        (default: `$TIP_CACHE`, else `~/.cache/tip`). Raises `StoreError` if the root cannot be
        written, or if it does not refuse a second create-only write.
        """
        self.place = _place(str(root), cache, write=write)
        self.ledger = Ledger()
        """What seconds went into, of the process that opened the store; its holder's as well."""
        self._patience, self._write = patience or Patience(), write
        self._whole: set[str] = set()  # homes of parts that this object has written or read whole
        if write:
            _probe(self.place)

    def __str__(self) -> str:
        return str(self.place)

    def find(self, kind: str, key: str) -> Artifact | None:
        """Return a committed artifact, None if there is none.

        Raises `StoreError` if its manifest is damaged, or for a key that is none.
        """
        try:
            name = manifest_name(kind, key)
        except ValueError as error:
            raise StoreError(f"{error}; what points to it is damaged") from error
        data = self.place.read(name)
        if data is None:
            return None
        try:
            return read_manifest(data, kind, key)
        except ValueError as error:
            raise StoreError(
                f"{self.place}/{name} is damaged: {error}; "
                "remove it to have the artifact made again"
            ) from error

    def ensure(self, kind: str, inputs: dict[str, Any], make: Make) -> tuple[Artifact, bool]:
        """Return the artifact of a kind and its inputs, and whether this call made it.

        `make` runs if nobody has made it and nobody living is making it. Its errors pass
        through, and nothing of what it wrote remains.
        """
        begun = self.begin(kind, inputs)
        if isinstance(begun, Artifact):
            return begun, False
        assert begun is not None  # it has waited
        with begun:
            return begun.make(make)

    def begin(
        self, kind: str, inputs: dict[str, Any], *, wait: bool = True
    ) -> "Artifact | Pending | None":
        """Return an artifact, or the right to make it: what is held is nobody else's to make.

        Where somebody else holds a claim: waits until they have made it or fall silent; without
        `wait`, returns None at once, and whether they live is not asked.
        """
        if inputs.get("kind", kind) != kind:
            raise ValueError(f"inputs of {kind} name another kind: {inputs['kind']!r}")
        key = artifact_key(kind, inputs)
        folder = folder_name(kind, key)
        while (found := self.find(kind, key)) is None:
            self._refuse_looking()
            with self.ledger.of("waiting"):
                claim = acquire(
                    self.place,
                    folder,
                    self._patience,
                    lambda: self.find(kind, key) is not None,
                    wait=wait,
                )
            if claim is None:
                if wait:
                    continue
                return self.find(kind, key)
            pending = Pending(self, kind, key, inputs, claim)
            try:
                found = self.find(kind, key)
            except BaseException:
                pending.release()  # else it would be shown to be alive, and waited for, for ever
                raise
            if found is None:
                return pending
            pending.release()
        return found

    def _refuse_looking(self) -> None:
        if not self._write:
            raise StoreError(f"{self.place} was opened to look at it: nothing is made in it")

    def list(self, kind: str | None = None, damaged: Words | None = None) -> Iterator[Artifact]:
        """Give all artifacts, or those of one kind, by kind and key.

        Damaged manifests are described in `damaged`; without that list they raise `StoreError`.
        """
        for entry in self.place.entries(check_kind(kind) if kind else ""):
            at = located(entry.name)
            if at is None or at.rest != MANIFEST:
                continue
            try:
                artifact = self.find(at.kind, at.key)
            except StoreError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
                continue
            if artifact is not None:
                yield artifact

    def path(self, artifact: Artifact, part: str) -> Path:
        """Return a local path of a part, fetched first if the store is remote.

        All its bytes are read and compared with what was committed, once for this object: disks and
        people change files, and what was made from a changed one would be found for ever. Raises
        `StoreError` if there is no such part, or if it is missing or damaged.
        """
        found = artifact.parts.get(part)
        if found is None:
            raise StoreError(
                f"{artifact.kind} {artifact.key} has no part {part!r}; it has "
                f"{sorted(artifact.parts)}"
            )
        home = _home(artifact, found)
        cached = f"{artifact.content}/{found.file.removeprefix(f'{artifact.draft}/')}"
        known = home in self._whole
        with self.ledger.of("loading"):
            check = _nothing if known else partial(damage, part=found)
            path = self.place.local(home, cached, check)
        self._whole.add(home)
        return path

    def folder(self, artifact: Artifact) -> Path:
        """Return a local folder with all parts under the names their writer chose."""
        if not artifact.parts:
            raise StoreError(f"{artifact.kind} {artifact.key} has no parts, so it has no folder")
        paths = [(self.path(artifact, name), part) for name, part in artifact.parts.items()]
        path, part = paths[0]
        return path.parents[part.file.count("/") - 1]

    def address(self, artifact: Artifact) -> str:
        """Return where an artifact's parts lie, a path or an address; nothing is read."""
        return f"{self.place}/{folder_name(artifact.kind, artifact.key)}/{artifact.draft}"

    def verify(self, artifact: Artifact) -> Words:
        """Read every part where it lies, and say in words which are missing or damaged."""
        wrong = []
        for name, part in artifact.parts.items():
            where = _home(artifact, part)
            with self.place.opened(where) as path:
                found = "it is missing" if path is None else damage(path, part)
            if found is not None:
                wrong.append(f"{artifact.kind} part {name!r} ({self.place}/{where}): {found}")
        return wrong

    def sizes(self, damaged: Words | None = None) -> dict[str, Size]:
        """Return what each kind takes; for `damaged` see `list`."""
        sizes: dict[str, Size] = {}
        for artifact in self.list(damaged=damaged):
            old = sizes.get(artifact.kind, Size())
            sizes[artifact.kind] = Size(
                old.artifacts + 1, old.bytes + artifact.bytes, old.rows + artifact.rows
            )
        return sizes

    def remove(self, kind: str, key: str) -> None:
        """Remove an artifact; it is made again when somebody next asks for it."""
        try:
            artifact = self.find(kind, key)
        except StoreError:
            artifact = None
        self._refuse_looking()
        # First the manifest: what lacks one does not exist, and `sweep` removes its parts.
        self.place.remove(manifest_name(kind, key))
        if artifact is not None:
            self.place.remove_folder(f"{folder_name(kind, key)}/{artifact.draft}")

    def sweep(self, older_than_seconds: float) -> Words:
        """Remove what dead writers left, if it is older than that; return what was removed.

        A draft whose writer lives on a host that shares the lock files is never touched. In an
        object store there are no locks: the age is that of the youngest file beside the draft,
        and a living writer renews its claim there every two seconds, so a minute is safe.
        """
        self._refuse_looking()
        return sweep(self.place, self.find, older_than_seconds)

    def _make(
        self, kind: str, key: str, inputs: dict[str, Any], make: Make
    ) -> tuple[Artifact, bool]:
        with drafted(self.place.drafts, ledger=self.ledger) as draft:
            facts = _run(make, draft)
            with self.ledger.of("writing"):
                parts = draft.parts()
                artifact = Artifact(
                    kind, key, inputs, facts, parts, contents_hash(parts), draft.folder.name
                )
                return self._commit(draft, artifact)

    def _commit(self, draft: Draft, artifact: Artifact) -> tuple[Artifact, bool]:
        kind, key = artifact.kind, artifact.key
        data = manifest(artifact)
        artifact = read_manifest(data, kind, key)  # exactly what every reader will get
        home = f"{folder_name(kind, key)}/{artifact.draft}"
        try:
            self.place.adopt(draft.folder, home, artifact.content)
        except StoreError:
            with suppress(StoreError):
                self.place.remove_folder(home)
            raise
        if self.place.create(manifest_name(kind, key), data):
            self._whole.update(_home(artifact, part) for part in artifact.parts.values())
            return artifact, True
        self.place.remove_folder(home)
        winner = self.find(kind, key)
        if winner is None:
            raise StoreError(f"{kind} {key} was removed while it was being made; run again")
        if winner.content != artifact.content:
            _log.warning("%s %s was made twice and differs; the first one stays", kind, key)
        return winner, False


class Pending:
    """The right to make one artifact, as long as its claim is held."""

    def __init__(
        self, store: Store, kind: str, key: str, inputs: dict[str, Any], claim: Claim
    ) -> None:
        self._store, self._claim = store, claim
        self._of = (kind, key, inputs)
        self.key = key
        claim.start()

    def __enter__(self) -> "Pending":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def make(self, make: Make) -> tuple[Artifact, bool]:
        """Make and commit it, and let the claim go; see `Store.ensure`."""
        with self:
            return self._store._make(*self._of, make)

    def release(self) -> None:
        """Let the claim go: somebody else may make it. May be called again."""
        self._claim.release()


def _nothing(_: Path) -> None:
    """Find no damage: it was looked for before."""


def _home(artifact: Artifact, part: Part) -> str:
    return f"{folder_name(artifact.kind, artifact.key)}/{part.file}"


def _place(root: str, cache: Path | None, *, write: bool) -> Place:
    if "://" in root and not root.startswith("file://"):
        return RemotePlace(root, cache, write=write)
    return LocalPlace(user_path(root.removeprefix("file://")), write=write)


def _probe(place: Place) -> None:
    """Refuse a place that lets a second writer overwrite what a first one created."""
    name = f"{PROBES}/{unique()}"
    with removed(place, name):
        first, second = place.create(name, b"first"), place.create(name, b"second")
    if not first or second:
        raise StoreError(
            f"cannot use {place} as a store: it accepts a second create-only write; choose a "
            "store that honours If-None-Match (Amazon S3 and current MinIO do)"
        )


def _run(make: Make, draft: Draft) -> dict[str, Any]:
    try:
        return make(draft)
    except OSError as error:
        if isinstance(error, StoreError) or not disk_is_full(error):
            raise
        with reported("write", draft.folder):
            raise
