"""Everything that is kept, read whole and compared with what was written."""

from ...stages.train.state import check_state
from ...storage.errors import StoreError
from ...storage.files import is_finished
from ...storage.runs import RunFolder, run_names
from ...storage.store.lineage import descendants
from ..progress import Reporter
from .listing import existing_store, refuse_damage


def verify_store(root: str, runs: str) -> None:
    """Read everything, training states of the runs too; raise `StoreError` for what is damaged.

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
    states = [state for name in run_names(runs) for state in RunFolder(runs, name).kept_states()]
    for state in states:
        try:
            check_state(state)
        except StoreError as error:
            if is_finished(state):  # else its run has dropped it meanwhile
                words.append(str(error))
    for artifact in descendants(artifacts, damaged):
        words.append(f"made from what is damaged: {artifact.kind} {artifact.key}")
    refuse_damage(root, words)
    print(f"{len(artifacts)} artifacts and {len(states)} training states, all whole")
