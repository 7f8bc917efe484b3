"""The control data of the legacy format as records, with the types that the files must satisfy.

Strict: nothing is converted, so a number in quotes makes a file damaged. Unknown keys are kept, and
reported.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator

from rtstore.control.manifest import WATERMARK_MAX
from rtstore.model.descriptors import relative_path_problem
from rtstore.model.records import BatchReason, BatchState, InspectionState, Record
from rtstore.model.runs import RunEnding
from rtstore.model.times import parse_time
from rtstore.model.words import word_of

_INTEGER_MAX = 2**63 - 1
_MTIME_MS_MAX = 9.0e12
"""The largest time, in milliseconds, that fits into 64 bits as nanoseconds: the year 2255."""


def _time(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("a time is a string")
    try:
        return parse_time(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a time: {error}") from None


def _safe_path(path: str) -> str:
    problem = relative_path_problem(path)
    if problem is not None:
        raise ValueError(f"the path {problem}")
    return path


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is blank")
    return text


_Time = Annotated[datetime, PlainValidator(_time)]
_Path = Annotated[str, AfterValidator(_safe_path)]
_Text = Annotated[str, AfterValidator(_not_blank)]
_StoreName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$", max_length=200)]
_Hash = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, le=_INTEGER_MAX)]
_Watermark = Annotated[int, Field(ge=0, le=WATERMARK_MAX)]
OwnReason = Annotated[str, PlainValidator(word_of(BatchReason))]
_Milliseconds = Annotated[float, Field(ge=0, le=_MTIME_MS_MAX, allow_inf_nan=False)]


class LegacyRecord(Record):
    """Base of all records that are read from legacy control files."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Written(LegacyRecord):
    """The fields about a store file that an entry and a receipt share."""

    schema_name: _StoreName
    schema_version: _Count
    relative_path: _Path
    run_id: str | None
    capability_snapshot_id: str | None
    behavior_fingerprint: str | None
    exact_mtime_ns: _Count | None = Field(default=None, alias="mtimeNs")
    """The exact time, which an export adds: nanoseconds do not fit into the legacy number."""


class LegacyReceipt(_Written):
    """A receipt in the legacy list of batches."""

    receipt_id: _Text
    batch_id: str
    team_name: str
    content_hash: _Hash
    file_size: _Count
    mtime_ms: _Milliseconds
    written_at: _Time

    @property
    def mtime_ns(self) -> int:
        """Return the time in nanoseconds; divided by a million it is exactly the same float."""
        return _nanoseconds(self.mtime_ms, self.exact_mtime_ns)


class LegacyDeletion(LegacyRecord):
    """The receipt of a store that a batch deleted, which an export adds. Legacy programs delete
    none."""

    receipt_id: _Text
    batch_id: str
    schema_name: _StoreName
    schema_version: _Count
    relative_path: _Path
    content_hash: _Hash
    deleted_at: _Time


class EntryState(StrEnum):
    """The state of an entry of the legacy manifest: those of an inspection, and two more."""

    HEALTHY = "healthy"
    MISSING = "missing"
    QUARANTINED = "quarantined"
    FUTURE_SCHEMA = "future_schema"
    HASH_MISMATCH = "hash_mismatch"
    UNCOMMITTED_WRITE = "uncommitted_write"
    STALE_RUN = "stale_run"
    REBUILD_REQUIRED = "rebuild_required"

    @property
    def ours(self) -> InspectionState:
        """Return the state of the imported entry. Whether it is stale, or its store must be
        rebuilt, is judged anew with every plan."""
        if self in (EntryState.STALE_RUN, EntryState.REBUILD_REQUIRED):
            return InspectionState.HEALTHY
        return InspectionState(self.value)


class LegacyEntry(_Written):
    """An entry of the legacy manifest. What it does not know is null."""

    content_hash: _Hash | None
    """None when the entry says of no content that it is committed."""
    file_size: _Count | None
    mtime_ms: _Milliseconds | None
    last_write_receipt_id: _Text | None
    state: EntryState

    @property
    def mtime_ns(self) -> int | None:
        """Return the time in nanoseconds; divided by a million it is exactly the same float."""
        if self.mtime_ms is None:
            return None
        return _nanoseconds(self.mtime_ms, self.exact_mtime_ns)

    @property
    def receipt_id(self) -> str:
        """Return the id of its receipt, or the one that stands for a null."""
        return self.last_write_receipt_id or f"no-receipt:{self.schema_name}"


