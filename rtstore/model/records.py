"""The domain as frozen records and enums: one word, one meaning.

Python names are snake_case. `model_dump(by_alias=True, mode="json")` returns the camelCase names of
the legacy format (`batchId`, `capabilitySnapshotId`), so that its consumers can read ours.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticSerializationError

from rtstore.errors import InvalidRequestError, shown
from rtstore.foreign import fails_again, origin_of
from rtstore.model.times import Timestamp
from rtstore.model.words import word_of

UNCOMMITTED_BATCH = "uncommitted_batch:"
"""Prefix of the reason of an action that concerns an open batch; the batch id follows, as in the
legacy format. Programs read `RecoveryAction.batch_id`."""


class Record(BaseModel):
    """Base of every record: frozen, camelCase when dumped by alias."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    if not TYPE_CHECKING:  # its parameters are those of pydantic

        def model_dump(self, **options: Any) -> dict[str, Any]:
            """Dump it as pydantic does. The exception of a signal handler passes unchanged:
            pydantic makes an error of its own of it."""
            try:
                return super().model_dump(**options)
            except PydanticSerializationError as error:
                raise origin_of(error) from None


class Argument(Record):
    """Base of the records that callers make. What is wrong in the making is an error of the call;
    `model_validate` raises what pydantic raises. A field that is not known is refused: it is
    misspelt."""

    model_config = ConfigDict(extra="forbid")

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            if not fails_again(partial(super().__init__, **fields)):
                raise origin_of(error) from None
            raise self._refusal(error) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # not for model_validate

    @classmethod
    def _refusal(cls, error: ValidationError) -> InvalidRequestError:
        first = error.errors(include_url=False)[0]
        name_of = {field.alias: name for name, field in cls.model_fields.items()}
        place = ".".join(str(name_of.get(str(part), part)) for part in first["loc"])
        value, said, kind = shown(first["input"]), first["msg"], first["type"]
        if kind == "value_error":  # raised here, in words of our own
            said = str(first["ctx"]["error"])
        is_said = kind == "missing" or (kind == "value_error" and value in said)
        given = "" if is_said else f", not {value}"
        more = error.error_count() - 1
        known = ", ".join(cls.model_fields)
        if first["type"] == "extra_forbidden":
            return InvalidRequestError(
                f"{cls.__name__}.{place}", f"there is no such field; there are: {known}"
            )
        problem = said + given + (f" (and {more} more)" if more else "")
        return InvalidRequestError(f"{cls.__name__}.{place}", problem)


def _dumped(handler: SerializerFunctionWrapHandler, record: Record) -> dict[str, Any]:
    """Return a record as its `handler` dumps it; exceptions pass as in `Record.model_dump`."""
    try:
        dumped: dict[str, Any] = handler(record)
    except PydanticSerializationError as error:
        raise origin_of(error) from None
    return dumped


