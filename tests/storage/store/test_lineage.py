"""Whatever was made from an artifact is found, by key or by the weights that it holds."""

from typing import Any

import pytest
from tip.storage.store import lineage
from tip.storage.store.artifacts import Artifact
from tip.storage.store.lineage import descendants


def artifact(key: str, inputs: dict[str, Any], **facts: Any) -> Artifact:
    return Artifact("probe", key * 32, inputs, facts, {}, "0" * 64, "0" * 32)


def test_what_was_made_from_what_was_made_is_found_and_nothing_else() -> None:
    rollouts = artifact("a", {"student": "weights"})
    teacher = artifact("b", {"origin": [["a" * 32, "content"]]})
    trained = artifact("c", {"deep": {"er": ["b" * 32]}}, fingerprint="new weights")
    later = artifact("d", {"student": "new weights"})
    other = artifact("e", {"student": "other", "seed": 1, "note": None})
    every = [later, other, trained, teacher, rollouts]
    assert {a.key[0] for a in descendants(every, [rollouts])} == {"b", "c", "d"}
    assert [a.key[0] for a in descendants(every, [trained])] == ["d"]
    assert descendants(every, []) == []


def test_a_long_line_is_followed_to_its_end_and_each_artifact_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[Any] = []
    texts = lineage._texts

    def noting(value: Any) -> Any:
        read.append(value)
        return texts(value)

    monkeypatch.setattr(lineage, "_texts", noting)
    keys = [f"{n:032x}" for n in range(3000)]
    line = [
        Artifact("probe", key, {"start": before}, {}, {}, "0" * 64, "0" * 32)
        for before, key in zip(["first", *keys], keys, strict=False)
    ]
    assert descendants(line, line[:1]) == line[1:]
    assert len(read) == 2 * len(line)  # the inputs, and the one text in them
