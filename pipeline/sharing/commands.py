"""`tip cache export` and `tip cache import`, beside the other commands of the store."""

from typing import Annotated

import typer

from ..show.cache import app
from ..show.options import Runs, StoreRoot

__all__ = ["Rounds", "app"]

Rounds = Annotated[
    str | None,
    typer.Option("--rounds", help="Which, such as 0-3 or 0,2 (default: all that are scored)."),
]


@app.command("export")
def export(
    run: Annotated[str, typer.Argument(help="Whose signals.", metavar="RUN")],
    folder: Annotated[str, typer.Argument(help="A new folder.", metavar="FOLDER")],
    rounds: Rounds = None,
    runs: Runs = "runs",
) -> None:
    """Write a run's rollouts, teacher signals and token tables as a data set for others.

    With what made them, hashes and a data card: a folder that tip cache import takes, and that the
    hub shows, polars and datasets read.
    """
    from .signals import export_signals

    export_signals(run, folder, runs, rounds)


@app.command("import")
def import_(
    folder: Annotated[str, typer.Argument(help="As tip cache export wrote it.", metavar="FOLDER")],
    store: StoreRoot = "store",
) -> None:
    """Take a folder of signals into the store: a run of the same config then scores nothing.

    Everything is checked first; of a folder that is damaged or not whole nothing is taken.
    """
    from .taking import import_signals

    import_signals(folder, store)
