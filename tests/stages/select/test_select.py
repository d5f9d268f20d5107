"""Selection: row for row the numpy reference, whatever the table, the threads and the parts."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from reference_select import IMPORTANCE, WHOLE, noise, quantile, reference_select
from tip.stages.select import select as module
from tip.stages.select.rulebook import builtin_rules
from tip.stages.select.select import TYPES, select, selection_inputs
from tip.stages.select.settings import SelectSettings
from tip.storage.columns import SELECTION, schema
from tip.storage.errors import ConfigError, InputError, StoreError
from tip.storage.facts import SelectionFacts
from tip.storage.keys import key_of
from token_tables import (
    TABLES,
    VOCABULARY,
    changed,
    rollout_table,
    token_table,
    write_parts,
)

SEED = 0x1234_5678_9ABC
ROUNDED = {"dial": 1e-9, "power": 1e-9, "sdar": 1e-12}  # their exp() and pow() are rounded anywhere


@dataclass(frozen=True)
class Round:
    """The parts of one round on disk."""

    tokens: list[Path]
    rollouts: list[Path]

    def select(
        self, seed: int = SEED, threads: int = 1, **settings: Any
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        table, facts = select(
            self.tokens,
            self.rollouts,
            SelectSettings(**settings),
            seed=seed,
            vocabulary=VOCABULARY,
            threads=threads,
        )
        assert table.schema.equals(schema(SELECTION))
        return table.to_pylist(), facts


Write = Callable[..., Round]


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Round]:
    """Every table of `token_tables`, as a round."""
    folder = tmp_path_factory.mktemp("rounds")
    return {
        name: Round(
            write_parts(folder / name / "tokens", table),
            write_parts(folder / name / "rollouts", rollout_table(table)),
        )
        for name, table in TABLES.items()
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a table as a round."""
    numbers = itertools.count()

    def written(
        table: pa.Table, parts: int = 1, rewards: list[float | None] | None = None
    ) -> Round:
        folder = tmp_path / str(next(numbers))
        return Round(
            write_parts(folder / "tokens", table, parts),
            write_parts(folder / "rollouts", rollout_table(table, rewards)),
        )

    return written


@pytest.fixture
def rule_file(tmp_path: Path) -> Callable[[str], str]:
    """Write a user's rule."""

    def written(sql: str) -> str:
        (tmp_path / "mine.sql").write_text(sql)
        return str(tmp_path / "mine.sql")

    return written


def inputs(**settings: Any) -> dict[str, Any]:
    """Return what makes a selection with some settings."""
    return selection_inputs(SelectSettings(**settings), [("k", "c")], seed=0, vocabulary=36)


def same(got: list[dict[str, Any]], expected: list[dict[str, Any]], importance: float = 0) -> bool:
    """Are the rows equal, weights within float32? importance: by how much it may differ."""
    exact = ("rollout", "position", "loss", "type")
    return [[row[name] for name in exact] for row in got] == [
        [row[name] for name in exact] for row in expected
    ] and all(
        np.allclose([row[name] for row in got], [row[name] for row in expected], rtol, atol=0)
        for name, rtol in (("weight", 1e-6), ("importance", importance))
    )


# --- every rule against the reference ------------------------------------------------------------


def test_the_reference_knows_every_built_in_rule() -> None:
    rules = builtin_rules()

    assert set(IMPORTANCE) == set(rules)
    assert {name for name, rule in rules.items() if rule.keep == 1} == WHOLE


@pytest.mark.parametrize("scope", ["rollout", "round"])
@pytest.mark.parametrize("rule", sorted(IMPORTANCE))
def test_a_rule_equals_the_reference_row_for_row(
    rounds: dict[str, Round], rule: str, scope: str
) -> None:
    for name in ("random", "mixed", "constant", "outlier", "zero", "untrainable"):
        rows, _ = rounds[name].select(rule=rule, scope=scope)
        expected = reference_select(TABLES[name], rule, scope=scope, seed=SEED)
        assert same(rows, expected, ROUNDED.get(rule, 0)), name


# Parameters that matter on these tables: the defaults suit longer responses and other ratios.
PARAMS: list[tuple[str, dict[str, float]]] = [
    ("dial", {"beta": 1.2}),
    ("dial", {"beta": 0}),
    ("power", {"alpha": 0.1}),
    ("sdar", {"beta": 0.5}),
    ("iw_opd", {"gamma": 2}),
    ("ier_fused", {"low": 0, "high": 0.5}),
    ("overlap", {"threshold": 0.3, "drop": 0.2, "base": 0}),
    ("overlap", {"threshold": 1, "drop": 1, "base": 0.25}),
    ("kat", {"window": 5, "patience": 2}),
    ("kat", {"window": 3, "patience": 1, "share": 1, "grace": 7}),
    ("kat", {"window": 1, "patience": 3, "share": 0.4}),
]


