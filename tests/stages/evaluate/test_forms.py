"""Random answers are right in every form that people write, and their neighbours wrong."""

import random
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest
from tip.stages.evaluate.verdicts import Verifier

Forms = tuple[str, list[str], list[str]]
"""A reference, answers that say the same, and answers that do not"""

_SUPER = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_WIDE = str.maketrans("0123456789", "０１２３４５６７８９")


def grouped(number: int, by: str) -> str:
    return f"{number:,}".replace(",", by)


def integer(rng: random.Random) -> Forms:
    n = rng.randint(1000, 10**9)
    groups = [grouped(n, by) for by in (",", "{,}", r"\,", r"\ ", "~", " ", "'", "\N{THIN SPACE}")]
    units = [
        f"{n} dollars",
        rf"{n}\text{{ eggs}}",
        rf"\${n}",
        rf"{n}^\circ",
        rf"{n}\,\mathrm{{km}}",
    ]
    head, zeros = rng.randint(11, 99), rng.randint(3, 9)
    forms = [
        *groups,
        *units,
        f"{n}.00",
        f"0{n}",
        str(n).translate(_WIDE),
        rf"\text{{{n}}}",
        f"${n}$.",
    ]
    other = [
        str(n + 1),
        f"-{n}",
        f"{n}0",
        f"{n} million",
        grouped(n + 1, r"\,"),
        f"{n}.5",
        f"{n}_7 x",
    ]
    if rng.random() < 0.3:
        n = head * 10**zeros
        mantissa = f"{head / 10:.1f}"
        forms = [f"{mantissa}e{zeros + 1}", rf"{mantissa} \times 10^{{{zeros + 1}}}"]
        forms += [f"{mantissa} × 10{str(zeros + 1).translate(_SUPER)}", f"{head}E+{zeros}"]
        other = [
            f"{mantissa}e{zeros}",
            rf"{mantissa} \times 10^{{{zeros}}}",
            f"{mantissa}e-{zeros}",
        ]
    return str(n), forms, other


def fraction(rng: random.Random) -> Forms:
    value = Fraction(rng.randint(1, 40), rng.choice([3, 4, 6, 7, 8, 9, 11, 12]))
    p, q = value.as_integer_ratio()
    forms = [
        rf"\dfrac{{{p}}}{{{q}}}",
        f"{p}/{q}",
        rf"\frac{{{2 * p}}}{{{2 * q}}}",
        rf"-\frac{{-{p}}}{{{q}}}",
    ]
    other = [f"{p + q}/{q}", rf"\frac{{{p}}}{{{q + 1}}}", f"-{p}/{q}", f"{p}{q}"]
    whole, rest = divmod(p, q)
    if whole and rest:
        forms += [
            f"{whole} {rest}/{q}",
            rf"{whole}\frac{{{rest}}}{{{q}}}",
            rf"{whole} \tfrac{{{rest}}}{{{q}}}",
        ]
        other += [f"{whole} {rest + q}/{q}", str(whole), f"{rest}/{q}", str(q)]
    if q == 3:
        forms += [rf"{whole}.\overline{{{rest * 3}}}", f"{whole}.{str(rest * 3) * 3}..."]
        other += [f"{whole}.{rest * 3}"]
    if q in (4, 8):
        forms += [f"{float(value)}", f"{float(value)}0"]
        other += [str(float(value) + 0.001)]
    if (p, q) == (3, 4):
        forms.append("¾")
    return rf"\frac{{{p}}}{{{q}}}", forms, [o for o in other if o != f"{p}/{q}"]


def small(rng: random.Random) -> Forms:
    base, power = rng.choice([2, 3, 5, 10]), rng.randint(20, 120)
    forms = [
        rf"\frac{{1}}{{{base}^{{{power}}}}}",
        f"{base}^{{-{power}}}",
        f"{base}{f'-{power}'.translate(_SUPER)}",
    ]
    other = [
        f"{base}^{{-{power + 1}}}",
        rf"\frac{{1}}{{{base}^{{{power - 1}}}}}",
        rf"\frac{{2}}{{{base}^{{{power}}}}} + 1",
    ]
    return f"{base}^{{-{power}}}", forms, [*other, rf"\frac{{1}}{{{power}!}}"]


