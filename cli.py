"""The command line: the only place that turns errors into exit codes.

Nothing heavy is imported before a command needs it, so `tip --help` answers at once.
"""

import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from . import __version__
from .pipeline.commands.looking import app as looking_app
from .pipeline.commands.passing_on import app as passing_on_app
from .pipeline.compare.rules import app as rules_app
from .pipeline.sharing.commands import app as cache_app
from .pipeline.show.options import AsJson, Changes, split
from .pipeline.show.runs import app as runs_app
from .stages.stopping import Terminated, obey_sigterm
from .storage.errors import ConfigError, TipError
from .storage.visible import visible

if TYPE_CHECKING:
    from .pipeline.config.run import RunConfig
    from .pipeline.session import Session


class _Commands(TyperGroup):
    """Ends with a line where it is stopped: typer would end without a word, and always with 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except Terminated:
            _end("told to end (SIGTERM)", 128 + signal.SIGTERM)
        except KeyboardInterrupt:
            _end("stopped", 128 + signal.SIGINT)


def _say(text: str, colour: str) -> None:
    typer.secho(text, fg=None if "NO_COLOR" in os.environ else colour, err=True)


def _end(why: str, code: int) -> NoReturn:
    _say(f"{why}; the same command continues", "yellow")
    sys.exit(code)


app = typer.Typer(
    name="tip",
    cls=_Commands,
    help="Distil a teacher language model into a student on its own rollouts, on the tokens that "
    "matter.\n\nA round is rollout, score, select, train. Teacher scores are stored and shared: "
    "another rule, another loss or another run costs no generation and no teacher pass. "
    "Start with: tip demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(cache_app, name="cache")
app.add_typer(runs_app, name="runs")
app.add_typer(rules_app, name="rules", invoke_without_command=True)

Config = Annotated[Path, typer.Argument(help="TOML file; examples/ has some.", metavar="CONFIG")]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of the run (default: the config's).")
]
Round = Annotated[int, typer.Option("--round", min=0, help="Which round, counted from 0.")]


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where it is closed
            stream.reconfigure(errors="backslashreplace")  # what a terminal's encoding lacks
    obey_sigterm()
    try:
        app()
    except TipError as error:
        _say(f"error: {visible(' '.join(str(error).split()))}", "red")
        sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        print(f"tip {__version__}")
        raise typer.Exit


@app.callback()
def tip(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """Do what every command shares."""


@app.command()
def run(
    config: Config,
    changes: Changes = [],  # noqa: B006  # typer reads it once and never changes it
    name: Name = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", help="Share the first N rounds of a run: RUN@N.", metavar="RUN@N"),
    ] = None,
    dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Show plan, tokens, bytes, memory and what is stored."),
    ] = False,
    card: Annotated[
        float | None,
        typer.Option(
            "--card",
            help="With --dry-run: plan memory for a GPU of so many GB (24, 40, 80, 141), not for "
            "the device that is here; what does not fit is told with what to change.",
            metavar="GB",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Play all rounds: rollout, score, select, train, and evaluate where the config says so.

    Run it again: what exists is found, what is missing is made. Stop it anywhere: the same command
    continues. With a larger `rounds` it goes further.
    """
    from .pipeline.progress import Reporter

    settings, reporter = _load(config, changes, name), Reporter()
    if dry:
        from .pipeline.show.plan import plan_and_print

        plan_and_print(settings, reporter, origin, card, as_json=as_json)
        return
    if card is not None:
        raise ConfigError("--card plans for a GPU that need not be here: add --dry-run")
    if as_json:
        raise ConfigError("--json prints a plan: add --dry-run; of a run, `tip status RUN --json`")
    from .pipeline.show.run import run_and_show

    run_and_show(settings, reporter, origin)


