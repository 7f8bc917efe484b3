"""The report of `rtstore demo`, step by step."""

from __future__ import annotations

from enum import StrEnum

from rtstore.cli.demo_crash import Kill
from rtstore.cli.demo_queries import Query
from rtstore.cli.looking import Verdict
from rtstore.model.records import (
    BatchReason,
    BatchState,
    ReadinessCheck,
    Record,
    RecoveryPlan,
    RecoveryStep,
)


class Version(StrEnum):
    """What a file of the fatal batch holds after the crash."""

    NEW = "new"
    OLD = "old"
    MISSING = "missing"
    OTHER = "other"


class WrittenBatch(Record):
    """A checkpoint that was written before the crash."""

    batch_id: str
    reason: BatchReason
    about: str
    stores: tuple[str, ...]


class FileAfterCrash(Record):
    """One file of the fatal batch."""

    schema_name: str
    relative_path: str
    version: Version


class Crash(Record):
    """The directory as the killed process left it."""

    verdict: Verdict
    files: tuple[FileAfterCrash, ...]
    published: int
    """How many of the files have their new version."""
    temporary_files: tuple[str, ...]
    plan: RecoveryPlan
    logged_receipt_ids: tuple[str, ...]
    """As they stand in the log; empty when the batch is not in it."""


class Outcome(Record):
    """The directory after recovery."""

    verdict: Verdict
    readiness: ReadinessCheck
    batch_id: str
    state: BatchState | None
    """None: the batch was never logged, and never happened."""
    high_watermark: int
    files: tuple[FileAfterCrash, ...]
    receipt_ids: tuple[str, ...]
    same_receipts: bool
    """The receipts are those that were in the log when the process died."""


class DemoReport(Record):
    """What `rtstore demo --json` prints."""

    directory: str
    database: str
    team_name: str
    batches: tuple[WrittenBatch, ...]
    kill: Kill
    crash: Crash
    run_number: int | None
    """The recovery in `recovery_runs`; None when there was nothing to recover."""
    steps: tuple[RecoveryStep, ...]
    outcome: Outcome
    queries: tuple[Query, ...]
