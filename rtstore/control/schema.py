"""The tables of the control database, in SQLAlchemy Core.

The statements of the package are built on these tables. The revisions in `migrations/` make the
database itself; their text is frozen and commented for people who type `.schema`. A test compares
the two, CHECK expressions included.

The dependencies, which decide in which order rows are written and dropped:

* a `batch_writes` row needs its `write_batches` row, a `store_contents` row its `batch_writes` row;
  dropping a batch drops both;
* a `batch_deletions` row needs its `write_batches` row, and is dropped with it (revision 0008);
* a `manifest_entries` row needs the `batch_writes` row of the batch that wrote it, so the batch of
  a current entry cannot be dropped, however old;
* the `store_contents` rows of current entries and of open batches cannot be deleted, nor can the
  batches: triggers refuse it for every program (revision 0004);
* `runs` rows depend on nothing and are never deleted: a run id is not used again (revision 0005).

A receipt is a `batch_writes` row of a committed batch (view `write_receipts`), or a
`batch_deletions` row of one. Everything in it is decided when the batch is logged; committing the
batch makes the row a receipt.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    REAL,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

from rtstore.model.records import (
    ActionKind,
    ActionOutcome,
    BatchOrigin,
    BatchState,
    Criticality,
    InspectionState,
    ReadinessImpact,
    RecoveryTrigger,
)
from rtstore.model.runs import RunEnding, RunState
from rtstore.model.words import WORD_LENGTH_MAX

APPLICATION_ID = 0x72747374
"""`rtst` in ASCII; SQLite stores it in the header of the file (PRAGMA application_id)."""

REVISIONS: tuple[str, ...] = (
    "0001_control_database",
    "0002_history_and_upgrades",
    "0003_remembered_retention",
    "0004_file_identity",
    "0005_runs",
    "0006_open_words",
    "0007_fast_views",
    "0008_deletions",
)
"""Every revision ever shipped, oldest first. PRAGMA user_version is the number of applied ones."""

TIME_GLOB = (
    "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]Z"
)
HASH_GLOB = "sha256:*"
WORD_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: Iterable[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{value.value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _word(column: str) -> CheckConstraint:
    return CheckConstraint(
        f"{column} GLOB '[a-z]*' AND ltrim({column}, '{WORD_LETTERS}') = ''"
        f" AND length({column}) <= {WORD_LENGTH_MAX}",
        name=column,
    )


def _time(column: str) -> CheckConstraint:
    return CheckConstraint(f"{column} GLOB '{TIME_GLOB}'", name=column)


def _hash(column: str) -> CheckConstraint:
    return CheckConstraint(f"{column} GLOB '{HASH_GLOB}' AND length({column}) = 71", name=column)


def _not_negative(column: str) -> CheckConstraint:
    return CheckConstraint(f"{column} >= 0", name=column)


store_descriptors = Table(
    "store_descriptors",
    metadata,
    Column("schema_name", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("relative_path", Text, nullable=False, unique=True),
    Column("criticality", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("rebuild_strategy", Text, nullable=False),
    CheckConstraint("schema_version >= 1", name="schema_version"),
    _one_of("criticality", Criticality),
    _word("owner"),
    _word("rebuild_strategy"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

runtime_manifest = Table(
    "runtime_manifest",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("team_name", Text, nullable=False),
    Column("active_run_id", Text),
    Column("active_capability_snapshot_id", Text),
    Column("active_behavior_fingerprint", Text),
    Column("high_watermark", Integer, nullable=False),
    Column("last_committed_batch_id", Text),
    Column("last_preparing_batch_id", Text),
    Column("last_recovery_plan_id", Text),
    Column("updated_at", Text, nullable=False),
    Column("imported_at", Text),
    Column("imported_hash", Text),
    CheckConstraint("id = 1", name="one_row"),
    CheckConstraint("team_name <> ''", name="team_name"),
    _not_negative("high_watermark"),
    _time("updated_at"),
    _time("imported_at"),
    _hash("imported_hash"),
    sqlite_strict=True,
)

write_batches = Table(
    "write_batches",
    metadata,
    Column("batch_number", Integer, primary_key=True),
    Column("batch_id", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("team_name", Text, nullable=False),
    Column("run_id", Text),
    Column("capability_snapshot_id", Text),
    Column("behavior_fingerprint", Text),
    Column("high_watermark", Integer),
    Column("started_at", Text, nullable=False),
    Column("completed_at", Text),
    Column("last_error", Text),
    Column("origin", Text, nullable=False),
    _one_of("state", BatchState),
    _word("reason"),
    _one_of("origin", BatchOrigin),
    _time("started_at"),
    _time("completed_at"),
    CheckConstraint("state = 'committed' OR high_watermark IS NULL", name="high_watermark"),
    CheckConstraint(
        "(state IN ('preparing', 'committing') AND completed_at IS NULL)"
        " OR (state = 'committed' AND completed_at IS NOT NULL) OR state = 'failed'",
        name="completed",
    ),
    sqlite_strict=True,
)

# SQLite uses a partial index only for a query with the same condition; it does not recognise a
# bound value. So `batches.py` uses exactly this text.
OPEN_CONDITION = text("state IN ('preparing', 'committing')")

Index("ix_write_batches_open", write_batches.c.batch_number, sqlite_where=OPEN_CONDITION)
Index(None, write_batches.c.run_id)
Index(
    "ix_write_batches_failed", write_batches.c.batch_number, sqlite_where=text("state = 'failed'")
)

batch_writes = Table(
    "batch_writes",
    metadata,
    Column(
        "batch_number",
        Integer,
        ForeignKey("write_batches.batch_number", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("schema_name", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("receipt_id", Text, nullable=False, unique=True),
    Column("schema_version", Integer, nullable=False),
    Column("relative_path", Text, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("file_size", Integer, nullable=False),
    Column("mtime_ns", Integer, nullable=False),
    Column("written_at", Text, nullable=False),
    _hash("content_hash"),
    _not_negative("file_size"),
    _time("written_at"),
    Index(None, "schema_name", "batch_number"),
    Index("ix_batch_writes_schema_name_content_hash", "schema_name", "content_hash"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

batch_deletions = Table(
    "batch_deletions",
    metadata,
    Column(
        "batch_number",
        Integer,
        ForeignKey("write_batches.batch_number", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("schema_name", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("receipt_id", Text, nullable=False, unique=True),
    Column("schema_version", Integer, nullable=False),
    Column("relative_path", Text, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("deleted_at", Text, nullable=False),
    _hash("content_hash"),
    _time("deleted_at"),
    Index(None, "schema_name", "batch_number"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

store_contents = Table(
    "store_contents",
    metadata,
    Column("schema_name", Text, primary_key=True),
    Column("batch_number", Integer, primary_key=True),
    Column("content", Text, nullable=False),
    ForeignKeyConstraint(
        ["batch_number", "schema_name"],
        ["batch_writes.batch_number", "batch_writes.schema_name"],
        ondelete="CASCADE",
    ),
    sqlite_strict=True,
)

manifest_entries = Table(
    "manifest_entries",
    metadata,
    Column("schema_name", Text, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("relative_path", Text, nullable=False, unique=True),
    Column("content_hash", Text, nullable=False),
    Column("file_size", Integer, nullable=False),
    Column("mtime_ns", Integer, nullable=False),
    Column("run_id", Text),
    Column("capability_snapshot_id", Text),
    Column("behavior_fingerprint", Text),
    Column("last_write_receipt_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("batch_number", Integer, nullable=False),
    Column("file_inode", Integer),
    Column("file_ctime_ns", Integer),
    ForeignKeyConstraint(
        ["batch_number", "schema_name"],
        ["batch_writes.batch_number", "batch_writes.schema_name"],
    ),
    _hash("content_hash"),
    _not_negative("file_size"),
    _one_of("state", InspectionState),
    CheckConstraint("(file_inode IS NULL) = (file_ctime_ns IS NULL)", name="file_identity"),
    Index(None, "batch_number"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

quarantined_files = Table(
    "quarantined_files",
    metadata,
    Column("quarantine_number", Integer, primary_key=True),
    Column("schema_name", Text),
    Column("relative_path", Text, nullable=False),
    Column("quarantine_path", Text, nullable=False, unique=True),
    Column("reason", Text, nullable=False),
    Column("content_hash", Text),
    Column("file_size", Integer),
    Column("quarantined_at", Text, nullable=False),
    Column("plan_id", Text),
    Column("batch_id", Text),
    Column("restored_at", Text),
    _hash("content_hash"),
    _not_negative("file_size"),
    _time("quarantined_at"),
    _time("restored_at"),
    sqlite_strict=True,
)

recovery_runs = Table(
    "recovery_runs",
    metadata,
    Column("run_number", Integer, primary_key=True),
    Column("plan_id", Text, nullable=False),
    Column("started_by", Text, nullable=False),
    Column("high_watermark", Integer, nullable=False),
    Column("readiness_impact", Text, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("completed_at", Text),
    Column("remaining_impact", Text),
    _one_of("started_by", RecoveryTrigger),
    _one_of("readiness_impact", ReadinessImpact),
    _one_of("remaining_impact", ReadinessImpact),
    _time("started_at"),
    _time("completed_at"),
    sqlite_strict=True,
)

UNFINISHED_CONDITION = text("completed_at IS NULL")

Index("ix_recovery_runs_unfinished", recovery_runs.c.run_number, sqlite_where=UNFINISHED_CONDITION)

recovery_actions = Table(
    "recovery_actions",
    metadata,
    Column(
        "run_number",
        Integer,
        ForeignKey("recovery_runs.run_number", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("position", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("schema_name", Text, nullable=False),
    Column("reason", Text),
    Column("outcome", Text),
    Column("detail", Text),
    Column("completed_at", Text),
    _one_of("kind", ActionKind),
    _one_of("outcome", ActionOutcome),
    _time("completed_at"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

database_upgrades = Table(
    "database_upgrades",
    metadata,
    Column("upgrade_number", Integer, primary_key=True),
    Column("from_revision", Text, nullable=False),
    Column("to_revision", Text, nullable=False),
    Column("upgraded_at", Text, nullable=False),
    Column("backup_path", Text, nullable=False),
    _time("upgraded_at"),
    sqlite_strict=True,
)

history_retention = Table(
    "history_retention",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("batches", Integer),
    Column("contents_per_store", Integer),
    Column("max_age_seconds", REAL),
    Column("content_bytes", Integer),
    Column("thin_by_age", Integer, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
    CheckConstraint("batches >= 1", name="batches"),
    CheckConstraint("contents_per_store >= 1", name="contents_per_store"),
    CheckConstraint("max_age_seconds > 0", name="max_age_seconds"),
    CheckConstraint("content_bytes >= 1", name="content_bytes"),
    CheckConstraint("thin_by_age IN (0, 1)", name="thin_by_age"),
    sqlite_strict=True,
)

runs = Table(
    "runs",
    metadata,
    Column("run_number", Integer, primary_key=True),
    Column("run_id", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    Column("began_at", Text, nullable=False),
    Column("begun_by_batch", Text),
    Column("host", Text),
    Column("pid", Integer),
    Column("process_start", Text),
    Column("ended_at", Text),
    Column("ending", Text),
    Column("why", Text),
    Column("superseded_by", Text),
    CheckConstraint("run_id <> ''", name="run_id"),
    _one_of("state", RunState),
    _one_of("ending", RunEnding),
    _time("began_at"),
    _time("ended_at"),
    CheckConstraint("(state IN ('ended', 'superseded')) = (ended_at IS NOT NULL)", name="is_over"),
    CheckConstraint("(state = 'ended') = (ending IS NOT NULL)", name="has_ended"),
    CheckConstraint("(state = 'superseded') = (superseded_by IS NOT NULL)", name="was_superseded"),
    CheckConstraint("(host IS NULL) = (pid IS NULL)", name="process"),
    sqlite_strict=True,
)

# As with OPEN_CONDITION: `runs.py` uses exactly this text, so that the index is used.
CURRENT_CONDITION = text("state IN ('beginning', 'active')")

Index("ix_runs_current", runs.c.state, unique=True, sqlite_where=CURRENT_CONDITION)

VIEWS = frozenset(
    {
        "batch_log",
        "current_state",
        "current_stores",
        "open_problems",
        "recovery_log",
        "run_log",
        "store_changes",
        "store_deletions",
        "store_history",
        "store_sizes",
        "write_receipts",
    }
)
TRIGGERS = frozenset(
    {
        "runs_keep_their_id",
        "runs_state_is_final",
        "runs_stay",
        "store_contents_in_use_stay",
        "write_batches_in_use_stay",
        "write_batches_state_is_final",
    }
)
PARTS = frozenset(
    {
        ("table", "alembic_version"),
        *(("table", name) for name in metadata.tables),
        *(("index", str(index.name)) for it in metadata.tables.values() for index in it.indexes),
        *(("trigger", name) for name in TRIGGERS),
        *(("view", name) for name in VIEWS),
    }
)
"""All that a database at the newest revision has, each with what it is."""
