"""A folder sent to a repository of the Hugging Face hub, in one commit or not at all.

`HfApi.upload_folder` would do, but for one thing: where hf_xet is installed it commits a large
folder in batches, and one that is broken off leaves a repository with half of a model. Here the
files are uploaded first, and one commit, the last request, makes them and drops what was there.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...storage.errors import ConfigError, StoreError

Kind = Literal["model", "dataset"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OF_THE_HUB = (".gitattributes",)  # made with a repository, kept by every commit
_REFUSED = (401, 403)


@dataclass(frozen=True)
class There:
    """What lies in a repository: its commit, its files, and the run that its card names."""

    commit: str | None
    files: tuple[str, ...]
    run: str | None


def check_name(name: str) -> None:
    """Raise `ConfigError` for what is no name of a repository."""
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise ConfigError(
            f"{name}: expected OWNER/NAME of a repository, of letters, digits, '.', '_' and '-'"
        )


def send(
    folder: Path, name: str, kind: Kind, *, what: str, private: bool, replace: bool, run: str
) -> str:
    """Send a folder's files as the whole of a repository; return where it is.

    The repository is made where there is none. One that holds anything else than what the same run
    sent before is refused without `replace`. what: named in the commit. run: the id that the
    folder's card names. The token is
    the one of huggingface_hub: of HF_TOKEN, or as `hf auth login` left it. Raises a `TipError` of
    one line for what keeps it from being sent; then nothing of the folder is in the repository.
    """
    check_name(name)
    api = _client(name)
    with _told(name, api.endpoint):
        there = _look(api, name, kind)
        if there is not None:
            _refuse_another(name, there, run, replace=replace)
        else:
            api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
            there = _look(api, name, kind) or There(None, (), None)
        files = _files(folder)
        message = f"{what}, sent by tip"
        operations = [*_deletions(there, files), *_additions(folder, files)]
        done = api.create_commit(
            name, operations, commit_message=message, repo_type=kind, parent_commit=there.commit
        )
    return str(done.repo_url)


def listed(folder: Path) -> list[tuple[str, int]]:
    """Return the names and sizes in bytes of what would be sent."""
    return [(name, (folder / name).stat().st_size) for name in _files(folder)]


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _client(name: str) -> Any:
    from huggingface_hub import HfApi, constants, get_token

    if constants.is_offline_mode():
        raise ConfigError(
            f"{name}: HF_HUB_OFFLINE is set, so nothing is sent: unset it, or see what would be "
            "sent with --dry-run"
        )
    if get_token() is None:
        raise ConfigError(
            f"{name}: no token of the hub: set HF_TOKEN to one that may write, or log in with "
            "`hf auth login`"
        )
    return HfApi(library_name="tip")


def _look(api: Any, name: str, kind: Kind) -> There | None:
    """Return what lies in a repository, None where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(name, repo_type=kind)
    except RepositoryNotFoundError as error:
        if error.response.status_code in _REFUSED:
            raise
        return None
    files = tuple(s.rfilename for s in info.siblings or () if s.rfilename not in _OF_THE_HUB)
    card = info.card_data.to_dict() if info.card_data is not None else {}
    return There(info.sha, files, card.get("tip_run"))


def _refuse_another(name: str, there: There, run: str, *, replace: bool) -> None:
    if there.files and there.run != run and not replace:
        whose = "no run's" if there.run is None else f"run {there.run}'s"
        raise ConfigError(
            f"{name}: holds {len(there.files)} files already, and its card is {whose}: name "
            "another repository, or replace all that is there with --yes"
        )


def _deletions(there: There, files: Sequence[str]) -> list[Any]:
    from huggingface_hub import CommitOperationDelete

    return [CommitOperationDelete(old) for old in there.files if old not in files]


def _additions(folder: Path, files: Sequence[str]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd

    return [CommitOperationAdd(name, str(folder / name)) for name in files]


@contextmanager
def _told(name: str, endpoint: str) -> Iterator[None]:
    """Turn what the hub or the way to it refuses into one line that names the way out."""
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # httpx's or httpx2's, by version
    )

    try:
        yield
    except ConfigError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        status = _status(error)
        reason = " ".join(str(error).split())[:300]
        if status in _REFUSED:
            raise ConfigError(
                f"{name}: {endpoint} refuses the token ({status}): use one that may write to "
                f"{name.partition('/')[0]}'s repositories, and check the name"
            ) from error
        if status in (409, 412):
            raise StoreError(
                f"{name}: somebody else has changed it meanwhile, so nothing was committed: look "
                "at it, and send again"
            ) from error
        if status is not None:
            raise StoreError(
                f"{name}: {endpoint} answers {status} ({reason}); nothing was committed: send again"
            ) from error
        raise StoreError(
            f"{name}: {endpoint} cannot be reached, or broke off ({reason}); nothing was "
            "committed: check the network and HF_ENDPOINT, and send again"
        ) from error


def _status(error: BaseException) -> int | None:
    """Return the status of an answer of the hub in an error, or in what it was raised from."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code
        if error.__cause__ is None:
            return None
        error = error.__cause__
    return None
