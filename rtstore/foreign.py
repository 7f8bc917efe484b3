"""Tell the errors of the system, and of data, from exceptions that only look like them.

A signal handler may raise any exception at any line, and `TimeoutError` is an `OSError`. An error
that the system raised has a number; one without a number is somebody else's exception, and goes on
to the caller. A `ValueError` that comes of data comes again when the call is repeated.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

Other = TypeVar("Other", bound=BaseException)


def system_error(*others: type[Other]) -> tuple[type[OSError | Other], ...]:
    """Return what an `except` catches: the `others`, and an `OSError` if the one that is raised at
    this moment came from the system."""
    if getattr(sys.exception(), "errno", None) is None:
        return others
    return (OSError, *others)


def fails_again(call: Callable[[], object], *others: type[BaseException]) -> bool:
    """Return whether a call that has just raised a `ValueError` (or one of the `others`) does so
    again. What comes of its data does; the exception of a signal handler does not."""
    try:
        call()
    except (ValueError, *others):  # type: ignore[misc]  # classes of exceptions
        return True
    return False


def is_raised_here(error: BaseException) -> bool:
    """Return whether the function that catches an error has it from C, and not from a function in
    Python, such as a signal handler."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


def origin_of(error: Exception) -> BaseException:
    """Return the exception that pydantic made an error of its own of, or the error itself."""
    if isinstance(error, PydanticSerializationError):
        return error.__cause__ or error
    if isinstance(error, ValidationError):
        for item in error.errors(include_url=False, include_input=False):
            cause = item.get("ctx", {}).get("error")
            if isinstance(cause, Exception):
                return cause
    return error


def says_of_data(error: BaseException) -> bool:
    """Return whether the exception of a function of a model may come of the data. What interrupts a
    program does not, nor that memory or the stack ran out, nor an `OSError` without a number."""
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, Exception) and not isinstance(error, MemoryError | RecursionError)


def refusal(text: str) -> OSError:
    """Return an error of our own that counts as one of the system."""
    error = OSError(text)
    error.errno = errno.EINVAL
    return error


class suppress_system_error(suppress):  # noqa: N801 - as `suppress`
    """Suppress the `others`, and every error of the system."""

    def __init__(self, *others: type[BaseException]) -> None:
        super().__init__(OSError, *others)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Return whether to suppress it."""
        if isinstance(error, OSError) and error.errno is None:
            return False
        return super().__exit__(kind, error, traceback)
