"""Commands that look: what runs have done, what is in their tables, what settings there are.

Nothing heavy is imported before a command needs it.
"""

from pathlib import Path
from typing import Annotated

import typer

from ...storage.errors import ConfigError
from ..show.options import AsJson, Changes, Runs, split

app = typer.Typer()


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="A run; none: all runs.")] = None,
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Show what runs have done: accuracy, loss, tokens, costs; what the seconds went into."""
    from ...storage.runs import RunFolder
    from ..show.status import print_run, print_runs

    if name is None:
        print_runs(runs, as_json=as_json)
    else:
        print_run(RunFolder(runs, name), as_json=as_json)


@app.command()
def inspect(
    name: Annotated[str, typer.Argument(help="A run.", metavar="RUN")],
    round_number: Annotated[
        int | None, typer.Option("--round", min=0, help="Which round (default: the last scored).")
    ] = None,
    rollout: Annotated[
        int | None, typer.Option("--rollout", min=0, help="Which rollout of the round, from 0.")
    ] = None,
    find: Annotated[
        str | None, typer.Option("--find", help="Rollouts whose prompt or response hold a text.")
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="So many most important tokens, in context.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="Tokens that fulfil a condition, in context.")
    ] = None,
    rules: Annotated[
        str, typer.Option("--rules", help="Comma-separated: which of them would choose each token.")
    ] = "",
    by: Annotated[str, typer.Option("--by", help="Column that colours a rollout.")] = "reverse_kl",
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Write what is shown: .parquet, .csv, .json or .jsonl."),
    ] = None,
    runs: Runs = "runs",
) -> None:
    """Look at tokens: a rollout in colours, or those that matter most and what the teacher wanted.

    tip inspect RUN; tip inspect RUN --find apples; tip inspect RUN --top 20 --rules q3,ier;
    tip inspect RUN --where "type = 'Q3' AND reverse_kl > 2"
    """
    from ..inspect.command import inspect

    inspect(
        name,
        runs,
        round_number=round_number,
        rollout=rollout,
        find=find,
        top=top,
        where=where,
        rules=split(rules),
        by=by,
        export=export,
    )


@app.command()
def report(
    names: Annotated[
        list[str],
        typer.Argument(help="Runs, or folders that `tip compare` wrote.", metavar="RUN..."),
    ],
    rollouts: Annotated[
        int | None,
        typer.Option(
            "--rollouts", min=1, help="Rollouts in it, of all runs (default: 64; a bundle: 1000)."
        ),
    ] = None,
    rules: Annotated[
        str,
        typer.Option(
            "--rules",
            help="Comma-separated rules that say what they would choose; all: every built-in one "
            "(default: a few).",
        ),
    ] = "",
    student: Annotated[
        bool | None,
        typer.Option(
            "--student/--no-student",
            help="Have the rounds' students read the shown rollouts again, for the probabilities "
            "of all their candidates (default: where they are small).",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="The file (default: report-RUN.html here).")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="A new folder, for more rollouts: read when looked at."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    serve_it: Annotated[
        bool,
        typer.Option("--serve", help="Serve it to this machine, fresh while the run goes on."),
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="With --serve; 0: any that is free.")
    ] = 0,
    runs: Runs = "runs",
) -> None:
    """Show runs or comparisons as one HTML page that needs no network: alarms, plane, rollouts.

    Where the tokens lie in student entropy and reverse KL, rollouts token by token with what both
    models would have said, curves, costs, settings. docs/REPORT.md says how to read it.
    """
    from ..report.command import Request, report

    request = Request(names, runs, rollouts, rules, student)
    if serve_it:
        from ..report.serve import serve

        if output is not None or bundle is not None:
            raise ConfigError("--serve writes no file: leave out --output and --bundle")
        serve(request, port, open_it=open_it)
        return
    report(request, output, bundle, open_it=open_it)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over a run's tables.")],
    name: Annotated[str, typer.Option("--run", help="Whose tables.")],
    numbers: Annotated[
        list[int] | None, typer.Option("--round", help="Which rounds (default: all). Repeatable.")
    ] = None,
    runs: Runs = "runs",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write .parquet, .csv, .json or .jsonl."),
    ] = None,
    as_json: AsJson = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=0.001,
            help="Seconds until it is broken off (default: those that a selection may take).",
        ),
    ] = None,
) -> None:
    """Ask a run's tables in SQL, e.g. "SELECT round, avg(reverse_kl) FROM tokens GROUP BY 1".

    tokens, rollouts, selection, teacher and evaluation have the columns of docs/TABLES.md, and
    `round`; a token has its `type` and its `text`, a rollout its `prompt` and `response`.
    """
    from ..show.query import print_query

    print_query(query, name, numbers, runs, output, timeout, lines=as_json)


@app.command()
def config(
    word: Annotated[
        str | None,
        typer.Argument(help="A section, a setting or a TOML file; none: all settings."),
    ] = None,
    changes: Changes = [],  # noqa: B006
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--diff", help="Where two config files differ.", metavar="A B"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look up settings: default, values, meaning; or what a config file sets.

    tip config train; tip config train.lr; tip config my.toml; tip config --diff a.toml b.toml
    """
    from ..show.config import print_difference, print_settings

    if diff is not None:
        print_difference(*diff)
    else:
        print_settings(word, changes, as_json=as_json)
