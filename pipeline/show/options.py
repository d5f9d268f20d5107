"""Options that several commands have, each with one name, one default and one help."""

from typing import Annotated

import typer

Runs = Annotated[str, typer.Option("--runs", help="Folder of run folders.")]
StoreRoot = Annotated[str, typer.Option("--store", help="Folder or URL of the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, a line a thing.")]