@pytest.mark.parametrize(("rule", "params"), PARAMS, ids=str)
def test_a_rule_with_parameters_equals_the_reference(
    rounds: dict[str, Round], rule: str, params: dict[str, Any]
) -> None:
    for name in ("random", "mixed", "zero"):
        rows, _ = rounds[name].select(rule=rule, params=params, keep=0.3)
        expected = reference_select(TABLES[name], rule, keep=0.3, params=params, seed=SEED)
        assert same(rows, expected, ROUNDED.get(rule, 0)), name
    usual, _ = rounds["random"].select(rule=rule, keep=0.3)
    rows, _ = rounds["random"].select(rule=rule, params=params, keep=0.3)
    assert rows != usual


def test_both_ends_of_the_log_ratio_are_kept_one_of_each(rounds: dict[str, Round]) -> None:
    table = TABLES["random"].filter(TABLES["random"]["trainable"])
    ratio = table["teacher_logprob"].to_numpy() - table["student_logprob"].to_numpy()
    rollout, position = (table[name].to_numpy() for name in ("rollout", "position"))
    ends = set()
    for each in set(rollout):
        mine = np.flatnonzero(rollout == each)
        ends |= {
            (each, position[i]) for i in (mine[ratio[mine].argmin()], mine[ratio[mine].argmax()])
        }
    rows, _ = rounds["random"].select(rule="excess_loss_ends", count=2)
    assert {(row["rollout"], row["position"]) for row in rows} == ends


def test_a_rollout_is_cut_where_the_first_of_the_windows_in_a_row_begins(write: Write) -> None:
    table = changed(token_table(3, [20, 20]), trainable=True)
    kl = np.ones(40)
    kl[[5, 6, 7, 12, 13, 14, 15]] = 0  # windows of 3: one that is low, then two in a row
    kl[20:] = 0.1
    one = write(changed(table, reverse_kl=kl))
    asked: dict[str, Any] = {"rule": "kat", "params": {"window": 3, "patience": 2, "share": 1}}
    first = table["rollout"][0].as_py()
    kept = [row["position"] for row in one.select(**asked)[0] if row["rollout"] == first]
    assert kept == list(range(12))
    asked["params"] |= {"grace": 11}
    kept = [row["position"] for row in one.select(**asked)[0] if row["rollout"] == first]
    assert kept == list(range(12))
    asked["params"] |= {"grace": 13}
    assert len([row for row in one.select(**asked)[0] if row["rollout"] == first]) == 20


@pytest.mark.parametrize("rule", ["dial", "power", "sdar", "iw_opd", "aopd", "excess_loss_ends"])
def test_log_probs_of_any_size_give_finite_importances(write: Write, rule: str) -> None:
    table = token_table(3, [30, 3])
    sizes = -np.logspace(-8, 4.8, 33)
    one = write(changed(table, student_logprob=sizes, teacher_logprob=sizes[::-1]))
    for beta in (0, 1, 1.2) if rule == "dial" else (None,):
        rows, _ = one.select(rule=rule, params={} if beta is None else {"beta": beta}, keep=1)
        assert np.isfinite([[row["importance"], row["weight"]] for row in rows]).all()


