"""A data set of the hub is read from its Parquet branch, and from the cache without a hub."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

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