@app.command()
def doctor(
    config: Config,
    changes: Changes = [],  # noqa: B006
    name: Name = None,
    load: Annotated[
        bool,
        typer.Option("--load/--no-load", help="Read the weights that are here, and start vLLM."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Look at everything that can be known before a run: a line a check, exit code 2 if one fails.

    Models, tokenizers, prompts, problems, rule, engines, a teacher's server, memory and disks. A
    check that fails hides no other. Nothing is written, and nothing fetched that --dry-run would
    not fetch.
    """
    from .pipeline.doctor.show import examine_and_show

    if not examine_and_show(_load(config, changes, name), load=load, as_json=as_json):
        raise typer.Exit(2)


@app.command()
def rollout(config: Config, number: Round, changes: Changes = [], name: Name = None) -> None:  # noqa: B006
    """Sample the student's responses of one round."""
    from .pipeline.rounds.single import rollout_round

    rollout_round(_session(config, changes, name), number)


@app.command()
def score(config: Config, number: Round, changes: Changes = [], name: Name = None) -> None:  # noqa: B006
    """Score the rollouts of one round with the teacher."""
    from .pipeline.rounds.single import score_round

    score_round(_session(config, changes, name), number)


@app.command()
def select(config: Config, number: Round, changes: Changes = [], name: Name = None) -> None:  # noqa: B006
    """Select the tokens of one round."""
    from .pipeline.rounds.single import select_round

    select_round(_session(config, changes, name), number)


@app.command()
def train(config: Config, number: Round, changes: Changes = [], name: Name = None) -> None:  # noqa: B006
    """Train the student on the selected tokens of one round."""
    from .pipeline.rounds.single import train_round

    train_round(_session(config, changes, name), number)


@app.command()
def evaluate(
    config: Config,
    number: Annotated[
        int, typer.Option("--round", min=0, help="Rounds the student has been trained for.")
    ] = 0,
    changes: Changes = [],  # noqa: B006
    name: Name = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Ask the teacher instead.")] = False,
) -> None:
    """Ask the problems of the config's `evaluate` section and check the answers."""
    from .pipeline.rounds.single import evaluate_round, evaluate_teacher

    session = _session(config, changes, name)
    if teacher:
        evaluate_teacher(session)
    else:
        evaluate_round(session, number)


@app.command()
def compare(
    config: Config,
    rules: Annotated[
        str, typer.Option("--rules", help="Comma-separated names or .sql files (see tip rules).")
    ] = "soft_or,q3,entropy_top,entropy_sampled,divergence",
    keep: Annotated[
        str,
        typer.Option(
            "--keep", help="Comma-separated shares (default: 0.5,0.2,0.1, or none with --count)."
        ),
    ] = "",
    count: Annotated[
        str,
        typer.Option("--count", help="Comma-separated numbers of tokens, budgets like --keep."),
    ] = "",
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary", metavar="KEY=VALUE,...", help="A line for each value, too. Repeatable."
        ),
    ] = [],  # noqa: B006
    lr: Annotated[
        str,
        typer.Option(
            "--lr", help="Factors of train.lr: each row is judged at its best; 1: as it is."
        ),
    ] = "1,3,10",
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help="What is judged: accuracy, reverse_kl, forward_kl, jsd, agreement, with commas "
            "(default: accuracy, and reverse_kl where evaluate.reverse_kl is on). Rates are chosen "
            "by the first.",
        ),
    ] = "",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds 0 to N - 1.")] = 5,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Runs at a time.")] = 1,
    oracle: Annotated[
        int, typer.Option("--oracle", min=0, help="Rollouts to compare with the oracle; 0: none.")
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder of the tables (default: beside the runs)."),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would be played.")] = False,
    changes: Changes = [],  # noqa: B006
    name: Name = None,
) -> None:
    """Find out which tokens matter: rules x budgets x seeds, with controls and paired intervals.

    All tokens, no refresh, and at each budget random tokens and a student without a teacher (opsa)
    are always among the rows. Within a seed all rows share prompts, noise and the first round. A
    finished run is not played again.
    One learning rate for all decides many a verdict: a seed of its own tells each row's best.

    Other settings compare the same way: --rules all --vary train.loss=reverse_kl,forward_kl,jsd
    """
    from .pipeline.compare.command import compare_and_show

    compare_and_show(
        _load(config, changes, name),
        rules=rules.split(","),
        keeps=split(keep or ("" if count else "0.5,0.2,0.1")),
        counts=split(count),
        vary=vary,
        factors=lr.split(","),
        metrics=split(metric),
        seeds=seeds,
        workers=workers,
        oracle_rollouts=oracle,
        output=output,
        dry=dry,
    )


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The config to write.")] = Path("tip.toml"),
    student: Annotated[str | None, typer.Option("--student", help="Folder or hub name.")] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="The same, of its tokens.")
    ] = None,
    prompts: Annotated[str | None, typer.Option("--prompts", help="File of prompts.")] = None,
    held_out: Annotated[
        str | None, typer.Option("--held-out", help="File of problems with answers.")
    ] = None,
    card: Annotated[str | None, typer.Option("--card", help="GB of the GPU (24, 80).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file.")] = False,
) -> None:
    """Write a first config from a few answers, with a word on each line of it.

    Asks for what no option gives: student, teacher, prompts, held-out problems, card.
    """
    from .pipeline.starting import start

    given = {"student": student, "teacher": teacher, "prompts": prompts}
    start(file, {**given, "held_out": held_out, "card": card}, force=force)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where its files go.")] = Path("demo"),
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of each run.")] = 10,
) -> None:
    """Watch a built-in student learn from a built-in teacher, in a minute and a half."""
    from .pipeline.demo.show import show

    show(folder, rounds)


def _load(config: Path, changes: list[str], name: str | None) -> "RunConfig":
    from .pipeline.config.toml import load_config

    return load_config(config, changes, name)


def _session(config: Path, changes: list[str], name: str | None) -> "Session":
    from .pipeline.progress import Reporter
    from .pipeline.session import open_session

    return open_session(_load(config, changes, name), Reporter())


app.add_typer(looking_app)
app.add_typer(passing_on_app)

if __name__ == "__main__":
    main()
