"""What the store and the rules hold, printed for people."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...stages.select.rulebook import GROUPS, Rule, builtin_rules
from ...storage.errors import ConfigError, StoreError
from ...storage.files import bytes_under
from ...storage.runs import RunFolder, run_names
from ...storage.store.places import check_kind
from ...storage.store.store import Artifact
from ...storage.visible import visible
from .cells import count, number, print_lines, screen, table
from .stores import existing_store

_WIDE_TEXT = 60  # characters of a cell before it is cut


def print_rules(*, as_json: bool = False) -> None:
    """Print the built-in rules by group: name, budget, what each needs, reads and ranks by."""
    if as_json:
        print_lines(_rule_facts(rule) for rule in builtin_rules().values())
        return
    headings = ("rule", "budget", "needs", "ranks tokens by", "source")
    shown = table(headings, left=headings)
    shown.columns[0].no_wrap = True
    rules = sorted(builtin_rules().values(), key=lambda rule: (GROUPS.index(rule.group), rule.name))
    for before, rule in zip([None, *rules], rules, strict=False):
        if before is None or before.group != rule.group:
            shown.add_section()
            shown.add_row(f"{rule.group}:")
        budget = "its own" if rule.keep is not None else "keep"
        drawn = ", drawn" if rule.draw == "sample" else ""
        needs, source = rule.needs + ("*" if rule.reads_sampled else ""), rule.source.split(" (")[0]
        loss = f" Loss: {', '.join(rule.losses)}." if rule.losses else ""
        shown.add_row(rule.name, budget + drawn, needs, rule.title + loss, source)
    screen().print(shown)
    print(
        "budget: `select.keep` or `select.count`, or the rule's own; drawn: by chance, without\n"
        "replacement. "
        "needs: whose pass over the rollouts the ranking costs (training needs the teacher's).\n"
        "*: it reads the sampled token itself; what train.tail = 'residual' gets right in the\n"
        "mean is then the mean over the tokens that it keeps (docs/METHOD.md)."
    )


def print_artifacts(root: str, kind: str | None, *, as_json: bool = False) -> None:
    """Print a line an artifact; raise `StoreError` when a manifest is damaged."""
    store, damaged = existing_store(root), []
    try:
        _ = kind if kind is None else check_kind(kind)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    shown = table(("kind", "key", "bytes", "rows", "made from"), left=("kind", "key", "made from"))
    if as_json:
        print_lines(_facts(artifact) for artifact in store.list(kind, damaged))
        refuse_damage(root, damaged)
        return
    for artifact in store.list(kind, damaged):
        size, rows = count(artifact.bytes), count(artifact.rows)
        shown.add_row(artifact.kind, artifact.key, size, rows, _about(artifact))
    screen().print(shown)
    refuse_damage(root, damaged)


def print_sizes(root: str, runs: str | None = None, *, as_json: bool = False) -> None:
    """Print what each kind takes, and the bytes a row; raise `StoreError` for damaged manifests.

    runs: a folder of run folders, whose training states are counted beside the store.
    """
    store, damaged = existing_store(root), []
    sizes = store.sizes(damaged)
    states = _states(runs)
    if as_json:
        print_lines({"kind": kind, **asdict(size)} for kind, size in sorted(sizes.items()))
        print_lines([{"kind": "states of runs", "bytes": sum(map(bytes_under, states))}])
        refuse_damage(root, damaged)
        return
    shown = table(("kind", "artifacts", "bytes", "rows", "bytes a row"), left=("kind",))
    for kind, size in sorted(sizes.items()):
        each = number(size.bytes / size.rows, 1) if size.rows else ""
        shown.add_row(kind, count(size.artifacts), count(size.bytes), count(size.rows), each)
    artifacts, total = (sum(getattr(s, n) for s in sizes.values()) for n in ("artifacts", "bytes"))
    shown.add_row("all", count(artifacts), count(total), "", "")
    if states:
        shown.add_section()
        shown.add_row("states of runs", count(len(states)), count(sum(map(bytes_under, states))))
    screen().print(shown)
    refuse_damage(root, damaged)


def _states(runs: str | None) -> list[Path]:
    names = [] if runs is None else run_names(runs)
    return [state for name in names for state in RunFolder(str(runs), name).kept_states()]


def _rule_facts(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "group": rule.group,
        "title": rule.title,
        "needs": rule.needs,
        "reads_sampled": rule.reads_sampled,
        "draw": rule.draw,
        "keep": rule.keep,
        "params": {name: param.default for name, param in rule.params.items()},
        "losses": list(rule.losses),
        "source": rule.source,
        "sql": rule.sql,
    }


def _facts(artifact: Artifact) -> dict[str, Any]:
    names = ("kind", "key", "bytes", "rows", "inputs", "facts")
    return {name: getattr(artifact, name) for name in names}


def refuse_damage(root: str, damaged: Sequence[str], later: Sequence[Artifact] = ()) -> None:
    """Print what is damaged and what was made of it, and raise `StoreError` where anything is."""
    for text in damaged:
        print(visible(text))
    for artifact in later:
        print(f"made from what is damaged: {artifact.kind} {artifact.key}")
    if damaged:
        made = f" and {len(later)} made from what is" if later else ""
        raise StoreError(
            f"{root}: {len(damaged)} damaged{made}, listed above; remove their folders in the "
            "store and run again: they are made anew"
        )


def sweep_store(root: str, hours: float) -> None:
    """Remove unfinished work of dead processes."""
    removed = existing_store(root, write=True).sweep(hours * 3600)
    print(f"removed {len(removed)} unfinished drafts")


def _about(artifact: Artifact) -> str:
    names = ("student", "teacher", "model", "rule", "start", "mode", "temperature", "loss", "seed")
    picked: dict[str, Any] = {k: artifact.inputs[k] for k in names if k in artifact.inputs}
    text = " ".join(f"{k}={_short(v)}" for k, v in picked.items())
    return text if len(text) <= _WIDE_TEXT else text[: _WIDE_TEXT - 3] + "..."


def _short(value: Any) -> str:
    text = value[0] if isinstance(value, list) and value else value
    return str(text)[:12]
