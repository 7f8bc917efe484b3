"""Tell the errors of the system from exceptions that only look like them.

A signal handler may raise any exception at any line, and `TimeoutError` is an `OSError`. An error
that the system raised has a number; one without a number is somebody else's exception, and goes on
to the caller.
"""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

Other = TypeVar("Other", bound=BaseException)


def system_error(*others: type[Other]) -> tuple[type[OSError | Other], ...]:
    """Return what an `except` catches: the `others`, and an `OSError` if the one that is raised at
    this moment came from the system."""
    if getattr(sys.exception(), "errno", None) is None:
        return others
    return (OSError, *others)


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
