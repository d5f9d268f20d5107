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
from .pipeline.compare.rules import app as rules_app
from .pipeline.sharing.commands import Rounds
from .pipeline.sharing.commands import app as cache_app
from .pipeline.show.options import AsJson, Runs
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
Changes = Annotated[
    list[str],
    typer.Option(
        "--set", help="Change a setting: --set train.lr=1e-5. Repeatable.", metavar="KEY=VALUE"
    ),
]
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
        keeps=_split(keep or ("" if count else "0.5,0.2,0.1")),
        counts=_split(count),
        vary=vary,
        factors=lr.split(","),
        metrics=_split(metric),
        seeds=seeds,
        workers=workers,
        oracle_rollouts=oracle,
        output=output,
        dry=dry,
    )


@app.command()
def export(
    origin: Annotated[str, typer.Argument(help="A run, after N rounds.", metavar="RUN[@N]")],
    folder: Annotated[str, typer.Argument(help="A new folder.", metavar="FOLDER")],
    adapter: Annotated[bool, typer.Option("--adapter", help="The LoRA adapter alone.")] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16, float16.")
    ] = None,
    runs: Runs = "runs",
) -> None:
    """Write a trained student as a model folder that transformers and vLLM load.

    Whole, as the store has it: tip export RUN FOLDER (after all rounds; RUN@3: after three). In
    another type: --dtype float32; for peft: --adapter. Both take the float32 masters of the run's
    training state, which is kept of the last train.keep_states rounds.
    """
    from .pipeline.export import export_and_show

    export_and_show(origin, folder, runs, adapter=adapter, dtype=dtype)


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
def push(
    origin: Annotated[str, typer.Argument(help="A run, after N rounds.", metavar="RUN[@N]")],
    repository: Annotated[
        str, typer.Argument(help="A repository of the hub.", metavar="OWNER/NAME")
    ],
    private: Annotated[bool, typer.Option("--private", help="A new one is private.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="The LoRA adapter alone.")] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16, float16.")
    ] = None,
    signals: Annotated[
        bool, typer.Option("--signals", help="Not the student: the run's signals, as a data set.")
    ] = False,
    rounds: Rounds = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Replace what another run or person put there.")
    ] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only list what would be sent.")] = False,
    runs: Runs = "runs",
) -> None:
    """Send a trained student with its model card to the Hugging Face hub, in one commit.

    What is sent is what tip export writes; with --signals what tip cache export does. The token is
    that of HF_TOKEN, or as `hf auth login` left it; it is never shown or stored.
    """
    from .pipeline.sharing.push import Push, push_signals, push_student

    if signals and (adapter or dtype):
        raise ConfigError("--signals sends tables, no weights: leave --adapter and --dtype out")
    if rounds is not None and not signals:
        raise ConfigError(f"--rounds {rounds} chooses signals: add --signals, or name RUN@N")
    how = Push(repository, runs, private=private, replace=yes, dry=dry)
    if signals:
        push_signals(origin, how, rounds)
    else:
        push_student(origin, how, adapter=adapter, dtype=dtype)


@app.command()
def track(
    name: Annotated[str, typer.Argument(help="A run that is not being played.", metavar="RUN")],
    to: Annotated[
        str, typer.Option("--to", help="With commas: tensorboard, mlflow, wandb, trackio.")
    ] = "",
    project: Annotated[
        str | None, typer.Option("--project", help="Instead of the config's track.project.")
    ] = None,
    runs: Runs = "runs",
) -> None:
    """Tell trackers what they have not been told of a run: what was missed, or all of it."""
    from .pipeline.tracking.follow import track as tell
    from .storage.runs import RunFolder

    tell(RunFolder(runs, name), _split(to), project)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where its files go.")] = Path("demo"),
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of each run.")] = 10,
) -> None:
    """Watch a built-in student learn from a built-in teacher, in a minute and a half."""
    from .pipeline.demo.show import show

    show(folder, rounds)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="A run; none: all runs.")] = None,
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Show what runs have done: accuracy, loss, tokens and costs by round."""
    from .pipeline.show.status import print_run, print_runs
    from .storage.runs import RunFolder

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
    from .pipeline.inspect.command import inspect

    inspect(
        name,
        runs,
        round_number=round_number,
        rollout=rollout,
        find=find,
        top=top,
        where=where,
        rules=_split(rules),
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
    from .pipeline.report.command import Request, report

    request = Request(names, runs, rollouts, rules, student)
    if serve_it:
        from .pipeline.report.serve import serve

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
    from .pipeline.show.query import print_query

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
    from .pipeline.show.config import print_difference, print_settings

    if diff is not None:
        print_difference(*diff)
    else:
        print_settings(word, changes, as_json=as_json)


def _split(words: str) -> list[str]:
    return words.split(",") if words else []


def _load(config: Path, changes: list[str], name: str | None) -> "RunConfig":
    from .pipeline.config.toml import load_config

    return load_config(config, changes, name)


def _session(config: Path, changes: list[str], name: str | None) -> "Session":
    from .pipeline.progress import Reporter
    from .pipeline.session import open_session

    return open_session(_load(config, changes, name), Reporter())


if __name__ == "__main__":
    main()
