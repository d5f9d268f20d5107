"""`tip runs`: what run folders take, and what may go."""

from typing import Annotated

import typer

from .options import AsJson, Runs

Names = Annotated[list[str], typer.Argument(help="Names of runs.", metavar="NAME...")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, say what would go.")]

app = typer.Typer(no_args_is_help=True, help="Look after run folders: sizes, what may go.")


@app.command("ls")
def ls(runs: Runs = "runs", as_json: AsJson = False) -> None:
    """List runs: how far they are, what their folders take."""
    from .housekeeping import print_folders

    print_folders(runs, as_json=as_json)


@app.command("rm")
def rm(names: Names, runs: Runs = "runs", yes: Yes = False) -> None:
    """Remove run folders; rollouts, scores and students stay in the store.

    A run whose rounds another run shares is kept, unless that one goes as well.
    """
    from .housekeeping import remove_runs

    remove_runs(runs, names, do_it=yes)


@app.command("prune")
def prune(names: Names, runs: Runs = "runs", yes: Yes = False) -> None:
    """Remove training states; what needs one later trains it again from stored signals.

    More rounds, a branch, an export in float32: each trains the run's rounds again first.
    """
    from .housekeeping import prune_runs

    prune_runs(runs, names, do_it=yes)
