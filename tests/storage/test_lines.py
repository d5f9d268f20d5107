"""Lines are parsed once, lost to nothing but a kill, and damage is named by file and line."""

import json
from pathlib import Path
from typing import Any

import pytest
from tip.storage.errors import StoreError
from tip.storage.lines import JsonLines

LINE = {
    "round": 1,
    "types": {"Q1": {"share": 0.125, "none": None}},
    "fresh": True,
    "rate": 1e-07,
    "text": 'a "}\\ é',
    "losses": [-1.5, None],
}


@pytest.fixture
def lines(tmp_path: Path) -> JsonLines:
    return JsonLines(tmp_path / "new" / "metrics.jsonl")


def add(lines: JsonLines, data: bytes) -> None:
    with lines.path.open("ab") as file:
        file.write(data)


def test_without_a_file_there_are_no_lines_and_reading_makes_none(lines: JsonLines) -> None:
    assert lines.read() == []
    assert not lines.path.parent.exists()


def test_lines_come_back_in_order_and_each_is_parsed_once(
    lines: JsonLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, parsed = json.loads, []

    def loads(text: bytes) -> Any:
        parsed.append(text)
        return real(text)

    monkeypatch.setattr("tip.storage.lines.json.loads", loads)
    for number in range(10):
        lines.append({"round": number})
        assert [line["round"] for line in lines.read()] == list(range(number + 1))
    assert len(parsed) == 10


def test_a_line_cut_anywhere_costs_that_line_alone_before_and_after_it_is_ended(
    lines: JsonLines,
) -> None:
    lines.append(LINE)
    whole = json.dumps(LINE).encode()
    for length in range(1, len(whole)):
        add(lines, whole[:length])
        assert lines.read() == JsonLines(lines.path).read() == [LINE] * length
        lines.append(LINE)
    assert JsonLines(lines.path).read() == [LINE] * len(whole)


def test_a_whole_line_that_lacks_only_its_end_is_there_once_it_is_ended(lines: JsonLines) -> None:
    lines.append({"round": 0})
    add(lines, b'{"round": 1}')
    lines.append({"round": 2})
    assert [line["round"] for line in lines.read()] == [0, 1, 2]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"round": 1, x}',
        b'\x00\xff{"round": 1}',
        b"\x00\x00\x00\x00",
        b'{"round": 1}{"round": 1, "stage": "sel',
        b'{"round": 1, "a": \xff}',
        b'ound": 1}',
    ],
)
def test_any_other_unreadable_line_is_named(lines: JsonLines, damage: bytes) -> None:
    lines.append({"round": 0})
    add(lines, damage + b"\n")
    lines.append({"round": 2})
    for reader in (lines, JsonLines(lines.path)):
        for _ in range(2):
            with pytest.raises(StoreError, match=r"metrics\.jsonl, line 2: damaged .*remove that"):
                reader.read()
    lines.path.write_bytes(b'{"round": 0}\n{"round": 2}\n')
    assert [line["round"] for line in lines.read()] == [0, 2]


@pytest.mark.parametrize(
    "after",
    [b"", b'{"round": 7}\n', b'{"round": 7}\n' * 3, b'{"round": 7}\n' * 9],
    ids=["empty", "shorter", "as long", "longer"],
)
@pytest.mark.parametrize("how", ["rewritten", "replaced"])
def test_a_file_that_is_another_one_is_read_anew(lines: JsonLines, after: bytes, how: str) -> None:
    for number in range(3):
        lines.append({"round": number})
    assert len(lines.read()) == 3
    if how == "replaced":
        lines.path.unlink()
        assert lines.read() == []
    lines.path.write_bytes(after)
    assert lines.read() == [{"round": 7}] * after.count(b"\n")


def test_a_number_that_was_changed_is_named(lines: JsonLines) -> None:
    lines.append(LINE)
    lines.append({"round": 2, "loss": float("inf")})
    assert lines.read() == [LINE, {"round": 2, "loss": float("inf")}]
    lines.path.write_text(lines.path.read_text().replace("0.125", "0.225"))
    with pytest.raises(StoreError, match=r"line 1: damaged \(its seal does not fit .*remove that"):
        JsonLines(lines.path).read()


def test_what_a_reader_does_with_the_list_stays_his(lines: JsonLines) -> None:
    lines.append({"round": 0})
    lines.read().clear()
    assert lines.read() == [{"round": 0}]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read") as caught:
        JsonLines(tmp_path).read()
    assert "\n" not in str(caught.value)
