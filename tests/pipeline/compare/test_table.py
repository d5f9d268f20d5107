"""The results of a comparison: a line a row, and no share of a gain that is none."""

import pytest
from tip.pipeline.compare.measures import MEASURES
from tip.pipeline.compare.page import _costs
from tip.pipeline.compare.play import Outcome
from tip.pipeline.compare.rows import ALL, ALL_TOKENS, NO_REFRESH, RANDOM, Row, Tokens
from tip.pipeline.compare.table import costs_of, judged, settled_gain

from .outcomes import evaluation, outcome

ACCURACY = MEASURES["accuracy"]


def test_rows_of_near_budgets_and_values_have_lines_of_their_own() -> None:
    rows = [
        Row(ALL, 1.0),
        Row(RANDOM, 0.12),
        Row(RANDOM, 0.124),
        Row(ALL, 1.0, ("train.lr=0.001",)),
        Row(ALL, 1.0, ("train.lr=0.0001",)),
    ]
    outcomes = [outcome(row, s, 40, 60 + n) for n, row in enumerate(rows) for s in range(3)]
    table = judged(outcomes, ACCURACY, evaluation(90)).frame
    assert table["value"].to_list() == pytest.approx([40, 90, 60, 61, 62, 63, 64])
    assert table["row"].n_unique() == table.height
    assert table["mean_to_all"].to_list()[2:] == pytest.approx([0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    "afters",
    [
        (40.0, 40.0, 40.0),  # nothing gained
        (35.0, 34.0, 36.0),  # lost
        (40.1, 40.3, 40.5),  # certain, and matters to nobody
        (40.1, 47.0, 39.0),  # maybe much, maybe nothing
        (41.2, 43.3, 43.8),  # certain, but maybe of a size that matters to nobody
        (60.0, 61.0),  # too few seeds
        (60.0, 60.0, 60.0),  # without a spread nothing tells of the next seed
    ],
)
def test_without_a_settled_gain_of_all_tokens_there_is_no_share_of_it(
    afters: tuple[float, ...],
) -> None:
    outcomes = [outcome(ALL_TOKENS, s, 40, after) for s, after in enumerate(afters)]
    outcomes += [outcome(Row(RANDOM, 0.2), s, 40, 90) for s in range(len(afters))]
    table = judged(outcomes, ACCURACY).frame
    assert table["row"].to_list() == ["student before", "all", "random 20%"]
    for column in ("gain_kept", "steps_to_90", "reached_90"):
        assert table[column].null_count() == table.height


def test_a_settled_gain_is_shared_out_and_the_steps_to_most_of_it_are_counted() -> None:
    outcomes = [outcome(ALL_TOKENS, s, 40, 59 + s) for s in range(3)]
    outcomes += [outcome(Row(RANDOM, 0.2), s, 40, 50) for s in range(3)]
    table = judged(outcomes, ACCURACY).frame
    assert table["gain_kept"].to_list()[1:] == pytest.approx([1.0, 0.5])
    assert table["steps_to_90"].to_list() == [None, 8, None]
    assert table["reached_90"].to_list() == [None, 3, 0]


def test_a_gain_is_paired_by_seed() -> None:
    befores, afters = [20.0, 40.0, 60.0], [29.0, 50.0, 71.0]
    assert settled_gain(befores, afters, ACCURACY) == pytest.approx(10)
    assert settled_gain(befores, afters[::-1], ACCURACY) is None


def test_a_number_of_tokens_is_compared_with_as_many_random_ones() -> None:
    rows = [ALL_TOKENS, Row(RANDOM, 1.0), Row(RANDOM, Tokens(1)), Row("q3", Tokens(1))]
    outcomes = [outcome(row, s, 40, 60 + n + s) for n, row in enumerate(rows) for s in range(3)]
    lines = {line["row"]: line for line in judged(outcomes, ACCURACY).frame.to_dicts()}
    assert lines["q3 1 token"]["mean_to_random"] == pytest.approx(1)
    assert (lines["q3 1 token"]["keep"], lines["q3 1 token"]["count"]) == (None, 1)
    assert (lines["random 100%"]["keep"], lines["random 100%"]["count"]) == (1.0, None)


def test_no_refresh_is_compared_with_all_tokens_and_not_with_random() -> None:
    rows = [ALL_TOKENS, NO_REFRESH, Row(RANDOM, 1.0), Row("q3", 1.0)]
    outcomes = [outcome(row, s, 40, 60 + n + s) for n, row in enumerate(rows) for s in range(3)]
    lines = {line["row"]: line for line in judged(outcomes, ACCURACY).frame.to_dicts()}
    refreshed = {name: line["refresh"] for name, line in lines.items() if line["rule"]}
    assert refreshed == {"all": True, "no refresh": False, "random 100%": True, "q3 100%": True}
    assert lines["no refresh"]["mean_to_all"] == pytest.approx(1)
    assert lines["no refresh"]["mean_to_random"] is None
    assert lines["q3 100%"]["mean_to_random"] == pytest.approx(1)


def test_less_of_a_divergence_is_more_and_a_share_of_the_baseline_is_equal() -> None:
    def kl(row: Row, seed: int, after: float) -> Outcome:
        curve = [(0, evaluation(0, reverse_kl=2.0)), (8, evaluation(0, reverse_kl=after))]
        return outcome(row, seed, 0, 0, curve=tuple(curve))

    near, far = Row("q3", 0.2), Row(RANDOM, 0.2)
    outcomes = [kl(ALL_TOKENS, s, 1.0 + s / 100) for s in range(3)]
    outcomes += [kl(near, s, 1.01 + s / 100 + s * s / 1000) for s in range(3)]
    outcomes += [kl(far, s, 1.5 + s / 100 + s * s / 100) for s in range(3)]
    found = judged(outcomes, MEASURES["reverse_kl"], evaluation(90), "all at one rate")
    assert found.title == "reverse_kl, all at one rate"
    lines = {line["row"]: line for line in found.frame.to_dicts()}
    assert list(lines) == ["student before", "all", "q3 20%", "random 20%"]
    assert lines["q3 20%"]["verdict_to_all"] == "equal"
    assert lines["random 20%"]["verdict_to_all"] == "worse"
    assert lines["q3 20%"]["verdict_to_random"] == "better"
    assert lines["random 20%"]["gain_kept"] == pytest.approx((2 - 1.52667) / 0.99, abs=1e-4)
    assert lines["q3 20%"]["reached_90"] == 3
    assert lines["random 20%"]["reached_90"] == 0


def test_costs_are_means_and_sums_and_memory_on_a_gpu_is_told_where_there_was_one() -> None:
    cpu = [outcome(Row(ALL, 1.0), seed, 40, 60, seconds=1.0 + seed) for seed in range(2)]
    gpu = outcome(Row(RANDOM, 0.2), 0, 40, 60, peak_gpu_memory_mb=4100, lost_ground=True)
    lines = costs_of([*cpu, gpu]).to_dicts()
    assert [_costs(line) for line in lines] == [
        ["all", "0.0003", "100", "30", "10", "2", "500", ""],
        ["random 20%", "0.0003", "100", "15", "5", "2", "500, GPU 4,100", "1 of 1"],
    ]
