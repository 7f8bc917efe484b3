"""What an exception tells its caller: refused, decided, unknown, or what nobody should ever see."""

from __future__ import annotations

import asyncio
import re

import rtstore
from rtstore import (
    BatchUnfinishedError,
    CallError,
    RetryableError,
    RuntimeStoreError,
    StopError,
    StoreClosedError,
    StoreFileChangedError,
)
from tests.checker.mix import WITH_STOP_ERRORS, Mix


class InterruptedByTestError(BaseException):
    """What the signal handler of a worker raises."""


_COMMITTED = re.compile(r"\bbatch (\S+) is committed")
_REFUSED = re.compile(r"(?i)\bnothing (?:of .{1,80} )?was (?:written|carried out|committed)")
_FAILED = re.compile(r"(?:and failed|\bbatch \S+|\bthe batch): (\w+Error): ")


def outcome_of(error: BaseException) -> tuple[str, str | None]:
    """What an exception from a write means for its batch, and the batch id where it names one."""
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | InterruptedByTestError):
        return _outcome_of_notes(error)
    if isinstance(error, RecursionError | MemoryError):
        return _outcome_of_notes(error)
    batch_id = getattr(error, "batch_id", None)
    if isinstance(error, BatchUnfinishedError):
        return ("decided" if error.decided else "unknown"), batch_id
    if isinstance(error, CallError | RetryableError | StoreClosedError | StoreFileChangedError):
        return "refused", batch_id
    if isinstance(error, RuntimeStoreError):
        return ("refused" if _REFUSED.search(str(error)) else "unknown"), batch_id
    return "foreign", None


def _outcome_of_notes(error: BaseException) -> tuple[str, str | None]:
    for note in getattr(error, "__notes__", ()):
        if found := _COMMITTED.search(note):
            return "committed", found.group(1)
        if _REFUSED.search(note):
            return "refused", None
        if isinstance(error.__cause__, RuntimeStoreError):
            return outcome_of(error.__cause__)
        if found := _FAILED.search(note):
            kind = getattr(rtstore, found.group(1), None)
            refused = isinstance(kind, type) and issubclass(kind, CallError | RetryableError)
            return ("refused" if refused else "unknown"), None
    return "unknown", None


_ALWAYS = {"LockTimeoutError", "ConflictError", "DatabaseLockedError", "BatchUnfinishedError"}
_WITH: dict[str, set[str]] = {
    "BatchFailedError": {"signal", "deep", "unlock", "wal", "shell", "cancel"},
    "StoreClosedError": {"close", "drop", "signal", "deep", *WITH_STOP_ERRORS},
    "StorageError": {"unlock", "wal"},
    "RecoveryFailedError": {"unlock", "wal", "shell"},
    "CorruptDatabaseError": {"wal"},
    "StoreFileChangedError": {"wal"},
    "InvalidRequestError": {"wal"},
    "CancelledError": {"cancel"},
    "KeyboardInterrupt": {"signal"},
    "InterruptedByTestError": {"signal"},
    "RecursionError": {"deep"},
}


def is_expected(error: BaseException, mix: Mix) -> bool:
    """Whether an error may come at all, in a life with these disturbances: nobody edits a file, the
    disk is sound, the calls are right."""
    name = type(error).__name__
    if name in _ALWAYS:
        return True
    if name in _WITH:
        return mix.has(*_WITH[name])
    return isinstance(error, StopError | RetryableError) and mix.has(*WITH_STOP_ERRORS)
