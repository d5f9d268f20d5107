"""What is asked of math-verify about a pair, and what the texts alone settle.

math-verify drops what it does not know: the base of 1011_2, the dots of a list. It takes words for
products of letters.
"""

import re

from .normalise import DOTS, TEXT, normalised
from .quantities import same_quantity

Question = bool | list[tuple[str, str]]
"""The verdict on a pair, or the (reference, answer) pairs that must all agree for it to be right"""

_LONGEST = 2000  # characters: no answer has more, and patterns take time on them
_BASED = re.compile(r"\d[0-9A-F]*_(?:\{ ?(\d+) ?\}|(\d))")
_WORD = "(?:[A-Za-z]-)?[A-Za-z]{2,}"
# Two or three letters are a product (`xy` is `yx`) unless one is an o, which no variable is called.
_WORDS = re.compile(rf"(?i:yes|no)|(?=.*(?:[A-Za-z]{{4}}|o)){_WORD}(?:[ -]{_WORD})*")


def question(reference: str, answer: str) -> Question:
    """Return the verdict on two texts where they tell it, else what to ask instead."""
    if max(len(reference), len(answer)) > _LONGEST:
        return reference == answer or [(reference, answer)]
    reference, answer = normalised(reference), normalised(answer)
    told = _told(reference, answer)
    if told is None and re.search(DOTS, reference + " " + answer):
        return _term_by_term(_terms(reference), _terms(answer))
    return [(reference, answer)] if told is None else told


def _told(reference: str, answer: str) -> bool | None:
    """Return the verdict that needs no mathematics."""
    words = [_words(text) for text in (reference, answer)]
    bases = [_bases(text) for text in (reference, answer)]
    outer = {_outer(text) for text in (reference, answer)}
    if reference == answer:
        return True
    if all(words):  # as products of their letters, `listen` equals `silent`
        return words[0] == words[1]
    if all(bases) and bases[0] != bases[1]:
        return False
    if outer in ({"{", "("}, {"{", "["}):  # a set is no tuple
        return False
    return same_quantity(reference, answer)


def _words(text: str) -> str:
    """Return words in small letters, or nothing where a text is anything else."""
    whole = re.fullmatch(TEXT, text)
    text = (whole[1] if whole else text).strip()
    return text.casefold() if _WORDS.fullmatch(text) else ""


def _bases(text: str) -> set[str]:
    """Return the bases that numerals in a text are written in."""
    return {m[1] or m[2] for m in _BASED.finditer(text)} - {"0", "1"}


def _outer(text: str) -> str:
    """Return the bracket around two or more terms, or nothing."""
    match = re.fullmatch(r"(?:\\left\s*)?\\?([{(\[])(.*?)(?:\\right\s*)?\\?[})\]]", text)
    terms = _split(match[2], ",;") if match else None
    return match[1] if match and terms and len(terms) > 2 else ""


def _split(text: str, signs: str) -> list[str] | None:
    """Return terms and the signs between them; None where brackets do not match."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            return None
        if depth == 0 and c in signs:
            parts += [c.replace(";", ","), ""]
        else:
            parts[-1] += c
    return [part.strip() for part in parts] if depth == 0 else None


def _terms(text: str) -> list[str]:
    """Return the terms of a list, else of a sum, with dots, and the signs between them."""
    text = re.sub(DOTS, r"\\ldots ", text)
    inner = re.fullmatch(r"(?:\\left\s*)?\\\{(.*?)(?:\\right\s*)?\\\}", text)
    text = inner[1] if inner else text
    terms = _split(text, ",;") or [text]
    return terms if len(terms) > 1 else _split(text, "+") or [text]


def _term_by_term(expected: list[str], given: list[str]) -> Question:
    """Return what to ask of lists with dots: each term beside its own."""
    alike = len(expected) == len(given)
    pairs = list(zip(expected, given, strict=True)) if alike else _continued(expected, given)
    asked = []
    for pair in pairs:
        bare = ["".join(text.split()) for text in pair]
        if bare[0] == bare[1]:
            continue
        if any(text in ("", ",", "+") or r"\ldots" in text for text in bare):
            return False
        asked.append(pair)
    return asked or bool(pairs)


def _continued(expected: list[str], given: list[str]) -> list[tuple[str, str]]:
    """Return what to ask where one list shows more terms around its dots; nothing: it is another.

    What is shown more must continue the first two terms by their difference, from either end:
    `1,2,3,...,n` is `1,2,...,n`, and `1,2,4,...,n` is not.
    """
    heads, tails = zip(*(_sides(parts[::2]) for parts in (expected, given)), strict=True)
    alike = expected[1:2] == given[1:2] and all(tails) == any(tails)  # a sum is no list
    if not alike or min(map(len, heads)) < 2:
        return []
    first, second = heads[0][:2]
    pairs = []
    for (ours, theirs), way in ((heads, "+"), (tails, "-")):
        pairs += zip(ours, theirs, strict=False)
        shown, longer = min(len(ours), len(theirs)), max(ours, theirs, key=len)
        for before, term in zip(longer[shown - 1 :], longer[shown:], strict=False):
            pairs.append((f"({before}) {way} (({second}) - ({first}))", term))
    return pairs


def _sides(terms: list[str]) -> tuple[list[str], list[str]]:
    """Return the terms before the only dots of a list, and those after them from its end."""
    if terms.count(r"\ldots") != 1:
        return [], []
    place = terms.index(r"\ldots")
    return terms[:place], terms[:place:-1]
