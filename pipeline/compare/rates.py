"""Each row at its own learning rate: one rate for all decides many a verdict.

A row is played at the config's rate times each of some factors, on a seed that no verdict is taken
from; its best rate there is the one at which the other seeds judge it. Source: arXiv 2609.22109.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import polars as pl

from ...storage.errors import ConfigError
from .measures import Measure
from .play import Outcome
from .rows import Row

TUNING_SEED = 1_000_000  # beyond every seed that a comparison counts from 0
_RATE = "train.lr"


@dataclass(frozen=True)
class Rates:
    """The learning rates of a comparison. own: the config's. factors: of it, 1 among them."""

    own: float
    factors: tuple[float, ...]

    @property
    def tuned(self) -> bool:
        """Tell whether there is anything to choose."""
        return len(self.factors) > 1

    def grid(self, row: Row) -> dict[float, Row]:
        """Return the row at each rate; at the config's it is itself."""
        return {factor: self._at(row, factor) for factor in self.factors}

    def _at(self, row: Row, factor: float) -> Row:
        if factor == 1:
            return row
        return replace(row, changes=(*row.changes, f"{_RATE}={factor * self.own:.6g}"))


def rates_of(texts: Sequence[str], own: float, rows: Sequence[Row]) -> Rates:
    """Return the rates of `--lr`. Raises `ConfigError` for what are no factors."""
    try:
        factors = tuple(dict.fromkeys(float(text) for text in texts))
    except ValueError:
        factors = ()
    if not factors or not all(0 < factor < float("inf") for factor in factors):
        raise ConfigError(
            f"--lr {','.join(texts)}: expected factors of train.lr with commas between, such as "
            "1,3,10"
        )
    varied = any(change.startswith(f"{_RATE}=") for row in rows for change in row.changes)
    if varied and factors != (1.0,):
        raise ConfigError(
            f"--vary {_RATE} and --lr both set the rate: add `--lr 1`, or leave it out"
        )
    return Rates(own, tuple(sorted({1.0, *factors})))


def best_rates(
    rates: Rates, rows: Sequence[Row], played: Mapping[Row, Outcome | None], measure: Measure
) -> dict[Row, float]:
    """Return each row's best factor. played: what each row of the grid came to; None: it failed.

    Of rates that came to the same the one nearest the config's is taken.
    """
    best = {}
    for row in rows:
        reached = {
            factor: value
            for factor, at_rate in rates.grid(row).items()
            if (outcome := played[at_rate]) is not None
            and (value := measure.of(outcome.result)) is not None
        }
        if not reached:
            raise ConfigError(
                f"row `{row.name}` came to nothing at any of the rates {_listed(rates)}: lower "
                "train.lr"
            )
        sign = -1 if measure.more_is_better else 1
        best[row] = min(reached, key=lambda f: (sign * reached[f], abs(log(f))))
    return best


def rates_table(
    rates: Rates,
    rows: Sequence[Row],
    played: Mapping[Row, Outcome | None],
    best: Mapping[Row, float],
    measure: Measure,
) -> pl.DataFrame:
    """Return what each row came to at each rate on the tuning seed, and its best rate.

    `edge`: the best rate is the smallest or largest asked for, so a better one may lie beyond.
    """
    lines = []
    for row in rows:
        line: dict[str, object] = {"row": row.name}
        for factor, at_rate in rates.grid(row).items():
            outcome = played[at_rate]
            value = None if outcome is None else measure.of(outcome.result)
            line[f"lr {factor * rates.own:.6g}"] = value
        edge = best[row] in (rates.factors[0], rates.factors[-1])
        lines.append({**line, "best lr": best[row] * rates.own, "edge": "edge" if edge else ""})
    return pl.DataFrame(lines, infer_schema_length=None)


def _listed(rates: Rates) -> str:
    return ", ".join(f"{factor * rates.own:.6g}" for factor in rates.factors)
