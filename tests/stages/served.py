"""A small server that speaks as `vllm serve` does, over real sockets, and can misbehave."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from tiny import log_probs


class Served:
    """Serves the model of a folder. Its fields may be changed while it runs.

    faults: taken one a request, before it is answered: an HTTP code, `drop`, `slow`, bytes, or a
    code with bytes; `cut` is 502 whose body breaks off.
    """

    def __init__(self, folder: Path, *, name: str = "teacher", port: int = 0) -> None:
        self.folder, self.name = folder, name
        self.most_logprobs, self.longest = 60, 128
        self.detokenize: Callable[[list[int]], str] | None = None
        self.faults: list[Any] = []
        self.asked: list[int] = []  # sequences of each completion request
        self.keys: set[str | None] = set()  # what requests say of their right to ask
        self.slow_seconds = 1.0
        self.parallel = self.most_parallel = 0
        self.awaited = 0  # requests that are to be under way before the first is answered
        self.lock = threading.Condition()
        served = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                card = {"id": served.name, "max_model_len": served.longest}
                self.answer({"data": [card]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with served.lock:
                    served.parallel += 1
                    served.most_parallel = max(served.parallel, served.most_parallel)
                    served.lock.notify_all()
                    served.lock.wait_for(lambda: served.most_parallel >= served.awaited, 20)
                try:
                    self.answer(*served.reply(self.path, body))
                finally:
                    with served.lock:
                        served.parallel -= 1

            def answer(self, value: Any, code: int = 200) -> None:
                with served.lock:
                    served.keys.add(self.headers["Authorization"])
                    fault = served.faults.pop(0) if served.faults else None
                if fault == "drop":
                    self.connection.close()
                    return
                if fault == "slow":
                    time.sleep(served.slow_seconds)
                if isinstance(fault, int):
                    value, code = {"error": {"message": "busy"}}, fault
                if fault == "cut":
                    code = 502
                if isinstance(fault, tuple):
                    code, fault = fault
                data = fault if isinstance(fault, bytes) else json.dumps(value).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data) + (fault == "cut")))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client gave up
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # a glance every hundredth of a second at whether it is to stop
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reply(self, path: str, body: dict) -> tuple[Any, int]:
        if path == "/detokenize":
            if self.detokenize is None:
                return {"error": {"message": "Not Found"}}, 404
            return {"prompt": self.detokenize(body["tokens"])}, 200
        top = body["prompt_logprobs"]
        if top > self.most_logprobs:
            text = f"Requested prompt logprobs of {top}, which is greater than max allowed: 20"
            return {"error": {"message": text}}, 400
        self.asked.append(len(body["prompt"]))
        choices = [
            {"index": i, "prompt_logprobs": [None, *self.positions(ids, top)]}
            for i, ids in enumerate(body["prompt"])
        ]
        return {"choices": choices[::-1]}, 200

    def positions(self, ids: list[int], top: int) -> list[dict]:
        out = []
        for token, row in zip(ids[1:], log_probs(self.folder, ids[:1], ids[1:]), strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            out.append({str(i): {"logprob": float(row[i])} for i in [token, *best]})
        return out
