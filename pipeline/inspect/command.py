"""`tip inspect`: one rollout in colours, or the tokens that matter most, as tables."""

from collections.abc import Sequence
from math import exp
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.text import Text

from ...storage.errors import ConfigError
from ...storage.runs import RunFolder
from ...storage.visible import visible
from ..compare.choices import scored_round
from ..compare.on_run import looked_at
from ..compare.rows import budget_of
from ..show.cells import number, percent, plain, screen, table
from ..show.query import write_frame, writer_of
from ..show.tables import RunTables
from .tokens import Found, most_important, numeric, rollouts_of, tokens_of

_Places = set[tuple[int, int]]

_KINDS = ("tokens", "rollouts", "selection", "teacher")
_LISTED = 20  # rollouts that a search shows
_WORST = 5  # tokens below a rollout
_ROBUST = 0.98  # share of the tokens whose colours differ
_SHADES = 6


def inspect(
    name: str,
    runs: str,
    *,
    round_number: int | None,
    rollout: int | None,
    find: str | None,
    top: int | None,
    where: str | None,
    rules: Sequence[str],
    by: str,
    export: Path | None,
    out: Console | None = None,
) -> None:
    """Show tokens of a run's round (its last scored one where None).

    Raises `TipError` for what is not there. Nothing is written but `export`.
    """
    tokens_alone = top is not None or where is not None
    if tokens_alone and (find is not None or rollout is not None):
        raise ConfigError(
            "--top and --where show tokens of all rollouts, --find and --rollout one rollout: give "
            "one of both; --where 'rollout = N' is a condition as well"
        )
    writer = None if export is None else writer_of(export, "--export")
    run = RunFolder(runs, name)
    chosen = _last_scored(run) if round_number is None else round_number
    out = out or screen()
    tables = RunTables(run, (chosen,))
    with tables.opened(_KINDS) as connection:
        picked = _chosen_by(name, runs, chosen, rules)
        if tokens_alone:
            most = top or (_LISTED if export is None else None)  # a file has room for all
            frame, fit = most_important(connection, tables.texts, most, where)
            frame = _with_rules(frame, picked)
            _show_tokens(frame.head(top or _LISTED), rules, out)
            if top is None and fit > _LISTED:
                out.print(plain(f"{_LISTED} of {fit:,} shown; --top N shows more"))
        else:
            found = rollouts_of(connection, find)
            one = _one(found, rollout, find, name, chosen, out)
            if one is None and export is not None:
                raise ConfigError("--export writes one rollout: choose it with --rollout N")
            if one is None:
                return
            frame = _with_rules(tokens_of(connection, tables.texts, one.rollout), picked)
            _show_rollout(one, frame, numeric(frame, by), rules, f"{name}, round {chosen}", out)
    if writer is not None and export is not None:
        write_frame(frame, writer, export, "--export")
        out.print(plain(f"{frame.height:,} tokens are written to {export}"), soft_wrap=True)


def _last_scored(run: RunFolder) -> int:
    scored = [number for number, pointers in run.rounds() if pointers.tokens]
    if not scored:
        RunTables(run).store  # noqa: B018  # says where there is no such run
        raise ConfigError(f"run {run.name} has no scored round yet; play it first")
    return scored[-1]


def _one(
    found: Sequence[Found],
    rollout: int | None,
    find: str | None,
    name: str,
    number: int,
    out: Console,
) -> Found | None:
    """Return the rollout that is asked for; of several that a text fits print a list."""
    if not found:
        raise ConfigError(f"--find {find!r}: in no prompt and no response of round {number}")
    if rollout is not None:
        by_number = {each.number: each for each in found}
        if rollout not in by_number:
            raise ConfigError(
                f"--rollout {rollout}: round {number} of run {name} has {len(found)} that fit"
                f"{'' if find is None else ' the text'}, from {found[0].number} to "
                f"{found[-1].number}"
            )
        return by_number[rollout]
    if find is None or len(found) == 1:
        return found[0]
    shown = table(("rollout", "prompt", "response"), left=("prompt", "response"))
    for each in found[:_LISTED]:
        shown.add_row(str(each.number), _short(each.prompt, 40), _around(each.response, find))
    out.print(shown)
    more = f", {_LISTED} shown" if len(found) > _LISTED else ""
    out.print(plain(f"{len(found)} rollouts{more}: --rollout N shows one"), soft_wrap=True)
    return None


