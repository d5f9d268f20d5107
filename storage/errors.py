"""Errors for the person who must act.

Each says in one line what is wrong, where, what was expected and how to go on. They are also
standard types, so a caller may catch `ValueError` or `OSError` without importing this module.
The command line alone turns them into an exit code; nothing else catches them.
"""


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
    """NaN or infinity where a number is needed: nothing of it is stored."""


class DisagreementError(TipError, ArithmeticError):
    """Two computations of the same thing disagree: nothing that rests on them is stored."""
