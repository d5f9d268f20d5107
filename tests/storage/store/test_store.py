"""An artifact is made once, found by all, and never changes."""

import json
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tip.storage.columns import SELECTION, schema
from tip.storage.errors import NumericsError, StoreError
from tip.storage.keys import key_of
from tip.storage.store import store as module
from tip.storage.store.artifacts import Part, damage
from tip.storage.store.claims import Claim, acquire
from tip.storage.store.places import LocalPlace, Place
from tip.storage.store.store import Draft, Make, Patience, Size, Store
from tip.storage.tables import read_table, write_table

from ..conftest import unprivileged

INPUTS = {"rule": "soft_or", "keep": 0.2, "seed": 1, "of": ["a", {"b": None}]}
ROW = {"rollout": 7, "position": 0, "weight": 1.0, "type": "Q1", "importance": 0.5}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def selection(rows: int = 3) -> pa.Table:
    return pa.Table.from_pylist(
        [ROW | {"position": i} for i in range(rows)], schema=schema(SELECTION)
    )


def making(rows: int = 3, **facts: Any) -> Make:
    """Return a maker of a table and two files."""

    def make(draft: Draft) -> dict[str, Any]:
        draft.table("picked", selection(rows), SELECTION)
        draft.file("rule.sql").write_text("SELECT 1")
        draft.file("notes/why.txt").write_text("because")
        return {"seconds": 1.5} | facts

    return make


def never(draft: Draft) -> dict[str, Any]:
    raise AssertionError("made although it exists")


def all_files(store: Store) -> list[str]:
    return [entry.name for entry in store.place.entries("")]


def leftovers(store: Store) -> list[Path]:
    return list(store.place.drafts.iterdir())


def test_what_was_made_is_found_and_not_made_again(store: Store, root: str, tmp_path: Path) -> None:
    made, now = store.ensure("selection", INPUTS, making())
    again, later = store.ensure("selection", dict(reversed(INPUTS.items())), never)
    elsewhere = Store(root, cache=tmp_path / "other").find("selection", made.key)
    assert (now, later) == (True, False)
    assert made == again == elsewhere
    assert made.key == key_of(INPUTS | {"kind": "selection"})
    assert (made.inputs, made.facts) == (INPUTS, {"seconds": 1.5})
    assert (made.parts["picked"].rows, made.parts["rule.sql"].rows) == (3, None)
    assert leftovers(store) == []


def test_what_was_not_made_is_not_found(store: Store) -> None:
    assert store.find("selection", "0" * 32) is None
    assert list(store.list()) == []
    assert store.sizes() == {}


def test_parts_are_read_back_wherever_the_store_lies(
    store: Store, root: str, tmp_path: Path
) -> None:
    made, _ = store.ensure("selection", INPUTS, making())
    for reader in (store, Store(root, cache=tmp_path / "other")):
        assert read_table([reader.path(made, "picked")]).equals(selection())
        folder = reader.folder(made)
        found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert found == {"picked.parquet", "rule.sql", "notes/why.txt"}
        assert (folder / "notes/why.txt").read_text() == "because"
        assert reader.verify(made) == []


def test_committed_files_are_read_only(store: Store) -> None:
    made, _ = store.ensure("selection", INPUTS, making())
    paths = [store.path(made, part) for part in made.parts]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o444}


def test_a_manifest_on_a_disk_is_read_only(tmp_path: Path) -> None:
    Store(tmp_path).ensure("selection", INPUTS, making())
    (manifest,) = tmp_path.rglob("manifest.json")
    assert stat.S_IMODE(manifest.stat().st_mode) == 0o444


def test_facts_do_not_change_the_key_nor_the_content(tmp_path: Path) -> None:
    one, _ = Store(tmp_path / "1").ensure("selection", INPUTS, making(host="a"))
    other, _ = Store(tmp_path / "2").ensure("selection", INPUTS, making(host="b"))
    assert (one.key, one.content) == (other.key, other.content)
    assert one.facts != other.facts


def test_the_content_follows_the_parts(tmp_path: Path) -> None:
    one, _ = Store(tmp_path / "1").ensure("selection", INPUTS, making(rows=3))
    other, _ = Store(tmp_path / "2").ensure("selection", INPUTS, making(rows=4))
    assert one.key == other.key
    assert one.content != other.content


