"""Errors a user can act on, each with the exit code of the command that met it.

    Vila2Error                1   anything below
    |-- RecipeError           2   a recipe, flag or run folder that does not fit
    |-- RejectBudgetError     3   more samples unusable than the recipe allows
    |-- DataError             4   shards, layers or images that cannot be read
    |-- ModelError            5   a checkpoint or engine that cannot be loaded
    |   `-- OutOfMemory       5   a training that needs more memory than there is
    |-- BudgetError           6   what the recipe allows an API to cost is spent
    |-- RankError             7   another process of a training is missing or has stopped
    `-- Interrupted          75   stopped by a signal; run the same command again

The message is one line: what is wrong, where, and what to do. Everything else that is
raised is a defect of this package and keeps its traceback.
"""

import difflib
from collections.abc import Iterable

_MAX_LINE = 240
RUN_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
"""What models and processors raise on input that they were not made for."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of the names that are known was most likely meant, None where none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)), None)


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: which of those known is nearest, "" for none."""
    close = nearest(name, known)
    return f"; did you mean {close}?" if close else ""


def one_line(error: BaseException) -> str:
    """The text of another package's exception in one line, cut to 240 characters."""
    return " ".join(str(error).split())[:_MAX_LINE] or type(error).__name__


class DataWarning(UserWarning):
    """Something legal and yet suspicious about input files; the work goes on."""


class Vila2Error(Exception):
    """An error whose message is meant for the person at the terminal."""

    exit_code = 1


class RecipeError(Vila2Error):
    """A setting is unknown, has a wrong value, or contradicts what the run folder was made with."""

    exit_code = 2


class RejectBudgetError(Vila2Error):
    """The share of rejected samples is above `max_reject_rate`."""

    exit_code = 3


class DataError(Vila2Error):
    """Input files are missing, damaged, or do not belong together."""

    exit_code = 4


class ModelError(Vila2Error):
    """A model is missing, damaged, or not supported by the engine asked for."""

    exit_code = 5


class UnaskableError(ModelError):
    """A model cannot be asked as the settings say, or without a package, whichever engine would do it."""


class OutOfMemory(ModelError):
    """A training needs more memory than the machine, or its GPU, has; the others of it cannot be waited for."""


class BudgetError(Vila2Error):
    """Tokens or dollars that the recipe allows an API are spent; what is finished stays finished."""

    exit_code = 6


class RankError(Vila2Error):
    """Another process of the same training is missing or stopped answering; checkpoints stay."""

    exit_code = 7


class Interrupted(Vila2Error):
    """A signal ended the stage between two shards or steps; what is finished stays finished."""

    exit_code = 75
