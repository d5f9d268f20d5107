"""`tip report --serve`: the page on this machine's own address, made anew as the run goes on.

Nobody else can reach it: it listens on the loopback alone, and answers no request that names
another host, as a page of another site would make a browser send.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from ...storage.errors import ConfigError, TipError
from ...storage.files import user_path
from ...storage.keys import key_of
from ..progress import Reporter
from .command import Request, page_of

_LOOPBACK = "127.0.0.1"
_HOSTS = (_LOOPBACK, "localhost")


class _Served:
    """The page of a request, as it was last made."""

    def __init__(self, request: Request, reporter: Reporter) -> None:
        self._request, self._reporter = request, reporter
        self._lock = threading.Lock()
        self._made: tuple[str, str] | None = None

    def stamp(self) -> str:
        """Return what changes when there is more to show."""
        return stamp(self._request)

    def page(self) -> str:
        """Return the page, made anew where there is more."""
        with self._lock:
            now = self.stamp()
            if self._made is None or self._made[0] != now:
                self._made = now, page_of(self._request, self._reporter, live=now)
            return self._made[1]


def stamp(request: Request) -> str:
    """Return a value that changes with every stage that a run finishes, and every round's start."""
    seen = []
    for name in request.names:
        folders = [p for p in (user_path(name), user_path(request.runs) / name) if p.is_dir()]
        if not folders:
            raise ConfigError(f"{name} is not there any more: start it again, or end this server")
        folder = folders[0]
        files = [folder / "metrics.jsonl", folder / "comparison.md", *folder.glob("rounds/*.json")]
        there = [path.stat() for path in sorted(files) if path.is_file()]
        seen.append([name, [[each.st_mtime_ns, each.st_size] for each in there]])
    return key_of(seen)


class _Handler(BaseHTTPRequestHandler):
    """Answers with the page and its stamp."""

    served: _Served

    def do_GET(self) -> None:
        """Answer a request."""
        port = self.server.server_port  # type: ignore[attr-defined]  # an HTTPServer has one
        if self.headers.get("Host") not in {f"{host}:{port}" for host in _HOSTS}:
            self._answer(403, "this page is for this machine alone", "text/plain")
            return
        path = urlsplit(self.path).path
        try:
            if path == "/":
                self._answer(200, self.served.page(), "text/html")
            elif path == "/stamp":
                self._answer(200, self.served.stamp(), "text/plain")
            else:
                self._answer(404, "there is only one page here: /", "text/plain")
        except TipError as error:  # a run that was deleted, or is being written
            self._answer(503, " ".join(str(error).split()), "text/plain")

    def _answer(self, code: int, text: str, kind: str) -> None:
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: who looks needs no line a request."""


def server_of(request: Request, port: int, reporter: Reporter) -> ThreadingHTTPServer:
    """Return a server of a report that listens, but answers nothing yet. port 0: any.

    The page is made once before, so that what cannot be shown is told at once.
    """
    served = _Served(request, reporter)
    served.page()
    handler = type("Handler", (_Handler,), {"served": served})
    try:
        return ThreadingHTTPServer((_LOOPBACK, port), handler)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot listen there ({error.strerror}); choose another, or 0 for any"
        ) from error


def serve(request: Request, port: int, *, open_it: bool) -> None:
    """Serve a report until it is stopped."""
    import webbrowser

    reporter = Reporter()
    server = server_of(request, port, reporter)
    address = f"http://{_LOOPBACK}:{server.server_port}/"
    reporter.say(f"{address} shows the report as the run goes on; Ctrl-C ends it")
    if open_it:
        webbrowser.open(address)
    with server:
        server.serve_forever()
