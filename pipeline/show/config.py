"""`tip config`: every setting with its default and meaning, or what config files set."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from ...storage.errors import ConfigError
from ..config.reference import Setting, settings, values_of
from ..config.toml import load_config
from .cells import plain, print_lines, screen, table


def print_settings(word: str | None, changes: Sequence[str], *, as_json: bool = False) -> None:
    """Print all settings, those whose names begin with a word, or the values of a config file.

    changes: `key=value`, of a file. Raises `ConfigError` for a word that fits nothing.
    """
    if word is not None and (word.endswith(".toml") or Path(word).is_file()):
        if as_json:
            values = values_of(load_config(Path(word), changes))
            print_lines({"name": name, "value": value} for name, value in values.items())
        else:
            _print_values(Path(word), changes)
        return
    every = list(settings())
    chosen = [s for s in every if word is None or s.name == word or s.name.startswith(f"{word}.")]
    if not chosen:
        raise ConfigError(_unknown(str(word), every))
    if as_json:
        print_lines(chosen)
        return
    out = screen()
    for each in chosen:
        out.print(plain(f"{each.name} = {each.default}"), style="bold", soft_wrap=True)
        out.print(plain(f"    {each.values}. Changes {each.changes}."), soft_wrap=True)
        out.print(plain(f"    {each.meaning}"))


def print_difference(first: Path, second: Path) -> None:
    """Print the settings in which two config files differ."""
    ours, theirs = (values_of(load_config(path)) for path in (first, second))
    shown = table(("setting", first.name, second.name), left=("setting", first.name, second.name))
    names = [*ours, *(n for n in theirs if n not in ours)]
    sections = {name.rpartition(".")[0] for name in names}
    for name in names:
        if name not in sections and ours.get(name) != theirs.get(name):
            shown.add_row(name, ours.get(name, "not set"), theirs.get(name, "not set"))
    if not shown.row_count:
        print("the same settings")
        return
    screen().print(shown)


def _print_values(path: Path, changes: Sequence[str]) -> None:
    """Print what a config's settings are, those that are not their default's first."""
    defaults = {each.name: each.default for each in settings()}
    values = values_of(load_config(path, changes))
    shown = table(("setting", "value", "default"), left=("setting", "value", "default"))
    for own in (True, False):
        for name, value in values.items():
            if (value != defaults.get(name)) is own:
                shown.add_row(name, value, defaults.get(name, "") if own else "")
        shown.add_section()
    screen().print(shown)


def _unknown(word: str, every: Sequence[Setting]) -> str:
    names = {each.name for each in every}
    names |= {name.rpartition(".")[0] for name in names if "." in name}
    ends = {name.rpartition(".")[2]: name for name in names}
    near = difflib.get_close_matches(word, names, n=1) or [
        ends[end] for end in difflib.get_close_matches(word, ends, n=1)
    ]
    hint = f"did you mean {near[0]}?" if near else "`tip config` lists all"
    return f"{word}: no setting, section or config file; {hint}"
