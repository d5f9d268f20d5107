"""vLLM's process as a fork of one that has imported vLLM: imports take longer than a tiny engine.

The fork does what the engine's own program does, from the first line of its `main` on.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from typing import IO

from tip.stages.engines.child import Child
from tip.stages.engines.vllm import worker


class ForkedChild(Child):
    """A `Child` whose program is the worker's, in a fork of this process."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: IO[bytes],
        leads: bool,
    ) -> None:
        _, program, *rest = arguments
        assert (program, leads) == (worker.__name__, False)
        self._pipe, far = Pipe()
        self._ended = False
        pid = os.fork()
        if pid == 0:
            self._pipe.close()
            _become(environment, log)
            sys.argv = [program, *rest, str(far.fileno())]
            worker.main()
        far.close()
        self._process = Forked(pid)  # type: ignore[assignment]


def _become(environment: Mapping[str, str], log: IO[bytes]) -> None:
    os.environ |= environment
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)


class Forked:
    """A fork, as `subprocess.Popen` shows a process."""

    def __init__(self, pid: int) -> None:
        self.pid, self._code = pid, None

    def poll(self) -> int | None:
        """Return how it ended, None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Return how it ended, when it has. Raises `subprocess.TimeoutExpired`."""
        ends = time.monotonic() + (math.inf if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() >= ends:
                raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
            time.sleep(0.02)
        return code

    def kill(self) -> None:
        """Kill it where it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