@pytest.mark.parametrize("scope", ["rollout", "round"])
@pytest.mark.parametrize("keep", [1e-9, 0.07, 0.29, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("rule", ["divergence", "entropy_sampled"])
def test_every_budget_equals_the_reference(
    rounds: dict[str, Round], rule: str, keep: float, scope: str
) -> None:
    for name in ("random", "mixed", "zero"):
        rows, _ = rounds[name].select(rule=rule, scope=scope, keep=keep)
        expected = reference_select(TABLES[name], rule, scope=scope, keep=keep, seed=SEED)
        assert same(rows, expected), name


@pytest.mark.parametrize("scope", ["rollout", "round"])
@pytest.mark.parametrize("count", [1, 2, 7, 2**63 - 1])
@pytest.mark.parametrize("rule", ["divergence", "entropy_sampled", "horizon"])
def test_every_count_equals_the_reference(
    rounds: dict[str, Round], rule: str, count: int, scope: str
) -> None:
    for name in ("random", "mixed", "zero"):
        rows, facts = rounds[name].select(rule=rule, scope=scope, count=count)
        expected = reference_select(TABLES[name], rule, scope=scope, count=count, seed=SEED)
        assert same(rows, expected), name
        own = rule in WHOLE
        assert (facts.keep, facts.count) == ((1, None) if own else (None, count))


def test_a_count_is_of_each_scope_and_all_of_what_is_shorter(rounds: dict[str, Round]) -> None:
    tokens = TABLES["random"].filter(TABLES["random"]["trainable"])
    lengths = Counter(tokens["rollout"].to_pylist())
    rows, _ = rounds["random"].select(rule="soft_or", count=3)
    assert Counter(r["rollout"] for r in rows) == {r: min(3, n) for r, n in lengths.items()}
    assert len(rounds["random"].select(rule="soft_or", count=3, scope="round")[0]) == 3


@pytest.mark.parametrize("scope", ["rollout", "round"])
def test_a_count_is_corrected_like_a_share(rounds: dict[str, Round], scope: str) -> None:
    for name in ("random", "mixed"):
        asked: dict[str, Any] = {"scope": scope, "corrected": True, "count": 2}
        rows, _ = rounds[name].select(rule="entropy_sampled", **asked)
        assert same(rows, reference_select(TABLES[name], "entropy_sampled", seed=SEED, **asked))


def test_a_count_is_in_the_key_where_it_decides_and_nowhere_else() -> None:
    assert "count" not in inputs(rule="q3")
    assert inputs(rule="q3", count=2)["count"] == 2
    assert inputs(rule="q3", count=2) != inputs(rule="q3", count=3)
    assert inputs(rule="horizon", count=2) == inputs(rule="horizon", keep=0.5)


def test_a_share_is_not_lost_to_rounding(write: Write) -> None:
    one = write(changed(token_table(21, [100]), trainable=True))

    assert 0.29 * 100 < 29
    assert len(one.select(rule="divergence", keep=0.29)[0]) == 29


@given(
    seed=st.integers(0, 2**63 - 1),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    decimals=st.sampled_from([0, 1, None]),
    keep=st.floats(0.01, 1),
    scope=st.sampled_from(["rollout", "round"]),
    rule=st.sampled_from(["soft_or", "soft_or_sampled", "q3", "type_q1"]),
)
@hypothesis_settings(max_examples=25)
def test_any_table_equals_the_reference(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    lengths: list[int],
    decimals: int | None,
    keep: float,
    scope: str,
    rule: str,
) -> None:
    table = token_table(seed % 2**32, lengths, round_to=decimals)
    folder = tmp_path_factory.mktemp("any")
    one = Round(
        write_parts(folder / "tokens", table), write_parts(folder / "r", rollout_table(table))
    )

    rows, _ = one.select(rule=rule, scope=scope, keep=keep, seed=seed)

    assert same(rows, reference_select(table, rule, scope=scope, keep=keep, seed=seed))


@pytest.mark.parametrize("scope", ["rollout", "round"])
@pytest.mark.parametrize("rule", ["entropy_sampled", "soft_or_sampled", "random"])
def test_corrected_weights_equal_the_reference(
    rounds: dict[str, Round], rule: str, scope: str
) -> None:
    for name in ("random", "mixed", "zero", "constant"):
        rows, _ = rounds[name].select(rule=rule, scope=scope, corrected=True)
        expected = reference_select(TABLES[name], rule, scope=scope, corrected=True, seed=SEED)
        assert same(rows, expected), name


@pytest.mark.parametrize("scope", ["rollout", "round"])
@pytest.mark.parametrize("rule", ["divergence", "random"])
def test_where_narrows_the_candidates_and_leaves_the_budget(
    rounds: dict[str, Round], rule: str, scope: str
) -> None:
    for name in ("random", "mixed", "zero"):
        rows, _ = rounds[name].select(
            rule=rule, scope=scope, where="student_entropy < 0.3 and not special -- calm"
        )
        expected = reference_select(
            TABLES[name],
            rule,
            scope=scope,
            seed=SEED,
            where=lambda c: (c["student_entropy"] < 0.3) & ~c["special"],
        )
        assert same(rows, expected), name


def test_where_may_ask_for_a_type_and_for_the_whole_round(rounds: dict[str, Round]) -> None:
    condition = "type = 'Q3' and position < (select max(position) / 2 from tokens)"
    rows, facts = rounds["random"].select(rule="all", where=condition)

    assert {row["type"] for row in rows} == {"Q3"}
    assert max(row["position"] for row in rows) < 100
    assert facts.kept == len(rows)


@pytest.mark.parametrize("rule", ["divergence", "type_q4"])
def test_median_cuts_are_those_of_the_round(rounds: dict[str, Round], rule: str) -> None:
    for name in ("random", "mixed", "outlier"):
        rows, facts = rounds[name].select(rule=rule, cuts="median")
        assert same(rows, reference_select(TABLES[name], rule, cuts="median", seed=SEED)), name
        assert facts.cuts.keys() == {"entropy_cut", "divergence_cut"}


def test_a_token_on_a_cut_counts_as_high(write: Write) -> None:
    table = changed(token_table(0, [4]), trainable=True)
    table = changed(
        table, student_entropy=[0.5, 0.5, 0.25, 0.25], reverse_kl=[0.5, 0.25, 0.5, 0.25]
    )

    rows, _ = write(table).select(rule="all", entropy_cut=0.5, divergence_cut=0.5)

    assert [row["type"] for row in rows] == list(TYPES)


# --- what the answer does not depend on ----------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    ["soft_or", "entropy_sampled", "fire_opd", "ta_opd", "iw_opd", "kat", "ier_fused"],
)
@pytest.mark.parametrize("scope", ["rollout", "round"])
def test_threads_parts_their_order_and_the_order_of_rows_change_nothing(
    write: Write, rule: str, scope: str
) -> None:
    table = token_table(11, [300, 20, 1, 150, 90, 41, 260], round_to=2)
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    expected, _ = write(table).select(rule=rule, scope=scope)

    for other, parts, threads in ((table, 3, 4), (shuffled, 2, 1), (shuffled, 4, 3)):
        written = write(other, parts)
        backwards = Round(written.tokens[::-1], written.rollouts)
        assert backwards.select(rule=rule, scope=scope, threads=threads)[0] == expected


def test_a_large_round_is_the_same_with_one_and_with_many_threads(write: Write) -> None:
    """Large enough that DuckDB gives several threads several row groups."""
    one = write(token_table(12, [500] * 800, round_to=2), parts=5)
    tables = [
        select(
            one.tokens,
            one.rollouts,
            SelectSettings(rule="soft_or_clipped", cuts="median"),
            seed=SEED,
            vocabulary=VOCABULARY,
            threads=threads,
        )[0]
        for threads in (1, 2, 8)
    ]

    assert tables[0].num_rows > 70_000
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


@pytest.mark.parametrize("rule", ["iw_opd", "overlap", "kat", "excess_loss_ends", "ier_fused"])
def test_windows_over_a_round_are_the_same_with_one_and_with_many_threads(
    write: Write, rule: str
) -> None:
    one = write(token_table(12, [500] * 300, round_to=2), parts=3)
    asked: dict[str, Any] = {"rule": rule, "keep": 0.01}
    assert one.select(threads=1, **asked)[0] == one.select(threads=8, **asked)[0]


def test_little_memory_changes_the_work_and_not_the_answer(
    rounds: dict[str, Round], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = rounds["mixed"].select(rule="entropy_sampled")
    monkeypatch.setattr(module, "_BYTES_A_SCORE", 30_000_000)  # several slices

    assert rounds["mixed"].select(rule="entropy_sampled")[0] == expected


def test_the_seed_decides_draws_and_ties_alone(rounds: dict[str, Round]) -> None:
    for rule, name in (("random", "random"), ("divergence", "constant")):
        first, second = (rounds[name].select(rule=rule, seed=seed)[0] for seed in (1, 2))
        assert first != second
    first, second = (rounds["random"].select(rule="divergence", seed=seed)[0] for seed in (1, 2))
    assert first == second


def test_a_rollout_keeps_its_draw_whatever_other_rollouts_there_are(write: Write) -> None:
    table = token_table(13, [50, 60, 70])
    first = table.filter(pa.array(table["rollout"].to_numpy() == table["rollout"][0].as_py()))

    alone, _ = write(first).select(rule="random")
    together, _ = write(table).select(rule="random")

    assert [row for row in together if row["rollout"] == alone[0]["rollout"]] == alone


# --- draws ---------------------------------------------------------------------------------------


def test_noise_is_even_and_seeds_and_neighbours_are_independent() -> None:
    """Chi-square over 64 cells (df 63) and 16 x 16 cells (df 255).

    The bounds are exceeded by chance with probability 1e-6 each.
    """
    bits = [[noise(s, 7 + r, p) for r in range(8) for p in range(1024)] for s in (0, 1)]
    even = np.bincount(np.array(bits[0]) >> 26, minlength=64)
    expected = len(bits[0]) / 64
    assert ((even - expected) ** 2 / expected).sum() < 134

    for a, b in (bits, (bits[0][:-1], bits[0][1:])):  # two seeds; a token and the next one
        cells = np.bincount((np.array(a) >> 28) * 16 + (np.array(b) >> 28), minlength=256)
        expected = len(a) / 256
        assert ((cells - expected) ** 2 / expected).sum() < 374


@pytest.mark.parametrize("scope", ["rollout", "round"])
@pytest.mark.parametrize("keep", [0.2, 0.4])
def test_tokens_without_importance_come_last_in_a_draw(
    write: Write, scope: str, keep: float
) -> None:
    """60 rollouts of 10 tokens, of which 2 have importance: these first, then others, evenly.

    Evenly, not by reverse KL: at keep 0.4 the 120 places fall on 8 positions; that one of them
    stays empty has probability below 1e-6.
    """
    entropy = np.array([0, 0, 0.7, 0, 0, 0, 1e-6, 0, 0, 0])
    table = changed(
        token_table(14, [10] * 60),
        trainable=True,
        student_entropy=np.tile(entropy, 60),
        reverse_kl=np.tile(np.arange(10) / 10, 60),
    )

    rows, _ = write(table).select(rule="entropy_sampled", scope=scope, keep=keep, corrected=True)

    counts = Counter(row["position"] for row in rows)
    assert len(rows) == round(600 * keep)
    assert (counts[2], counts[6]) == (60, 60)
    assert {row["weight"] for row in rows} == {1.0}
    assert set(counts) == ({2, 6} if keep == 0.2 else set(range(10)))


def test_a_draw_includes_tokens_as_often_as_drawing_one_after_the_other(write: Write) -> None:
    """5000 rollouts of 5 tokens, 2 kept: frequencies within 5 standard errors of the exact ones.

    A right implementation fails with probability below 3e-6 (5 normal tails).
    """
    h = np.array([0.1, 0.2, 0.4, 0.8, 1.6], np.float32)
    n = 5000
    table = changed(token_table(15, [5] * n), trainable=True, student_entropy=np.tile(h, n))

    rows, _ = write(table).select(rule="entropy_sampled", keep=0.4)

    p = h.astype(float) / h.sum(dtype=float)
    chance = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(5) if j != i) for i in range(5)]
    counts = Counter(row["position"] for row in rows)
    for i in range(5):
        error = math.sqrt(chance[i] * (1 - chance[i]) / n)
        assert abs(counts[i] / n - chance[i]) < 5 * error


