"""Rows are read as they stand in the file, and what cannot be used is named by its place."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hypothesis
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.storage.errors import InputError
from tip.storage.sources.rows import Row, read_rows

ROWS = [
    {"prompt": "one\nline\u2028more", "answer": "07"},
    {"prompt": 'zwei, "drei"', "answer": "\\frac{1}{2}"},
    {"prompt": "四", "answer": "x"},
]


def write(path: Path, rows: list[dict]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
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


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
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


@pytest.mark.parametrize("name", ["rows.json", "rows", "a/b/c", "owner/name/", ""])
def test_a_source_of_no_known_kind_is_refused(name: str) -> None:
    assert "expected a .jsonl, .parquet or .csv file, or a Hugging Face" in refusal(name)


def test_an_existing_file_of_another_kind_is_not_taken_for_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/rows.txt").write_text("a\n")
    assert "is of no known kind" in refusal("data/rows.txt")


# The hub: huggingface_hub reads its environment when it is imported, so each reading below is a
# process of its own. The server speaks the three endpoints that are used and nothing else.

COMMIT = "0123456789abcdef0123456789abcdef01234567"
READ = """
import json, sys
from tip.storage.sources.rows import read_rows
from tip.storage.errors import InputError
try:
    rows = read_rows(sys.argv[1], needed=["q"], section="evaluate", **json.loads(sys.argv[2]))
    print(json.dumps([[row.place, row.fields] for row in rows]))
except InputError as error:
    print(json.dumps(str(error)))
"""


class Hub(ThreadingHTTPServer):
    """A hub with one data set, `me/sums`, of the given Parquet files on its Parquet branch."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Hub)
        self.files = files
        self.tokens: set[str | None] = set()
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Hub(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> tuple[int, bytes, dict[str, str]]:
        if "/me/sums/" in self.path:  # the client also asks the hub about itself, without a token
            self.server.tokens.add(self.headers["Authorization"])
        path, branch = self.path.partition("?")[0], "refs%2Fconvert%2Fparquet"
        if path == f"/api/datasets/me/sums/revision/{branch}":
            siblings = [{"rfilename": name} for name in self.server.files]
            info = {"id": "me/sums", "sha": COMMIT, "siblings": siblings}
            return 200, json.dumps(info).encode(), {}
        if path in (f"/api/datasets/me/sums/tree/{name}" for name in (branch, COMMIT)):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": f"{len(data):040x}"}
                for name, data in self.server.files.items()
            ]
            return 200, json.dumps(entries).encode(), {}
        start = f"/datasets/me/sums/resolve/{COMMIT}/"
        if path.startswith(start) and path.removeprefix(start) in self.server.files:
            name = path.removeprefix(start)
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{name.encode().hex()}"'}
            if self.command == "GET":
                self.server.fetched.append(name)
            return 200, self.server.files[name], headers
        return 404, b"", {"X-Error-Code": "RepoNotFound"}

    def do_GET(self) -> None:
        status, body, headers = self.answer()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET


def parquet(tmp_path: Path, *texts: str) -> bytes:
    path = tmp_path / "part.parquet"
    pl.DataFrame({"q": texts, "n": range(len(texts))}).write_parquet(path)
    return path.read_bytes()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(
        {
            "README.md": b"sums",
            "main/train/0001.parquet": parquet(tmp_path, "c"),
            "main/train/0000.parquet": parquet(tmp_path, "a", "b"),
            "main/test/0000.parquet": parquet(tmp_path, "d"),
        }
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def read_hub(
    url: str, tmp_path: Path, name: str = "me/sums", offline: bool = False, **settings: object
) -> object:
    """Return what a fresh process reads from a hub: [place, fields] pairs, or its error."""
    hub_settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_secret",
        "HF_HUB_OFFLINE": str(int(offline)),
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", READ, name, json.dumps(settings)],
        env={k: v for k, v in os.environ.items() if not k.startswith("HF_")} | hub_settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_split_of_a_hub_data_set_is_read_in_order_with_the_users_token(
    hub: Hub, tmp_path: Path
) -> None:
    assert read_hub(hub.url, tmp_path) == [
        ["me/sums, row 1", {"q": "a"}],
        ["me/sums, row 2", {"q": "b"}],
        ["me/sums, row 3", {"q": "c"}],
    ]
    assert sorted(hub.fetched) == ["main/train/0000.parquet", "main/train/0001.parquet"]
    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "unreachable"])
def test_a_hub_data_set_once_read_is_read_again_without_the_hub(
    hub: Hub, tmp_path: Path, offline: bool
) -> None:
    first = read_hub(hub.url, tmp_path, split="test")
    assert first == [["me/sums, row 1", {"q": "d"}]]
    url = hub.url if offline else "http://127.0.0.1:9"
    assert read_hub(url, tmp_path, offline=offline, split="test") == first
    assert hub.fetched == ["main/test/0000.parquet"]


def test_of_several_configurations_one_must_be_named(hub: Hub, tmp_path: Path) -> None:
    hub.files["socratic/train/0000.parquet"] = parquet(tmp_path, "why?")
    complaint = read_hub(hub.url, tmp_path)
    assert complaint == (
        "data set 'me/sums' has the configurations main, socratic: choose one with evaluate.subset"
    )
    assert read_hub(hub.url, tmp_path, subset="socratic") == [["me/sums, row 1", {"q": "why?"}]]


def test_the_configuration_called_default_needs_no_name(hub: Hub, tmp_path: Path) -> None:
    hub.files["default/train/0000.parquet"] = parquet(tmp_path, "z")
    assert read_hub(hub.url, tmp_path) == [["me/sums, row 1", {"q": "z"}]]


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [({"split": "dev"}, "default/dev"), ({"subset": "man", "split": "test"}, "man/test")],
)
def test_an_unknown_split_or_configuration_is_refused_with_those_that_exist(
    hub: Hub, tmp_path: Path, settings: dict, wrong: str
) -> None:
    assert read_hub(hub.url, tmp_path, **settings) == (
        f"data set 'me/sums' has no {wrong}; it has main/test, main/train: set evaluate.subset "
        "and evaluate.split"
    )


def test_an_unknown_data_set_is_refused_in_one_line(hub: Hub, tmp_path: Path) -> None:
    complaint = read_hub(hub.url, tmp_path, name="me/none")
    assert isinstance(complaint, str)
    assert "\n" not in complaint
    assert complaint.startswith(f"data set 'me/none' cannot be read: tried {hub.url}")
    assert "404" in complaint


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "unreachable"])
def test_without_hub_and_cache_the_error_says_what_was_tried_and_names_the_way_out(
    tmp_path: Path, offline: bool
) -> None:
    complaint = read_hub("http://127.0.0.1:9", tmp_path, offline=offline)
    assert isinstance(complaint, str)
    assert "\n" not in complaint
    assert "tried http://127.0.0.1:9, branch refs/convert/parquet, and the cache" in complaint
    assert complaint.endswith("or name a local file: --set evaluate.source=FILE")
