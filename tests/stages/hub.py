"""A hub on loopback that has one model, `owner/name`, and notes the files that are fetched."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "c" * 40


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as a model; yield the hub's address and the names of what was fetched."""
    fetched: list[str] = []
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def reply(self, body: bytes, **headers: str) -> None:
            self.send_response(200)
            headers = {"Content-Length": str(len(body)), **headers}
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = path.partition("/resolve/")[2].partition("/")[2]
            if path.startswith("/api/models/owner/name/tree/"):
                listed = [{"type": "file", "path": n, **_about(p)} for n, p in files.items()]
                self.reply(json.dumps(listed).encode())
            elif path.startswith("/api/models/owner/name"):
                siblings = [{"rfilename": n} for n in files]
                about = {"id": "owner/name", "sha": COMMIT, "siblings": siblings}
                self.reply(json.dumps(about).encode())
            elif name in files:
                fetched.extend([name] if self.command == "GET" else [])
                body = files[name].read_bytes()
                tag = f'"{hashlib.sha256(body).hexdigest()}"'
                self.reply(body, X_Repo_Commit=COMMIT, ETag=tag)
            else:
                self.send_error(404)

        do_HEAD = do_GET  # its name is the protocol's

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", fetched
    finally:
        server.shutdown()
        server.server_close()


def _about(path: Path) -> dict[str, object]:
    data = path.read_bytes()
    return {"size": len(data), "oid": hashlib.sha1(data).hexdigest()}