def test_a_kind_is_part_of_the_key(store: Store) -> None:
    one, _ = store.ensure("selection", INPUTS, making())
    other, now = store.ensure("tokens", INPUTS, making())
    assert now
    assert one.key != other.key
    with pytest.raises(ValueError, match="another kind"):
        store.ensure("selection", {"kind": "tokens"}, never)


def test_any_json_inputs_are_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)

    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.dictionaries(st.text().filter(lambda name: name != "kind"), JSON, max_size=3))
    def check(inputs: dict[str, Any]) -> None:
        made, _ = store.ensure("tokens", inputs, lambda draft: {"echo": inputs})
        found = store.find("tokens", made.key)
        assert found == made
        assert made.inputs == inputs
        assert made.facts == {"echo": inputs}

    check()


def test_an_artifact_may_have_no_parts(store: Store) -> None:
    made, _ = store.ensure("rollouts", {"shards": ["a"]}, lambda draft: {})
    assert store.find("rollouts", made.key) == made
    assert store.verify(made) == []
    with pytest.raises(StoreError, match="has no parts"):
        store.folder(made)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("Selection", "0" * 32),
        ("", "0" * 32),
        ("../selection", "0" * 32),
        ("selection", "0" * 31),
        ("selection", "G" * 32),
        ("selection", "../" + "0" * 29),
        ("selection", "0" * 32 + "\n"),
    ],
)
def test_impossible_kinds_and_keys_are_refused(kind: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"(?s)expected.*what points to it is damaged"):
        Store(tmp_path).find(kind, key)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", ".", "", "a//b", "a\\b", "a\nb", "ü"])
def test_part_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    def make(draft: Draft) -> dict[str, Any]:
        draft.file(name)
        return {}

    with pytest.raises(ValueError, match="plain relative name"):
        Store(tmp_path).ensure("selection", INPUTS, make)


def test_an_error_of_the_maker_passes_and_leaves_nothing(store: Store) -> None:
    def make(draft: Draft) -> dict[str, Any]:
        making()(draft)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.ensure("selection", INPUTS, make)
    assert all_files(store) == []
    assert leftovers(store) == []
    assert store.ensure("selection", INPUTS, making())[1]


def announces(draft: Draft) -> dict[str, Any]:
    draft.file("model.safetensors")
    return {}


def links(draft: Draft) -> dict[str, Any]:
    (draft.folder / "passwd").symlink_to("/etc/passwd")
    return {}


def links_a_folder(draft: Draft) -> dict[str, Any]:
    (draft.folder / "etc").symlink_to("/etc", target_is_directory=True)
    return {}


def names_badly(draft: Draft) -> dict[str, Any]:
    (draft.folder / "a b").write_text("")
    return {}


def collides(draft: Draft) -> dict[str, Any]:
    draft.table("picked", selection(), SELECTION)
    draft.file("picked").write_text("")
    return {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (announces, r"announced \['model.safetensors'\]"),
        (links, "not a plain file"),
        (links_a_folder, "not a plain file"),
        (names_badly, "cannot store .*a b"),
        (collides, "two parts have the name 'picked'"),
    ],
)
def test_drafts_that_cannot_be_committed_are_refused(
    make: Make, message: str, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=message):
        store.ensure("selection", INPUTS, make)
    assert all_files(store) == []
    assert leftovers(store) == []


def test_a_table_is_written_once(tmp_path: Path) -> None:
    def make(draft: Draft) -> dict[str, Any]:
        draft.table("picked", selection(), SELECTION)
        draft.table("picked", selection(), SELECTION)
        return {}

    with pytest.raises(ValueError, match="written twice"):
        Store(tmp_path).ensure("selection", INPUTS, make)


def test_facts_that_json_cannot_hold_are_refused_before_the_commit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(NumericsError, match=r"facts of selection .* hold NaN"):
        store.ensure("selection", INPUTS, making(loss=float("nan")))
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.ensure("selection", INPUTS, making(loss=np.float32(1)))
    assert all_files(store) == []


def test_an_unknown_part_is_refused_with_those_that_exist(store: Store) -> None:
    made, _ = store.ensure("selection", INPUTS, making())
    with pytest.raises(StoreError, match=r"no part 'chosen'; it has \['notes/why.txt', 'picked'"):
        store.path(made, "chosen")


