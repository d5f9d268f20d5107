"""Which losses a run's supports can serve, where a rule names them token by token.

Shares of draws (`score.support = "sampled"`) hold neither the sampled token nor numbers of ids that
the student prefers, so they serve forward KL alone; `RunConfig` says so of `train.loss`.
"""

from collections.abc import Collection

from ...stages.select.rulebook import load_rule
from ...storage.errors import ConfigError
from ...storage.facts import SelectionFacts
from ..config.run import RunConfig

_SERVED = ("forward_kl", "none")


def check_losses(config: RunConfig) -> None:
    """Raise `ConfigError` for a rule whose SQL spells out a loss that the supports cannot serve."""
    _refuse(config, load_rule(config.select.rule).losses)


def check_selected(config: RunConfig, selection: SelectionFacts) -> None:
    """Raise `ConfigError` for a selection whose tokens name such a loss."""
    _refuse(config, selection.losses)


def _refuse(config: RunConfig, losses: Collection[str]) -> None:
    unfit = [loss for loss in losses if loss not in _SERVED]
    if config.score.support == "sampled" and unfit:
        raise ConfigError(
            f"rule {config.select.rule} gives tokens the loss '{unfit[0]}', but score.support = "
            "'sampled' keeps shares of draws, for forward KL alone: choose another rule, or set "
            "score.support = 'top'"
        )
