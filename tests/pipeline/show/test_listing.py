"""What rules and store hold is told whole: every rule, every artifact, and what is damaged."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tip.pipeline.show.listing import (
    print_artifacts,
    print_rules,
    print_sizes,
)
from tip.pipeline.show.verify import verify_store
from tip.stages.select.rulebook import GROUPS, builtin_rules
from tip.storage.errors import ConfigError, StoreError
from tip.storage.store.store import Store


def test_every_built_in_rule_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_rules()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert {line.split()[0] for line in lines} >= set(builtin_rules())
    reading = {line.split()[0] for line in lines if re.search(r"(teacher|student)\* ", line)}
    assert reading == {name for name, rule in builtin_rules().items() if rule.reads_sampled}
    firsts = [line.strip() if line.strip().endswith(":") else line.split()[0] for line in lines]
    groups = [word[:-1] for word in firsts if word[:-1] in GROUPS]
    assert groups == [group for group in GROUPS if group != "reward"], "nothing gives rewards yet"
    for before, rule, after in (
        ("uncertainty:", "low_logprob", "disagreement:"),
        ("position:", "kat", "control:"),
    ):
        assert firsts.index(before) < firsts.index(rule) < firsts.index(after)


@pytest.mark.parametrize(
    "look",
    [
        lambda root: print_artifacts(root, None),
        print_sizes,
        lambda root: verify_store(root, f"{root}/runs"),
    ],
    ids=["ls", "du", "verify"],
)
def test_a_damaged_manifest_is_told_after_all_that_is_whole(
    look: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    whole, _ = store.ensure("probe", {"of": 1}, lambda _: {})
    damaged, _ = store.ensure("probe", {"of": 2}, lambda _: {})
    look(str(tmp_path))
    assert "damaged" not in capsys.readouterr().out
    path = tmp_path / "probe" / damaged.key[:2] / damaged.key / "manifest.json"
    path.unlink()
    path.write_text("{")
    with pytest.raises(StoreError, match="1 damaged, listed above") as caught:
        look(str(tmp_path))
    assert "\n" not in str(caught.value)
    shown = capsys.readouterr().out
    told = shown.index(f"{damaged.key}/manifest.json is damaged")
    if "bytes" in shown:  # of what is whole
        assert shown.index("probe") < told
    if "made from" in shown:
        assert shown.index(whole.key[:8]) < told


@pytest.mark.parametrize("kind", ["Tokens!", "nonsense", ""])
def test_a_kind_that_is_none_is_refused_and_the_kinds_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"kind '{kind}': expected rollouts, .* or probe"):
        print_artifacts(str(tmp_path), kind)


def test_a_key_that_is_none_is_damage_of_what_points_to_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="what points to it is damaged"):
        Store(tmp_path).find("tokens", "../x")
