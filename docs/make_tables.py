"""Write docs/TABLES.md and docs/SETTINGS.md from what is declared: `python docs/make_tables.py`."""

from pathlib import Path

from tip.pipeline.config.reference import markdown
from tip.storage import columns

TABLES = (
    ("rollouts", columns.ROLLOUTS, "A row a sampled response."),
    (
        "teacher",
        columns.TEACHER,
        "A row a response token: the loss input. Lists of halffloat lie in the file as float, for "
        "readers that do not know halves; their numbers are the same.",
    ),
    ("tokens", columns.TOKENS, "A row a response token: what selection and `tip sql` read."),
    ("selection", columns.SELECTION, "A row a chosen token."),
    ("evaluation", columns.EVALUATION, "A row an answer."),
)


def render() -> str:
    """Return the page."""
    parts = [
        "# Tables\n\nRendered from `storage/columns.py` by `docs/make_tables.py`. The row of "
        "position t describes the distribution that *predicts* response token t.\n"
    ]
    for name, table, about in TABLES:
        parts.append(f"## {name}\n\n{about}\n\n{columns.markdown(table)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("TABLES.md").write_text(render(), encoding="utf-8")
    Path(__file__).with_name("SETTINGS.md").write_text(markdown(), encoding="utf-8")