def test_corrected_weights_give_an_unbiased_sum_and_the_uncorrected_do_not(write: Write) -> None:
    """The weighted sum of reverse KL over 4000 equal rollouts, against the sum over all tokens.

    Within 5 standard errors: a right implementation fails with probability below 1e-6.
    """
    n, h = 4000, np.array([0.05, 0.1, 0.3, 0.6, 0.9, 2.0], np.float32)
    kl = np.array([3.0, 1.0, 0.5, 0.2, 0.1, 0.05], np.float32)
    table = changed(
        token_table(16, [6] * n),
        trainable=True,
        student_entropy=np.tile(h, n),
        reverse_kl=np.tile(kl, n),
    )
    rows, _ = write(table).select(rule="entropy_sampled", keep=0.5, corrected=True)

    sums = Counter[int]()
    plain = Counter[int]()
    for row in rows:
        sums[row["rollout"]] += row["weight"] * kl[row["position"]]
        plain[row["rollout"]] += kl[row["position"]] / 0.5
    values, other = np.array([*sums.values()]), np.array([*plain.values()])
    assert abs(values.mean() - kl.sum()) < 5 * values.std() / math.sqrt(n)
    assert abs(other.mean() - kl.sum()) > 20 * other.std() / math.sqrt(n)


def test_a_random_rule_takes_every_token_equally_often(write: Write) -> None:
    """4000 rollouts, 2 of 8: each within 5 standard errors of 1/4; fails by chance below 5e-6."""
    n = 4000
    rows, _ = write(changed(token_table(17, [8] * n), trainable=True)).select(
        rule="random", keep=0.25
    )

    counts = Counter(row["position"] for row in rows)
    error = math.sqrt(0.25 * 0.75 / n)
    assert all(abs(counts[i] / n - 0.25) < 5 * error for i in range(8))
    pairs = Counter(tuple(r["position"] for r in rows[i : i + 2]) for i in range(0, 2 * n, 2))
    error = math.sqrt(1 / 28 * 27 / 28 / n)
    assert all(
        abs(pairs[pair] / n - 1 / 28) < 5 * error for pair in itertools.combinations(range(8), 2)
    )


