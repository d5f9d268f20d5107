"""A manifest that no writer would have written is refused, whatever it tries."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tip.storage.errors import StoreError
from tip.storage.store.artifacts import (
    FORMAT,
    Artifact,
    Part,
    _seal,
    artifact_key,
    contents_hash,
    manifest,
    read_manifest,
)
from tip.storage.store.store import Store

DRAFT = "d" * 32
KEY = artifact_key("teacher", {"seed": 1})
PART = Part("signal", f"{DRAFT}/signal.parquet", 10, 2, "a" * 64)


def written(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a good manifest with changes."""
    parts = {"signal": PART}
    good = Artifact("teacher", KEY, {"seed": 1}, {}, parts, contents_hash(parts), DRAFT)
    return json.loads(manifest(good)) | changes


def part(**changes: Any) -> dict[str, Any]:
    """Return the `parts` of a manifest whose only part has changes."""
    signal = written()["parts"]["signal"] | changes
    return {"signal": signal}


def read(value: Any) -> Artifact:
    """Read a manifest whose seal fits what it says."""
    with contextlib.suppress(ValueError):  # NaN has none
        value = value | {"seal": _seal(value)}
    return read_manifest(json.dumps(value).encode(), "teacher", KEY)


def test_a_good_manifest_is_read() -> None:
    artifact = read(written())
    assert artifact.parts == {"signal": PART}
    assert (artifact.bytes, artifact.rows) == (10, 2)


def test_what_a_later_version_adds_is_passed_over() -> None:
    later = read(written(comment="new"))
    assert replace(later, seal=None) == replace(read(written()), seal=None)


def test_one_flipped_bit_is_refused_or_changes_nothing() -> None:
    parts = {"signal": PART}
    facts = {"loss": 0.5, "fingerprint": "abc"}
    good = Artifact("teacher", KEY, {"seed": 1}, facts, parts, contents_hash(parts), DRAFT)
    data = manifest(good)
    before, taken = read_manifest(data, "teacher", KEY), 0
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with contextlib.suppress(ValueError):
                assert read_manifest(bytes(changed), "teacher", KEY) == before
                taken += 1
    assert taken < len(data) // 4  # one kind of space for another


def test_a_manifest_of_an_older_version_has_no_seal() -> None:
    value = written(format=1)
    del value["seal"], value["parts"]["signal"]["digest"]
    artifact = read_manifest(json.dumps(value).encode(), "teacher", KEY)
    assert (artifact.seal, artifact.parts["signal"].digest) == (None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "tokens"}, "it describes tokens"),
        ({"key": "0" * 32}, "it describes teacher 000"),
        ({"key": "../../x"}, "key: .*expected 32 hex digits"),
        ({"inputs": {"seed": 2}}, "inputs do not have its key"),
        ({"inputs": {"seed": float("nan")}}, "not JSON compliant"),
        ({"inputs": [1]}, "inputs: "),
        ({"format": FORMAT + 1}, "format: "),
        ({"format": 0}, "format: "),
        ({"content": "b" * 64}, "not that of its parts"),
        ({"content": "A" * 64}, "content: "),
        ({"draft": ".."}, "draft: "),
        ({"draft": "e" * 32}, "names do not fit"),
        ({"parts": part(file=f"{DRAFT}/../../x")}, "plain relative name"),
        ({"parts": part(file="/etc/passwd")}, "plain relative name"),
        ({"parts": part(file="../signal.parquet")}, "plain relative name"),
        ({"parts": part(file=f"{'e' * 32}/signal.parquet")}, "names do not fit"),
        ({"parts": part(file=DRAFT)}, "names do not fit"),
        ({"parts": part(name="other")}, "names do not fit"),
        ({"parts": part(name="../signal")}, "plain relative name"),
        ({"parts": part(bytes=-1)}, "parts.signal.bytes: "),
        ({"parts": part(bytes="10")}, "parts.signal.bytes: "),
        ({"parts": part(rows=1.5)}, "parts.signal.rows: "),
        ({"parts": part(content="x")}, "parts.signal.content: "),
        ({"parts": part(content="b" * 64)}, "not that of its parts"),
    ],
)
def test_a_bad_manifest_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(written(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_not_a_manifest_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_manifest(data, "teacher", KEY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("linked", ["part", "draft"])
def test_a_link_out_of_the_artifact_is_not_followed(linked: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "signal.parquet").write_text("secret")
    store = Store(tmp_path / "store")
    folder = tmp_path / "store" / "teacher" / KEY[:2] / KEY
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(written()))
    if linked == "draft":
        (folder / DRAFT).symlink_to(outside)
    else:
        (folder / DRAFT).mkdir()
        (folder / DRAFT / "signal.parquet").symlink_to(outside / "signal.parquet")
    artifact = store.find("teacher", KEY)
    assert artifact is not None
    for attempt in (lambda: store.path(artifact, "signal"), lambda: store.folder(artifact)):
        with pytest.raises(StoreError, match="leads out of its artifact"):
            attempt()
    store.remove("teacher", KEY)
    assert (outside / "signal.parquet").read_text() == "secret"
