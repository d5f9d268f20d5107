"""Texts settle a pair where they can; lists with dots are asked term by term."""

import time

import pytest
from tip.stages.evaluate.questions import Question, question


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("x²", "x^{2}", True),
        ("1011_2", "1011_3", False),
        ("1011_{2}", r"(1011)_{\text{three}}", False),
        (r"\text{listen}", "silent", False),
        (r"\text{Yes, so}", "no", [(r"\text{Yes, so}", "no")]),
        (r"\text{x-axis}", "x-axis", True),
        (r"\text{Monday}", "monday", True),
        ("no", "on", False),
        (r"\text{No}", "NO", True),
        ("YES", "yes", True),
        ("ba", "ab", [("ba", "ab")]),
        ("OA", "AO", [("OA", "AO")]),
        ("(1,2)", r"\{1,2\}", False),
        (r"\left[1,2\right]", r"\left\{1,2\right\}", False),
        (r"\{(1,2)\}", "(1,2)", [(r"\{(1,2)\}", "(1,2)")]),
        ("1,2", "(1,2)", [("1,2", "(1,2)")]),
        ("77_8", "77", [("77_8", "77")]),
        ("x_1", "x_2", [("x_1", "x_2")]),
    ],
)
def test_the_texts_settle_what_they_tell(reference: str, answer: str, expected: Question) -> None:
    assert question(reference, answer) == expected


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        (r"1,2,\ldots,n", "1, 2, ..., n", True),
        (r"\{1,2,\dots\}", r"1,2,\ldots", True),
        ("1,3,…,2n-1", r"1,3,\ldots,-1+2n", [("2n-1", "-1+2n")]),
        (
            r"1,2,\ldots,n",
            r"1,3,5,\ldots,2n-1",
            [("2", "3"), ("(3) + ((2) - (1))", "5"), ("n", "2n-1")],
        ),
        (r"1,2,\ldots,n", r"1,3,\ldots,n", [("2", "3")]),
        (r"1,\ldots,5", "1,5", False),
        ("10", r"1, 2, \dots, 10", False),
        (r"1+2+\cdots+n", r"1+3+\cdots+n", [("2", "3")]),
        (r"1+4+\cdots", r"2+3+\cdots", [("1", "2"), ("4", "3")]),
        (r"1,2,\ldots", r"1;2;\ldots", True),
        (r"1 \cdot 2 \cdots n", r"1 \cdot 3 \cdots n", False),
        (r"(1,2,\ldots,n)", r"(1,3,\ldots,n)", False),
        (r"1,2,\ldots,n", r"1,2,3,\ldots,n", [("(2) + ((2) - (1))", "3")]),
        (r"1+2+3+\cdots", r"1+2+\cdots", [("(2) + ((2) - (1))", "3")]),
        (r"5,4,\ldots,1", r"5,4,\ldots,2,1", [("(1) - ((4) - (5))", "2")]),
        (r"1,2,\ldots", r"1,2,3,\ldots,n", False),
        (r"1+2+3+\cdots+n", r"1,2,\ldots,n", False),
        (r"1,\ldots,n", r"1,2,\ldots,n", False),
        (r"\ldots,1,2,\ldots", r"\ldots,1,2,3,\ldots", False),
        (r"1,2,\ldots", "1", False),
    ],
)
def test_lists_with_dots_are_asked_term_by_term(
    reference: str, answer: str, expected: Question
) -> None:
    assert question(reference, answer) == expected


@pytest.mark.parametrize("piece", ["~", r"\ ", "1 ", "1.", "{", "1,", r"\text{", "0.3", "a-"])
def test_the_longest_answers_take_no_time(piece: str) -> None:
    start = time.monotonic()
    for length in (1999, 200_000):
        text = (piece * length)[:length] + "x"
        question(text, "1")
        question("1", text)
    assert time.monotonic() - start < 30