# --- what is reported and what makes the key -----------------------------------------------------


def test_facts_count_tokens_and_share_them_by_type(rounds: dict[str, Round]) -> None:
    rows, facts = rounds["random"].select(rule="divergence", keep=0.1)
    table = TABLES["random"]
    c = {n: table[n].to_numpy()[table["trainable"].to_numpy()] for n in table.column_names}
    kl = np.maximum(c["reverse_kl"], 0).astype(float)
    q3 = (c["student_entropy"] < 0.3) & (kl >= 0.1)

    assert facts.trainable == len(kl)
    assert facts.kept == len(rows)
    assert facts.types["Q3"]["tokens"] == pytest.approx(q3.mean(), abs=1e-6)
    assert facts.types["Q3"]["reverse_kl"] == pytest.approx(kl[q3].sum() / kl.sum(), abs=1e-6)
    kept = Counter(row["type"] for row in rows)
    assert facts.types["Q3"]["kept_tokens"] == pytest.approx(kept["Q3"] / len(rows), abs=1e-6)
    of_kept = sum(row["importance"] for row in rows)
    assert facts.kept_reverse_kl == pytest.approx(of_kept / kl.sum(), abs=1e-6)
    assert facts.selected_reverse_kl == pytest.approx(of_kept / len(rows), abs=1e-6)
    others = (kl.sum() - of_kept) / (len(kl) - len(rows))
    assert facts.unselected_reverse_kl == pytest.approx(others, abs=1e-6)
    for name in ("tokens", "reverse_kl", "kept_tokens", "kept_reverse_kl"):
        assert sum(kind[name] for kind in facts.types.values()) == pytest.approx(1, abs=1e-5)
    assert facts.cuts == {"entropy_cut": 0.3, "divergence_cut": 0.1}
    assert "reverse_kl AS importance" in facts.sql


def test_facts_tell_the_numbers_of_the_round_and_can_be_written_as_json(
    rounds: dict[str, Round],
) -> None:
    _, facts = rounds["random"].select(rule="soft_or")
    table = TABLES["random"]
    h = table["student_entropy"].to_numpy()[table["trainable"].to_numpy()].astype(float)

    assert facts.round["h_high"] == quantile(h, 0.98)
    assert facts.round["h_high"] == pytest.approx(np.quantile(h, 0.98))
    assert SelectionFacts.model_validate(json.loads(json.dumps(facts.dump()))) == facts
    _, nothing = rounds["empty"].select(rule="soft_or")
    assert (nothing.trainable, nothing.kept) == (0, 0)
    assert SelectionFacts.model_validate(json.loads(json.dumps(nothing.dump()))) == nothing


