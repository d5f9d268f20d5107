"""Answers rewritten to what math-verify reads: LaTeX of ASCII characters.

What people and models write besides (`1\\,234`, `x²`, `3 1/2`, `]0,1[`) it takes for products, for
mixed numbers, or not at all.
"""

import re
import unicodedata
from itertools import groupby

_CHARACTERS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{HYPHEN}": "-",
        "\N{NON-BREAKING HYPHEN}": "-",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{MULTIPLICATION SIGN}": r"\times ",
        "\N{MIDDLE DOT}": r"\cdot ",
        "\N{DOT OPERATOR}": r"\cdot ",
        "\N{BULLET OPERATOR}": r"\cdot ",
        "\N{FRACTION SLASH}": "/",
        "\N{DEGREE SIGN}": r"^\circ ",
        "\N{MASCULINE ORDINAL INDICATOR}": r"^\circ ",  # as many keyboards give it for degrees
        "\N{INFINITY}": r"\infty ",
        "\N{EMPTY SET}": r"\emptyset ",
        "\N{UNION}": r"\cup ",
        "\N{INTERSECTION}": r"\cap ",
        "\N{HORIZONTAL ELLIPSIS}": r"\ldots ",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{ARABIC DECIMAL SEPARATOR}": ".",
        "\N{ARABIC THOUSANDS SEPARATOR}": ",",
    }
)
_SCRIPTS = {"<super>": "^{%s}", "<sub>": "_{%s}"}

_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|\w))")
_CURRENCY = re.compile(r"\\?[$€£¥₹]|\\(?:euro|pounds)(?![A-Za-z])")
TEXT = r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"
_ENDS = re.compile(r"^(?:\\[,;:! ]|~|\s)+|(?:\\[,;:! ]|\\$|~|\s)+$")
DOTS = r"(?:\\(?:[lcvd]?dots|dots[cbmio])(?![A-Za-z])|\.{2,})"

# Spaces, apostrophes: 1 234 567. Points only twice: 1.234 is a decimal. Commas stay: 1,234 may be
# a list, and math-verify knows it for a number.
_SPACED = re.compile(
    r"(?<![\d.,])[1-9]\d{0,2}(?P<by>\\[,;: ]|[ ~']|\\thinspace )\d{3}(?:(?P=by)\d{3})*(?![\d/])"
)
_POINTED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){2,}(?![\d.])")
_MIXED = re.compile(r"(?<![\d/.^_])(\d+) +(\d+)/(\d+)(?![\d/])")
_BARRED = re.compile(r"(\d{0,40})\.(\d{0,40})\\(?:overline|bar|dot)\s*(?:\{(\d{1,40})\}|(\d))")
_REPEATED = re.compile(rf"(\d{{0,40}})\.(\d{{0,40}}?)((\d)\4{{2,}}){DOTS}")
_OUTWARD = re.compile(r"(?:\\left\s*)?([\[\](])([^,;]+[,;][^,;]+?)(?:\\right\s*)?([\[\])])")

_NUMERAL = re.compile(r"\((\d[0-9A-F]*)\)_")
_BASE_NAMES = "two three four five six seven eight nine ten eleven twelve"
_BASES = {name: base for base, name in enumerate(_BASE_NAMES.split(), start=2)}
_NAMED_BASE = re.compile(
    rf"_\{{\s*(?:\\text\s*\{{\s*)?({'|'.join(_BASES)})\s*\}}(?:\s*\}})?", re.IGNORECASE
)


def normalised(text: str) -> str:
    """Return an answer as math-verify reads it; what it reads well stays as it is."""
    text = _ascii(text)
    text = text.replace(r"\!", "").replace("{,}", ",").replace(r"\varnothing", r"\emptyset")
    text = _ENDS.sub("", _CURRENCY.sub("", text))
    whole = re.fullmatch(TEXT, text)
    if whole and _is_formula(whole[1]):
        text = whole[1].strip()
    for groups in (_SPACED, _POINTED):
        text = groups.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _BARRED.sub(lambda m: _repeating(m[1], m[2], m[3] or m[4]), text)
    text = _REPEATED.sub(lambda m: _repeating(m[1], m[2], m[4]), text)
    text = _NAMED_BASE.sub(lambda m: f"_{{{_BASES[m[1].lower()]}}}", _NUMERAL.sub(r"\1_", text))
    text = _inward(text)
    return " ".join(text.split()).removesuffix(".").rstrip()


def _ascii(text: str) -> str:
    """Return scripts, fractions, roots, signs and digits of Unicode as LaTeX of ASCII."""
    parts = []
    for tag, group in groupby(text, lambda c: unicodedata.decomposition(c).partition(" ")[0]):
        run = "".join(group)
        plain = unicodedata.normalize("NFKC", run)
        if tag in _SCRIPTS and "\N{MASCULINE ORDINAL INDICATOR}" not in run:
            parts.append(_SCRIPTS[tag] % plain)
        elif tag == "<fraction>" and len(run) == 1:
            above, _, below = plain.partition("\N{FRACTION SLASH}")
            parts.append(rf"\frac{{{above}}}{{{below}}}")
        else:
            parts.append(run)
    text = unicodedata.normalize("NFKC", "".join(parts).translate(_CHARACTERS))
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text.translate(_CHARACTERS))
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _is_formula(text: str) -> bool:
    """Return whether text set upright is a formula or a quantity: `p - q`, `5 cm`; not `x-axis`."""
    one_letter = re.search("[A-Za-z]{2}", text) is None
    return bool(re.match(r" *[+-]?\d", text) or (one_letter and re.search("[+*/=<>^-]", text)))


def _repeating(whole: str, head: str, cycle: str) -> str:
    """Return the fraction of a decimal whose cycle repeats for ever."""
    above = int(whole + head + cycle) - int((whole + head) or "0")
    return rf"\frac{{{above}}}{{{10 ** len(head) * (10 ** len(cycle) - 1)}}}"


def _inward(text: str) -> str:
    """Return an interval such as `]0,1[`, open where its brackets turn outward, as `(0,1)`."""
    match = _OUTWARD.fullmatch(text)
    if match is None or (match[1] != "]" and match[3] != "["):
        return text
    inner = match[2].replace(";", ",")  # as it is written where commas are decimal
    return match[1].replace("]", "(") + inner + match[3].replace("[", ")")