def entry_of(receipt: LegacyReceipt) -> LegacyEntry:
    """Return the entry that the batch of a receipt leaves when it is completed."""
    shared = {name: getattr(receipt, name) for name in _OF_BOTH}
    return LegacyEntry(**shared, last_write_receipt_id=receipt.receipt_id, state=EntryState.HEALTHY)


_OF_BOTH = (*_Written.model_fields, "content_hash", "file_size", "mtime_ms")


def _nanoseconds(milliseconds: float, exact: int | None) -> int:
    if exact is not None and exact / 1_000_000 == milliseconds:
        return exact
    return round(Fraction(milliseconds) * 1_000_000)


class LegacyManifest(LegacyRecord):
    """The legacy manifest."""

    schema_version: int
    team_name: _Text
    active_run_id: _Text | None
    active_capability_snapshot_id: str | None
    active_behavior_fingerprint: str | None
    high_watermark: _Watermark
    last_committed_batch_id: _Text | None
    last_preparing_batch_id: _Text | None = None
    last_recovery_plan_id: str | None = None
    entries: tuple[LegacyEntry, ...]
    updated_at: _Time


class LegacyBatch(LegacyRecord):
    """A batch in the legacy list of batches."""

    batch_id: _Text
    team_name: _Text
    run_id: str | None
    capability_snapshot_id: str | None
    behavior_fingerprint: str | None
    reason: BatchReason
    own_reason: OwnReason | None = None
    """A reason that is the runtime's own, which an export adds. Legacy programs refuse such a word,
    and get another."""
    state: BatchState
    started_at: _Time
    completed_at: _Time | None
    last_error: str | None = None
    receipts: tuple[LegacyReceipt, ...]
    deletions: tuple[LegacyDeletion, ...] = ()
    """Set by an export."""
    high_watermark: _Watermark | None = None
    """Set by an export; the legacy format does not number batches."""

    @property
    def is_numbered(self) -> bool:
        """Return whether the batch has the key of its high watermark, also when it is None."""
        return "high_watermark" in self.model_fields_set


class OwnEnding(LegacyRecord):
    """How a run ended, which an export adds to its tombstone."""

    ending: RunEnding | None
    why: str | None
    began_at: _Time


class Tombstone(LegacyRecord):
    """A record of the legacy list of runs that are dead. Programs name the time differently."""

    run_id: _Text
    stopped_at: _Time | None = None
    ended_at: _Time | None = None
    created_at: _Time | None = None
    at: _Time | None = None
    reason: str | None = None
    diagnostic: str | None = None
    ours: OwnEnding | None = Field(default=None, alias="rtstore")

    @property
    def time(self) -> datetime | None:
        """The time of the end of the run; None when the record does not say."""
        return self.stopped_at or self.ended_at or self.created_at or self.at

    @property
    def why(self) -> str | None:
        """The reason, with the diagnostic of the record."""
        if self.ours is not None:
            return self.ours.why
        said = [text for text in (self.reason, self.diagnostic) if text and text.strip()]
        return ": ".join(said) or "a tombstone without a reason"

    @property
    def ending(self) -> RunEnding:
        """How the run ended."""
        return (self.ours and self.ours.ending) or RunEnding.STOPPED


class SetAside(LegacyRecord):
    """A batch that an export hides from legacy programs, and its position in the list."""

    position: _Count
    batch: LegacyBatch


class ReceiptSetAside(LegacyRecord):
    """A receipt that an export hides from legacy programs: its batch, and its position there."""

    batch_id: _Text
    position: _Count
    receipt: LegacyReceipt


class Extension(LegacyRecord):
    """What an export adds to the envelope of the receipts, for a later import."""

    failed_batches: tuple[SetAside, ...] = ()
    receipts: tuple[ReceiptSetAside, ...] = ()


class ManifestExtension(LegacyRecord):
    """What an export adds to the envelope of the manifest, for a later import."""

    entries: tuple[LegacyEntry, ...] = ()
