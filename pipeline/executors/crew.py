"""The actors of a run: works are handed out, the longest first; what a lost one had is redone."""

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...stages.engines.protocols import Spared, Tick
from ...storage.errors import TipError
from ...storage.files import user_path
from ...storage.store.seen import leave_mark, remove_mark
from ...storage.store.store import Store
from ..actors import Share, share_of
from ..config.run import RunConfig
from ..progress import Reporter
from ..works.work import Work
from .actor import Actor, Greeting, Terms
from .cluster import Cluster
from .executor import Results

_GLANCE = 1.0  # seconds between two looks at who waits for a place
_PATIENCE = 30.0  # seconds until a person is told that all actors wait for one
_MOST_LOSSES = 3  # actors that a work, or a start, may cost in a row
_RELEASE = 30.0  # seconds that actors may take to let their models go


@dataclass(eq=False)
class _Member:
    """One actor: `begun` until it greets, then `work` and `stream` while it runs one."""

    handle: Any
    mark: str
    begun: Any
    greeting: Greeting | None = None
    work: int | None = None
    stream: Any = None
    ticked: list[int] = field(default_factory=list)
    """What its work has ticked so far."""


@dataclass
class _Job:
    """Works that are being run."""

    works: Sequence[Work]
    title: str
    tick: Tick
    waiting: deque[int]
    results: dict[int, Any] = field(default_factory=dict)
    losses: Counter[int] = field(default_factory=Counter)
    said: set[str] = field(default_factory=set)


