"""Events: what happened to a runtime directory, as records for metrics, a user interface, the log.

An event is reported after the change that it describes is durable, and never under the writer lock.
What only the caller can have seen (a refused call, a lock that was not free, a conflict) is an
exception and no event: none of it is on record.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from rtstore.model.records import (
    Batch,
    QuarantinedFile,
    ReadinessCheck,
    Record,
    RecoveryPlan,
    RecoveryStep,
    RecoveryTrigger,
)


class EventKind(StrEnum):
    """The kind of an event, in one word."""

    COMMITTED = "committed"
    FAILED = "failed"
    UNFINISHED = "unfinished"
    RECOVERED = "recovered"
    QUARANTINED = "quarantined"
    DEGRADED = "degraded"
    BLOCKED = "blocked"


class StoreEvent(Record):
    """The fields that all events have."""

    kind: EventKind
    team_name: str
    directory: Path
    batch_id: str | None = None
    """The batch that the event concerns, or None."""
    stores: tuple[str, ...] = ()
    """The stores that the event concerns."""
    duration_s: float | None = None
    """The duration for the caller, in seconds; it includes waiting for the lock."""

    @property
    def message(self) -> str:
        """One line of text for people."""
        return f"{self.kind}: {self.directory}"

    def log_fields(self) -> dict[str, Any]:
        """Return the extra fields of its log record."""
        return {
            "event": self.kind.value,
            "team_name": self.team_name,
            "directory": str(self.directory),
            "batch_id": self.batch_id,
            "stores": self.stores,
            "duration_s": self.duration_s,
        }


class BatchCommitted(StoreEvent):
    """A batch of this process was committed."""

    kind: Literal[EventKind.COMMITTED] = EventKind.COMMITTED
    batch_id: str
    duration_s: float
    batch: Batch

    @property
    def size(self) -> int:
        """How many bytes its files have together."""
        return sum(receipt.file_size for receipt in self.batch.receipts)

    @property
    def message(self) -> str:
        """One line of text for people."""
        return (
            f"batch {self.batch_id} is committed: {_count(len(self.stores), 'store')}, "
            f"{self.size} B, {self.batch.reason}, high watermark {self.batch.high_watermark}, "
            f"{_ms(self.duration_s)}"
        )

    def log_fields(self) -> dict[str, Any]:
        """Return the extra fields of its log record."""
        return {
            **super().log_fields(),
            "run_id": self.batch.run_id,
            "reason": str(self.batch.reason),
            "high_watermark": self.batch.high_watermark,
            "size_bytes": self.size,
        }


class BatchFailed(StoreEvent):
    """A batch could not be published, and is recorded as failed. Its caller got the error.

    `stores` has only the store at which it failed.
    """

    kind: Literal[EventKind.FAILED] = EventKind.FAILED
    batch_id: str
    duration_s: float
    cause: str
    undone: bool
    """Whether every file is as it was before; if not, a recovery restores the rest."""

    @property
    def message(self) -> str:
        """One line of text for people."""
        outcome = "undone" if self.undone else "not undone yet: the next opening does that"
        return f"batch {self.batch_id} failed at {self.stores[0]} ({outcome}): {self.cause}"

    def log_fields(self) -> dict[str, Any]:
        """Return the extra fields of its log record."""
        return {**super().log_fields(), "cause": self.cause, "undone": self.undone}


class BatchUnfinished(StoreEvent):
    """A batch was or may have been logged, and was not completed. Its caller got the error."""

    kind: Literal[EventKind.UNFINISHED] = EventKind.UNFINISHED
    batch_id: str
    duration_s: float
    cause: str
    decided: bool
    """Whether it is in the log for certain, so that it will happen."""

    @property
    def message(self) -> str:
        """One line of text for people."""
        outcome = "it will be finished" if self.decided else "its outcome is not known"
        return f"batch {self.batch_id} was not finished ({outcome}): {self.cause}"

    def log_fields(self) -> dict[str, Any]:
        """Return the extra fields of its log record."""
        return {**super().log_fields(), "cause": self.cause, "decided": self.decided}


class StoreRecovered(StoreEvent):
    """A recovery ended: one of an opening, one before a write, or a call of `recover`."""

    kind: Literal[EventKind.RECOVERED] = EventKind.RECOVERED
    duration_s: float
    started_by: RecoveryTrigger
    run_number: int
    """Its row in `recovery_runs`."""
    steps: tuple[RecoveryStep, ...]

    @property
    def batch_ids(self) -> tuple[str, ...]:
        """The batches of dead writers that it completed or closed."""
        ids = (step.action.batch_id for step in self.steps)
        return tuple(dict.fromkeys(batch_id for batch_id in ids if batch_id is not None))

    @property
    def message(self) -> str:
        """One line of text for people."""
        counts = Counter(f"{step.action.kind} {step.outcome}" for step in self.steps)
        what = ", ".join(f"{count} {step}" for step, count in counts.items())
        return f"recovery {self.run_number}, started by {self.started_by}: {what}"

    def log_fields(self) -> dict[str, Any]:
        """Return the extra fields of its log record."""
        return {
            **super().log_fields(),
            "run_number": self.run_number,
            "started_by": self.started_by.value,
            "batch_ids": self.batch_ids,
        }


class FileQuarantined(StoreEvent):
    """A file that differed from what is committed was quarantined before it was replaced, moved or
    removed."""

    kind: Literal[EventKind.QUARANTINED] = EventKind.QUARANTINED
    file: QuarantinedFile
    """The record of the file; `RuntimeStore.restore_quarantined` takes its number."""

    @property
    def message(self) -> str:
        """One line of text for people."""
        kept = self.file
        return f"{kept.relative_path} was kept as {kept.quarantine_path}: {kept.reason}"

    def log_fields(self) -> dict[str, Any]:
        """Return the extra fields of its log record."""
        return {
            **super().log_fields(),
            "quarantine_number": self.file.quarantine_number,
            "quarantine_path": self.file.quarantine_path,
        }


class NotReady(StoreEvent):
    """A readiness check failed: `degraded` while stores are to be rebuilt, else `blocked`."""

    kind: Literal[EventKind.DEGRADED, EventKind.BLOCKED]
    check: ReadinessCheck
    plan: RecoveryPlan

    @property
    def message(self) -> str:
        """One line of text for people."""
        found = self.check.diagnostics
        first = f": {found[0]}" if found else ""
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return f"{self.kind} ({self.check.reason}){first}{more}"

    def log_fields(self) -> dict[str, Any]:
        """Return the extra fields of its log record."""
        more = {"reason": self.check.reason.value, "diagnostics": self.check.diagnostics}
        return {**super().log_fields(), **more}


Event = BatchCommitted | BatchFailed | BatchUnfinished | StoreRecovered | FileQuarantined | NotReady
"""Every event that an observer is called with, for `match`."""


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _ms(duration_s: float) -> str:
    return f"{1000 * duration_s:.1f} ms"