def interval(rng: random.Random) -> Forms:
    a, b = sorted(rng.sample(range(-20, 20), 2))
    left, right = rng.choice("(["), rng.choice(")]")
    outward = {"(": "]", "[": "[", ")": "[", "]": "]"}
    turned = {"(": "[", "[": "(", ")": "]", "]": ")"}
    forms = [rf"\left{left}{a}, {b}\right{right}", f"{left} {a} , {b} {right}".replace("-", "−")]
    if left + right != "[]":
        forms.append(f"{outward[left]}{a};{b}{outward[right]}")
    other = [
        f"{turned[left]}{a},{b}{right}",
        f"{left}{a},{b}{turned[right]}",
        f"{left}{a},{b + 1}{right}",
    ]
    if "[" in left or "]" in right:
        other.append(rf"\{{{a},{b}\}}")
    return f"{left}{a},{b}{right}", forms, other


def dotted(rng: random.Random) -> Forms:
    start, step, last = rng.randint(1, 9), rng.randint(1, 9), rng.randint(100, 999)
    terms = [str(start), str(start + step), str(start + 2 * step)]
    dots = [r"\ldots", r"\dots", "...", "…", r"\cdots"]
    forms = [", ".join([*terms, d, str(last)]) for d in dots] + [
        r"\{" + ",".join([*terms, r"\dots", str(last)]) + r"\}"
    ]
    wrong = [[*terms[:2], str(start + 2 * step + 1)], [*terms[:1], *terms[2:]], terms[::-1]]
    other = [", ".join([*w, r"\ldots", str(last)]) for w in wrong] + [
        str(last),
        ", ".join([*terms, str(last)]),
    ]
    return (
        ",".join([*terms, r"\ldots", str(last)]),
        forms,
        [*other, ", ".join([*terms, r"\ldots", str(last + 1)])],
    )


def numeral(rng: random.Random) -> Forms:
    base = rng.choice([2, 3, 5, 8])
    names = {2: "two", 3: "three", 5: "five", 8: "eight"}
    digits = "1" + "".join(str(rng.randrange(base)) for _ in range(rng.randint(3, 8)))
    forms = [
        f"{digits}_{{{base}}}",
        f"({digits})_{base}",
        rf"{digits}_{{\text{{{names[base]}}}}}",
        digits,
    ]
    other = [
        f"{digits}_{base + 1}",
        f"{digits}_{{{base + 2}}}",
        f"{digits}0_{base}",
        rf"{digits}_{{\text{{nine}}}}",
    ]
    return f"{digits}_{base}", forms, other


def polynomial(rng: random.Random) -> Forms:
    b, c, n = rng.randint(2, 9), rng.randint(1, 9), rng.randint(2, 9)
    power = str(n).translate(_SUPER)
    forms = [
        f"x{power} + {b}x + {c}",
        f"{c} + {b}x + x^{{{n}}}",
        rf"x^{n}+{b} \cdot x+{c}",
        f"x^{n} + {b}·x + {c}",
    ]
    forms += [f"{c}+{b}𝑥+𝑥{power}", rf"\text{{x^{n} + {b}x + {c}}}", f"x^{n} − (−{b})x + {c}"]
    other = [
        f"x{str(n + 1).translate(_SUPER)} + {b}x + {c}",
        f"x^{n} + {b}x - {c}",
        f"x^{n}+{c}x+{b + 1}",
        f"x_{n}+{b}x+{c}",
    ]
    return f"x^{n}+{b}x+{c}", forms, other


KINDS: list[Callable[[random.Random], Forms]] = [
    integer,
    fraction,
    small,
    interval,
    dotted,
    numeral,
    polynomial,
]


def misjudged(kind: Callable[[random.Random], Forms], cases: int) -> Iterator[tuple[str, str, str]]:
    """Yield answer, reference and verdict of what is judged otherwise."""
    rng = random.Random(kind.__name__)
    pairs, expected = [], []
    for _ in range(cases):
        reference, right, wrong = kind(rng)
        pairs += [(rf"\boxed{{{answer}}}", reference) for answer in right + wrong]
        expected += ["right"] * len(right) + ["wrong"] * len(wrong)
    with Verifier("math", timeout=30) as verifier:
        verdicts = verifier.verdicts(pairs)
    for (answer, reference), verdict, word in zip(pairs, verdicts, expected, strict=True):
        if verdict.word != word:
            yield answer, reference, verdict.word


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_an_answer_is_right_and_of_a_neighbour_wrong(
    kind: Callable[[random.Random], Forms],
) -> None:
    assert list(misjudged(kind, 5)) == []


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_many_answers_in_every_form(kind: Callable[[random.Random], Forms]) -> None:
    assert list(misjudged(kind, 300)) == []
