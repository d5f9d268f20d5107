"""One rollout: a frame of its tokens, and a text in colours for a notebook."""

from dataclasses import dataclass
from html import escape

import duckdb
import polars as pl

from ...storage.errors import ConfigError
from ...storage.visible import visible
from ..show.texts import Texts

_TOKENS = """
    SELECT t.* EXCLUDE (round, rollout), s.rollout IS NOT NULL AS selected, s.weight, s.importance
    FROM tokens t LEFT JOIN selection s USING (round, rollout, position)
    WHERE t.rollout = {rollout} ORDER BY position
"""
_SHOWN = ("student_entropy", "teacher_entropy", "reverse_kl", "student_logprob", "teacher_logprob")
_ROBUST = 0.98  # the share of tokens whose colours differ; beyond they are as strong as it gets


@dataclass(frozen=True)
class Rollout:
    """A rollout. rollout: its id in the tables. tokens: a row a token, `selected` among them."""

    run: str
    round: int
    number: int
    rollout: int
    prompt: str
    tokens: pl.DataFrame

    @property
    def response(self) -> str:
        """Return what the student wrote."""
        return "".join(self.tokens["text"])

    def __str__(self) -> str:
        return visible(f"{self.prompt}{self.response}")

    def _repr_html_(self) -> str:
        return self.html()

    def html(self, colour: str = "reverse_kl") -> str:
        """Return the text with each token's number as its colour; what was selected is underlined.

        What a model wrote is text in it, never markup.
        """
        if colour not in self.tokens.columns or not self.tokens[colour].dtype.is_numeric():
            numbers = [n for n, kind in self.tokens.schema.items() if kind.is_numeric()]
            raise ConfigError(f"{colour}: no column of numbers; choose from {', '.join(numbers)}")
        most = self.tokens[colour].quantile(_ROBUST) or 0.0
        spans = [_span(row, colour, float(most)) for row in self.tokens.iter_rows(named=True)]
        about = f"{self.run}, round {self.round}, rollout {self.number}: {colour} 0 to {most:.3g}"
        return (
            f'<div style="font-family:monospace;white-space:pre-wrap;line-height:1.7">'
            f'<div style="opacity:.7">{escape(about)}; underlined: selected</div>'
            f'<span style="opacity:.6">{_text(self.prompt)}</span>{"".join(spans)}</div>'
        )


def rollout_of(
    connection: duckdb.DuckDBPyConnection, texts: Texts, run: str, number: int, place: int
) -> Rollout:
    """Return a round's rollout by its place. Raises `ConfigError` where there are not so many."""
    found = connection.execute("SELECT rollout, prompt FROM rollouts ORDER BY rollout").fetchall()
    if not 0 <= place < len(found):
        raise ConfigError(
            f"round {number} of run {run} has {len(found)} rollouts; expected 0 to {len(found) - 1}"
        )
    rollout, prompt = found[place]
    tokens = pl.DataFrame(connection.sql(_TOKENS.format(rollout=int(rollout))).to_arrow_table())
    tokens = tokens.with_columns(text=pl.Series(texts.in_order(tokens["token"].to_list())))
    return Rollout(run, number, place, rollout, prompt, tokens)


def _span(row: dict, colour: str, most: float) -> str:
    strength = min(1.0, max(0.0, (row[colour] or 0.0) / most)) if most > 0 else 0.0
    line = ";text-decoration:underline;text-decoration-thickness:2px" if row["selected"] else ""
    title = ", ".join(f"{name} {row[name]:.4g}" for name in _SHOWN)
    title = f"{row['position']}: {row['type']}, {title}, rank {row['teacher_rank']}"
    return (
        f'<span title="{escape(title)}" style="background:rgba(213,94,0,{strength:.2f}){line}">'
        f"{_text(row['text'])}</span>"
    )


def _text(text: str) -> str:
    return escape(visible(text))
