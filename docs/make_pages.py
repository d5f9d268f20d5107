"""Write the pages that are rendered from the code: `python docs/make_pages.py`.

Tables from the columns, settings from their classes, commands from the command line, rules from
their files. A test holds what lies in docs/ against what this gives.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from tip import cli
from tip.pipeline.config.reference import markdown
from tip.stages.select.rulebook import GROUPS, Rule, builtin_rules
from tip.storage import columns

TABLES = (
    (
        "rollouts",
        columns.ROLLOUTS,
        "A row a sampled response. `tip sql` shows lengths in place of lists, and the words: "
        "`prompt`, `response`.",
    ),
    (
        "teacher",
        columns.TEACHER,
        "A row a response token: the loss input. Lists of halffloat lie in the file as float, for "
        "readers that do not know halves; their numbers are the same.",
    ),
    (
        "tokens",
        columns.TOKENS,
        "A row a response token: what selection and `tip sql` read, which adds `type` (once a "
        "round is selected) and `text`.",
    ),
    ("selection", columns.SELECTION, "A row a chosen token."),
    (
        "evaluation",
        columns.EVALUATION,
        "A row an answer; in `tip sql` the column `round` is the rounds that the student was "
        "trained for.",
    ),
)


def tables() -> str:
    """Return TABLES.md."""
    parts = [
        "# Tables\n\nRendered from `storage/columns.py` by `docs/make_pages.py`. The row of "
        "position t describes the distribution that *predicts* response token t.\n"
    ]
    for name, table, about in TABLES:
        parts.append(f"## {name}\n\n{about}\n\n{columns.markdown(table)}\n")
    return "\n".join(parts)


def commands() -> str:
    """Return COMMANDS.md."""
    parts = [
        "# Commands\n\nRendered from the command line by `docs/make_pages.py`; `--help` of each "
        "says the same. Exit codes: 0 done, 1 a fault of tip itself (a traceback tells), 2 "
        "something to mend (one line says what, where and how), 130 and 143 stopped by Ctrl-C or "
        "SIGTERM: the same command continues. `NO_COLOR` is obeyed; off a terminal nothing is "
        "coloured or cut. `tip --install-completion` completes commands and options.\n"
    ]
    for path, command in _every(typer.main.get_command(cli.app)):
        if command.hidden:
            continue
        parts.append(f"## {path}\n\n{_paragraphs(command.help or '')}\n")
        rows = [_parameter(each) for each in command.params if each.name != "help"]
        if rows:
            parts.append("| | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _every(group: Any, path: str = "tip") -> Iterator[tuple[str, Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from _every(command, f"{path} {name}")


def _paragraphs(text: str) -> str:
    return "\n\n".join(
        f"`{line}`" if line.startswith("tip ") else line
        for paragraph in text.split("\n\n")
        for line in [" ".join(paragraph.split())]
    )


def _parameter(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts) or f"`{parameter.name}`"
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    default = parameter.default
    shown = "" if default in (None, False, (), []) or callable(default) else f"`{default}`"
    help_text = " ".join((getattr(parameter, "help", "") or "").split())
    return f"| {names} | {shown} | {_cell(help_text)} |"


def rules() -> str:
    """Return RULES.md."""
    parts = [
        "# Rules\n\nRendered from `stages/select/rules/*.sql` by `docs/make_pages.py`; `tip rules "
        "show NAME` prints the same. *Needs*: whose pass over the rollouts the ranking costs. How "
        "they did: [RESULTS.md](RESULTS.md); which to choose: [CHOOSING.md](CHOOSING.md).\n"
    ]
    every = builtin_rules().values()
    for group in GROUPS:
        members = sorted((rule for rule in every if rule.group == group), key=lambda r: r.name)
        if members:
            parts.append(f"## By {group}\n" if group != "both" else "## By both\n")
            parts += [_rule(rule) for rule in members]
    return "\n".join(parts)


def _rule(rule: Rule) -> str:
    facts = [f"needs: {rule.needs}", f"draw: {rule.draw}"]
    facts += [f"keep: {rule.keep:g}, its own"] if rule.keep is not None else []
    facts += [f"`{name}` = {param.default:g}" for name, param in rule.params.items()]
    facts += ["reads the sampled token"] if rule.reads_sampled else []
    return f"### {rule.name}\n\n{', '.join(facts)}\n\n```sql\n{rule.file.rstrip()}\n```\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {
    "TABLES.md": tables,
    "SETTINGS.md": markdown,
    "COMMANDS.md": commands,
    "RULES.md": rules,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        Path(__file__).with_name(name).write_text(page(), encoding="utf-8")