def test_the_list_and_the_sizes_tell_what_is_there(store: Store) -> None:
    made = [store.ensure("selection", {"seed": seed}, making())[0] for seed in range(3)]
    other, _ = store.ensure("tokens", {"seed": 0}, making(rows=5))
    assert list(store.list("selection")) == sorted(made, key=lambda artifact: artifact.key)
    assert len(list(store.list())) == 4
    assert list(store.list("teacher")) == []
    assert store.sizes() == {
        "selection": Size(3, sum(artifact.bytes for artifact in made), 9),
        "tokens": Size(1, other.bytes, 5),
    }


def test_foreign_files_in_the_root_are_left_alone(store: Store) -> None:
    made, _ = store.ensure("selection", INPUTS, making())
    for name in ("README.md", "selection/notes.txt", f"selection/aa/{made.key}/manifest.json"):
        store.place.create(name, b"mine")
    assert list(store.list()) == [made]
    assert store.sweep(0) == []
    assert "README.md" in all_files(store)


def test_a_removed_artifact_is_made_again(store: Store) -> None:
    made, _ = store.ensure("selection", INPUTS, making())
    store.remove("selection", made.key)
    assert store.find("selection", made.key) is None
    assert all_files(store) == []
    again, now = store.ensure("selection", INPUTS, making())
    assert now
    assert again.content == made.content


def name_of(store: Store, made: Any, part: str) -> str:
    folder = f"{made.kind}/{made.key[:2]}/{made.key}"
    return f"{folder}/{made.parts[part].file}"


def overwrite(store: Store, name: str, data: bytes) -> None:
    """Write over a committed file, as a failing disk or a careless hand may."""
    store.place.remove(name)
    assert store.place.create(name, data)


def test_verify_names_parts_that_are_missing_or_damaged(store: Store) -> None:
    made, _ = store.ensure("selection", INPUTS, making())
    table = store.path(made, "picked").read_bytes()
    store.place.remove(name_of(store, made, "rule.sql"))
    overwrite(store, name_of(store, made, "notes/why.txt"), b"BECAUSE")
    overwrite(store, name_of(store, made, "picked"), table[:-9] + b"123456789")
    found = store.verify(made)
    words = [
        ("part 'notes/why.txt'", "not what was committed"),
        ("part 'picked'", "not what was committed"),
        ("part 'rule.sql'", "missing"),
    ]
    for line, (part, reason) in zip(found, words, strict=True):
        assert part in line
        assert reason in line


def test_verify_notices_a_table_with_other_rows(store: Store, tmp_path: Path) -> None:
    made, _ = store.ensure("selection", INPUTS, making())
    other, _ = Store(tmp_path / "x").ensure("selection", INPUTS, making(rows=4))
    data = Store(tmp_path / "x").path(other, "picked").read_bytes()
    overwrite(store, name_of(store, made, "picked"), data)
    (found,) = store.verify(made)
    assert f"it has {len(data)} bytes" in found


def test_a_missing_part_is_reported_by_whoever_reads_it(
    store: Store, root: str, tmp_path: Path
) -> None:
    made, _ = store.ensure("selection", INPUTS, making())
    store.place.remove(name_of(store, made, "picked"))
    with pytest.raises(StoreError, match=r"picked\.parquet is missing; `tip cache verify`"):
        Store(root, cache=tmp_path / "other").path(made, "picked")


