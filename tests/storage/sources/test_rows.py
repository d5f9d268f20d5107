"""Rows are read as they stand in the file, and what cannot be used is named by its place."""

import json
from datetime import date, timedelta
from pathlib import Path

import hypothesis
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.storage.errors import ConfigError, InputError
from tip.storage.sources.rows import Row, read_rows

ROWS = [
    {"prompt": "one\nline\u2028more", "answer": "07"},
    {"prompt": 'zwei, "drei"', "answer": "\\frac{1}{2}"},
    {"prompt": "四", "answer": "x"},
]


def write(path: Path, rows: list[dict]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".csv":
        pl.DataFrame(rows).write_csv(path)
    else:
        pl.DataFrame(rows).write_parquet(path)
    return str(path)


def refusal(path: Path | str, needed: tuple[str, ...] = ("prompt",), **settings: object) -> str:
    """Return the error of reading a source, which must be one line."""
    with pytest.raises(InputError) as caught:
        read_rows(str(path), needed=needed, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_the_same_rows_are_read_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"rows{suffix}", ROWS)
    rows = read_rows(source, needed=("prompt", "answer"))
    assert [dict(row.fields) for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("limit", [1, 2, 9])
def test_a_limit_keeps_the_first_rows(tmp_path: Path, suffix: str, limit: int) -> None:
    source = write(tmp_path / f"rows{suffix}", ROWS)
    rows = read_rows(source, limit=limit, needed=("prompt",))
    assert [row.fields["prompt"] for row in rows] == [row["prompt"] for row in ROWS[:limit]]


def test_a_limit_leaves_later_lines_unread(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\nno json\n')
    assert [row.fields["prompt"] for row in read_rows(str(path), limit=1, needed=("prompt",))] == [
        "a"
    ]


@hypothesis.settings(deadline=None)  # it would judge the disk
@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), min_size=1))
def test_any_json_object_reads_back_from_a_jsonl_file(
    tmp_path_factory: pytest.TempPathFactory, objects: list[dict]
) -> None:
    source = write(tmp_path_factory.mktemp("any") / "rows.jsonl", [])
    Path(source).write_text("".join(json.dumps(row) + "\n" for row in objects))
    assert [dict(row.fields) for row in read_rows(source, needed=())] == objects


def test_a_row_number_is_the_line_of_a_jsonl_file_blank_lines_included(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n  \n{"prompt": "b"}')
    rows = read_rows(str(path), needed=("prompt",))
    assert rows == [Row(1, {"prompt": "a"}, str(path)), Row(4, {"prompt": "b"}, str(path))]
    assert rows[1].place == f"{path}, line 4"


def test_a_column_of_a_jsonl_file_may_mix_numbers_and_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"answer": 7}\n{"answer": "\\\\pi"}\n{"answer": 0.1}\n')
    answers = [row.fields["answer"] for row in read_rows(str(path), needed=("answer",))]
    assert answers == [7, "\\pi", 0.1]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"prompt": "a"', "not valid JSON: Expecting ',' delimiter at character 15"),
        (b"prompt", "not valid JSON: Expecting value at character 1"),
        (b'["a"]', "a list; expected one object"),
        (b'{"prompt": null}', "column 'prompt' is a null; expected text or a number"),
        (b'{"prompt": [{"role": "user"}]}', "column 'prompt' is a list; expected text"),
        (b'{"question": "a", "id": 1}', "no column 'prompt'; it has question, id"),
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 13"),
    ],
)
def test_an_unusable_line_is_refused_with_its_number_and_what_is_wrong(
    tmp_path: Path, line: bytes, complaint: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n\n' + line + b"\n")
    assert f"{path}, line 3: {complaint}" in refusal(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_null_in_a_needed_column_is_refused_with_its_row(tmp_path: Path, suffix: str) -> None:
    rows = [{"prompt": "a", "note": None}, {"prompt": None, "note": "b"}]
    path = write(tmp_path / f"rows{suffix}", rows)
    assert f"{path}, row 2: column 'prompt' is a null" in refusal(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_missing_column_is_refused_with_those_that_exist(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"rows{suffix}", ROWS)
    complaint = refusal(path, ("prompt", "problem", "level"))
    assert complaint == f"{path}: no column 'problem', 'level'; it has prompt, answer"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b""), ("b.jsonl", b"\n \n"), ("c.csv", b""), ("d.csv", b"prompt,answer\n")],
)
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(path) == f"{path} holds no row: expected one prompt a row"


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("x.csv", "prompt,x,x,prompt\na,1,2,b\n", "x.csv: "),
        ("bom.csv", "\ufeffprompt,prompt\na,b\n", "bom.csv: "),
        ("x.jsonl", '{"prompt": "a"}\n{"prompt": "a", "prompt": "b"}\n', "x.jsonl, line 2: "),
    ],
)
def test_a_column_that_comes_twice_is_refused_where_it_is_needed(
    tmp_path: Path, name: str, text: str, place: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert f"{place}there are two columns 'prompt'; name" in refusal(path)


def test_a_column_that_comes_twice_is_let_be_where_nobody_needs_it(tmp_path: Path) -> None:
    table, lines = tmp_path / "x.csv", tmp_path / "x.jsonl"
    table.write_text("prompt,x,x\na,1,2\n")
    lines.write_text('{"prompt": "a", "x": {"prompt": 1, "prompt": 2}, "y": 1, "y": 2}\n')
    for path in (table, lines):
        (row,) = read_rows(str(path), needed=["prompt"])
        assert row.fields["prompt"] == "a"


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pl.DataFrame(schema={"prompt": pl.String}).write_parquet(path)
    assert "holds no row" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.parquet", b"text", "is no usable Parquet"),
        ("b.csv", b"prompt,answer\na,b,c\n", "is no usable CSV"),
        ("c.csv", b"prompt\n\xff\xfe\n", "is no usable CSV"),
    ],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert complaint in refusal(path)


