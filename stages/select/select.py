"""Stage two, first half: which tokens are trained on.

A rule gives each trainable token an importance; `select.sql` takes the budget from it, the same way
for every rule. The answer depends on the tokens, the rule and the seed alone: not on the order of
parts, threads or memory.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from ...storage import columns
from ...storage.errors import ConfigError, InputError
from ...storage.facts import SelectionFacts
from ...storage.keys import key_of
from ...storage.queries import (
    add_rollouts_view,
    add_view,
    columns_of,
    locked_connection,
    one_row,
    set_variables,
    stream,
    users_sql,
)
from ...storage.statements import one_expression
from ..settings import TOKEN_LOSSES
from .rulebook import Rule, load_rule
from .settings import SelectSettings
from .types import TYPES, create_types

VERSION = 2

_KEY = ("rollout", "position")
_NEEDED = (*_KEY, "importance")
_WHOLE = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG")}
_WHOLE |= {"INTEGER", "UINTEGER"}
_SCHEMA = columns.schema(columns.SELECTION)
_WITHOUT_REWARDS = "CREATE OR REPLACE VIEW rollouts AS SELECT * EXCLUDE (reward) FROM rollout_table"
_BYTES_A_SCORE = 16  # measured: memory of the k + 1 best scores, of which half may be used


def select(
    tokens: Sequence[Path],
    rollouts: Sequence[Path],
    settings: SelectSettings,
    *,
    seed: int,
    vocabulary: int,
    threads: int = 0,
    rewards: bool = True,
) -> tuple[pa.Table, SelectionFacts]:
    """Return the SELECTION table, ordered by rollout and position, and facts about it.

    tokens, rollouts: the parts of one round. seed: of ties and draws. vocabulary: V, for entropies
    as shares of ln V. threads: 0 takes all cores. rewards: whether `rollouts` shows `reward` and
    `pass_rate` to a rule and its conditions.
    Raises `InputError` for a rule or condition that cannot be used, `ConfigError` for settings
    that contradict the rule, `StoreError` for parts that cannot be read.
    """
    began = time.monotonic()
    rule = load_rule(settings.rule)
    inputs = _inputs(rule, settings)
    paths = [*tokens, *rollouts]
    memory, seconds = settings.memory_gb, settings.timeout_seconds
    with (
        locked_connection(paths, threads=threads, memory_gb=memory, seconds=seconds) as connection,
        users_sql(connection, f"rule {rule.name}"),  # the limits may end our own SQL as well
    ):
        add_view(connection, "token_table", tokens)
        add_rollouts_view(connection, "rollout_table", rollouts)
        cuts = _bind(connection, inputs, seed=seed, vocabulary=vocabulary)
        if not rewards:
            connection.execute(_WITHOUT_REWARDS)
        numbers = _round_numbers(connection, rule)
        _create_scored(connection, rule, settings)
        _rank(connection, rule, settings)
        table, kept = _kept(connection, rule)
        facts = _facts(connection, kept)
    facts |= {
        "losses": _losses(table, rule),
        "zeros": int((table["importance"].to_numpy() == 0).sum()),
        "rule": rule.name,
        "sql": rule.file,
        "keep": inputs["keep"],
        "count": inputs.get("count"),
        "cuts": cuts,
        "round": numbers,
        "seconds": round(time.monotonic() - began, 3),
    }
    return table, SelectionFacts.model_validate(facts)


def selection_inputs(
    settings: SelectSettings, tokens: Sequence[tuple[str, str]], *, seed: int, vocabulary: int
) -> dict[str, Any]:
    """Return what makes a selection: the printable value behind its key.

    tokens: key and content hash of each token table. vocabulary: V of the student. The rule's name
    and head comment are not in it: the same SELECT with the same numbers is the same selection,
    whatever it is called. A count is in it where it decides. `memory_gb` changes no result.
    """
    return _inputs(load_rule(settings.rule), settings) | {
        "tokens": [list(each) for each in tokens],
        "seed": seed,
        "vocabulary": vocabulary,
    }


def _inputs(rule: Rule, settings: SelectSettings) -> dict[str, Any]:
    if settings.corrected and rule.draw != "sample":
        raise ConfigError(
            f"corrected = true weighs by the chance to be kept, but rule `{rule.name}` takes the "
            "top tokens for certain: choose a sampled rule, or leave `corrected` out"
        )
    fixed = settings.cuts == "fixed"
    counted = rule.keep is None and settings.count is not None
    return {
        **settings.key(),
        **({"count": settings.count} if counted else {}),
        "version": VERSION,
        "sql": rule.sql,
        "sql_key": key_of(rule.sql),
        "draw": rule.draw,
        "params": rule.resolved(settings.params),
        "round": dict(rule.round),
        "keep": settings.keep if rule.keep is None else rule.keep,
        "entropy_cut": settings.entropy_cut if fixed else None,
        "divergence_cut": settings.divergence_cut if fixed else None,
    }


def _bind(
    connection: duckdb.DuckDBPyConnection, inputs: dict[str, Any], *, seed: int, vocabulary: int
) -> dict[str, float]:
    """Bind every value, create what a rule sees, and return the two cuts."""
    cuts = {name: inputs[name] or 0.0 for name in ("entropy_cut", "divergence_cut")}
    values = {name: inputs[name] for name in ("keep", "scope", "draw", "corrected")}
    values["count"] = inputs.get("count")
    lanes = {"seed_low": seed & 0xFFFFFFFF, "seed_high": seed >> 32 & 0xFFFFFFFF}
    own = {**values, **lanes, **cuts, "vocabulary": vocabulary}
    set_variables(connection, {**own, **inputs["params"]})
    create_types(connection)
    connection.execute(_sql("tokens.sql"))
    if inputs["cuts"] == "median":
        medians = one_row(
            connection,
            "SELECT round_quantile(student_entropy, 0.5), round_quantile(reverse_kl, 0.5)",
        )
        cuts = dict(zip(cuts, (float(median or 0.0) for median in medians), strict=True))
        set_variables(connection, cuts)
    return cuts


def _round_numbers(connection: duckdb.DuckDBPyConnection, rule: Rule) -> dict[str, float]:
    """Compute and bind what the rule needs to know of the whole round."""
    if not rule.round:
        return {}
    numbers = ", ".join(f"({sql})::DOUBLE" for sql in rule.round.values())
    with users_sql(connection, f"rule {rule.name}"):
        # The count makes it one row, whatever the expressions are.
        values = one_row(connection, f"SELECT * FROM (SELECT count(*), {numbers} FROM tokens)")
    bound = dict(zip(rule.round, values[1:], strict=True))
    set_variables(connection, bound)
    return bound


def _create_scored(
    connection: duckdb.DuckDBPyConnection, rule: Rule, settings: SelectSettings
) -> None:
    """Create the view `scored`: the rule's candidates that fulfil `where`; and rollout weights."""
    name = f"rule {rule.name}"
    with users_sql(connection, name):
        # A view, since DuckDB refuses one that writes.
        connection.execute(f"CREATE VIEW rule AS\n{rule.sql}")
    given = columns_of(connection, "rule")
    if missing := [column for column in _NEEDED if column not in given]:
        raise InputError(f"{name}: gives no column `{missing[0]}`; it gives: {', '.join(given)}")
    _refuse_other_keys(connection, name)
    if rule.name.endswith(".sql"):  # a user's
        _refuse_strangers(connection, name)
    weight = "rule.weight" if "weight" in given else "1"
    loss = "rule.loss" if "loss" in given else "NULL"
    # With all columns of `tokens` in the rule's answer there is nothing to join back.
    whole = set(columns_of(connection, "tokens")) <= set(given)
    source = "rule" if whole else "rule JOIN tokens USING (rollout, position)"
    where = one_expression(settings.where, "where") if settings.where else "true"
    with users_sql(connection, "where" if settings.where else name):
        connection.execute(f"""
            CREATE VIEW scored AS
            SELECT
                rollout, position, type::quadrant AS type, reverse_kl,
                importance::DOUBLE AS importance, ({weight})::DOUBLE AS weight,
                ({loss})::VARCHAR AS loss
            FROM {source}
            WHERE importance IS NOT NULL AND (
                {where}
            )""")
    _create_rollout_weights(connection, settings.rollout_weight)


