"""The rulebook: what a rule file may say, and what is said of one that cannot be used."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tip.stages.select import rulebook
from tip.stages.select.rulebook import GROUPS, builtin_rules, load_rule, parse_rule, taken
from tip.storage.columns import TOKENS
from tip.storage.errors import ConfigError, InputError

FULL = """\
-- Divergence, but only near the start.
--
-- importance = KL / (1 + position / slope)
-- group: position
-- draw: sample
-- keep: 0.5
-- param slope = 40  positions until half of it counts
-- round top = max(reverse_kl)
-- Source: a paper,
--     its second line
SELECT *, reverse_kl / getvariable('top') / (1 + position / getvariable('slope')) AS importance
FROM tokens;
"""
SQL_FILES = sorted(Path(rulebook.__file__).parent.rglob("*.sql"))


def test_the_head_comment_tells_title_text_source_draw_keep_parameters_and_round_numbers() -> None:
    rule = parse_rule("near", FULL)

    assert rule.title == "Divergence, but only near the start."
    assert rule.text == "importance = KL / (1 + position / slope)"
    assert rule.source == "a paper, its second line"
    assert (rule.group, rule.draw, rule.keep) == ("position", "sample", 0.5)
    assert rule.params["slope"] == rulebook.Param(40.0, "positions until half of it counts")
    assert rule.round == {"top": "max(reverse_kl)"}
    assert rule.sql.startswith("SELECT *, reverse_kl /")
    assert rule.sql.endswith("FROM tokens")
    assert rule.file == FULL


def test_a_rule_without_a_head_comment_takes_the_top_by_the_setting() -> None:
    rule = parse_rule("bare", "SELECT *, jsd AS importance FROM tokens")

    assert (rule.title, rule.draw, rule.keep, dict(rule.params)) == ("", "top", None, {})
    assert rule.group == ""


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("random", "nothing"),
        ("first", "nothing"),
        ("entropy_top", "student"),
        ("low_logprob", "student"),
        ("soft_or", "teacher"),
        ("type_q3", "teacher"),
        ("ta_opd", "teacher"),
        ("overlap", "teacher"),
        ("ier", "teacher"),
    ],
)
def test_a_rule_says_whose_numbers_it_needs(name: str, needs: str) -> None:
    assert builtin_rules()[name].needs == needs


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("SELECT *, reverse_kl AS importance FROM tokens", False),
        ("SELECT *, reverse_kl * special::INT AS importance FROM tokens", True),
        ("SELECT t.*, 1 / length AS importance FROM tokens t JOIN rollouts USING (rollout)", True),
        ("SELECT *, abs(drift) AS importance FROM tokens", True),
        ("SELECT *, overlap AS importance FROM tokens", False),
        ("-- round m = max(teacher_rank)\nSELECT *, 1 AS importance FROM tokens", True),
    ],
)
def test_a_rule_says_whether_it_reads_the_sampled_token(sql: str, reads: bool) -> None:
    assert parse_rule("mine", sql).reads_sampled == reads


def test_every_number_of_the_token_table_belongs_to_student_or_teacher() -> None:
    sources = rulebook._FROM_STUDENT | rulebook._FROM_TEACHER
    given = {"rollout", "position", "token", "trainable", "special"}

    assert {column.name for column in TOKENS} <= sources | given


@pytest.mark.parametrize("name", builtin_rules())
def test_every_built_in_rule_has_a_title_a_text_or_source_and_one_select(name: str) -> None:
    rule = builtin_rules()[name]

    assert rule.title.endswith(".")
    assert rule.source or rule.text
    assert rule.group in GROUPS
    assert load_rule(name) == rule


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_no_sql_depends_on_threads_or_versions(path: Path) -> None:
    code = re.sub(r"--.*", "", path.read_text("utf-8")).lower()

    assert not re.search(r"\b(random|hash|avg|mean|stddev|approx_\w+|now|uuid)\s*\(", code)
    for summed in re.findall(r"\bsum\(.*", code):
        assert re.match(r"sum\((n|tokens|millionths|round\(.*\)::bigint|\(.*\)::int)\)", summed)


def test_the_rulebook_needs_no_torch() -> None:
    code = "import sys, tip.stages.select; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_answered_with_the_nearest_and_all_others() -> None:
    with pytest.raises(InputError, match=r"did you mean `soft_or`.*entropy_top.*\.sql file"):
        load_rule("softor")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"rule nowhere/mine\.sql cannot be read"):
        load_rule("nowhere/mine.sql")


def test_a_file_of_the_user_is_a_rule_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.sql"
    path.write_text("-- Mine.\nSELECT *, 1 AS importance FROM tokens\n")

    assert load_rule(str(path)).name == str(path)


def test_a_byte_order_mark_before_a_rule_takes_nothing_from_its_head_comment(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.sql"
    text = "-- Mine.\n-- draw: sample\nSELECT *, 1 AS importance FROM tokens"
    path.write_text(text, encoding="utf-8-sig")
    rule = load_rule(str(path))
    assert (rule.title, rule.draw, rule.file) == ("Mine.", "sample", text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "found nothing"),
        ("-- only a comment", "found nothing"),
        ("SELECT 1; SELECT 2", "found SELECT and SELECT"),
        ("COPY tokens TO 'x'", "found COPY"),
        ("SELEC 1", "syntax error"),
        ("-- draw: best\nSELECT 1", "draw must be `top` or `sample`, not `best`"),
        ("-- group: mine\nSELECT 1", "group must be one of uncertainty, .*control, not `mine`"),
        ("-- keep: 0\nSELECT 1", "keep must be above 0 and at most 1, not `0`"),
        ("-- keep: most\nSELECT 1", "keep must be above 0 and at most 1, not `most`"),
        ("-- param a\nSELECT 1", "expected `-- param NAME = NUMBER  meaning`"),
        ("-- param a = much\nSELECT 1", "expected `-- param NAME = NUMBER  meaning`"),
        ("-- param keep = 1\nSELECT 1", "the name `keep` is taken"),
        ("-- param a = 1\n-- round a = max(jsd)\nSELECT 1", "the name `a` is taken"),
        ("-- round a\nSELECT 1", "expected `-- round NAME = AGGREGATE`"),
        ("-- round a = max(jsd); DROP VIEW tokens\nSELECT 1", "expected one SQL expression"),
        ("SELECT getvariable('b') AS importance", r"getvariable\('b'\) is not set"),
        ("-- round a = max(getvariable('b'))\nSELECT 1", r"getvariable\('b'\) is not set"),
    ],
)
def test_a_file_that_is_no_rule_is_refused_with_its_name(text: str, says: str) -> None:
    with pytest.raises(InputError, match=f"rule mine.*{says}") as caught:
        parse_rule("mine", text)
    assert "\n" not in str(caught.value)


def test_a_rule_may_read_what_select_gives_to_all() -> None:
    sql = "SELECT *, jsd / ln(getvariable('vocabulary')) AS importance FROM tokens"

    assert parse_rule("mine", sql).sql == sql


def test_parameters_take_the_users_values_and_refuse_unknown_names() -> None:
    rule = parse_rule("near", FULL)

    assert rule.resolved({}) == {"slope": 40.0}
    assert rule.resolved({"slope": 7}) == {"slope": 7.0}
    with pytest.raises(ConfigError, match="rule `near` has no parameter `slop`; it has: slope"):
        rule.resolved({"slop": 7})


def test_what_is_taken_is_the_rules_own_share_else_what_is_set(tmp_path: Path) -> None:
    mine, broken = tmp_path / "mine.sql", tmp_path / "broken.sql"
    mine.write_text("-- keep: 0.25\nSELECT *, jsd AS importance FROM tokens")
    broken.write_text("-- keep: most\nSELECT 1")
    assert taken("all", 0.2, None) == taken("all", None, 3) == (1.0, None)
    assert taken(str(mine), 0.2, None) == (0.25, None)
    for rule in ("q3", str(broken), "gone.sql", "no rule of any name", None):
        assert taken(rule, 0.2, None) == (0.2, None)
        assert taken(rule, None, 3) == (None, 3)