class Crew:
    """Actors of a cluster, started when there are works for them, and kept from stage to stage."""

    def __init__(
        self, cluster: Cluster, config: RunConfig, store: Store, reporter: Reporter
    ) -> None:
        self._cluster, self._store, self._reporter = cluster, store, reporter
        self._share: Share = share_of(config)
        self.size = cluster.places(self._share, config.workers.actors)
        self._config = _elsewhere(config, self._share)
        self._members: list[_Member] = []
        self._ended: list[dict[str, Any]] = []
        self._failed_starts = 0

    def run(self, works: Sequence[Work], title: str, tick: Tick) -> Results:
        """Return what works give, in order; those of a lost actor are run by another.

        Raises the error of the first work that fails, and a `TipError` for one that costs three
        actors in a row. Whatever is raised, all actors end.
        """
        order = sorted(range(len(works)), key=lambda place: -works[place].size)
        job = _Job(works, title, tick, deque(order))
        try:
            self._run(job)
        except BaseException:
            self.close()
            raise
        return [job.results[place] for place in range(len(works))]

    def release(self) -> None:
        """Let the actors of this host drop their models: this process is to train."""
        here = self._cluster.node
        _let_go([m for m in self._members if m.greeting is not None and m.greeting.node == here])

    def close(self) -> None:
        """End all actors; those that run something are not asked."""
        import ray

        try:
            _let_go([m for m in self._members if m.greeting is not None and m.work is None])
        finally:
            for member in self._members:
                ray.kill(member.handle)
                remove_mark(self._store, member.mark)
            self._members.clear()

    def _run(self, job: _Job) -> None:
        import ray

        since, told = time.monotonic(), False
        while len(job.results) < len(job.works):
            self._staff(len(job.works) - len(job.results))
            self._hand_out(job)
            if any(member.greeting for member in self._members):
                since = time.monotonic()
            elif not told and time.monotonic() - since > _PATIENCE:
                told = True
                self._reporter.say(
                    f"note: no actor of {self._share} has a place in the cluster yet "
                    f"({self._cluster.described()}): waiting for one"
                )
            waited = {m.stream or m.begun: m for m in self._members if m.stream or m.begun}
            ready, _ = ray.wait(list(waited), timeout=_GLANCE, fetch_local=False)
            for each in ready:
                self._hear(waited[each], job)

    def _staff(self, works: int) -> None:
        """Start actors, no more than there are works."""
        import ray

        while len(self._members) < min(self.size, works):
            mark = leave_mark(self._store)
            # `begin` and not the constructor: an error there would be that of a lost actor
            handle: Any = (
                ray.remote(Actor)
                .options(num_cpus=self._share.cpus, num_gpus=self._share.gpus, max_restarts=0)
                .remote()
            )
            config = self._config
            terms = Terms(config.model_dump_json(), str(Path.cwd()), _folders(config), mark)
            self._members.append(_Member(handle, mark, handle.begin.remote(terms)))

    def _hand_out(self, job: _Job) -> None:
        for member in self._members:
            if job.waiting and member.greeting is not None and member.work is None:
                member.work, member.ticked = job.waiting.popleft(), []
                work = job.works[member.work]
                streaming = member.handle.run.options(num_returns="streaming")
                member.stream = streaming.remote(work, self._ended)

    def _hear(self, member: _Member, job: _Job) -> None:
        """Take what an actor has to say."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            word = ray.get(member.begun if member.stream is None else next(member.stream))
        except RayTaskError as error:
            raise self._own_error(error, member) from None
        except (RayError, StopIteration) as error:
            self._lose(member, job, _reason(error))
            return
        if isinstance(word, Greeting):
            member.greeting, member.begun, self._failed_starts = word, None, 0
            remove_mark(self._store, member.mark)
        elif isinstance(word, list):
            self._pass_on(word, member, job)
        else:
            assert member.work is not None  # it was given one
            job.results[member.work] = word
            member.work = member.stream = None

    def _pass_on(self, words: list[int | str], member: _Member, job: _Job) -> None:
        for word in words:
            if isinstance(word, int):
                member.ticked.append(word)
                job.tick(word)
            elif word not in job.said:  # every actor would tell of its own engine
                job.said.add(word)
                self._reporter.say(word)

    def _lose(self, member: _Member, job: _Job, reason: str) -> None:
        """Take leave of an actor that is gone; what it had goes to the next that is free."""
        import ray

        self._members.remove(member)
        ray.kill(member.handle)  # it may only be out of reach
        remove_mark(self._store, member.mark)
        if member.greeting is None:
            self._failed_starts += 1
            if self._failed_starts == _MOST_LOSSES:
                raise TipError(
                    f"{_MOST_LOSSES} actors in a row could not be started: {reason}. Every host of "
                    "the cluster needs the same Python, with the same tip-opd[ray]"
                )
            return
        host = member.greeting.host
        self._ended.append(member.greeting.process)
        place, member.work = member.work, None
        if place is None:
            return
        spared = sum(n for n in member.ticked if isinstance(n, Spared))
        job.tick(spared - sum(member.ticked))  # what it computed and what it was spared, apart
        if spared:
            job.tick(Spared(-spared))
        job.losses[place] += 1
        work = job.works[place]
        name = f"work {place + 1} of {len(job.works)} ({work.size:,} {work.unit})"
        if job.losses[place] == _MOST_LOSSES:
            raise TipError(
                f"{job.title}: {name} was lost with its actor {_MOST_LOSSES} times in a row, the "
                f"last time on {host}: {reason}. Maybe its memory: fewer actors a host "
                "(workers.cpus, gpus) or smaller batches need less; the same command continues"
            )
        self._reporter.say(
            f"note: {job.title}: an actor on {host} is lost with {name}, which another one does "
            f"again: {reason}"
        )
        job.waiting.appendleft(place)

    def _own_error(self, error: Any, member: _Member) -> BaseException:
        """Return what an actor raised, as it was; of another host a user's mistake says which."""
        cause = error.cause
        if not isinstance(cause, TipError):
            cause.add_note(str(error))  # with the lines of the other side
            return cause
        greeting = member.greeting
        if greeting is None or greeting.node == self._cluster.node:
            return cause
        return type(cause)(f"{cause} [on {greeting.host}]")


def _let_go(members: Sequence[_Member]) -> None:
    """Let actors drop their models and end their engines."""
    import ray

    waiting = [member.handle.release.remote() for member in members]
    if waiting:
        ray.wait(waiting, num_returns=len(waiting), timeout=_RELEASE)


def _elsewhere(config: RunConfig, share: Share) -> RunConfig:
    """Return the config that an actor computes with: as this process would, from any folder."""
    store = config.store
    if "://" not in store:
        store = str(user_path(store).absolute())
    return config.model_copy(
        update={"store": store, "device": share.device, "threads": share.threads}
    )


def _folders(config: RunConfig) -> tuple[str, ...]:
    """Return the folders of models that actors read."""
    sections = [config.student, *([] if config.score.engine == "server" else [config.teacher])]
    return tuple(s.model for s in sections if user_path(s.model).is_dir())


def _reason(error: BaseException) -> str:
    """Return in a line why an actor is gone; Ray explains at length."""
    if isinstance(error, StopIteration):
        return "it ended without a word"
    text = " ".join(str(error).split()).partition(" Some common causes")[0]
    _, found, last = text.partition("The actor is dead because ")
    return (last if found else text).rstrip(". ")[-300:]
