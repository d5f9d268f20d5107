"""A hub on loopback: what huggingface_hub asks of one when a folder is sent, and nothing else.

Repositories live in memory. An object is taken in before the commit that names it, as the real one
does, and a commit with an object that never came is refused.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import yaml

TOKEN = "hf_" + "s" * 34
LARGE = (".safetensors", ".parquet")


@dataclass
class Repository:
    private: bool | None
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    messages: list[str] = field(default_factory=list)


class StandIn(ThreadingHTTPServer):
    """Repositories by kind and name; `refuse` maps a step to the status it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.refuse: dict[str, int] = {}
        self.steps: list[str] = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path).path.strip("/").split("/")
        step, answer = self._step(method, parts)
        if step is None:
            return self._answer(404, {"error": self.path})
        self.server.steps.append(step)
        if step in self.server.refuse:
            return self._answer(self.server.refuse[step], {"error": f"{step} refused"})
        if step != "object" and self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials in Authorization header"})
        return answer(parts, body)

    def _step(self, method: str, parts: list[str]) -> tuple[str | None, Any]:
        api = parts[0] == "api" and parts[1] in ("models", "datasets")
        asked = {
            "object": method == "PUT" and parts[0] == "objects",
            "batch": parts[-1] == "batch",
            "create": parts[:3] == ["api", "repos", "create"],
            "card": parts[:2] == ["api", "validate-yaml"],
            "look": api and method == "GET" and len(parts) == 4,
            "preupload": api and parts[4:5] == ["preupload"],
            "commit": api and parts[4:5] == ["commit"],
        }
        step = next((name for name, is_it in asked.items() if is_it), None)
        return step, step and getattr(self, f"_{step}")

    def _answer(self, status: int, value: Any, code: str | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(data)

    def _find(self, parts: list[str]) -> Repository | None:
        return self.server.repositories.get((parts[1].rstrip("s"), f"{parts[2]}/{parts[3]}"))

    def _create(self, _: list[str], body: bytes) -> None:
        asked = json.loads(body)
        key = (asked.get("type", "model"), f"{asked['organization']}/{asked['name']}")
        if key in self.server.repositories:
            return self._answer(409, {"error": "You already created this repo"})
        self.server.repositories[key] = Repository(asked.get("visibility") == "private")
        prefix = "datasets/" if key[0] == "dataset" else ""
        return self._answer(200, {"url": f"{self.server.url}/{prefix}{key[1]}"})

    def _card(self, _: list[str], body: bytes) -> None:
        yaml.safe_load(json.loads(body)["content"].split("---")[1])
        self._answer(200, {"errors": [], "warnings": []})

    def _look(self, parts: list[str], _: bytes) -> None:
        found = self._find(parts)
        if found is None:
            return self._answer(404, {"error": "Repository not found"}, "RepoNotFound")
        readme = found.files.get("README.md", b"").decode()
        card = yaml.safe_load(readme.split("---")[1]) if readme.startswith("---") else None
        return self._answer(
            200,
            {
                "id": f"{parts[2]}/{parts[3]}",
                "sha": found.commits[-1],
                "siblings": [{"rfilename": name} for name in found.files],
                **({"cardData": card} if card else {}),
            },
        )

    def _preupload(self, _: list[str], body: bytes) -> None:
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for f in json.loads(body)["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, _: list[str], body: bytes) -> None:
        def action(oid: str, size: int) -> dict[str, Any]:
            about: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.server.objects:
                about["actions"] = {"upload": {"href": f"{self.server.url}/objects/{oid}"}}
            return about

        objects = [action(o["oid"], o["size"]) for o in json.loads(body)["objects"]]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _object(self, parts: list[str], body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != parts[1]:
            return self._answer(422, {"error": "other bytes"})
        self.server.objects[parts[1]] = body
        return self._answer(200, {})

    def _commit(self, parts: list[str], body: bytes) -> None:
        found = self._find(parts)
        assert found is not None
        lines = [json.loads(line) for line in body.splitlines()]
        head = next(line["value"] for line in lines if line["key"] == "header")
        if head.get("parentCommit") not in (None, found.commits[-1]):
            return self._answer(412, {"error": "the branch has moved"})
        files = dict(found.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    return self._answer(400, {"error": "no such object"})
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
        found.files = files
        found.commits.append(f"{len(found.commits):040x}")
        found.messages.append(head["summary"])
        prefix = "datasets/" if parts[1] == "datasets" else ""
        where = f"{self.server.url}/{prefix}{parts[2]}/{parts[3]}/commit/{found.commits[-1]}"
        return self._answer(200, {"commitUrl": where, "commitOid": found.commits[-1]})
