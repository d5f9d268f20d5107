"""Whatever was made from an artifact is found, by key or by the weights that it holds."""

from typing import Any

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