def test_a_missing_file_is_refused_with_the_setting_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    complaint = refusal(path, section="evaluate")
    assert complaint == f"{path} does not exist or is no file: mend evaluate.source"


@pytest.mark.parametrize("name", ["rows.xml", "rows", "a/b/c", "owner/name/", ""])
def test_a_source_of_no_known_kind_is_refused(name: str) -> None:
    assert "expected a .jsonl, .json, .parquet, .csv or .txt file, or a" in refusal(name)


def test_an_existing_file_of_another_kind_is_not_taken_for_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/rows.xml").write_text("a\n")
    assert "is of no known kind" in refusal("data/rows.xml")


def test_neither_text_nor_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": true}\n')
    assert "line 1: column 'prompt' is a truth value" in refusal(path)
    parquet = tmp_path / "rows.parquet"
    for column, kind in ((date(2020, 1, 1), "date"), (timedelta(1), "timedelta"), (True, "truth")):
        pl.DataFrame({"prompt": [column]}).write_parquet(parquet)
        assert f"row 1: column 'prompt' is a {kind}" in refusal(parquet)


def test_a_disk_that_fails_and_a_name_too_long_are_named(tmp_path: Path) -> None:
    for suffix in ("jsonl", "csv", "parquet"):
        path = tmp_path / f"rows.{suffix}"
        path.symlink_to("/proc/self/mem")
        assert "cannot be read" in refusal(path)
    with pytest.raises(ConfigError, match="no usable path"):
        read_rows(f"{'x' * 300}.jsonl", needed=("prompt",))


def test_a_text_file_is_a_prompt_a_line_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffone\r\n\n  zwei, {drei}\n四".encode())
    rows = read_rows(str(path), needed=("prompt",))
    assert [(row.number, row.fields["prompt"]) for row in rows] == [
        (1, "one"),
        (3, "zwei, {drei}"),
        (4, "四"),
    ]
    assert rows[1].place == f"{path}, line 3"
    assert "no column 'answer'" in refusal(path, ("prompt", "answer"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}', "a object; expected a list of objects"),
        ('[{"prompt": "a"}, 3]', "row 2: a number; expected an object"),
        ('[{"prompt": "a"},\n {"prompt": }]', "not valid JSON: Expecting value at line 2, char"),
        ('[{"prompt": "a", "prompt": "b"}]', "row 1: there are two columns 'prompt'"),
        ("[]", "holds no row"),
    ],
)
def test_a_json_file_that_is_no_list_of_objects_is_refused_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert said in refusal(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_chat_is_a_list_of_messages_in_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    chat = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    source = write(tmp_path / f"rows{suffix}", [{"messages": chat}])
    (row,) = read_rows(source, needed=("messages",), lists=("messages",))
    assert row.fields["messages"] == chat
    assert "expected text or a number" in refusal(source, ("messages",))
    flat = write(tmp_path / f"flat{suffix}", [{"messages": "hello"}])
    assert "is a string; expected a list" in refusal(flat, ("messages",), lists=("messages",))
