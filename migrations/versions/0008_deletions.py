"""Batches that delete stores.

Purpose: a batch may delete stores. What it deletes is logged in a table of its own, with the batch,
before the file goes; completing the batch takes the entry away. `batch_log` names the deleted
stores, and `store_deletions` answers when a store was deleted, and by which batch.
Concerns: a new table, which is empty, and an index on it. The view `batch_log` is made anew, with
one more column at its end.
"""

from __future__ import annotations

from alembic import op

revision = "0008_deletions"
down_revision = "0007_fast_views"
branch_labels = None
depends_on = None

TIME = (
    "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]Z"
)

STATEMENTS = [
    f"""
    CREATE TABLE batch_deletions (
      -- The stores that a batch deletes: planned while it is open, done once it is committed. Then
      -- the file is gone, and the entry; earlier versions stay, as long as the history goes.
      batch_number INTEGER NOT NULL,
      schema_name TEXT NOT NULL,
      position INTEGER NOT NULL,  -- in its batch, after what that writes
      receipt_id TEXT NOT NULL,
      schema_version INTEGER NOT NULL,
      relative_path TEXT NOT NULL,  -- the file that is removed
      content_hash TEXT NOT NULL,  -- of the version that was committed until then
      deleted_at TEXT NOT NULL,
      CONSTRAINT pk_batch_deletions PRIMARY KEY (batch_number, schema_name),
      CONSTRAINT fk_batch_deletions_batch_number_write_batches
        FOREIGN KEY(batch_number) REFERENCES write_batches (batch_number) ON DELETE CASCADE,
      CONSTRAINT ck_batch_deletions_content_hash
        CHECK (content_hash GLOB 'sha256:*' AND length(content_hash) = 71),
      CONSTRAINT ck_batch_deletions_deleted_at CHECK (deleted_at GLOB '{TIME}'),
      CONSTRAINT uq_batch_deletions_receipt_id UNIQUE (receipt_id)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE INDEX ix_batch_deletions_schema_name_batch_number
      ON batch_deletions (schema_name, batch_number)
    """,
]

VIEWS: dict[str, str] = {
    "batch_log": """
    CREATE VIEW batch_log AS
    -- Every batch, newest first, with the stores that it wrote, and those that it deleted.
    -- age_seconds: since it was logged.
    SELECT batch.batch_number,
           batch.batch_id,
           batch.state,
           batch.reason,
           batch.high_watermark,
           batch.run_id,
           batch.started_at,
           batch.completed_at,
           unixepoch('now') - unixepoch(batch.started_at) AS age_seconds,
           (SELECT count(*) FROM batch_writes AS written
            WHERE written.batch_number = batch.batch_number) AS store_count,
           (SELECT group_concat(schema_name, ', ') FROM
             (SELECT schema_name FROM batch_writes AS written
              WHERE written.batch_number = batch.batch_number ORDER BY position)) AS stores,
           (SELECT sum(file_size) FROM batch_writes AS written
            WHERE written.batch_number = batch.batch_number) AS bytes,
           batch.origin,
           batch.last_error,
           (SELECT group_concat(schema_name, ', ') FROM
             (SELECT schema_name FROM batch_deletions AS deletion
              WHERE deletion.batch_number = batch.batch_number ORDER BY position))
             AS deleted_stores
    FROM write_batches AS batch
    ORDER BY batch.batch_number DESC
    """,
    "store_deletions": """
    CREATE VIEW store_deletions AS
    -- When a store was deleted, and by which batch: a row for each time. is_gone: it was not
    -- written again. What it held before is in store_history.
    -- The newest first: ORDER BY batch_number DESC
    SELECT deletion.schema_name AS store,
           deletion.batch_number,
           batch.high_watermark,
           batch.batch_id,
           batch.reason,
           deletion.deleted_at,
           unixepoch('now') - unixepoch(deletion.deleted_at) AS age_seconds,
           batch.run_id,
           deletion.relative_path,
           deletion.content_hash,
           NOT EXISTS (SELECT 1 FROM manifest_entries AS entry
                       WHERE entry.schema_name = deletion.schema_name) AS is_gone
    FROM batch_deletions AS deletion
    JOIN write_batches AS batch ON batch.batch_number = deletion.batch_number
    WHERE batch.state = 'committed'
    """,
}
"""Views that are made, or remade in a new shape, by name."""


def upgrade() -> None:
    """Make the table, its index and the views."""
    run = op.get_bind().exec_driver_sql
    for statement in STATEMENTS:
        run(_dedented(statement))
    for name, statement in VIEWS.items():
        run(f"DROP VIEW IF EXISTS {name}")
        run(_dedented(statement))
    run("PRAGMA user_version = 8")


def downgrade() -> None:
    """An older program gets the back-up that the upgrade made."""
    raise RuntimeError("a revision is not taken back: restore the back-up instead")


def _dedented(statement: str) -> str:
    # `.schema` shows the text as it was executed, so it should look like something.
    lines = [line[4:] for line in statement.strip("\n").splitlines()]
    return "\n".join(lines).strip()
