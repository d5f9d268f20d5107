"""The process that asks math-verify, one pair after another, until its line closes.

`verdicts.py` beside it starts this file as a program of its own: it imports nothing but
math-verify, and nothing of the main program is run again. What a pair does to it (a hang inside one
big-integer operation, a crash, all memory) stays in it.

The line carries a greeting (None, or why math-verify cannot be used), then lists of (reference,
answer) pairs; each pair is answered, in order, by True or False.

    python verdicts_worker.py SECONDS FILE_DESCRIPTOR
"""

import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

# Bytes of address space, of which math-verify itself needs 0.1 GB. Python is refused more: else a
# huge number makes the kernel end some process, perhaps the main program.
MEMORY = 4 << 30


def serve(line: Connection, seconds: float) -> None:
    """Answer pairs until the line closes. `seconds` is the most that one pair may run."""
    # The kernel ends a process whose parent is gone or does not kill it: Python code could not,
    # for one long operation on integers never gives the interpreter back.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most), most)
    )
    try:
        agree = _judge()
    except ImportError as error:
        line.send(str(error))
        return
    line.send(None)
    while True:
        try:
            pairs = line.recv()
        except EOFError:
            return
        for reference, answer in pairs:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            verdict = agree(reference, answer)
            signal.setitimer(signal.ITIMER_REAL, 0)
            line.send(verdict)


def _judge() -> Callable[[str, str], bool]:
    """Return the function that compares a reference with an answer, both LaTeX without $."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)  # it warns of disabled timeouts: they are the parent's

    def read(text: str) -> list:
        return parse(f"\\boxed{{{text}}}", parsing_timeout=0)

    def agree(reference: str, answer: str) -> bool:
        return bool(verify(read(reference), read(answer), timeout_seconds=0))

    return agree


if __name__ == "__main__":
    serve(Connection(int(sys.argv[2])), float(sys.argv[1]))
