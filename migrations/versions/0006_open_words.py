"""Reasons, owners and rebuild strategies are words of the runtime's own.

Purpose: a runtime says in its own words why it writes, which part of it a store belongs to, and how
the store is rebuilt. The database checks the form of such a word, and no longer a list.
Concerns: the tables write_batches and store_descriptors are remade with the rows that they have,
which takes a moment in a directory with a long history. Views and triggers stay as they are.
"""

from __future__ import annotations

from alembic import op

revision = "0006_open_words"
down_revision = "0005_runs"
branch_labels = None
depends_on = None

TIME = (
    "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]Z"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_"

STATEMENTS = [
    "CREATE TABLE rows_before AS SELECT * FROM store_descriptors",
    "DROP TABLE store_descriptors",
    f"""
    CREATE TABLE store_descriptors (
      -- What is known of each store beforehand, as the runtime registered it when it last opened.
      schema_name TEXT NOT NULL,
      position INTEGER NOT NULL,
      schema_version INTEGER NOT NULL,
      relative_path TEXT NOT NULL,
      criticality TEXT NOT NULL,
      owner TEXT NOT NULL,  -- a word of the runtime
      rebuild_strategy TEXT NOT NULL,  -- a known one, or a word of the runtime
      CONSTRAINT pk_store_descriptors PRIMARY KEY (schema_name),
      CONSTRAINT ck_store_descriptors_schema_version CHECK (schema_version >= 1),
      CONSTRAINT ck_store_descriptors_criticality
        CHECK (criticality IN (
          'readiness_blocking', 'rebuildable_from_provider',
          'rebuildable_from_canonical_destination', 'diagnostic_only')),
      CONSTRAINT ck_store_descriptors_owner
        CHECK (owner GLOB '[a-z]*' AND ltrim(owner, '{LETTERS}') = ''
          AND length(owner) <= 64),
      CONSTRAINT ck_store_descriptors_rebuild_strategy
        CHECK (rebuild_strategy GLOB '[a-z]*' AND ltrim(rebuild_strategy, '{LETTERS}') = ''
          AND length(rebuild_strategy) <= 64),
      CONSTRAINT uq_store_descriptors_relative_path UNIQUE (relative_path)
    ) WITHOUT ROWID, STRICT
    """,
    "INSERT INTO store_descriptors SELECT * FROM rows_before",
    "DROP TABLE rows_before",
    "CREATE TABLE rows_before AS SELECT * FROM write_batches",
    "DROP TABLE write_batches",
    f"""
    CREATE TABLE write_batches (
      -- One row for each atomic write of one or more stores, in the order they were logged.
      batch_number INTEGER NOT NULL,
      batch_id TEXT NOT NULL,
      -- preparing -> committed; preparing -> committing -> committed (recovery took
      -- over); preparing -> failed
      state TEXT NOT NULL,
      reason TEXT NOT NULL,  -- a word of the runtime; stop_tombstone ends the run
      team_name TEXT NOT NULL,
      run_id TEXT,
      capability_snapshot_id TEXT,
      behavior_fingerprint TEXT,
      high_watermark INTEGER,  -- number of committed batches up to this one
      started_at TEXT NOT NULL,
      completed_at TEXT,  -- committed: the moment it was logged, its commit point
      last_error TEXT,
      origin TEXT NOT NULL,  -- imported: known from the receipts of a file-only runtime directory
      CONSTRAINT pk_write_batches PRIMARY KEY (batch_number),
      CONSTRAINT ck_write_batches_state
        CHECK (state IN ('preparing', 'committing', 'committed', 'failed')),
      CONSTRAINT ck_write_batches_reason
        CHECK (reason GLOB '[a-z]*' AND ltrim(reason, '{LETTERS}') = ''
          AND length(reason) <= 64),
      CONSTRAINT ck_write_batches_origin CHECK (origin IN ('written', 'imported')),
      CONSTRAINT ck_write_batches_started_at CHECK (started_at GLOB '{TIME}'),
      CONSTRAINT ck_write_batches_completed_at CHECK (completed_at GLOB '{TIME}'),
      CONSTRAINT ck_write_batches_high_watermark
        CHECK (state = 'committed' OR high_watermark IS NULL),
      CONSTRAINT ck_write_batches_completed
        CHECK ((state IN ('preparing', 'committing') AND completed_at IS NULL)
          OR (state = 'committed' AND completed_at IS NOT NULL)
          OR state = 'failed'),
      CONSTRAINT uq_write_batches_batch_id UNIQUE (batch_id)
    ) STRICT
    """,
    "INSERT INTO write_batches SELECT * FROM rows_before",
    "DROP TABLE rows_before",
]


def upgrade() -> None:
    """Remake the two tables with what they have. What mentions them goes first, and comes back."""
    run = op.get_bind().exec_driver_sql
    others = run(
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger')"
        " OR (type = 'index' AND tbl_name IN ('write_batches', 'store_descriptors')"
        " AND sql IS NOT NULL)"
    ).fetchall()
    for kind, name, _ in others:
        run(f"DROP {kind} {name}")
    for statement in STATEMENTS:
        run(_dedented(statement))
    for _, _, text in others:
        run(text)
    run("PRAGMA user_version = 6")


def downgrade() -> None:
    """An older program gets the back-up that the upgrade made."""
    raise RuntimeError("a revision is not taken back: restore the back-up instead")


def _dedented(statement: str) -> str:
    # `.schema` shows the text as it was executed, so it should look like something.
    lines = [line.removeprefix("    ") for line in statement.strip("\n").splitlines()]
    return "\n".join(lines).strip()
