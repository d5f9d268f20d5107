"""What run folders take on disk, and what of it may go: first said, then done."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...storage.errors import ConfigError, StoreError
from ...storage.files import bytes_under
from ...storage.runs import RunFolder, record_of, run_names
from ...storage.visible import visible
from .cells import count, plain, print_lines, screen, size, table
from .views import RunLine, run_lines

_RUN = ("run", "rounds", "of run", "states", "bytes of states", "all bytes")


@dataclass(frozen=True)
class FolderLine:
    """What a run folder takes, in bytes; rounds: that it asks for, None where that is not known."""

    run: str
    trained: int
    rounds: int | None
    branch_of: str | None
    states: int
    state_bytes: int
    bytes: int
    damage: str | None


def print_folders(runs: str, *, as_json: bool = False) -> None:
    """Print a line a run: rounds trained, origin, training states, bytes."""
    lines = run_lines(runs)
    if not lines:
        raise ConfigError(f"{runs}: no runs here; start one with `tip run CONFIG` or see --runs")
    folders = [_folder_line(runs, line) for line in lines]
    if as_json:
        print_lines(folders)
        return
    shown = table(_RUN, left=("run", "of run"))
    for line in folders:
        shown.add_row(
            line.run,
            f"{line.trained}/{count(line.rounds)}" if line.damage is None else "damaged",
            line.branch_of or "",
            count(line.states),
            size(line.state_bytes),
            size(line.bytes),
        )
    total = sum(line.bytes for line in folders)
    out = screen()
    out.print(shown)
    out.print(
        plain(
            f"{size(total)} in all. A state (masters, moments) is for more rounds, branches and "
            "exports in float32:\n`tip runs prune NAME` frees it. Rollouts, scores and students "
            "lie in the store: `tip cache du`."
        ),
        soft_wrap=True,
    )


def _folder_line(runs: str, line: RunLine) -> FolderLine:
    run = RunFolder(runs, line.run)
    states = run.kept_states()
    return FolderLine(
        line.run,
        line.trained,
        line.rounds,
        _origin(run),
        len(states),
        sum(map(bytes_under, states)),
        bytes_under(run.path),
        line.damage,
    )


def remove_runs(runs: str, names: Sequence[str], *, do_it: bool) -> None:
    """Remove whole run folders. Raises `ConfigError` for one that another run builds on."""
    folders = _named(runs, names)
    going = {run.name for run in folders}
    for name in run_names(runs):
        origin = _origin(RunFolder(runs, name))
        if name not in going and origin in going:
            raise ConfigError(
                f"run {origin}: run {name} shares its rounds or replays them: remove that one as "
                "well, or `tip runs prune` the first"
            )
    for run in folders:
        what = f"run {run.name}: {size(bytes_under(run.path))} in {run.path}"
        if do_it:
            with run.held():
                _remove(run.path)
        print(visible(f"{what}{' removed' if do_it else ''}"))
    _say(do_it, "its artifacts stay in the store")


def prune_runs(runs: str, names: Sequence[str], *, do_it: bool) -> None:
    """Remove the training states and snapshots of runs."""
    for run in _named(runs, names):
        states = run.kept_states()
        what = f"run {run.name}: {len(states)} states, {size(sum(map(bytes_under, states)))}"
        if do_it:
            with run.held():
                run.keep_states([])
        print(visible(f"{what}{' removed' if do_it else ''}"))
    _say(do_it, "what needs one later trains it again from stored signals")


def _named(runs: str, names: Sequence[str]) -> list[RunFolder]:
    folders = [RunFolder(runs, name) for name in dict.fromkeys(names)]
    for run in folders:
        if run.name not in run_names(runs):
            record_of(run)  # says what is there
    return folders


def _origin(run: RunFolder) -> str | None:
    """Return the run that this one branched off, or replays; of a damaged one nobody knows."""
    try:
        began, about = run.branch(), run.about()
    except StoreError:
        return None
    if began is not None:
        return began[0]
    rollout = {} if about is None else about.config.get("rollout")
    return rollout.get("replay") if isinstance(rollout, dict) else None


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be removed whole ({error.strerror or error})") from error


def _say(done: bool, stays: str) -> None:
    print(stays if done else f"nothing was removed: say --yes to do it; {stays}")
