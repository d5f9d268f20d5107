"""What is compared: a row is a rule at a budget, or a control, with settings that vary.

Controls are always there: all tokens, no refresh (every rollout from the first student), and at
each budget random tokens and a student without a teacher.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

from ...stages.select.rulebook import load_rule
from ...stages.select.settings import SelectSettings
from ...storage.errors import ConfigError
from ..config.run import RunConfig
from ..config.toml import apply_change, make_config

ALL, RANDOM, TEACHER_FREE = "all", "random", "opsa"
UNRANKED = (ALL, RANDOM)  # rules that prefer no token to another

# Settings that tell the runs of a comparison apart, and what sets them: `--vary` would be lost.
_ELSEWHERE = {
    "name": "--name",
    "seed": "--seeds",
    "data_seed": "--seeds",
    "select": "--rules, --keep or one of its settings, such as select.scope",
    "select.rule": "--rules",
    "select.keep": "--keep",
}


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    changes: `key=value` settings that differ from the config. refresh: whether each round answers
    its prompts with its own student; else one round answers those of all rounds with the first.
    """

    rule: str
    keep: float
    changes: tuple[str, ...] = ()
    refresh: bool = True

    @property
    def name(self) -> str:
        """Return the line's name, such as `soft_or 20% loss=jsd`."""
        rule = [self.rule] if self.rule == ALL else [self.rule, budget(self.keep)]
        chosen = rule if self.refresh else ["no refresh"]
        return " ".join([*chosen, *map(_short, self.changes)])

    @property
    def run_label(self) -> str:
        """Return what its runs' names say of it, such as `soft_or-0.2-train.loss-jsd`.

        The runs of a comparison are found again by it.
        """
        label = f"{Path(self.rule).stem}-{self.keep:g}" if self.refresh else "no-refresh"
        return "-".join([label, *(re.sub(r"[^\w.]+", "-", change) for change in self.changes)])


ALL_TOKENS = Row(ALL, 1.0)
NO_REFRESH = Row(ALL, 1.0, refresh=False)


def budget(keep: float) -> str:
    """Return a share of the tokens as it was asked for: 0.124 is `12.4%`."""
    return f"{100 * keep:g}%"


def _short(change: str) -> str:
    """Return a change with the last part of its key alone: `lr=0.001` of `train.lr=0.001`."""
    key, _, value = change.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def rows_of(rules: Sequence[str], keeps: Sequence[float], vary: Sequence[str] = ()) -> list[Row]:
    """Return the lines to compare: the controls first, then each rule at each budget.

    vary: settings with their values, `train.loss=reverse_kl,jsd`; or alternatives of several
    settings each, `rounds=20 rollout.prompts=64,rounds=40 rollout.prompts=32`. A rule has a line
    for each combination of them. Controls stand at the config's own settings; name `random`,
    `opsa` or `all` among the rules to have them vary as well.
    """
    fixed = {rule: load_rule(rule).keep for rule in rules}
    refuse_no_shares(keeps)
    rows = [ALL_TOKENS, NO_REFRESH]
    if any(keep is None for keep in fixed.values()):
        rows += [Row(control, keep) for control in (RANDOM, TEACHER_FREE) for keep in keeps]
    for chosen in product(*map(_alternatives, vary)):
        changes = tuple(chain(*chosen))
        for rule, keep in fixed.items():
            rows += [Row(rule, share, changes) for share in ([keep] if keep else keeps)]
    rows = list(dict.fromkeys(rows))
    _refuse_namesakes(rows)
    return rows


def refuse_no_shares(keeps: Sequence[float]) -> None:
    """Raise `ConfigError` for budgets that are no shares of the tokens."""
    if not all(0 < keep <= 1 for keep in keeps):
        raise ConfigError(f"--keep {', '.join(map(str, keeps))}: expected shares in (0, 1]")


def run_config(config: RunConfig, row: Row, seed: int) -> RunConfig:
    """Return the config of one run of the comparison."""
    values = config.model_dump(mode="json")
    values["select"] = settings_of(config.select, row.rule, row.keep).model_dump(mode="json")
    for change in row.changes:
        apply_change(values, change, "--vary")
    name = f"{config.name}-{row.run_label}-s{seed}"
    values |= {"name": name, "seed": seed, "data_seed": seed}
    if not row.refresh:  # as many prompts and steps, all answered by the first student
        values["rollout"] |= {"prompts": config.rollout.prompts * config.rounds}
        values |= {"rounds": 1}
    return make_config(values, f"compare {row.name}")


def settings_of(select: SelectSettings, rule: str, keep: float) -> SelectSettings:
    """Return the config's selection with another rule and budget, as that rule can take it.

    Parameters go to the rules that have them, the correction to those that draw.
    """
    chosen = load_rule(rule)
    params = {name: value for name, value in select.params.items() if name in chosen.params}
    corrected = select.corrected and chosen.draw == "sample"
    return select.model_copy(
        update={"rule": rule, "keep": keep, "params": params, "corrected": corrected}
    )


def refuse_unused(select: SelectSettings, rows: Sequence[Row]) -> None:
    """Raise `ConfigError` for what a config sets of selection and no row can take."""
    rules = [load_rule(row.rule) for row in rows]
    known = sorted({name for rule in rules for name in rule.params})
    for name in select.params:
        if name not in known:
            raise ConfigError(
                f"select.params.{name}: no rule compared has such a parameter; they have "
                f"{', '.join(known) or 'none'}: drop it, or add its rule to --rules"
            )
    if select.corrected and all(rule.draw != "sample" for rule in rules):
        raise ConfigError(
            "select.corrected = true weighs tokens of sampled rules, and none is compared: drop "
            "it, or add one to --rules"
        )


def _refuse_namesakes(rows: Sequence[Row]) -> None:
    """Raise `ConfigError` for two rows that have one name in the tables or among the runs."""
    for name_of in (lambda row: row.name, lambda row: row.run_label):
        known: dict[str, Row] = {}
        for row in rows:
            other = known.setdefault(name_of(row), row)
            if other is not row:
                raise ConfigError(
                    f"rows `{_full(other)}` and `{_full(row)}` would share the name "
                    f"`{name_of(row)}`: rename a rule file, or compare them apart (--name)"
                )


def _full(row: Row) -> str:
    return " ".join([row.rule, str(row.keep), *row.changes])


def _alternatives(vary: str) -> list[tuple[str, ...]]:
    """Return the settings of each alternative; a bare value belongs to the key at the front."""
    key = vary.partition("=")[0]
    found = []
    for part in vary.split(","):
        words = part.split()
        if len(words) == 1 and "=" not in part and "=" in vary:
            words = [f"{key}={words[0]}"]
        if not words or not all(re.fullmatch(r"[\w.]+=\S+", word) for word in words):
            raise ConfigError(
                f"--vary {vary}: expected key=value,value, such as train.loss=reverse_kl,jsd"
            )
        for word in words:
            name = word.partition("=")[0]
            if name in _ELSEWHERE:
                raise ConfigError(
                    f"--vary {vary}: a comparison sets {name} itself; use {_ELSEWHERE[name]}"
                )
        found.append(tuple(words))
    return found
