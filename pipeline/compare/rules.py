"""`tip rules`: what ranks tokens, in SQL, and what it would choose on a run that is there."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..show.options import AsJson


class _Rules(TyperGroup):
    """Lets an option begin a command of its own: `tip rules --run RUN [RULE ...]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for place, arg in enumerate(args):
            if arg.partition("=")[0] == "--run":
                run, after = arg.split("=", 1)[1:], args[place + 1 :]
                args = ["on", *(run or after[:1]), *args[:place], *(after if run else after[1:])]
                break
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Rules)


@app.callback()
def rules(context: typer.Context, as_json: AsJson = False) -> None:
    """List the selection rules: what each ranks tokens by, and where it comes from.

    What rules would choose on a run that is there, without training (tokens, their share of the
    divergence, types, places, tokens in common, by round):

    tip rules --run RUN [RULE ...] [--keep 0.2] [--count 1] [--round 3]
    """
    from ..show.listing import print_rules

    if context.invoked_subcommand is None:
        print_rules(as_json=as_json)


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name or path of a rule.")]) -> None:
    """Print a rule's file: what it computes, its parameters and source, its SQL."""
    from ...stages.select.rulebook import load_rule

    typer.echo(load_rule(name).file.rstrip())


@app.command("on", hidden=True)
def on(
    run: Annotated[str, typer.Argument(help="Whose rounds.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE]...", help="Names or .sql files.")
    ] = None,
    keep: Annotated[
        str, typer.Option("--keep", help="Comma-separated shares (default: the run's budget).")
    ] = "",
    count: Annotated[
        str, typer.Option("--count", help="Comma-separated numbers of tokens, beside --keep.")
    ] = "",
    numbers: Annotated[
        list[int] | None, typer.Option("--round", help="Which rounds (default: all). Repeatable.")
    ] = None,
    runs: Annotated[str, typer.Option("--runs", help="Folder of run folders.")] = "runs",
) -> None:
    """Tell what rules would choose on the rounds of a run, beside its own rule and random tokens.

    tip rules --run RUN [RULE ...]
    """
    from .on_run import print_choices
    from .rows import numbers_of_tokens, shares

    chosen = [words.split(",") if words else [] for words in (keep, count)]
    budgets = [*shares(chosen[0]), *numbers_of_tokens(chosen[1])]
    print_choices(run, runs, names or [], budgets, numbers)
