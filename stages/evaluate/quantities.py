"""Numbers with units, compared exactly: `32 dollars`, `1.5e3`, `90^\\circ`, `5 million`.

math-verify rounds decimals, reads `1.5e3` with Euler's number, and `dollars` as a
product of letters.
"""

import re
from fractions import Fraction

from .normalise import TEXT

_NUMBER = re.compile(
    r"([+-]?) ?((?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
    r"(?:[eE]([+-]?\d{1,3})| ?\\(?:times|cdot) ?10 ?\^ ?\{? ?([+-]?\d{1,3}) ?\}?)?"
)
_DECIMAL_COMMA = re.compile(
    r"([+-]?)(?:(\d{1,3}(?:\.\d{3})+),(\d+)|(\d+),(\d{1,2}|\d{4,})|0,(\d+))"
)
# Two digits a group, as in India. Beside another of its kind it may be a list: 10,20,300.
_LAKHS = re.compile(r"(?<![\d.,])[1-9]\d?(?:,\d{2})+,\d{3}(?![\d,])")
_WORD = r"[A-Za-z]+(?:\^(?:-?\d|\{-?\d\}))?"
_UNIT = rf"{_WORD}(?: ?[ /-] ?{_WORD})*"
_OVER = re.compile(rf"\\[dt]?frac ?\{{ ?({_UNIT}) ?\}} ?\{{ ?({_UNIT}) ?\}}")
_MEASURED = re.compile(rf"({_NUMBER.pattern}) ?({_UNIT})?")
_MULTIPLES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_OTHER_WORDS = """
and arccos arcsin arctan at base choose cos cot csc cubed divided exp factorial fifths fourths from
half halves hundredths i infinity less lim ln log max minus mod more most multiplied of or over
percent percentage pct pi plus quarters root roots sin sqrt squared tan tenths than theta thirds
thousandths times to until
"""  # after a number they make another number, or no number, of it
_NO_UNITS = frozenset(_OTHER_WORDS.split())
_SYMBOLS = {
    "mm": "millimeter millimetre",
    "cm": "centimeter centimetre",
    "m": "meter metre",
    "km": "kilometer kilometre",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard",
    "mi": "mile",
    "mg": "milligram",
    "g": "gram",
    "kg": "kilogram",
    "lb": "pound lbs",
    "oz": "ounce",
    "ml": "milliliter millilitre mL",
    "l": "liter litre L",
    "s": "second sec",
    "min": "minute",
    "h": "hour hr",
    "day": "",
    "week": "",
    "month": "",
    "year": "yr",
    "cent": "",
    "dollar": "",
    "degree": "",
    "radian": "rad",
}
_UNITS = {name: unit for unit, names in _SYMBOLS.items() for name in [unit, *names.split()]}


def same_quantity(reference: str, answer: str) -> bool | None:
    """Return whether two numbers, with their units, are the same; None where one is something else.

    A unit counts where both have one that is known here: for the reference or the answer alone it
    may be left out.
    """
    texts = (reference, answer)
    if not all(map(_LAKHS.search, texts)):
        reference, answer = (_LAKHS.sub(lambda m: m[0].replace(",", ""), text) for text in texts)
    expected, given = (_quantity(text, letters=True) for text in (reference, answer))
    if (expected and expected[1] == "") or (given and given[1] == ""):  # then 5m is 5 times m
        expected, given = (_quantity(text, letters=False) for text in (reference, answer))
    if expected and not given and expected[1] == "" and "," not in reference:
        comma = _DECIMAL_COMMA.fullmatch(answer)  # a list it could only be beside other numbers
        given = (
            _quantity(answer.replace(".", "").replace(",", "."), letters=False) if comma else None
        )
    if not expected or not given:
        return None
    if "" in (expected[1], given[1]):
        return expected[0] == given[0]
    return None if None in (expected[1], given[1]) else expected == given


def _quantity(text: str, *, letters: bool) -> tuple[Fraction, str | None] | None:
    """Return a number and its unit: empty without one, None for one that is not known here.

    letters: whether a single letter after a number is its unit.
    """
    text = re.sub(r"\^ ?(?:\{ ?)?\\circ(?: ?\})?", " degree", text)
    text = _OVER.sub(r" \1/\2", re.sub(r"\\[,;: ]|~", " ", re.sub(TEXT, r" \1", text)))
    match = _MEASURED.fullmatch(" ".join(text.split()))
    if match is None:
        return None
    number = Fraction(match[2] + match[3].replace(",", ""))
    number *= Fraction(10) ** int(match[4] or match[5] or 0)
    words = re.findall(r"[A-Za-z]+|[^ {}]", match[6] or "")
    while words and words[0] in _MULTIPLES:
        number *= _MULTIPLES[words.pop(0)]
    names = {word: _unit(word) for word in words if word.isalpha()}
    if not _are_words(names, letters=letters):
        return None
    unit = None if None in names.values() else "".join(names.get(w) or w for w in words)
    return number, unit


def _unit(word: str) -> str | None:
    return _UNITS.get(word) or _UNITS.get(word.removesuffix("s"))


def _are_words(names: dict[str, str | None], *, letters: bool) -> bool:
    """Return whether what follows a number leaves it as it is: no letters of a formula."""
    spelled = all(unit is not None or len(name) > 2 for name, unit in names.items())
    alone = len(names) == 1 and len(next(iter(names))) == 1
    return (
        spelled and (letters or not alone) and _NO_UNITS.isdisjoint(name.lower() for name in names)
    )
