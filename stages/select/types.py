"""The four types of tokens, for whoever opens a token table."""

from pathlib import Path

import duckdb

TYPES = ("Q1", "Q2", "Q3", "Q4")


def create_types(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the type `quadrant` and the macros of `types.sql`."""
    connection.execute(Path(__file__).with_name("types.sql").read_text("utf-8"))
