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


@dataclass(frozen=True)
class Tokens:
    """A budget of so many tokens a scope."""

    count: int


Budget = float | Tokens
"""A share of the tokens, or a number of them."""

# Settings that tell the runs of a comparison apart, and what sets them: `--vary` would be lost.
_ELSEWHERE = {
    "name": "--name",
    "seed": "--seeds",
    "data_seed": "--seeds",
    "select": "--rules, --keep, --count or one of its settings, such as select.scope",
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
    budget: Budget
    changes: tuple[str, ...] = ()
    refresh: bool = True

    @property
    def name(self) -> str:
        """Return the line's name, such as `soft_or 20% loss=jsd`."""
        rule = [self.rule] if self.rule == ALL else [self.rule, shown(self.budget)]
        chosen = rule if self.refresh else ["no refresh"]
        return " ".join([*chosen, *map(_short, self.changes)])

    @property
    def run_label(self) -> str:
        """Return what its runs' names say of it, such as `soft_or-0.2-train.loss-jsd`.

        The runs of a comparison are found again by it.
        """
        size = self.budget
        budget = f"count-{size.count}" if isinstance(size, Tokens) else f"{size:g}"
        label = f"{Path(self.rule).stem}-{budget}" if self.refresh else "no-refresh"
        return "-".join([label, *(re.sub(r"[^\w.]+", "-", change) for change in self.changes)])


ALL_TOKENS = Row(ALL, 1.0)
NO_REFRESH = Row(ALL, 1.0, refresh=False)


def shown(budget: Budget) -> str:
    """Return a budget as it was asked for: 0.124 is `12.4%`, a number of tokens `2 tokens`."""
    if isinstance(budget, Tokens):
        return f"{budget.count} token{'s' if budget.count > 1 else ''}"
    return f"{100 * budget:g}%"


def budget_of(select: SelectSettings) -> Budget:
    """Return the budget of a config's selection."""
    if select.count is not None:
        return Tokens(select.count)
    assert select.keep is not None  # one of both is set
    return select.keep


def _short(change: str) -> str:
    """Return a change with the last part of its key alone: `lr=0.001` of `train.lr=0.001`."""
    key, _, value = change.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def rows_of(rules: Sequence[str], budgets: Sequence[Budget], vary: Sequence[str] = ()) -> list[Row]:
    """Return the lines to compare: the controls first, then each rule at each budget.

    vary: settings with their values, `train.loss=reverse_kl,jsd`; or alternatives of several
    settings each, `rounds=20 rollout.prompts=64,rounds=40 rollout.prompts=32`. A rule has a line
    for each combination of them; where one sets `select.count`, that is its budget. Controls stand
    at the config's own settings; name `random`, `opsa` or `all` among the rules to have them vary
    as well.
    """
    fixed = {rule: load_rule(rule).keep for rule in rules}
    rows: list[Row] = []
    for chosen in product(*map(_alternatives, vary)):
        counts, changes = _counts(tuple(chain(*chosen)))
        for rule, keep in fixed.items():
            rows += [Row(rule, b, changes) for b in ([keep] if keep else counts or budgets)]
    budgets_there = [row.budget for row in rows if fixed[row.rule] is None]
    controls = [Row(rule, each) for rule in (RANDOM, TEACHER_FREE) for each in budgets_there]
    rows = list(dict.fromkeys([ALL_TOKENS, NO_REFRESH, *controls, *rows]))
    _refuse_namesakes(rows)
    return rows


def shares(texts: Sequence[str]) -> list[Budget]:
    """Return the budgets of `--keep`. Raises `ConfigError` for what are no shares."""
    try:
        found = [float(text) for text in texts]
    except ValueError:
        found = [0.0]
    if not all(0 < keep <= 1 for keep in found):
        raise ConfigError(
            f"--keep {','.join(texts)}: expected numbers in (0, 1] with commas between, "
            "such as 0.5,0.2"
        )
    return [*found]


def numbers_of_tokens(texts: Sequence[str], option: str = "--count") -> list[Budget]:
    """Return the budgets of `--count`. Raises `ConfigError` for what are no counts."""
    if not all(re.fullmatch(r" *0*[1-9]\d{0,17} *", text, re.ASCII) for text in texts):
        raise ConfigError(
            f"{option} {','.join(texts)}: expected whole numbers of tokens from 1, such as 1,2"
        )
    return [Tokens(int(text)) for text in texts]


def _counts(changes: tuple[str, ...]) -> tuple[list[Budget], tuple[str, ...]]:
    """Return the budget among the changes, if there is one, and all others."""
    key = "select.count="
    counts = [change.removeprefix(key) for change in changes if change.startswith(key)]
    others = tuple(change for change in changes if not change.startswith(key))
    return numbers_of_tokens(counts[-1:], "--vary select.count"), others


def run_config(config: RunConfig, row: Row, seed: int) -> RunConfig:
    """Return the config of one run of the comparison."""
    values = config.model_dump(mode="json")
    values["select"] = settings_of(config.select, row.rule, row.budget).model_dump(mode="json")
    for change in row.changes:
        apply_change(values, change, "--vary")
    name = f"{config.name}-{row.run_label}-s{seed}"
    values |= {"name": name, "seed": seed, "data_seed": seed}
    if not row.refresh:  # as many prompts and steps, all answered by the first student
        values["rollout"] |= {"prompts": config.rollout.prompts * config.rounds}
        values |= {"rounds": 1}
    return make_config(values, f"compare {row.name}")


def settings_of(select: SelectSettings, rule: str, budget: Budget) -> SelectSettings:
    """Return the config's selection with another rule and budget, as that rule can take it.

    Parameters go to the rules that have them, the correction to those that draw.
    """
    chosen = load_rule(rule)
    params = {name: value for name, value in select.params.items() if name in chosen.params}
    corrected = select.corrected and chosen.draw == "sample"
    counted = isinstance(budget, Tokens)
    sizes = {"keep": None if counted else budget, "count": budget.count if counted else None}
    return select.model_copy(
        update={"rule": rule, "params": params, "corrected": corrected, **sizes}
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
    return " ".join([row.rule, shown(row.budget), *row.changes])


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
