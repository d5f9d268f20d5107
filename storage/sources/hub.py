"""The Parquet copy that the Hugging Face hub keeps of a data set.

It lies on the branch `refs/convert/parquet` as `<configuration>/<split>/<part>.parquet`; a split
that the hub converted only in part is named `partial-<split>` there and must be asked for by that
name. `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and the cache are huggingface_hub's own affair.
"""

import glob
from pathlib import Path, PurePosixPath

from ..errors import InputError

BRANCH = "refs/convert/parquet"


def parquet_files(name: str, subset: str | None, split: str, *, section: str) -> list[Path]:
    """Return the local Parquet files of one split, in order, downloading what the cache lacks.

    `section` names the config section of the data set in errors. Raises `InputError` if the hub
    has no such data set, configuration or split, or if neither hub nor cache can be read.
    """
    # A config with a local file needs no hub client, and importing it costs 0.3 s.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # httpx's or httpx2's, by version
    )

    try:
        chosen = _choose(_listed(name), name, subset, split, section)
        folder = snapshot_download(
            name,
            repo_type="dataset",
            revision=BRANCH,
            allow_patterns=[glob.escape(path) for path in chosen],
        )
    except (OSError, HTTPError) as error:
        raise InputError(
            f"data set {name!r} cannot be read: tried {constants.ENDPOINT}, branch {BRANCH}, and "
            f"the cache {constants.HF_HUB_CACHE} ({_one_line(error)}); check the name, HF_ENDPOINT "
            f"and HF_TOKEN, or name a local file: --set {section}.source=FILE"
        ) from error
    return [Path(folder, path) for path in chosen]


def _listed(name: str) -> list[str]:
    """Return the paths on the branch; without a hub, those that lie in the cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # httpx's or httpx2's, by version
        LocalEntryNotFoundError,
    )

    try:
        # Not list_repo_files: that one tries an unreachable hub for 24 s.
        files = HfApi().dataset_info(name, revision=BRANCH).siblings or []
        return [file.rfilename for file in files]
    except (OSError, HTTPError) as unreachable:
        try:
            # No pattern, no file asked for: the call only says where the cached copy lies.
            folder = Path(
                snapshot_download(
                    name,
                    repo_type="dataset",
                    revision=BRANCH,
                    allow_patterns=[],
                    local_files_only=True,
                )
            )
        except LocalEntryNotFoundError:
            raise unreachable from None
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]


def _choose(paths: list[str], name: str, subset: str | None, split: str, section: str) -> list[str]:
    """Return the files of one configuration and split, sorted by name."""
    files: dict[tuple[str, str], list[str]] = {}
    for path in sorted(paths):
        parts = PurePosixPath(path).parts
        if path.endswith(".parquet") and len(parts) == 3:
            files.setdefault((parts[0], parts[1]), []).append(path)
    if subset is None:
        subset = _only_subset([key[0] for key in files if key[1] == split], name, section)
    if (subset, split) not in files:
        there = ", ".join("/".join(key) for key in files) or "nothing"
        raise InputError(
            f"data set {name!r} has no {subset}/{split}; it has {there}: set {section}.subset and "
            f"{section}.split"
        )
    return files[subset, split]


def _only_subset(subsets: list[str], name: str, section: str) -> str:
    """Return the configuration that is meant when none is named."""
    if len(subsets) == 1:
        return subsets[0]
    if not subsets or "default" in subsets:
        return "default"
    raise InputError(
        f"data set {name!r} has the configurations {', '.join(subsets)}: choose one with "
        f"{section}.subset"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