class _TimedFile(Record):
    """A record of a file with its time of modification, exact in nanoseconds. A dump has the
    milliseconds too, for consumers of the legacy format."""

    mtime_ns: int

    @model_serializer(mode="wrap")
    def _with_mtime_ms(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped = _dumped(handler, self)
        for exact, derived in (("mtimeNs", "mtimeMs"), ("mtime_ns", "mtime_ms")):
            if exact in dumped:
                dumped[derived] = dumped[exact] / 1_000_000
        return dumped


# --- stores -------------------------------------------------------------------------------------


class Criticality(StrEnum):
    """How much the runtime depends on a store: the one list that is closed.

    It decides the readiness of the runtime, by what the plan would do about the store:

    | what the plan would do | readiness_blocking | rebuildable_... | diagnostic_only |
    |---|---|---|---|
    | put the committed content back, quarantine, rebuild | blocked | degraded | ready |
    | put back what the database has lost of a sound file | blocked | degraded | degraded |
    | block: stale, so bound to another run identity | blocked | blocked | never stale |
    | block: committed data that this program does not accept | blocked | blocked | ready |
    | block: nothing to put back, and the runtime must write it | blocked | blocked | ready |
    | finish an open batch | blocked | blocked | blocked |

    What it would do depends on the file, on what the database has, and on the `RebuildStrategy`.
    """

    READINESS_BLOCKING = "readiness_blocking"
    """The runtime cannot start without it: any problem blocks."""
    REBUILDABLE_FROM_PROVIDER = "rebuildable_from_provider"
    """A provider has it too: a problem degrades."""
    REBUILDABLE_FROM_CANONICAL_DESTINATION = "rebuildable_from_canonical_destination"
    """It follows from where its data went: a problem degrades."""
    DIAGNOSTIC_ONLY = "diagnostic_only"
    """For people only: a problem does not count, and it is never stale."""


class Owner(StrEnum):
    """The parts of an OpenCode runtime that stores belong to. Another runtime uses names of its
    own. Nothing depends on an owner."""

    LAUNCH = "launch"
    """What starts a team."""
    SESSION = "session"
    """The sessions of the provider."""
    DELIVERY = "delivery"
    """The delivery of messages and prompts."""
    PERMISSION = "permission"
    """The requests for permissions."""
    HOST = "host"
    """The hosts and their leases."""
    COMPATIBILITY = "compatibility"
    """What the provider can do."""
    UI = "ui"
    """What is shown to people."""
    DIAGNOSTICS = "diagnostics"
    """What helps to find errors."""
    E2E = "e2e"
    """End-to-end tests."""


class RebuildStrategy(StrEnum):
    """How a store's data is made again where the database has nothing to put back.

    A runtime may use a name of its own, which is the key of its function in `rebuilders`. What the
    plan would do, and who does it:

    | strategy | missing, or never committed | damaged |
    |---|---|---|
    | a name of its own, `poll_...`, `verify_...` | rebuild | rebuild |
    | `rerun_capability_discovery` | rebuild | quarantine |
    | `drop_after_quarantine` | quarantine | quarantine |
    | `rebuild_from_launch_state`, `none` | block | quarantine |

    A rebuild waits for the function, and changes nothing without it. With content in the database,
    a missing or damaged file is put back; a file that somebody changed, or that is of a newer
    program, goes to quarantine, and the content is put back: all that whatever the strategy.
    """

    NONE = "none"
    """Not at all: the store blocks until the runtime writes it."""
    POLL_OPENCODE_PROVIDER = "poll_opencode_provider"
    """A function asks the provider."""
    VERIFY_CANONICAL_DESTINATIONS = "verify_canonical_destinations"
    """A function looks where the data went."""
    RERUN_CAPABILITY_DISCOVERY = "rerun_capability_discovery"
    """A function finds out again what the provider can do. A damaged file goes to quarantine."""
    REBUILD_FROM_LAUNCH_STATE = "rebuild_from_launch_state"
    """A function derives it from the launch state. The store blocks until then."""
    DROP_AFTER_QUARANTINE = "drop_after_quarantine"
    """It is not: the file goes to quarantine, and the store is empty."""


OwnerName = Annotated[Owner | str, PlainValidator(word_of(Owner))]
"""A known owner, or a name of the runtime's own."""
StrategyName = Annotated[RebuildStrategy | str, PlainValidator(word_of(RebuildStrategy))]
"""A known rebuild strategy, or a name of the runtime's own."""


class RunIdentity(Argument):
    """What state is bound to: the run, the capability snapshot, the behavior fingerprint."""

    run_id: str = Field(min_length=1, strict=True)
    capability_snapshot_id: str | None = Field(default=None, strict=True)
    behavior_fingerprint: str | None = Field(default=None, strict=True)


# --- batches ------------------------------------------------------------------------------------


class BatchReason(StrEnum):
    """Why an OpenCode runtime writes batches. Another runtime uses names of its own. One reason
    does more than to tell: `stop_tombstone`."""

    LAUNCH_CHECKPOINT = "launch_checkpoint"
    """The state of a launch. The first batch of `begin_run` has it."""
    PERMISSION_RECONCILE = "permission_reconcile"
    """Requests for permissions were answered."""
    DELIVERY_COMMIT = "delivery_commit"
    """Something was delivered."""
    HOST_LEASE_UPDATE = "host_lease_update"
    """A lease of a host was taken, renewed or given back."""
    COMPATIBILITY_DISCOVERY = "compatibility_discovery"
    """It was found out what the provider can do."""
    STOP_TOMBSTONE = "stop_tombstone"
    """The run was stopped: completing the batch ends its run."""
    MIGRATION = "migration"
    """Data was brought to a newer schema version. Opening a store writes such batches."""
    RECOVERY = "recovery"
    """Data was rebuilt, adopted or reverted."""


ReasonName = Annotated[BatchReason | str, PlainValidator(word_of(BatchReason))]
"""A known reason of a batch, or a name of the runtime's own."""


class BatchState(StrEnum):
    """The state of a batch; `BATCH_TRANSITIONS` has the states that may follow."""

    PREPARING = "preparing"
    COMMITTING = "committing"
    COMMITTED = "committed"
    FAILED = "failed"


BATCH_TRANSITIONS: dict[BatchState, frozenset[BatchState]] = {
    # `committing`: recovery decided to complete the batch; after another crash it goes on.
    # `failed` is recorded durably before anything is undone.
    BatchState.PREPARING: frozenset(
        {BatchState.COMMITTED, BatchState.COMMITTING, BatchState.FAILED}
    ),
    # It fails only when its contents are lost everywhere, so that nothing can complete it.
    BatchState.COMMITTING: frozenset({BatchState.COMMITTED, BatchState.FAILED}),
    # Final: an acknowledged batch stays, and a failed one never comes back.
    BatchState.COMMITTED: frozenset(),
    BatchState.FAILED: frozenset(),
}
"""The legal transitions of a batch. Every change of state goes through
`rtstore.control.batches.change_state`; a trigger in the database refuses any other transition."""


OPEN_STATES = frozenset({BatchState.PREPARING, BatchState.COMMITTING})


class BatchOrigin(StrEnum):
    """Who wrote the batch: this library, or the writer of an imported legacy directory."""

    WRITTEN = "written"
    IMPORTED = "imported"


class Receipt(_TimedFile):
    """The record of one store in one batch: the hash, size and time of its file."""

    receipt_id: str
    batch_id: str
    schema_name: str
    team_name: str
    run_id: str | None
    capability_snapshot_id: str | None
    behavior_fingerprint: str | None
    schema_version: int
    relative_path: str
    content_hash: str
    file_size: int
    written_at: Timestamp


class Deleted(Enum):
    """The type of `DELETED`."""

    DELETED = "deleted"

    def __repr__(self) -> str:
        return self.name


DELETED = Deleted.DELETED
"""In place of new data: the batch deletes the store. Its file and its entry go, its history
stays."""


class Deletion(Record):
    """The receipt of one store that a batch deleted. It has no file and no entry since then."""

    receipt_id: str
    batch_id: str
    schema_name: str
    schema_version: int
    """The one that the program knew which deleted it."""
    relative_path: str
    """The file that was removed."""
    content_hash: str
    """The hash of the version that was committed until then."""
    deleted_at: Timestamp


class Batch(Record):
    """One atomic write of one or more stores, with a receipt for each store that was written, and
    for each that was deleted."""

    batch_number: int
    batch_id: str
    team_name: str
    run_id: str | None
    capability_snapshot_id: str | None
    behavior_fingerprint: str | None
    reason: ReasonName
    state: BatchState
    origin: BatchOrigin = BatchOrigin.WRITTEN
    high_watermark: int | None = None
    """Number of committed batches, this one included; None while it is not committed."""
    started_at: Timestamp
    completed_at: Timestamp | None = None
    """The time it was logged, its commit point; None until it is committed or failed."""
    last_error: str | None = None
    receipts: tuple[Receipt, ...] = ()
    """Of the stores that it wrote."""
    deletions: tuple[Deletion, ...] = ()
    """Of the stores that it deleted."""

    @property
    def every_receipt(self) -> tuple[Receipt | Deletion, ...]:
        """The receipts of what it wrote, and then those of what it deleted."""
        return *self.receipts, *self.deletions

    @property
    def stores(self) -> tuple[str, ...]:
        """The stores that it wrote, and then those that it deleted."""
        return tuple(receipt.schema_name for receipt in self.every_receipt)


class PlannedWrite(Record):
    """One store of a batch in the log: exactly what publishing it needs."""

    position: int
    schema_name: str
    schema_version: int
    relative_path: str
    content_hash: str
    file_size: int
    mtime_ns: int
    receipt_id: str
    written_at: Timestamp

    def published(self, stamp: tuple[int, int] | None = None) -> PublishedFile:
        """Return its file as published, with the inode and change time where they are known."""
        return PublishedFile(
            self.schema_version,
            self.relative_path,
            self.content_hash,
            self.file_size,
            self.mtime_ns,
            *(stamp or (None, None)),
        )


class PlannedDeletion(Record):
    """One store that a batch in the log deletes: exactly what publishing that needs."""

    position: int
    """Deletions come after the writes of their batch."""
    schema_name: str
    schema_version: int
    """The one that the program knows: the file of a newer one is not touched."""
    relative_path: str
    """The file of the store. An opening that moved the store left the one before as it was."""
    content_hash: str
    """The hash of the version that is deleted."""
    receipt_id: str
    deleted_at: Timestamp


PlannedChange = PlannedWrite | PlannedDeletion


class LoggedBatch(Record):
    """A batch that is not committed, with its planned writes and deletions in order."""

    batch: Batch
    writes: tuple[PlannedWrite, ...] = ()
    deletions: tuple[PlannedDeletion, ...] = ()

    @property
    def has_contents(self) -> bool:
        """Whether it can be completed from the log. An imported batch cannot."""
        return bool(self.writes or self.deletions)

    @property
    def logged_at(self) -> Timestamp:
        """The time at which it was logged; only of a batch that can be completed."""
        return self.writes[0].written_at if self.writes else self.deletions[0].deleted_at

    @property
    def changes(self) -> tuple[PlannedChange, ...]:
        """Its writes, and then its deletions: the order of their publication."""
        return *self.writes, *self.deletions

    @property
    def stores(self) -> tuple[str, ...]:
        """The stores that it writes, and then those that it deletes."""
        return tuple(change.schema_name for change in self.changes)

    @property
    def planned(self) -> frozenset[tuple[str, str | None]]:
        """The pairs of store name and content hash that it writes; None for a store that it
        deletes."""
        writes = frozenset((write.schema_name, write.content_hash) for write in self.writes)
        return writes.union((item.schema_name, None) for item in self.deletions)


# --- the manifest -------------------------------------------------------------------------------


class InspectionState(StrEnum):
    """The state of a store file, compared with its manifest entry."""

    HEALTHY = "healthy"
    MISSING = "missing"
    QUARANTINED = "quarantined"
    """It cannot be read, or is refused: it is for the quarantine, and is not there yet. (The word
    of the legacy format.)"""
    FUTURE_SCHEMA = "future_schema"
    HASH_MISMATCH = "hash_mismatch"
    UNCOMMITTED_WRITE = "uncommitted_write"


class ManifestEntry(_TimedFile):
    """The current version of one store, as committed."""

    schema_name: str
    schema_version: int
    relative_path: str
    content_hash: str
    file_size: int
    run_id: str | None
    capability_snapshot_id: str | None
    behavior_fingerprint: str | None
    last_write_receipt_id: str
    state: InspectionState = InspectionState.HEALTHY
    batch_number: int
    """The batch that wrote it."""
    file_inode: int | None = Field(default=None, exclude=True)
    """With `file_ctime_ns`, it identifies the published file; None when only the hash can."""
    file_ctime_ns: int | None = Field(default=None, exclude=True)


class PublishedFile(NamedTuple):
    """The fields of an entry by which a writer recognises the file that it has just published."""

    schema_version: int
    relative_path: str
    content_hash: str
    file_size: int
    mtime_ns: int
    file_inode: int | None = None
    file_ctime_ns: int | None = None


CommittedFile = ManifestEntry | PublishedFile
"""What a store's file should be: its entry, or the write that made the entry."""


class Manifest(Record):
    """The current entries of all stores, the active identity, and the high watermark."""

    schema_version: int = 1
    team_name: str
    active_run_id: str | None = None
    active_capability_snapshot_id: str | None = None
    active_behavior_fingerprint: str | None = None
    high_watermark: int = 0
    """Number of committed batches."""
    last_committed_batch_id: str | None = None
    last_preparing_batch_id: str | None = None
    entries: tuple[ManifestEntry, ...] = ()
    """Sorted by store name."""
    last_recovery_plan_id: str | None = None
    updated_at: Timestamp

    def entry(self, schema_name: str) -> ManifestEntry | None:
        """Return the entry of a store, or None while nothing is committed for it."""
        return self._entry_of.get(schema_name)

    @cached_property
    def _entry_of(self) -> dict[str, ManifestEntry]:
        return {entry.schema_name: entry for entry in self.entries}

    @property
    def paths(self) -> dict[str, str]:
        """The file of each committed store, by the store's name."""
        return {entry.schema_name: entry.relative_path for entry in self.entries}

    @property
    def active_identity(self) -> RunIdentity | None:
        """The identity of the last committed batch, or None before the first."""
        if not self.active_run_id:
            return None
        return RunIdentity.model_validate(
            {
                "run_id": self.active_run_id,
                "capability_snapshot_id": self.active_capability_snapshot_id,
                "behavior_fingerprint": self.active_behavior_fingerprint,
            }
        )


# --- inspection, plan, readiness ----------------------------------------------------------------


class InspectionFault(StrEnum):
    """Why a file failed its inspection."""

    UNREADABLE = "unreadable"
    INVALID_JSON = "invalid_json"
    INVALID_ENVELOPE = "invalid_envelope"
    FUTURE_SCHEMA = "future_schema"
    INVALID_DATA = "invalid_data"


class Inspection(Record):
    """The comparison of one store file with its manifest entry. Facts only; the plan decides."""

    schema_name: str
    relative_path: str
    state: InspectionState
    fault: InspectionFault | None = None
    message: str | None = None
    detail: str | None = None
    """Details for people: an error number, a place in the data."""
    content_hash: str | None = None
    """Hash of the bytes found; None when there is no file or it cannot be read."""
    file_size: int | None = None
    mtime_ns: int | None = None
    schema_version: int | None = None


class ActionKind(StrEnum):
    """What to do about one store."""

    NONE = "none"
    ROLL_FORWARD = "roll_forward"
    RESTORE_COMMITTED = "restore_committed"
    QUARANTINE = "quarantine"
    REBUILD_FROM_PROVIDER = "rebuild_from_provider"
    REBUILD_FROM_CANONICAL_DESTINATION = "rebuild_from_canonical_destination"
    RERUN_CAPABILITY_DISCOVERY = "rerun_capability_discovery"
    BLOCK_READINESS = "block_readiness"


class ReadinessImpact(StrEnum):
    """How a plan affects the start of the runtime."""

    NONE = "none"
    DEGRADED = "degraded"
    BLOCKED = "blocked"


class RecoveryAction(Record):
    """One step of a plan. It is data: it can be printed, compared, dry-run and executed."""

    kind: ActionKind
    schema_name: str
    reason: str | None = None
    batch_id: str | None = Field(default=None, exclude=True)
    """The open batch that the action concerns, or None. The legacy format has it in the reason
    only, and so has a dump."""
    rebuilder: StrategyName | None = None
    """The rebuild strategy of the runtime's own whose function the store waits for; otherwise
    None."""

    @model_validator(mode="before")
    @classmethod
    def _read_batch_of_reason(cls, given: Any) -> Any:
        """Take the batch from the reason of an action in the legacy format."""
        reason = given.get("reason") if isinstance(given, dict) else None
        if isinstance(reason, str) and reason.startswith(UNCOMMITTED_BATCH):
            return {"batch_id": reason.removeprefix(UNCOMMITTED_BATCH), **given}
        return given

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The legacy format leaves the reason out of an action that does nothing.
        dumped = _dumped(handler, self)
        return {name: value for name, value in dumped.items() if value is not None}


class StaleStore(Record):
    """A store that is bound to another run identity than the expected one."""

    schema_name: str
    part: str
    """The first part of the identity that differs: `run_id`, `capability_snapshot_id` or
    `behavior_fingerprint`."""
    found: str | None
    expected: str | None


class RecoveryPlan(Record):
    """What to do about all stores, as of one high watermark."""

    plan_id: str
    team_name: str
    run_id: str | None
    """The run that was expected."""
    created_at: Timestamp
    high_watermark: int | None = None
    """The plan is valid only while the store has this high watermark. None in a plan of the legacy
    format, which can be judged and not executed."""
    manifest_healthy: bool
    readiness_impact: ReadinessImpact
    actions: tuple[RecoveryAction, ...]
    diagnostics: tuple[str, ...]
    expected: RunIdentity | None = Field(default=None, exclude=True)
    """The run identity that the entries were compared with. The legacy format does not have it."""
    expects_last: bool = Field(default=False, exclude=True)
    """Whether nobody named that identity: it is that of the last committed batch. A recovery that
    commits a batch goes on with the identity of that one."""
    stale_stores: tuple[StaleStore, ...] = Field(default=(), exclude=True)
    """The stores whose action is to block because they are stale."""
    afterwards: tuple[RecoveryAction, ...] = Field(default=(), exclude=True)
    """What a recovery puts back once the entries are right that `actions` makes again or puts
    right: the file of such a store is held against its entry, and so it comes second."""
    newer_stores: tuple[str, ...] = Field(default=(), exclude=True)
    """The stores whose file says that it was written after the last batch that the database knows:
    it may lack acknowledged batches, so a person must look before anything moves such a file."""

    @property
    def named_identity(self) -> RunIdentity | None:
        """The identity that somebody named for the plan, or None."""
        return None if self.expects_last else self.expected

    def stale_store(self, schema_name: str) -> StaleStore | None:
        """Return in what a store is stale, or None."""
        return next((each for each in self.stale_stores if each.schema_name == schema_name), None)


class ReadinessReason(StrEnum):
    """The answer of a readiness check in one word."""

    MANIFEST_VALID = "runtime_store_manifest_valid"
    REBUILD_IN_PROGRESS = "runtime_store_rebuild_in_progress"
    RECOVERY_REQUIRED = "runtime_store_recovery_required"


class ReadinessCheck(Record):
    """Whether the runtime may start on this state, and why not."""

    ok: bool
    reason: ReadinessReason
    diagnostics: tuple[str, ...]
    nothing_committed: bool = Field(default=False, exclude=True)
    """Whether no batch was ever committed here: a first start, which writes one, and no loss. The
    legacy format does not have it."""


# --- recovery -----------------------------------------------------------------------------------


class RecoveryTrigger(StrEnum):
    """Who started a recovery."""

    OPEN = "open"
    WRITE = "write"
    RECOVER = "recover"


class ActionOutcome(StrEnum):
    """The outcome of one action of a plan."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class RecoveryStep(Record):
    """One action of a plan, with its outcome."""

    action: RecoveryAction
    outcome: ActionOutcome
    detail: str | None = None
    intention: str | None = None
    """What would be done, in words, in a dry run; None in a recovery."""


class RecoveryReport(Record):
    """A recovery that ran to its end, with a new plan of what remains to be done."""

    run_number: int | None
    """Its row in `recovery_runs`; None when there was nothing to do, and for a dry run."""
    plan: RecoveryPlan
    steps: tuple[RecoveryStep, ...]
    remaining: RecoveryPlan


class DatabaseUpgrade(Record):
    """One upgrade of the control database."""

    upgrade_number: int
    from_revision: str
    to_revision: str
    upgraded_at: Timestamp
    backup_path: str
    """The copy of the database from before, relative to the runtime directory. Later upgrades may
    have removed it."""


class QuarantinedFile(Record):
    """A file that was quarantined before it was overwritten, moved or removed."""

    quarantine_number: int
    schema_name: str | None
    relative_path: str
    quarantine_path: str
    reason: str
    content_hash: str | None
    """None for anything but a regular file: it was moved as it was."""
    file_size: int | None
    quarantined_at: Timestamp
    plan_id: str | None = None
    batch_id: str | None = None
    restored_at: Timestamp | None = None
    """When it was put back by `restore_quarantined`; None if it was not."""


class Suggestion(Record):
    """A way out: a command to type, and what it does. None: it is for the runtime."""

    command: str | None
    why: str


ROOM_FOR_NOTHING = 64 << 10
"""Bytes: with less free space, a disk is full. The index of the WAL grows by half of it."""


class HindranceKind(StrEnum):
    """What kind of thing keeps the user of a directory from writing."""

    READ_ONLY = "read_only"
    LOCK = "lock"
    MOUNT = "mount"
    FULL = "full"
    OWNER = "owner"
    MODE = "mode"
    """The permission bits of a folder of stores keep the user of the directory from writing."""
    IMMUTABLE = "immutable"
    TAKEN = "taken"
    """The file of a store is another store's."""
    MOVED = "moved"
    """Another program gave a store another file."""
    NO_STORES = "no_stores"
    """No descriptor is registered, though stores are committed."""


class Hindrance(Record):
    """What keeps the user of a directory from writing."""

    kind: HindranceKind
    problem: str
    way: Suggestion
    schema_name: str | None = None
    """The store that it is about; None: nothing at all can be written."""


AnyRecord = TypeVar("AnyRecord", bound=Record)


_new = object.__new__
_set_values, _set_fields_set, _set_extra, _set_private = (
    BaseModel.__dict__[name].__set__  # a frozen record refuses `setattr`
    for name in (
        "__dict__",
        "__pydantic_fields_set__",
        "__pydantic_extra__",
        "__pydantic_private__",
    )
)


@cache
def _names(kind: type[Record]) -> tuple[tuple[str, ...], set[str]]:
    """Return the names of a record's fields, in their order and as the set that its records share:
    they are frozen, and pydantic copies it for a copy."""
    return tuple(kind.model_fields), set(kind.model_fields)


def construct_unchecked(kind: type[AnyRecord], values: dict[str, Any]) -> AnyRecord:
    """Return a record of values that this package has checked before, or made itself. The record
    keeps the dict: nobody may change it afterwards.

    Checks nothing again and fills in no default: raises KeyError unless every field is passed."""
    names, fields_set = _names(kind)
    record = _new(kind)
    # Values go in the order of the fields, in which they are shown and dumped.
    in_order = values if tuple(values) == names else {name: values[name] for name in names}
    _set_values(record, in_order)
    _set_fields_set(record, fields_set)
    _set_extra(record, None)
    _set_private(record, None)
    return record
