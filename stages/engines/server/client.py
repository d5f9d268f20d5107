"""JSON over HTTP, some requests at once, to a server that may be away for a while.

Requests run on an event loop in a thread of its own, so that a caller with a loop (a notebook, an
actor) may ask, and a caller who is interrupted cuts off what is under way. stamina's retries do not
fit: between two tries the server must show that it is the one from before, and what counts is the
time since it went away, not the number or the length of tries.
"""

import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio
import httpx2
from anyio.from_thread import start_blocking_portal

from ....storage.errors import ConfigError, ModelError
from ...models.settings import ServerSettings

T = TypeVar("T")

Ask = Callable[[], Awaitable[T]]
"""A question, which may be asked again."""

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0  # seconds between two tries: doubled each time
_AWAY = (429, 500, 502, 503, 504)  # HTTP codes of a server that may answer later


class Away(Exception):
    """The server cannot be reached, or says that it cannot answer now."""


class AbsentError(ModelError):
    """The server has been away for longer than it may."""


class Refused(ModelError):
    """The server understood, and said no.

    words: its own, in one line.
    """

    def __init__(self, where: str, status: int, words: str) -> None:
        super().__init__(where, status, words)
        self.words = words

    def __str__(self) -> str:
        where, status, words = self.args
        return f"{where}: HTTP {status}: {words}"


class ServerClient:
    """Asks one server, for one thread at a time.

    `json` is for the questions that are given to `answers` and `answer`.
    """

    def __init__(
        self, settings: ServerSettings, *, command: str, say: Callable[[str], None]
    ) -> None:
        """command: what starts such a server. say: tells the user that the server is away."""
        self.where = settings.url.rstrip("/").removesuffix("/v1")
        self._settings, self._command, self._say = settings, command, say
        self._http: httpx2.AsyncClient | None = None

    def answer(self, ask: Ask[T]) -> T:
        """Return the answer to one question; see `answers`."""
        with self.answers([ask]) as (only,):
            return awaited(only)

    @contextlib.contextmanager
    def answers(
        self, asks: Sequence[Ask[T]], prove: Ask[None] | None = None
    ) -> Iterator[list[Future[T]]]:
        """Give the answers to come, in the order of their questions; see `awaited`.

        A question is asked again while the server is away. prove: asked first when it is back, to
        raise where it is another one. An answer raises `ModelError` where the server stays away.
        On leaving by an exception, what is under way is cut off.
        """
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(self._client()) as self._http,
        ):
            room = portal.call(anyio.Semaphore, self._settings.parallel)

            async def one(ask: Ask[T]) -> T:
                async with room:
                    return await self._patiently(ask, prove)

            yield [portal.start_task_soon(one, ask) for ask in asks]

    async def json(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return what the server answers at a path, to a body if there is one.

        Raises `Away`, `Refused`, `ModelError` for an answer that is no JSON, and `ConfigError`
        for an address that is none.
        """
        assert self._http is not None
        method = "GET" if body is None else "POST"
        try:
            url = httpx2.URL(f"{self.where}{path}")
            if not 0 < (url.port or 80) < 2**16:  # httpx2 leaves it to the socket, which overflows
                raise httpx2.InvalidURL(f"port {url.port} is not in 1-65535")
            reply = await self._http.request(method, url, json=body)
        except httpx2.InvalidURL as error:
            raise ConfigError(
                f"teacher.server.url = {self._settings.url!r} is no address ({error}): give one "
                "such as http://host:8000"
            ) from error
        except httpx2.RequestError as error:  # refused, reset, cut off, timed out
            raise Away(_reason(error)) from error
        if reply.is_error:
            words = _words(reply)
            if reply.status_code in _AWAY and "out of memory" not in words.lower():
                raise Away(f"HTTP {reply.status_code}: {words}")
            raise Refused(f"{self.where}{path}", reply.status_code, words)
        try:
            return reply.json()
        except ValueError as error:
            raise self.nonsense(path, reply.text[:200]) from error

    def nonsense(self, path: str, value: Any) -> ModelError:
        """Return the error for an answer that no vLLM server gives."""
        shown = " ".join(str(value).split())[:120]
        return ModelError(
            f"{self.where}{path}: answers what no vLLM server does ({shown}); teacher.server.url "
            "must be that of `vllm serve`"
        )

    def _client(self) -> httpx2.AsyncClient:
        """Return the pool of connections; the key is where `vllm serve` itself looks for it."""
        key = os.environ.get("VLLM_API_KEY")
        return httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self._settings.timeout_seconds,
            follow_redirects=True,
        )

    async def _patiently(self, ask: Ask[T], prove: Ask[None] | None) -> T:
        wait, since = _FIRST_WAIT, None
        while True:
            try:
                if since is not None and prove is not None:
                    await prove()
                return await ask()
            except Away as error:
                if since is None:
                    since = time.monotonic()
                    self._say(f"note: {self.where} is away ({error}); trying again")
                left = self._settings.patience_seconds - (time.monotonic() - since)
                if left <= 0:
                    raise AbsentError(self._absence(error)) from error
                await anyio.sleep(min(wait, max(left, 0.05)))
                wait = min(2 * wait, _LONGEST_WAIT)

    def _absence(self, error: Away) -> str:
        said = f"{self.where}: the teacher's server does not answer ({error})"
        patience = self._settings.patience_seconds
        start = f"start it (`{self._command}`)"
        if not patience:
            return f"{said}: {start}"
        return (
            f"{said} for {patience:g} s; {start}, or raise teacher.server.patience_seconds; what "
            "is scored so far is kept"
        )


def awaited(answer: Future[T]) -> T:
    """Return an answer when it is there.

    A wait without limit is not interrupted: polars has SIGINT restart system calls.
    """
    return answer.result(threading.TIMEOUT_MAX)


def _reason(error: BaseException) -> str:
    """Return why a server was not reached: the first words in a chain of errors."""
    at: BaseException | None = error
    while at is not None and not str(at):
        at = at.__cause__ or at.__context__
    return str(at) if at is not None else type(error).__name__


def _words(reply: httpx2.Response) -> str:
    """Return a server's words of a refusal, in one line."""
    value: Any = None
    with contextlib.suppress(ValueError):
        value = reply.json()
    for name in ("error", "message"):
        value = value.get(name, value) if isinstance(value, dict) else value
    return " ".join((value if isinstance(value, str) else reply.text).split())[:300]
