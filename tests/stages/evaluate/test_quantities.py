"""Numbers are compared exactly, and units where both sides have one that is known."""

import pytest
from tip.stages.evaluate.quantities import same_quantity


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("1234", "1,234"),
        ("72", "72.00"),
        (".5", "0.50"),
        ("-5", "- 5"),
        ("1500", "1.5e3"),
        ("0.03", "3.0E-2"),
        ("1500", r"1.5 \times 10^{3}"),
        ("1500", r"1.5 \cdot 10^3"),
        ("32", "32 dollars"),
        ("32", r"32\text{ eggs}"),
        ("32 dollars", "32"),
        ("32", r"32\,\mathrm{km/h}"),
        ("32", "32 cm^2"),
        ("90", r"90^{\circ}"),
        ("45 degrees", r"45^\circ"),
        ("5 m", r"5\text{ meters}"),
        ("5000000", "5 million dollars"),
        ("0.5", "0,5"),
        ("1234.5", "1.234,5"),
        ("1234567", "12,34,567"),
        ("12,34,567.5", "1,234,567.5"),
        ("32", r"32\,\frac{\mathrm{m}}{\mathrm{s}^{2}}"),
        (r"50 \dfrac{\text{miles}}{\text{hour}}", "50"),
    ],
)
def test_equal_numbers_are_the_same_however_written(reference: str, answer: str) -> None:
    assert same_quantity(reference, answer) is True


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("1e-20", "1e-21"),
        ("1.0000001", "1.0000002"),
        ("12345678901234567890", "12345678901234567891"),
        ("1.234", "1,234"),
        ("1234", "1.234"),
        ("5", "5 million"),
        ("5 m", "5 cm"),
        ("5 cm", "5 cm^2"),
        ("5 hours", "5 minutes"),
        (r"90^\circ", "90 radians"),
        ("5", "0,5"),
    ],
)
def test_other_numbers_and_units_are_not(reference: str, answer: str) -> None:
    assert same_quantity(reference, answer) is False


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("0.5", r"\frac{1}{2}"),
        ("2", "2 pi"),
        ("5", "5m"),
        ("5", "5 xy"),
        ("5", "5 or more"),
        ("50", "50 percent"),
        ("6", "6 cm 7 mm"),
        ("2", "2 squared"),
        ("0,5", "0.5"),  # the reference may be a list
        ("5 apples", "5 eggs"),
        ("10,20,300", "20,10,300"),  # both may be lists
        ("3", r"3\frac{m}{n}"),
        ("x", "y"),
    ],
)
def test_what_is_no_number_alone_is_left_open(reference: str, answer: str) -> None:
    assert same_quantity(reference, answer) is None