def _refuse_other_keys(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Raise `InputError` where what names a token is no whole number."""
    for column, kind, *_ in connection.execute("DESCRIBE rule").fetchall():
        if column in _KEY and kind not in _WHOLE:
            raise InputError(
                f"{name}: gives `{column}` as {kind}; expected that of `tokens`, unchanged"
            )


def _refuse_strangers(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Raise `InputError` for rows that are no trainable token: joins would drop them unsaid."""
    with users_sql(connection, name):
        (strangers,) = one_row(
            connection,
            "SELECT count(*) FROM rule ANTI JOIN tokens USING (rollout, position) "
            "WHERE importance IS NOT NULL",
        )
    if strangers:
        raise InputError(
            f"{name}: {strangers} of its rows are no trainable tokens of the round; a rule gives "
            "the rollout and position of `tokens`, unchanged"
        )


def _create_rollout_weights(connection: duckdb.DuckDBPyConnection, weight: str | None) -> None:
    expression = one_expression(weight, "rollout_weight") if weight else "1"
    with users_sql(connection, "rollout_weight", "rollouts"):
        connection.execute(f"""
            CREATE TEMP TABLE rollout_weights AS
            SELECT rollout, (
                {expression}
            )::DOUBLE AS rollout_weight FROM rollouts""")


def _rank(connection: duckdb.DuckDBPyConnection, rule: Rule, settings: SelectSettings) -> None:
    """Find the threshold of each scope. Runs the rule, once a slice."""
    connection.execute(_sql("select.sql"))
    slices = 1
    if settings.scope == "rollout":
        (held,) = one_row(connection, "SELECT sum(k) FILTER (k < m) FROM budget")
        slices += int((held or 0) * _BYTES_A_SCORE / (settings.memory_gb * 1e9 / 2))
    with users_sql(connection, f"rule {rule.name}"):
        for number in range(slices):
            set_variables(connection, {"slices": slices, "slice": number})
            connection.execute(f"INSERT INTO threshold FROM {settings.scope}_threshold")
    connection.execute(
        "UPDATE budget SET tau = t.tau, next = t.next, above = t.above "
        "FROM threshold AS t WHERE budget.scope_id = t.scope_id"
    )
    (broken,) = one_row(connection, "SELECT sum(broken) FROM threshold")
    if broken:
        raise InputError(
            f"rule {rule.name}: the importance of {broken} tokens is NaN or infinite; it must be a "
            "finite number, or null for a token that is not to be kept"
        )


def _kept(connection: duckdb.DuckDBPyConnection, rule: Rule) -> tuple[pa.Table, np.ndarray]:
    """Return the SELECTION table, and per type its kept tokens and their reverse KL [2, 4]."""
    (ties,) = one_row(connection, "SELECT count(*) FROM threshold WHERE next = tau")
    rows = "SELECT * FROM clear" + (" UNION ALL SELECT * FROM tied" if ties else "")
    batches: list[pa.RecordBatch] = []
    sums = np.zeros((2, len(TYPES)))
    last = (None, None)
    with users_sql(connection, f"rule {rule.name}"):
        for batch in stream(connection, f"SELECT * FROM ({rows}) ORDER BY rollout, position"):
            _refuse_nulls(batch, rule)
            last = _check_keys(batch, last, rule)
            sums += _by_type(batch)
            batches.append(_converted(batch, rule))
    return pa.Table.from_batches(batches, _SCHEMA), sums


def _refuse_nulls(batch: pa.RecordBatch, rule: Rule) -> None:
    for name in (*_KEY, "type", "reverse_kl"):
        if batch.column(name).null_count:
            raise InputError(
                f"rule {rule.name}: `{name}` of a token is null; leave it as it is in `tokens`"
            )


def _check_keys(batch: pa.RecordBatch, last: tuple[Any, Any], rule: Rule) -> tuple[Any, Any]:
    """Refuse a token that comes twice; return the last key of the batch."""
    keys = [batch.column(name).to_numpy() for name in ("rollout", "position")]
    again = (keys[0][1:] == keys[0][:-1]) & (keys[1][1:] == keys[1][:-1])
    first = (keys[0][0], keys[1][0])
    if again.any() or first == last:
        rollout, position = first if first == last else (key[1:][again][0] for key in keys)
        raise InputError(
            f"rule {rule.name}: position {position} of rollout {rollout} comes more than once; "
            "a rule gives one row a token (or the same part is listed twice)"
        )
    return keys[0][-1], keys[1][-1]


def _by_type(batch: pa.RecordBatch) -> np.ndarray:
    """Return tokens and reverse KL of each type [2, 4]."""
    kinds = batch.column("type").indices.to_numpy()  # an enum, in the order of TYPES
    kl = batch.column("reverse_kl").to_numpy()
    return np.stack([np.bincount(kinds, weight, len(TYPES)) for weight in (None, kl)])


def _converted(batch: pa.RecordBatch, rule: Rule) -> pa.RecordBatch:
    weights = batch.column("weight").to_numpy(zero_copy_only=False).astype(np.float32)
    if not (np.isfinite(weights) & (weights >= 0)).all():  # null reads as NaN
        raise InputError(
            f"rule {rule.name}: a weight is null, negative, NaN or infinite; weights come from the "
            "rule's `weight`, from `rollout_weight` (null where there is no reward) and `corrected`"
        )
    return batch.select(_SCHEMA.names).cast(_SCHEMA)


def _losses(table: pa.Table, rule: Rule) -> dict[str, int]:
    """Return how many tokens name each loss. Raises `InputError` for a word that is none."""
    counts = {c["values"]: c["counts"] for c in table["loss"].value_counts().to_pylist()}
    counts.pop(None, None)
    for word in sorted(counts):
        if word not in TOKEN_LOSSES:
            raise InputError(
                f"rule {rule.name}: gives the loss '{word}'; expected one of "
                f"{', '.join(TOKEN_LOSSES)}, or null for what train.loss says"
            )
    return counts


def _facts(connection: duckdb.DuckDBPyConnection, kept: np.ndarray) -> dict[str, Any]:
    """Return counts and shares by type. kept: tokens and reverse KL of the kept ones [2, 4]."""
    everything = np.zeros_like(kept)
    for kind, tokens, kl in connection.execute(
        "SELECT type::VARCHAR, count(*), sum(reverse_kl) FROM tokens GROUP BY type"
    ).fetchall():
        everything[:, TYPES.index(kind)] = tokens, kl
    shares = zip(TYPES, _shares(everything), _shares(kept), strict=True)
    return {
        "trainable": int(everything[0].sum()),
        "kept": int(kept[0].sum()),
        "kept_reverse_kl": _ratio(kept[1].sum(), everything[1].sum()),
        "selected_reverse_kl": _ratio(*kept.sum(1)[::-1]),
        "unselected_reverse_kl": _ratio(*(everything - kept).sum(1)[::-1]),
        "types": {
            kind: {
                "tokens": of_all[0],
                "reverse_kl": of_all[1],
                "kept_tokens": of_kept[0],
                "kept_reverse_kl": of_kept[1],
            }
            for kind, of_all, of_kept in shares
        },
    }


def _shares(sums: np.ndarray) -> list[list[float]]:
    """Return each type's share of the tokens and of the reverse KL [4, 2]."""
    return [[_ratio(*pair) for pair in zip(of, sums.sum(1), strict=True)] for of in sums.T]


def _ratio(part: float, whole: float) -> float:
    # Six digits: a float sum may differ in its last ones from run to run.
    return round(float(part) / float(whole), 6) if whole > 0 else 0.0


def _sql(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")
