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

DIGITS = 1e-4  # most that a decimal may differ from a number, as a share of it


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

    from math_verify import LatexExtractionConfig, grader, parse, verify

    logging.disable(logging.CRITICAL)  # it warns of disabled timeouts: they are the parent's
    # The one place where it rounds, whether a number stands alone, in a set or in an equation.
    grader.sympy_numeric_eq = _exactly(grader.sympy_numeric_eq)
    # LaTeX alone: of what is no formula it would take the last number for the whole.
    whole = [LatexExtractionConfig()]

    def read(text: str) -> list:
        return parse(f"\\boxed{{{text}}}", whole, parsing_timeout=0)

    def agree(reference: str, answer: str) -> bool:
        return bool(verify(read(reference), read(answer), timeout_seconds=0))

    return agree


def _exactly(equal: Callable[..., bool]) -> Callable[..., bool]:
    """Return math-verify's comparison of numbers without its absolute rounding.

    It calls 10^-20 and 10^-21 equal, whose difference is 0 to 15 digits after the point. Here the
    difference of exact numbers is evaluated until two digits of itself are known; a decimal must
    agree in its first digits, too.
    """
    from sympy import Expr, Float, N, UnevaluatedExpr

    def differ(a: Expr, b: Expr) -> bool:
        difference = a - b  # of formulas too, as x - 10^-20 and x - 10^-21
        if not difference.is_number or difference.has(UnevaluatedExpr):
            return False  # 50 % is 50 and 0.5, as math-verify has it
        if difference.has(Float):
            return bool(abs(N(difference)) > DIGITS * abs(N(b)))
        parts = N(difference, 2).as_real_imag()
        # sympy gives a zero that it cannot tell from a small number the precision 1
        return any(part != 0 and getattr(part, "_prec", 2) > 1 for part in parts)

    def exactly(a: Expr, b: Expr, *rounding: int) -> bool:
        if not equal(a, b, *rounding):
            return False
        try:
            return not differ(a, b)
        except Exception:  # matrices, whose entries come here one by one; infinities
            return True

    return exactly


if __name__ == "__main__":
    serve(Connection(int(sys.argv[2])), float(sys.argv[1]))