def test_a_rule_that_fixes_its_budget_does_not_look_at_keep(rounds: dict[str, Round]) -> None:
    rows, facts = rounds["random"].select(rule="all", keep=0.1)

    assert facts.keep == 1
    assert len(rows) == facts.trainable
    some, more = (inputs(rule="all", keep=keep) for keep in (0.1, 0.5))
    assert some == more


def test_inputs_change_with_everything_that_changes_the_answer_and_with_nothing_else(
    rule_file: Callable[[str], str],
) -> None:
    def key(**settings: Any) -> str:
        return key_of(inputs(**{"rule": "soft_or_clipped"} | settings))

    different = [
        {},
        {"rule": "soft_or"},
        {"keep": 0.3},
        {"scope": "round"},
        {"where": "not special"},
        {"params": {"percentile": 0.9}},
        {"cuts": "median"},
        {"entropy_cut": 0.4},
        {"divergence_cut": 0.4},
        {"rollout_weight": "reward"},
        {"rule": "random"},
        {"rule": "random", "corrected": True},
    ]
    assert len({key(**settings) for settings in different}) == len(different)
    renamed = rule_file("-- Another title.\n" + builtin_rules()["soft_or_clipped"].file)
    for same_key in (
        {"memory_gb": 3},
        {"params": {"percentile": 0.98}},
        {"rule": renamed},
    ):
        assert key(**same_key) == key()
    assert key(cuts="median", entropy_cut=0.4) == key(cuts="median")


def test_the_selection_of_a_small_table_never_changes(write: Write) -> None:
    """Golden: if this fails, what a key names has changed, and VERSION must be raised."""
    i = np.arange(60)
    one = write(
        changed(
            token_table(0, [10, 20, 30]),
            rollout=np.repeat([11, 2**40 + 5, 2**62 + 3], [10, 20, 30]),
            trainable=i % 7 != 3,
            student_entropy=(i * 37 % 11) / 8,
            reverse_kl=(i * 53 % 13) / 16,
        )
    )
    top, _ = one.select(rule="soft_or", keep=0.3)
    drawn, _ = one.select(rule="entropy_sampled", keep=0.15, corrected=True)

    assert [(r["position"], r["type"], round(r["importance"], 12)) for r in top] == GOLDEN_TOP
    assert [(r["position"], round(r["weight"], 3)) for r in drawn] == GOLDEN_DRAWN


GOLDEN_TOP = [
    (5, "Q1", 0.941666666667),
    (8, "Q1", 1.0),
    (1, "Q3", 0.916666666667),
    (2, "Q1", 1.0),
    (6, "Q1", 0.925),
    (9, "Q1", 1.0),
    (15, "Q3", 1.0),
    (0, "Q1", 1.0),
    (5, "Q1", 0.95),
    (7, "Q1", 0.958333333333),
    (11, "Q1", 1.0),
    (19, "Q1", 0.983333333333),
    (20, "Q3", 0.933333333333),
    (21, "Q1", 1.0),
]
GOLDEN_DRAWN = [(5, 2.922), (9, 2.17), (11, 2.849), (19, 5.06), (21, 7.325), (24, 6.354)]


# --- weights of rollouts -------------------------------------------------------------------------


def test_a_rollout_weight_multiplies_the_weights_of_any_rule(write: Write) -> None:
    table = token_table(18, [30, 40, 50, 60])
    one = write(table, rewards=[1.0, 0.0, 1.0, 1.0])
    ids = sorted(set(table["rollout"].to_pylist()))
    passed = {ids[0]: 0.5, ids[1]: 0.5, ids[2]: 1.0, ids[3]: 1.0}  # two samples a prompt

    for rule, corrected in (("divergence", False), ("entropy_sampled", True)):
        rows, _ = one.select(
            rule=rule, corrected=corrected, rollout_weight="pass_rate * 3 -- PACED's p"
        )
        expected = reference_select(
            table, rule, corrected=corrected, seed=SEED, weigh=lambda r: passed[r] * 3
        )
        assert same(rows, expected)


def test_a_rollout_weight_that_is_not_known_is_refused(write: Write) -> None:
    one = write(token_table(18, [30, 40]), rewards=[1.0, None])

    with pytest.raises(InputError, match=r"a weight is null.*no reward"):
        one.select(rollout_weight="reward")
    with pytest.raises(
        InputError, match="rollout_weight: there is no column `rewards`; `rollouts`"
    ):
        one.select(rollout_weight="rewards")
    with pytest.raises(InputError, match="rollout_weight: expected one SQL expression"):
        one.select(rollout_weight="reward; SELECT 1")


