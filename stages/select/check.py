"""Whether a selection can be made at all: shown before any work, on tables without rows."""

from pathlib import Path

from ...storage.columns import ROLLOUTS, TOKENS, schema
from ...storage.errors import ConfigError, InputError
from ...storage.scratch import scratch
from ...storage.store.places import reported
from ...storage.tables import write_table
from .select import select
from .settings import SelectSettings


def check_selection(settings: SelectSettings) -> None:
    """Show that a rule and its conditions can be used.

    Raises what `select` raises, and `ConfigError` where they ask for rewards: no rollout has one,
    so a weight that is made of them is null and the round could not be trained on.
    """
    with scratch() as folder:
        paths = {}
        for name, columns in (("tokens", TOKENS), ("rollouts", ROLLOUTS)):
            paths[name] = folder / f"{name}.parquet"
            with reported("write", folder):
                write_table(paths[name], schema(columns).empty_table(), columns)
        try:
            # without these columns DuckDB itself finds who asks for them, whatever the SQL is like
            _try(paths, settings, rewards=False)
        except InputError as error:
            _try(paths, settings, rewards=True)  # raises where something else is wrong
            who = str(error).partition(": ")[0]
            raise ConfigError(
                f"{who} asks for `reward` or `pass_rate`, which are null in every rollout: nothing "
                "gives rewards yet; leave them out, the other columns of `rollouts` have values"
            ) from error


def _try(paths: dict[str, Path], settings: SelectSettings, *, rewards: bool) -> None:
    select(
        [paths["tokens"]],
        [paths["rollouts"]],
        settings,
        seed=0,
        vocabulary=2,
        threads=1,
        rewards=rewards,
    )
