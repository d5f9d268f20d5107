"""`tip run`: a run is played to its end and shown, by this process or by those of torchrun."""

from ...stages.train.worlds.launched import FAILED, Launched, join
from ...storage.errors import ConfigError
from ...storage.runs import RunFolder
from ..config.run import RunConfig
from ..config.toml import make_config
from ..progress import Reporter
from ..rounds.branching import branch
from ..rounds.play import play
from ..session import open_session
from ..works.together import follow
from .ending import print_ending
from .live import Screen
from .status import print_run


def run_and_show(config: RunConfig, reporter: Reporter, origin: str | None) -> None:
    """Play all rounds of a config. origin: `RUN@N` where it branches off.

    Of processes that torchrun started the first does so, and the others train where it does.
    """
    hosts = join()
    if hosts is None:
        _run_and_show(config, reporter, origin)
    elif hosts.rank:
        follow(hosts)
    else:
        try:
            _run_and_show(_together(config, hosts), reporter, origin)
        except Exception:
            hosts.give(FAILED)  # those that end well make torchrun wait five minutes for this one
            raise
        hosts.give(None)


def _run_and_show(config: RunConfig, reporter: Reporter, origin: str | None) -> None:
    screen = Screen(RunFolder(config.runs, config.name), config.rounds, reporter.console)
    session = open_session(config, screen, origin)
    if origin:
        branch(session, origin)
    with screen.open():
        play(session)
    print_run(session.run)
    print_ending(session)


def _together(config: RunConfig, hosts: Launched) -> RunConfig:
    """Return a config whose trainings are those of all processes that were started."""
    asked = config.train.processes
    if asked not in (1, hosts.size):
        raise ConfigError(
            f"train.processes = {asked}, but torchrun started {hosts.size}: set the one as the "
            "other"
        )
    values = config.model_dump(mode="json", exclude_unset=True)
    values.setdefault("train", {})["processes"] = hosts.size
    return make_config(values, f"the {hosts.size} processes of torchrun")
