"""What a page tells, as records.

Each text says by its type what becomes of it in a page without values: see `redact`. A test holds
every field to that, so that a new one cannot be forgotten.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, NamedTuple

from rtstore.model.records import Record
from rtstore.model.times import Timestamp


class Rule(StrEnum):
    """What becomes of a text where values are left out."""

    KEEP = "keep"
    """It is no value: a name of a store, of a file or of a key, a word of ours, a hash."""
    LEAVE_OUT = "leave_out"
    """Its length is told, and nothing of it."""
    COMMAND = "command"
    """Only which command of ours it is."""


class Alias(NamedTuple):
    """The rule for names that callers choose: each gets a number."""

    kind: str


Kept = Annotated[str, Rule.KEEP]
Words = Annotated[str, Rule.LEAVE_OUT]
"""A text that may quote a value: an error, a reason that somebody typed, a problem of a file."""
Value = Annotated[str, Rule.LEAVE_OUT]
Command = Annotated[str, Rule.COMMAND]
BatchName = Annotated[str, Alias("batch")]
RunName = Annotated[str, Alias("run")]
TeamName = Annotated[str, Alias("team")]
LaneName = Annotated[str, Alias("lane")]
HostName = Annotated[str, Alias("host")]
DirectoryName = Annotated[str, Alias("directory")]
IdentityPart = Annotated[str, Alias("identity")]


class Advice(Record):
    """What to run next, and what it does. `command` is None where the runtime must act."""

    command: Command | None
    why: Words


class ShownValue(Record):
    """A value of a document, cut where it is long."""

    text: Value
    """Its JSON."""
    outline: Kept
    """Its keys, and the types and sizes of what they have."""


class ChangedValue(Record):
    """One value that differs between two versions."""

    kind: Kept
    path: Kept
    """A JSON Pointer: keys and positions."""
    before: ShownValue | None
    after: ShownValue | None


class Change(Record):
    """One version of a store, and what it changed."""

    batch_number: int
    batch_id: BatchName
    watermark: int | None
    at: Timestamp
    reason: Kept
    run_id: RunName | None
    size: int
    size_before: int | None
    """None for the first version that is known."""
    content_hash: Kept
    found: int
    """How many values differ; more than are listed, where `values` has fewer."""
    values: tuple[ChangedValue, ...]
    not_compared: Kept | None
    """Why it is not known what differs; None when it is."""


class Size(Record):
    """The size of a store's file from a batch on; 0 when that deleted the store."""

    at: Timestamp
    size: int


class Store(Record):
    """One store: its file, what is committed, how it grew, what changed."""

    name: Kept
    path: Kept
    state: Kept
    holds: Kept
    action: Kept
    detail: Words | None
    size: int | None
    """Of its file; None when there is none."""
    written_at: Timestamp | None
    deleted_at: Timestamp | None
    """When a batch deleted it; None while something is committed, and of one never written."""
    versions_kept: int
    bytes_kept: int
    sizes: tuple[Size, ...]
    """Oldest first, within the batches that are shown."""
    changes: tuple[Change, ...]
    """Newest first."""
    changes_left_out: int
    """Older versions with content, whose changes are not in the page."""


class Batch(Record):
    """One batch."""

    number: int
    batch_id: BatchName
    watermark: int | None
    state: Kept
    is_open: bool
    is_recovered: bool
    """A recovery completed it, because its writer was dead."""
    reason: Kept
    run_id: RunName | None
    started_at: Timestamp
    completed_at: Timestamp | None
    stores: tuple[Kept, ...]
    """Those that it wrote, and then those that it deleted."""
    deleted: tuple[Kept, ...]
    error: Words | None


class Run(Record):
    """One run."""

    run_id: RunName
    state: Kept
    began_at: Timestamp
    ended_at: Timestamp | None
    ending: Kept | None
    why: Words | None
    superseded_by: RunName | None
    host: HostName | None
    process_id: int | None
    process_alive: bool | None


class Quarantined(Record):
    """A file that was kept before it was overwritten, moved or removed."""

    number: int
    store: Kept | None
    path: Kept
    """Of the file that it was."""
    at: Timestamp
    reason: Words
    size: int | None
    content_hash: Kept | None
    batch_id: BatchName | None
    restored_at: Timestamp | None


class RecoveryAction(Record):
    """What a recovery did about one store."""

    kind: Kept
    store: Kept
    batch_id: BatchName | None
    outcome: Kept | None
    detail: Words | None


class Recovery(Record):
    """One recovery."""

    number: int
    started_by: Kept
    at: Timestamp
    completed_at: Timestamp | None
    impact_before: Kept
    impact_after: Kept | None
    actions: tuple[RecoveryAction, ...]


class Identity(Record):
    """The active identity."""

    run_id: RunName
    capability_snapshot_id: IdentityPart | None
    behavior_fingerprint: IdentityPart | None


class Contents(Record):
    """What a directory that could be opened holds."""

    team: TeamName
    readiness: Kept
    """The reason of the readiness check."""
    problems: tuple[Words, ...]
    watermark: int
    identity: Identity | None
    database_bytes: int
    wal_bytes: int
    history: Kept
    """How much of it is kept, in words."""
    stores: tuple[Store, ...]
    batches: tuple[Batch, ...]
    """Newest first."""
    batches_in_all: int
    runs: tuple[Run, ...]
    """Newest first."""
    runs_in_all: int
    quarantined: tuple[Quarantined, ...]
    """Newest first."""
    quarantined_in_all: int
    recoveries: tuple[Recovery, ...]
    """Newest first."""
    recoveries_in_all: int


class Directory(Record):
    """One directory, and what it holds, unless it cannot be opened."""

    name: DirectoryName
    lane: LaneName | None
    state: Kept
    """Its readiness, or why there is none."""
    why: Words | None
    next: tuple[Advice, ...]
    contents: Contents | None


class Facts(Record):
    """Everything in a page."""

    made_at: Timestamp
    version: Kept
    title: DirectoryName
    """The directory, or the folder, that was given."""
    redacted: bool
    directories: tuple[Directory, ...]
    was_cut_short: bool
    """Whether there is more below the folder than is walked."""