# --- rules of users ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT *, reverse_kl AS importance FROM tokens",
        "SELECT rollout, position, reverse_kl AS importance FROM tokens",
        "SELECT rollout, position, importance FROM"
        " (SELECT *, reverse_kl AS importance FROM tokens ORDER BY hash(rollout, position))",
        "-- round top = max(reverse_kl)\n"
        "SELECT tokens.*, reverse_kl + 0 * getvariable('top') AS importance\n"
        "FROM tokens JOIN rollouts USING (rollout) WHERE length > 0 -- all",
        "WITH a AS (SELECT *, reverse_kl AS importance FROM tokens) FROM a;",
    ],
)
def test_a_users_rule_selects_like_the_built_in_one(
    rounds: dict[str, Round], rule_file: Callable[[str], str], sql: str
) -> None:
    for name in ("random", "mixed", "empty"):
        expected, _ = rounds[name].select(rule="divergence")
        got, _ = rounds[name].select(rule=rule_file(sql))
        assert [(r["rollout"], r["position"]) for r in got] == [
            (r["rollout"], r["position"]) for r in expected
        ]


@pytest.mark.parametrize("columns", ["*", "rollout, position"])
def test_a_users_rule_may_weigh_and_leave_tokens_out(
    rounds: dict[str, Round], rule_file: Callable[[str], str], columns: str
) -> None:
    rule = rule_file(
        f"SELECT {columns}, CASE WHEN position % 2 = 0 THEN jsd END AS importance,"
        " 1 + position AS weight FROM tokens WHERE position > 3"
    )
    rows, facts = rounds["random"].select(rule=rule, keep=1)

    assert all(row["position"] % 2 == 0 and row["position"] > 3 for row in rows)
    assert all(row["weight"] == 1 + row["position"] for row in rows)
    assert 0 < len(rows) < facts.trainable / 2


def test_a_users_rule_may_name_losses_and_the_facts_count_them(
    write: Write, rule_file: Callable[[str], str]
) -> None:
    one = write(TABLES["mixed"])
    words = "CASE position WHEN 0 THEN 'suppress' WHEN 1 THEN 'none' WHEN 2 THEN 'jsd' END"
    for gives in (
        f"SELECT *, 1 AS importance, {words} AS loss FROM tokens",
        f"SELECT rollout, position, 1 AS importance, {words} AS loss FROM tokens",
    ):
        rows, facts = one.select(rule=rule_file(gives), keep=1)
        expected = {0: "suppress", 1: "none", 2: "jsd"}
        assert [row["loss"] for row in rows] == [expected.get(row["position"]) for row in rows]
        counts = Counter(row["loss"] for row in rows if row["loss"])
        assert facts.losses == dict(counts)  # type: ignore[attr-defined]
        assert len(counts) == 3
    assert one.select(rule="all")[1].losses == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("word", ["'kl'", "''", "'Reverse_KL'", "position"])
