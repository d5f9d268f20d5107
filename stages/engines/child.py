"""A process of this program that answers over a pipe, and ends whole.

Not multiprocessing: that runs the main program's file again, which a notebook does not have and a
console script does not guard. The program is given the pipe as a file descriptor, the last of its
arguments (`multiprocessing.connection.Connection`); what travels is pickled.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from typing import IO, Any

_GLANCE = 1.0  # seconds between two looks at whether the process still runs
_BURIAL = 10.0  # seconds for the killed to be gone; where nobody buries orphans, they stay listed


class Child:
    """One running process and the pipe to it. For one thread at a time."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: IO[bytes] | int = subprocess.DEVNULL,
        leads: bool = True,
    ) -> None:
        """Start Python with some arguments.

        log: where its output goes. leads: it leads a process group from its start; else it does
        so by itself, early. Ctrl-C, meant for this program, reaches no other group.
        """
        self._pipe, far = Pipe()
        self._ended = False
        with far:
            # -P keeps a program's folder off the import path: a select.py in it hides Python's
            self._process = subprocess.Popen(
                [sys.executable, "-P", *arguments, str(far.fileno())],
                pass_fds=[far.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=leads,
            )

    @property
    def pid(self) -> int:
        """Return the id of the process, which is that of its group."""
        return self._process.pid

    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def send(self, message: Any) -> None:
        """Send a message. Raises `OSError` where the process is gone."""
        self._pipe.send(message)

    def receive(self, seconds: float = math.inf) -> Any:
        """Return the next message.

        Raises `TimeoutError` where none comes in time, `EOFError` where the process has ended. The
        end of the pipe alone would not tell: a process started by it may hold the pipe open.
        """
        deadline = time.monotonic() + seconds
        while not self._ready(min(_GLANCE, max(0.0, deadline - time.monotonic()))):
            if not self.alive() and not self._ready(0):
                raise EOFError("the process has ended")
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no word within {seconds} s")
        try:
            return self._pipe.recv()
        except OSError as error:  # reset: it was killed
            raise EOFError("the process has ended") from error

    def _ready(self, seconds: float) -> bool:
        try:
            return self._pipe.poll(seconds)
        except OSError as error:  # reset, or closed
            raise EOFError("the process has ended") from error

    def end(self, patience: float = 0.0) -> int:
        """End the process with all that it started, and return its exit code.

        patience: seconds in which it may end by itself, as it does when the pipe closes.
        """
        if self._ended:
            return self._process.wait()
        self._ended = True
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._process.kill()  # it alone, if it was too early for a group of its own
        with contextlib.suppress(ProcessLookupError):  # nobody of the group is left
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            deadline = time.monotonic() + _BURIAL
            while time.monotonic() < deadline:
                os.killpg(self.pid, 0)
                time.sleep(0.02)
        return self._process.wait()
