"""Errors for the person who must act.

Each says in one line what is wrong, where, what was expected and how to go on. They are also
standard types, so a caller may catch `ValueError` or `OSError` without importing this module.

Below the command line one is caught only by who can do without what failed (a note instead of a
comparison), knows a second way, or says it better as another of these. What comes through is the
command line's, which makes it one line and an exit code.
"""


def is_panic(error: BaseException) -> bool:
    """Tell whether a library in Rust broke off: its exception is no `Exception`."""
    return type(error).__name__ == "PanicException"


class TipError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(TipError, ValueError):
    """A setting is unknown, out of range, or contradicts another one. Mend the config."""


class InputError(TipError, ValueError):
    """A user's file (prompts, problems, a rule) cannot be used as it is. Mend the file."""


class ModelError(TipError, ValueError):
    """A model or tokenizer cannot be used, or two of them do not fit together."""


class StoreError(TipError, OSError):
    """The store cannot be read or written, or something committed in it is damaged."""


class NumericsError(TipError, ArithmeticError):
    """NaN, infinity, or what no distribution gives, where a log-prob or a loss is needed."""


class DisagreementError(TipError, ArithmeticError):
    """Two computations of the same thing disagree: nothing that rests on them is stored.

    An engine answers for other tokens, a rollout scored again alone has other log-probs, a gap
    between two engines is gross.
    """
