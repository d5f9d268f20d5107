"""Answers are rewritten to ASCII LaTeX; what math-verify reads already stays as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.evaluate.normalise import normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"1\,234\,567", "1234567"),
        (r"1\ 234", "1234"),
        ("12 345", "12345"),
        ("1~234", "1234"),
        ("1'234", "1234"),
        ("1’234", "1234"),
        ("1\N{NARROW NO-BREAK SPACE}234", "1234"),
        ("1.234.567", "1234567"),
        (r"10,\!000", "10,000"),
        ("1{,}234", "1,234"),
        ("３．５", "3.5"),
        ("٣٫٥", "3.5"),
        ("𝟓𝑥", "5x"),
        ("x² + y₁₂", "x^{2} + y_{12}"),
        ("2⁻⁹⁹", "2^{-99}"),
        ("3½", r"3\frac{1}{2}"),
        ("3 1/2", r"3\frac{1}{2}"),
        ("−5", "-5"),
        ("90°", r"90^\circ"),
        ("√(x+1)", r"\sqrt{x+1}"),
        ("2√3", r"2\sqrt{3}"),
        (r"\varnothing", r"\emptyset"),
        ("∅", r"\emptyset"),
        ("(−∞, 3]", r"(-\infty , 3]"),
        (r"0.1\overline{6}", r"\frac{15}{90}"),
        ("0.333...", r"\frac{3}{9}"),
        (r"\left]0,1\right]", "(0,1]"),
        ("[0;1[", "[0,1)"),
        ("$5$.", "5"),
        ("€32", "32"),
        (r"\text{p - q}", "p - q"),
        (r"\mathrm{5 cm}", "5 cm"),
        (r"(1011)_{\text{two}}", "1011_{2}"),
        (r"5\,", "5"),
    ],
)
def test_what_people_write_becomes_what_math_verify_reads(text: str, expected: str) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "1.234",  # a decimal
        "1,234",
        "10, 200, 300",
        "12345 678",
        "1 23",
        "0 123",
        r"\text{x-axis}",
        r"\text{(C)}",
        "(0,1]",
        "[[1,2],[3,4]]",
        r"\begin{pmatrix} 1 \\ 234 \end{pmatrix}",
        r"\frac{1}{2}",
        r"x_1^2",
        "0.33",
        "",
    ],
)
def test_what_is_read_well_stays(text: str) -> None:
    assert normalised(text) == text


@given(st.text(max_size=30) | st.text("0123456789 .,\\'~½²₂٣[]{}()^_$", max_size=20))
def test_any_text_comes_out_with_ascii_digits_alone(text: str) -> None:
    out = normalised(text)
    assert all(c.isascii() for c in out if c.isdigit() or c.isdecimal())
    assert len(out) <= 20 * len(text) + 200