def _show_rollout(
    one: Found,
    tokens: pl.DataFrame,
    by: str,
    rules: Sequence[str],
    title: str,
    out: Console,
) -> None:
    out.print(plain(f"{title}, rollout {one.number}"), style="bold")
    out.print(plain(one.prompt), style="dim", soft_wrap=True)
    most = float(tokens[by].quantile(_ROBUST) or 0.0)
    text = Text()
    for row in tokens.iter_rows(named=True):
        text.append(visible(row["text"]), style=_style(row, by, most))
    out.print(text, soft_wrap=True)
    out.print(
        plain(f"\ncolour: {by}, 0 to {most:.3g}; underlined: selected; grey: not trainable"),
        style="dim",
        soft_wrap=True,
    )
    worst = tokens.filter("trainable").sort(by, descending=True, nulls_last=True).head(_WORST)
    names = ("position", "token", "type", by, "student", "teacher", "rank", *rules)
    shown = table(names, left=("token", "type"))
    for row in worst.iter_rows(named=True):
        shown.add_row(
            str(row["position"]),
            repr(row["text"]),
            row["type"] or "",
            number(row[by]),
            percent(exp(row["student_logprob"])),
            percent(exp(row["teacher_logprob"])),
            str(row["teacher_rank"]),
            *("yes" if row[rule] else "" for rule in rules),
        )
    out.print(shown)


def _with_rules(frame: pl.DataFrame, chosen: dict[str, _Places]) -> pl.DataFrame:
    """Return tokens with a column a rule: whether it would choose the token."""
    keys = list(frame.select("rollout", "position").iter_rows())
    marks = {rule: [key in places for key in keys] for rule, places in chosen.items()}
    return frame.with_columns(pl.Series(rule, of, pl.Boolean) for rule, of in marks.items())


def _style(row: dict, by: str, most: float) -> str:
    if not row["trainable"]:
        return "bright_black"
    line = " underline" if row["selected"] else ""
    strength = min(1.0, max(0.0, (row[by] or 0.0) / most)) if most > 0 else 0.0
    shade = round(strength * _SHADES) / _SHADES
    if not shade:
        return f"default{line}"
    return f"black on rgb(255,{int(235 - 140 * shade)},{int(205 - 205 * shade)}){line}"


def _show_tokens(frame: pl.DataFrame, rules: Sequence[str], out: Console) -> None:
    names = ("rollout", "position", "in context", "type", "importance", "reverse KL", "entropy")
    names += ("student", "teacher wanted", *rules)
    shown = table(names, left=("in context", "type", "teacher wanted"))
    for row in frame.iter_rows(named=True):
        context = Text()
        context.append(visible(_line(row["before"])), style="dim")
        context.append(f"«{visible(_line(row['text']))}»", style="bold")
        context.append(visible(_line(row["after"])), style="dim")
        shown.add_row(
            str(row["number"]),
            str(row["position"]),
            context,
            row["type"] or "",
            number(row["importance"]),
            number(row["reverse_kl"]),
            number(row["student_entropy"], 2),
            percent(row["student_prob"]),
            _line(row["teacher"] or ""),
            *("yes" if row[rule] else "" for rule in rules),
        )
    out.print(shown)


def _chosen_by(name: str, runs: str, number: int, rules: Sequence[str]) -> dict[str, _Places]:
    """Return (rollout, position) of what each rule would choose of a round, at the run's budget."""
    if not rules:
        return {}
    session = looked_at(name, runs)
    scored, budget = scored_round(session, number), budget_of(session.config.select)
    return {
        rule: set(scored.chosen(rule, budget).select("rollout", "position").iter_rows())
        for rule in rules
    }


def _line(text: str) -> str:
    return text.replace("\n", "⏎")


def _short(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"...{line[-most + 3 :]}"


def _around(text: str, find: str | None) -> str:
    place = 0 if not find else max(0, text.find(find) - 20)
    return _line(text[place : place + 60])
