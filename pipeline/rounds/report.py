"""One line a stage: for the person who watches, and for the record of the run."""

from ..metrics import Metrics, Spent
from ..progress import Stopwatch, peak_memory
from ..session import Session


def report(session: Session, watch: Stopwatch, text: str, metrics: Metrics) -> None:
    """Say what a stage did in one line, and record it with all its numbers."""
    seconds, spent = watch.seconds, Spent.model_validate(watch.spent)
    session.reporter.say(f"round {metrics.round:<3} {metrics.stage:<9} {text} [{seconds:.1f} s]")
    peak = peak_memory(session.device)
    line = metrics.model_copy(update={"seconds": seconds, "spent": spent, **peak})
    session.run.append(line.model_dump(mode="json", exclude_none=True))