def test_one_flipped_bit_of_a_part_is_named_before_it_is_used(tmp_path: Path) -> None:
    """Also where one reader of a table passes over it and another one believes it."""
    made, _ = Store(tmp_path).ensure("selection", INPUTS, making())
    for part in made.parts:
        path = Store(tmp_path).path(made, part)
        whole = path.read_bytes()
        path.chmod(0o644)
        for place in range(0, len(whole), max(1, len(whole) // 40)):
            changed = bytearray(whole)
            changed[place] ^= 4
            path.write_bytes(changed)
            with pytest.raises(StoreError, match=r"is damaged: its bytes .*`tip cache verify`"):
                Store(tmp_path).path(made, part)
        path.write_bytes(whole)
        assert Store(tmp_path).path(made, part) == path


def test_a_part_is_read_whole_once_and_not_where_this_store_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def damage(path: Path, part: Part) -> None:
        read.append(path)

    monkeypatch.setattr(module, "damage", damage)
    store = Store(tmp_path)
    made, _ = store.ensure("selection", INPUTS, making())
    store.folder(made)
    assert read == []
    other = Store(tmp_path)
    for _ in range(2):
        other.folder(made)
    assert len(read) == len(made.parts)


def test_a_part_of_an_older_version_is_known_by_its_rows(tmp_path: Path) -> None:
    made, _ = Store(tmp_path).ensure("selection", INPUTS, making())
    older = replace(made.parts["picked"], digest=None)
    path = Store(tmp_path).path(made, "picked")
    assert damage(path, older) is None
    write_table(tmp_path / "other.parquet", selection().slice(0, 2), SELECTION)
    other = replace(older, bytes=(tmp_path / "other.parquet").stat().st_size)
    assert damage(tmp_path / "other.parquet", other) == "its bytes are not what was committed"


def test_a_damaged_manifest_is_reported_and_can_be_replaced(store: Store) -> None:
    made, _ = store.ensure("selection", INPUTS, making())
    other, _ = store.ensure("selection", {"seed": 2}, making())
    name = f"selection/{made.key[:2]}/{made.key}/manifest.json"
    overwrite(store, name, b"{")
    for attempt in (
        lambda: store.find("selection", made.key),
        lambda: store.ensure("selection", INPUTS, never),
        lambda: list(store.list()),
    ):
        with pytest.raises(StoreError, match=r"manifest\.json is damaged: .*; remove it"):
            attempt()
    damaged: list[str] = []
    assert list(store.list(damaged=damaged)) == [other]
    assert store.sizes(damaged)["selection"].artifacts == 1
    assert [made.key in words for words in damaged] == [True, True]
    store.remove("selection", made.key)
    assert store.ensure("selection", INPUTS, making())[1]


def test_the_later_of_two_makers_uses_what_the_first_committed(store: Store) -> None:
    first: list[Any] = []
    hasty = Store(
        str(store), cache=store.place.drafts.parent, patience=Patience(0.02, silence_seconds=0)
    )

    def overtaken(draft: Draft) -> dict[str, Any]:
        first.append(hasty.ensure("selection", INPUTS, making(rows=4)))
        return making()(draft)

    late, now = store.ensure("selection", INPUTS, overtaken)
    assert first == [(late, True)]
    assert not now
    assert late.parts["picked"].rows == 4
    assert store.verify(late) == []
    assert len(all_files(store)) == 1 + len(late.parts)


def test_what_was_committed_just_before_the_claim_is_used(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def late(
        place: Place, folder: str, patience: Patience, done: Any, *, wait: bool
    ) -> Claim | None:
        monkeypatch.undo()
        made.append(store.ensure("selection", INPUTS, making())[0])
        return acquire(place, folder, patience, lambda: False)

    monkeypatch.setattr("tip.storage.store.store.acquire", late)
    assert store.ensure("selection", INPUTS, never) == (made[0], False)


def test_one_of_many_threads_makes_it(store: Store) -> None:
    made: list[bool] = []
    calls: list[int] = []

    def make(draft: Draft) -> dict[str, Any]:
        calls.append(1)
        return making()(draft)

    def work() -> None:
        made.append(store.ensure("selection", INPUTS, make)[1])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]
    assert len(calls) == 1


def test_a_root_without_permission_is_refused_in_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with unprivileged(), pytest.raises(StoreError, match=r"cannot write to the store .*permission"):
        Store(tmp_path / "store")


def test_a_root_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to the store .*/file/store") as caught:
        Store(tmp_path / "file" / "store")
    assert "\n" not in str(caught.value)


def test_a_place_that_accepts_a_second_create_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalPlace, "create", lambda self, name, data: True)
    with pytest.raises(StoreError, match="accepts a second create-only write"):
        Store(tmp_path)


def test_a_url_of_a_folder_is_a_folder(tmp_path: Path) -> None:
    Store(f"file://{tmp_path}/store").ensure("selection", INPUTS, making())
    assert len(list(Store(tmp_path / "store").list())) == 1


def test_a_manifest_can_be_read_by_a_person(tmp_path: Path) -> None:
    made, _ = Store(tmp_path).ensure("selection", INPUTS, making())
    (manifest,) = tmp_path.rglob("manifest.json")
    assert manifest.parent == tmp_path / "selection" / made.key[:2] / made.key
    assert json.loads(manifest.read_text())["inputs"] == INPUTS
