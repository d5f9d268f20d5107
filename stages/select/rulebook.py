"""The rulebook: selection rules as small files of SQL.

A rule is one `.sql` file: a head comment, then exactly one SELECT over `tokens` (and `rollouts`)
that gives rollout, position, importance and, if it likes, weight and loss (a word of `TokenLoss`,
or null for what `train.loss` says). What these views hold stands in `tokens.sql`. The head comment
is text for people, its first line the title, with these directives:

    -- draw: top | sample        the k largest (default), or chances in proportion to importance
    -- group: disagreement       what it looks at, one of GROUPS: `tip rules` lists by it
    -- keep: 1                   the rule fixes the budget itself; `keep`, `count` are not used
    -- param NAME = DEFAULT  meaning        a number to set; read with getvariable('NAME')
    -- round NAME = aggregate over tokens   computed once; read with getvariable('NAME')
    -- Source: where it comes from          goes on in lines that are indented

A token that the SELECT leaves out, or gives the importance null, cannot be kept. The SELECT runs
more than once, so what it needs to know of the whole round is better said with `round`.
"""

import difflib
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...storage.errors import ConfigError, InputError
from ...storage.statements import one_expression, one_select
from ..settings import TOKEN_LOSSES

GROUPS = ("uncertainty", "disagreement", "both", "position", "reward", "control")

# Variables that select() binds. A rule may read the first three; no parameter may take a name.
GIVEN = ("vocabulary", "entropy_cut", "divergence_cut")
_TAKEN = (
    *GIVEN,
    "keep",
    "count",
    "scope",
    "draw",
    "corrected",
    "seed_low",
    "seed_high",
    "slice",
    "slices",
)

# Columns by the model whose pass over the rollouts fills them.
_FROM_TEACHER = {"reverse_kl", "forward_kl", "jsd", "hellinger", "type", "overlap"}
_FROM_TEACHER |= {"signal_to_noise"} | {
    f"teacher_{name}" for name in ("entropy", "entropy_frac", "logprob", "rank", "mass", "mass_top")
}
_FROM_STUDENT = {"student_entropy", "student_entropy_frac", "student_logprob", "student_mass"}
_FROM_STUDENT |= {"drift"}

# What depends on the very token that was sampled: of it, of the support that holds it, of what
# came of the response.
_FROM_SAMPLED = {"token", "special", "student_logprob", "teacher_logprob", "teacher_rank"}
_FROM_SAMPLED |= {"signal_to_noise", "drift"}
_FROM_SAMPLED |= {"student_mass", "teacher_mass", "length", "stop_reason", "reward", "pass_rate"}

_RULES = Path(__file__).with_name("rules")
_DIRECTIVE = re.compile(r"(draw|group|keep|source): *(.*)", re.IGNORECASE)
_PARAM = re.compile(r"param +([a-z_][a-z0-9_]*) *= *(\S+) *(.*)")
_ROUND = re.compile(r"round +([a-z_][a-z0-9_]*) *= *(.+)")
_VARIABLE = re.compile(r"getvariable\(\s*'([^']*)'\s*\)", re.IGNORECASE)


@dataclass(frozen=True)
class Param:
    """A number that a rule lets the user set."""

    default: float
    meaning: str


