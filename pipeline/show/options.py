"""Options that several commands have, each with one name, one default and one help."""

from typing import Annotated

import typer

Runs = Annotated[str, typer.Option("--runs", help="Folder of run folders.")]
StoreRoot = Annotated[str, typer.Option("--store", help="Folder or URL of the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, a line a thing.")]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set", help="Change a setting: --set train.lr=1e-5. Repeatable.", metavar="KEY=VALUE"
    ),
]


def split(words: str) -> list[str]:
    """Return the words of an option that takes several, with commas between."""
    return words.split(",") if words else []
