"""The plane of student entropy and reverse KL: how many tokens lie where."""

from dataclasses import dataclass
from html import escape

import duckdb
import polars as pl

_BINS = 32
_SIDE = 320  # pixels
_MARGIN = 40
_CELL = _SIDE / _BINS
# Square roots: most tokens lie near 0 in both, and that is where types part.
_COUNTS = """
    WITH placed AS (
        SELECT
            sqrt(greatest(student_entropy, 0)) AS x, sqrt(greatest(reverse_kl, 0)) AS y, type
        FROM tokens WHERE trainable),
    ends AS (SELECT max(x) + 1e-6 AS x_end, max(y) + 1e-6 AS y_end FROM placed)
    SELECT
        floor({bins} * x / x_end)::INTEGER AS x_bin, floor({bins} * y / y_end)::INTEGER AS y_bin,
        any_value(x_end ** 2) AS entropy_end, any_value(y_end ** 2) AS reverse_kl_end,
        count(*) AS tokens
    FROM placed CROSS JOIN ends GROUP BY ALL ORDER BY ALL
"""
_TYPES = """
    SELECT type::VARCHAR AS type, count(*) / sum(count(*)) OVER () AS share_of_tokens,
        coalesce(sum(reverse_kl) / nullif(sum(sum(reverse_kl)) OVER (), 0), 0) AS share_of_kl
    FROM tokens WHERE trainable GROUP BY type ORDER BY type
"""


@dataclass(frozen=True)
class Plane:
    """Counts of tokens by bins of equal width in square roots of nats, and types' shares.

    counts: x_bin of student entropy and y_bin of reverse KL, from 0; entropy_end, reverse_kl_end:
    nats at the last bins' ends. types: share of tokens and of reverse KL.
    """

    run: str
    round: int | None
    counts: pl.DataFrame
    types: pl.DataFrame

    def _repr_html_(self) -> str:
        return self.html()

    def html(self) -> str:
        """Return the plane as a picture (SVG): the darker, the more tokens, by their logarithm."""
        if self.counts.is_empty():
            return "<p>no trainable token</p>"
        most = float(self.counts["tokens"].cast(pl.Float64).log1p().max() or 1.0)  # pyright: ignore
        cells = []
        for x, y, *_, tokens in self.counts.iter_rows():
            strength = float(pl.Series([tokens]).cast(pl.Float64).log1p()[0]) / most
            cells.append(
                f'<rect x="{_MARGIN + x * _CELL:.1f}" y="{_SIDE - (y + 1) * _CELL:.1f}" '
                f'width="{_CELL:.1f}" height="{_CELL:.1f}" fill="rgba(0,114,178,{strength:.2f})">'
                f"<title>{tokens:,} tokens</title></rect>"
            )
        right, top = (float(self.counts[n][0]) for n in ("entropy_end", "reverse_kl_end"))
        which = "all rounds" if self.round is None else f"round {self.round}"
        shares = ", ".join(
            f"{kind} {tokens:.1%} of tokens, {kl:.1%} of KL"
            for kind, tokens, kl in self.types.iter_rows()
            if kind is not None
        )
        words = (
            (0, _SIDE + 16, "start", "0"),
            (_SIDE, _SIDE + 16, "end", f"student entropy, {right:.3g} nats"),
            (-4, 10, "end", f"{top:.3g}"),
            (4, 12, "start", "reverse KL, nats"),
        )
        labels = "".join(
            f'<text x="{_MARGIN + x}" y="{y}" text-anchor="{anchor}" font-size="11" '
            f'fill="currentColor">{escape(word)}</text>'
            for x, y, anchor, word in words
        )
        frame = (
            f'<rect x="{_MARGIN}" y="0" width="{_SIDE}" height="{_SIDE}" fill="none" '
            'stroke="currentColor" stroke-opacity=".4"/>'
        )
        return (
            f"<div>{escape(self.run)}, {which}: {escape(shares)}<br>"
            f'<svg width="{_SIDE + _MARGIN + 8}" height="{_SIDE + 24}" role="img" '
            f'aria-label="tokens by student entropy and reverse KL">'
            f"{''.join(cells)}{frame}{labels}</svg></div>"
        )


def plane_of(connection: duckdb.DuckDBPyConnection, run: str, number: int | None) -> Plane:
    """Return the plane of the view `tokens`. number: its round, None for all."""
    counts = connection.sql(_COUNTS.format(bins=_BINS)).to_arrow_table()
    types = connection.sql(_TYPES).to_arrow_table()
    return Plane(run, number, pl.DataFrame(counts), pl.DataFrame(types))