@dataclass(frozen=True)
class Rule:
    """A selection rule: the SQL and what its head comment says."""

    name: str
    file: str
    """The whole file."""
    sql: str
    """Its SELECT alone."""
    title: str = ""
    text: str = ""
    """What is computed, from the lines below the title."""
    source: str = ""
    group: str = ""
    """What it looks at, one of `GROUPS`; empty: its file does not say."""
    draw: str = "top"
    """`top`: the k largest. `sample`: drawn without replacement in proportion to importance."""
    keep: float | None = None
    """The share that the rule fixes, or None where the setting decides."""
    params: Mapping[str, Param] = field(default_factory=dict)
    round: Mapping[str, str] = field(default_factory=dict)
    """Aggregates over `tokens` that are computed once, by name."""

    @property
    def needs(self) -> str:
        """Return what must have run before it can rank: `teacher`, `student` or `nothing`."""
        if self._words & _FROM_TEACHER:
            return "teacher"
        return "student" if self._words & _FROM_STUDENT else "nothing"

    @property
    def reads_sampled(self) -> bool:
        """Tell whether the sampled token itself decides if it is kept, or what it weighs.

        Then the mean over sampled tokens, which a residual gets right, is over those kept only.
        """
        return bool(self._words & _FROM_SAMPLED)

    @property
    def losses(self) -> list[str]:
        """Return the losses that its SQL spells out; what tokens have is known after it ran."""
        spelt = re.findall(r"'(\w+)'", self.sql) if "loss" in self._words else ()
        return [loss for loss in TOKEN_LOSSES if loss in spelt]

    @property
    def _words(self) -> set[str]:
        return set(re.findall(r"\w+", " ".join([self.sql, *self.round.values()])))

    def resolved(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the value of each parameter. Raises `ConfigError` for a name it does not have."""
        for name in values:
            if name not in self.params:
                has = ", ".join(self.params) or "none"
                raise ConfigError(f"rule `{self.name}` has no parameter `{name}`; it has: {has}")
        return {name: float(values.get(name, p.default)) for name, p in self.params.items()}


def builtin_rules() -> dict[str, Rule]:
    """Return the rules that come with the package, by name."""
    return {name: load_rule(name) for name in _builtin_names()}


def load_rule(name_or_path: str) -> Rule:
    """Return a built-in rule by its name, or the rule in a user's .sql file.

    Raises `InputError` for an unknown name, a missing file or a file that is not a rule.
    """
    return parse_rule(name_or_path, _text_of(name_or_path))


def _text_of(name_or_path: str) -> str:
    if name_or_path.endswith(".sql"):
        path = Path(name_or_path)
        try:
            return path.read_text("utf-8-sig")  # after a BOM the head comment would be none
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no path
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"rule {name_or_path} cannot be read ({reason}): check the path; `tip rules` lists "
                "the built-in ones"
            ) from error
    names = _builtin_names()
    if name_or_path in names:
        return (_RULES / f"{name_or_path}.sql").read_text("utf-8")
    near = difflib.get_close_matches(name_or_path, names, n=1)
    hint = f" (did you mean `{near[0]}`?)" if near else ""
    raise InputError(
        f"there is no rule `{name_or_path}`{hint}: choose one of {', '.join(names)}, or give the "
        "path of a .sql file"
    )


def taken(
    rule: str | None, keep: float | None, count: int | None
) -> tuple[float | None, int | None]:
    """Return the share, or so many tokens, of each scope: the rule's own, else what is set.

    Of the rule's head alone, as its file is now; one that cannot be read has no budget of its own.
    """
    with suppress(InputError):
        if rule is not None:
            head, _ = _split(_text_of(rule))
            own = _with_head(Rule(rule, "", ""), head).keep
            return (keep, count) if own is None else (own, None)
    return keep, count


def parse_rule(name: str, text: str) -> Rule:
    """Return the rule in a file's text. Raises `InputError` that names the rule."""
    head, sql = _split(text)
    rule = _with_head(Rule(name, text, one_select(sql, f"rule {name}", steady=True)), head)
    known = (*rule.params, *rule.round, *GIVEN)
    for variable in _VARIABLE.findall(" ".join([rule.sql, *rule.round.values()])):
        if variable not in known:
            raise InputError(
                f"rule {name}: getvariable('{variable}') is not set; declare it in the head "
                f"comment (-- param {variable} = DEFAULT), or use one of {', '.join(known)}"
            )
    return rule


def _builtin_names() -> list[str]:
    return sorted(file.stem for file in _RULES.glob("*.sql"))


def _split(text: str) -> tuple[list[str], str]:
    lines = text.strip().splitlines()
    height = next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
    return [line.removeprefix("--") for line in lines[:height]], "\n".join(lines[height:])


def _with_head(rule: Rule, head: list[str]) -> Rule:
    prose: list[str] = []
    in_source = False
    for line in (line.removeprefix(" ").rstrip() for line in head):
        if in_source and line.startswith(" "):
            rule = replace(rule, source=f"{rule.source} {line.strip()}")
            continue
        in_source = line.lower().startswith("source:")
        if directive := _DIRECTIVE.fullmatch(line):
            rule = _with_directive(rule, directive[1].lower(), directive[2].strip())
        elif line.startswith("param "):
            rule = replace(rule, params={**rule.params, **_param(rule, line)})
        elif line.startswith("round "):
            rule = replace(rule, round={**rule.round, **_aggregate(rule, line)})
        else:
            prose.append(line)
    title, *rest = prose or [""]
    return replace(rule, title=title, text="\n".join(rest).strip())


def _with_directive(rule: Rule, word: str, value: str) -> Rule:
    if word == "source":
        return replace(rule, source=value)
    if word == "draw":
        if value not in ("top", "sample"):
            raise InputError(f"rule {rule.name}: draw must be `top` or `sample`, not `{value}`")
        return replace(rule, draw=value)
    if word == "group":
        if value not in GROUPS:
            known = ", ".join(GROUPS)
            raise InputError(f"rule {rule.name}: group must be one of {known}, not `{value}`")
        return replace(rule, group=value)
    try:
        keep = float(value)
    except ValueError:
        keep = 0.0
    if not 0 < keep <= 1:
        raise InputError(f"rule {rule.name}: keep must be above 0 and at most 1, not `{value}`")
    return replace(rule, keep=keep)


def _param(rule: Rule, line: str) -> dict[str, Param]:
    match = _PARAM.fullmatch(line)
    try:
        if match is None:
            raise ValueError(line)
        name, default, meaning = match[1], float(match[2]), match[3]
        if not math.isfinite(default):
            raise ValueError(line)
    except ValueError as error:
        raise InputError(
            f"rule {rule.name}: expected `-- param NAME = NUMBER  meaning`, found `-- {line}`"
        ) from error
    return {_free(rule, name): Param(default, meaning)}


def _aggregate(rule: Rule, line: str) -> dict[str, str]:
    match = _ROUND.fullmatch(line)
    if match is None:
        raise InputError(
            f"rule {rule.name}: expected `-- round NAME = AGGREGATE`, found `-- {line}`"
        )
    return {_free(rule, match[1]): one_expression(match[2], f"rule {rule.name}: {match[1]}")}


def _free(rule: Rule, name: str) -> str:
    if name in (*_TAKEN, *rule.params, *rule.round):
        raise InputError(f"rule {rule.name}: the name `{name}` is taken; choose another")
    return name
