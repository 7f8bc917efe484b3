"""The exit codes of the command and their meanings; `rtstore --help` shows them."""

from __future__ import annotations

from enum import IntEnum

from rtstore.errors import (
    CallError,
    LegacyImportError,
    RetryableError,
    RuntimeStoreError,
    StopError,
)


class ExitCode(IntEnum):
    """The exit codes, each with its meaning."""

    READY = 0, "ready (status, watch, plan, recover); done (the others)"
    NOT_READY = 1, "degraded or blocked (doctor: red): the runtime must not start on this state yet"
    WRONG_CALL = 2, "wrong call: unknown option, no such directory, another team; nothing changed"
    RETRY_LATER = 3, "try again later: locked, disk full, no permission"
    RECOVERY_NEEDED = 4, "a recovery is needed, or one stopped half-way"
    STOP = 5, "older, newer, foreign, corrupt, or a run that is over: the message says what helps"
    INTERRUPTED = 130, "interrupted from the keyboard"

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """Create a member: a number with its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


def exit_code_of(error: RuntimeStoreError | OSError) -> ExitCode:
    """Return the exit code for an error: what the caller can do about it."""
    if isinstance(error, LegacyImportError) and error.damaged:
        return ExitCode.STOP
    if isinstance(error, CallError):
        return ExitCode.WRONG_CALL
    if isinstance(error, RetryableError | OSError):
        return ExitCode.RETRY_LATER
    if isinstance(error, StopError):
        return ExitCode.STOP
    # RecoveryNeededError, or a bare RuntimeStoreError: the state on disk is not what it should be.
    return ExitCode.RECOVERY_NEEDED


def exit_code_help() -> str:
    """Return the codes and their meanings, a line each."""
    return "\n".join(f"{code.value:>4}  {code.meaning}" for code in ExitCode)