def test_a_word_that_is_no_loss_is_named_with_its_rule(
    write: Write, rule_file: Callable[[str], str], word: str
) -> None:
    one = write(TABLES["mixed"])
    path = rule_file(f"SELECT *, 1 AS importance, {word} AS loss FROM tokens")

    with pytest.raises(InputError) as caught:
        one.select(rule=path, keep=1)

    shown = "0" if word == "position" else word.strip("'")
    assert f"rule {path}: gives the loss '{shown}'; expected one of reverse_kl," in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_a_users_parameters_reach_the_sql(
    rounds: dict[str, Round], rule_file: Callable[[str], str]
) -> None:
    rule = rule_file(
        "-- param sign = 1  which end\n"
        "SELECT *, getvariable('sign') * jsd AS importance FROM tokens"
    )
    low, _ = rounds["random"].select(rule=rule, params={"sign": -1})
    high, _ = rounds["random"].select(rule=rule)

    assert max(-r["importance"] for r in low) < max(r["importance"] for r in high)
    with pytest.raises(ConfigError, match="no parameter `sing`"):
        rounds["random"].select(rule=rule, params={"sing": -1})


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (
            "SELECT *, reverse_lk AS importance FROM tokens",
            "there is no column `reverse_lk`; `tokens` has rollout, position, token,",
        ),
        ("SELECT rollout, position, jsd FROM tokens", "gives no column `importance`; it gives: r"),
        ("SELECT *, jsd / 0 AS importance FROM tokens", "is NaN or infinite"),
        ("SELECT *, 0 / (jsd - jsd) AS importance FROM tokens", "is NaN or infinite"),
        ("SELECT *, 'much' AS importance FROM tokens", "Could not convert string 'much'"),
        ("SELECT *, 1 AS importance, -1 AS weight FROM tokens", "a weight is null, negative"),
        ("SELECT *, 1 AS importance, NULL AS weight FROM tokens", "a weight is null"),
        ("SELECT *, 1 AS importance, 1e300 AS weight FROM tokens", "out of range"),
        (
            "SELECT *, 1 AS importance FROM tokens CROSS JOIN (SELECT unnest([1, 2]))",
            "comes more than once",
        ),
        (
            "SELECT * REPLACE (rollout + 7 AS rollout), 1 AS importance FROM tokens",
            "rows are no trainable tokens of the round",
        ),
        (
            "SELECT NULL::BIGINT AS rollout, position, 1 AS importance FROM tokens",
            "rows are no trainable tokens of the round",
        ),
        (
            "SELECT rollout, position + 1 AS position, jsd AS importance FROM tokens",
            "rows are no trainable tokens of the round",
        ),
        (
            "SELECT * FROM (SELECT *, 1 AS importance FROM tokens) UNION ALL BY NAME "
            "SELECT -1 AS rollout, 0 AS position, 1 AS importance",
            "rule {path}: 1 of its rows are no trainable tokens",
        ),
        ("SELECT *, nothing(jsd) AS importance FROM tokens", "Function with name nothing"),
        ("SELECT *, 1 AS importance FROM token", "Table with name token does not exist"),
        ("SELECT *, ? AS importance FROM tokens", "parameters"),
        ("-- round a = jsd\nSELECT *, getvariable('a') AS importance FROM tokens", "GROUP BY"),
        ("-- round a = max(nope)\nSELECT *, 1 AS importance FROM tokens", "no column `nope`"),
    ],
)
def test_a_users_rule_that_cannot_be_used_is_answered_in_one_line_with_its_name(
    rounds: dict[str, Round], rule_file: Callable[[str], str], sql: str, says: str
) -> None:
    path = rule_file(sql)

    with pytest.raises(InputError) as caught:
        rounds["random"].select(rule=path, keep=1)

    assert str(caught.value).startswith(f"rule {path}: ")
    assert says.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_that_comes_twice_is_found_across_batches(
    write: Write, rule_file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_of = module.stream
    monkeypatch.setattr(module, "stream", lambda c, sql: rows_of(c, sql, 1))
    one = write(changed(token_table(19, [3]), trainable=True))
    twice = rule_file("FROM (SELECT *, 1 AS importance FROM tokens), (SELECT unnest([1, 2]))")

    with pytest.raises(InputError, match="position 0 of rollout"):
        one.select(rule=twice, keep=1)
    assert len(one.select(rule="all")[0]) == 3


HOSTILE = [
    "WITH x AS (COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)) {select}",
    "COPY tokens TO '{part}' (USE_TMP_FILE false)",
    "{select}; COPY tokens TO '{part}' (USE_TMP_FILE false)",
    "SELECT *, (SELECT count(*) FROM read_csv('/etc/passwd')) AS importance FROM tokens",
    "SELECT *, len(content) AS importance FROM tokens, read_text('/etc/passwd')",
    "ATTACH '{part}.db' AS x",
    "SET lock_configuration = false",
    "WITH x AS (DELETE FROM budget) {select}",
]


@pytest.mark.parametrize("sql", HOSTILE)
def test_a_hostile_rule_reads_and_writes_nothing(
    write: Write, rule_file: Callable[[str], str], sql: str
) -> None:
    one = write(TABLES["mixed"])
    (part,) = one.tokens
    before = part.read_bytes()
    path = rule_file(sql.format(part=part, select="SELECT *, 1 AS importance FROM tokens"))

    with pytest.raises(InputError) as caught:
        one.select(rule=path)

    assert "\n" not in str(caught.value)
    assert part.read_bytes() == before
    assert [p.name for p in part.parent.iterdir()] == [part.name]


@pytest.mark.parametrize(
    "condition",
    [
        "true; DROP VIEW tokens",
        "true) UNION ALL SELECT * FROM read_csv('/etc/passwd') WHERE (true",
        "(WITH x AS (COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)) SELECT true)",
        "position IN (SELECT 1 FROM read_text('/etc/passwd'))",
        "entropy > 1",
        "position +",
        "'word'",
    ],
)
def test_a_hostile_or_wrong_condition_is_refused_in_one_line(write: Write, condition: str) -> None:
    one = write(TABLES["mixed"])
    (part,) = one.tokens
    before = part.read_bytes()

    with pytest.raises(InputError, match=r"where: |rule all: ") as caught:
        one.select(where=condition.format(part=part))

    assert "\n" not in str(caught.value)
    assert part.read_bytes() == before


# --- settings and tables that do not fit ---------------------------------------------------------


def test_correcting_a_rule_that_does_not_draw_is_refused(rounds: dict[str, Round]) -> None:
    with pytest.raises(ConfigError, match=r"corrected = true .* rule `soft_or` takes the top"):
        rounds["random"].select(rule="soft_or", corrected=True)


def test_a_part_that_is_not_there_is_an_error_of_the_store(rounds: dict[str, Round]) -> None:
    gone = Round([Path("gone.parquet")], rounds["random"].rollouts)

    with pytest.raises(StoreError, match="`token_table` cannot be read"):
        gone.select()


def test_a_part_that_is_given_twice_is_refused(rounds: dict[str, Round]) -> None:
    one = rounds["random"]

    with pytest.raises(InputError, match="or the same part is listed twice"):
        Round(one.tokens * 2, one.rollouts).select(keep=1)


def test_infinity_in_the_table_is_told_by_the_rule_that_meets_it(write: Write) -> None:
    table = changed(token_table(20, [5]), trainable=True, reverse_kl=[0, 1, math.inf, 0, 0])

    with pytest.raises(InputError, match="rule divergence: the importance of 1 tokens is NaN"):
        write(table).select(rule="divergence")
    rows, _ = write(table).select(rule="entropy_top", keep=1)
    assert len(rows) == 5
