"""Everything that is kept, read whole and compared with what was written."""

from collections.abc import Iterator
from pathlib import Path

from ...stages.train.state import check_state
from ...storage.errors import StoreError
from ...storage.files import is_finished
from ...storage.runs import RunFolder, run_names
from ...storage.store.lineage import descendants
from ..progress import Reporter
from .listing import refuse_damage
from .stores import existing_store


def verify_store(root: str, runs: str) -> None:
    """Read everything, runs with their training states too; raise `StoreError` for what is damaged.

    What was made from something damaged is listed with it.
    """
    store, words, damaged = existing_store(root), [], []
    artifacts = list(store.list(damaged=words))
    with Reporter().bar("verify", len(artifacts), "artifacts") as tick:
        for artifact in artifacts:
            if wrong := store.verify(artifact):
                damaged.append(artifact)
                words += wrong
            tick(1)
    folders = [RunFolder(runs, name) for name in run_names(runs)]
    states = [state for run in folders for state in run.kept_states()]
    words += [text for run in folders for text in _damaged_records(run)]
    words += [text for state in states for text in _damaged_state(state)]
    refuse_damage(root, words, descendants(artifacts, damaged))
    print(f"{len(artifacts)} artifacts and {len(states)} training states, all whole")


def _damaged_records(run: RunFolder) -> Iterator[str]:
    """Say what is wrong with a run's record, its rounds and its metrics: the first of each."""
    for read in (run.about, lambda: list(run.rounds()), run.metrics):
        try:
            read()
        except StoreError as error:
            yield str(error)


def _damaged_state(state: Path) -> Iterator[str]:
    """Say what is wrong with a training state: its numbers, or that it is another training's."""
    try:
        key = check_state(state).get("key")
    except StoreError as error:
        if is_finished(state):  # else its run has dropped it meanwhile
            yield str(error)
        return
    if key not in (None, state.name.split(".")[0]):
        yield f"{state}: the training state of {key}; delete it, and that round is trained again"
