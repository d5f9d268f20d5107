"""Cards of Markdown, for models and data sets: their front matter, tables and blocks of code."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...storage.visible import visible


def text(value: object) -> str:
    """Return a text as a line of Markdown shows it: on one line, with no mark-up of its own."""
    return visible(" ".join(str(value).split())).replace("|", "\\|").replace("`", "'")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(text(cell) for cell in line)} |" for line in lines)


def fenced(word: str, content: str) -> str:
    """Return a block of code, closed by a fence that the code does not hold."""
    fence = "```"
    while fence in content:
        fence += "`"
    return f"{fence}{word}\n{content.strip()}\n{fence}"


def front_matter(values: Mapping[str, Any]) -> str:
    """Return what the hub reads of a card, values that are None left out."""
    from huggingface_hub.repocard_data import CardData

    return f"---\n{CardData(**values).to_yaml()}\n---"
