"""`tip cache`: look after the store of shared artifacts."""

from typing import Annotated

import typer

from .options import AsJson, Runs, StoreRoot

app = typer.Typer(no_args_is_help=True, help="Look after the store of shared artifacts.")


@app.command("ls")
def ls(
    kind: Annotated[str | None, typer.Argument(help="rollouts, teacher, tokens, ...")] = None,
    store: StoreRoot = "store",
    as_json: AsJson = False,
) -> None:
    """List artifacts: key, size, rows and what made them."""
    from .listing import print_artifacts

    print_artifacts(store, kind, as_json=as_json)


@app.command("du")
def du(store: StoreRoot = "store", runs: Runs = "runs", as_json: AsJson = False) -> None:
    """Show how much each kind of artifact takes, in all and a token, and the runs' states."""
    from .listing import print_sizes

    print_sizes(store, runs, as_json=as_json)


@app.command("verify")
def verify(store: StoreRoot = "store", runs: Runs = "runs") -> None:
    """Read everything and compare it with what was written; exit code 2 for what is damaged.

    All parts of all artifacts, and the training states of the runs. What was made from something
    damaged is listed, too: it may have been made after the damage.
    """
    from .verify import verify_store

    verify_store(store, runs)


@app.command("sweep")
def sweep(
    store: StoreRoot = "store",
    hours: Annotated[float, typer.Option("--older-than", help="Age in hours.", min=0)] = 24,
) -> None:
    """Remove what killed processes left unfinished; nothing committed is touched."""
    from .listing import sweep_store

    sweep_store(store, hours)
