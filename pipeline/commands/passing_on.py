"""Commands that pass on what a run has made: a student, signals, numbers for a tracker."""

from typing import Annotated

import typer

from ...storage.errors import ConfigError
from ..sharing.commands import Rounds
from ..show.options import Runs, split

app = typer.Typer()


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
    from ..export import export_and_show

    export_and_show(origin, folder, runs, adapter=adapter, dtype=dtype)


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
    from ..sharing.push import Push, push_signals, push_student

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
    from ...storage.runs import RunFolder
    from ..tracking.follow import track as tell

    tell(RunFolder(runs, name), split(to), project)
