"""What the writer knows of its own files, what must not be deleted, and a limit of bytes.

Purpose: an entry knows inode and change time of the file as it was published, so that an edit of
the same size with its time kept is seen. The database refuses to lose the contents of current
entries and of open batches, whoever deletes. The history may be limited by the bytes of contents.
A batch that recovery had decided to finish may fail: where what it wrote is nowhere any more.
Concerns: `manifest_entries` and `history_retention` are made anew, for a column that is added later
has no place for its comment; they have one row a store, and one. The identity of files is not known
of what comes from before: those are held by their hash until they are written again. The limit of
bytes is none, also where the other limits are the usual ones: that a program named them cannot be
told from that none did, and what an upgrade has dropped nobody brings back.
"""

from __future__ import annotations

from alembic import op

revision = "0004_file_identity"
down_revision = "0003_remembered_retention"
branch_labels = None
depends_on = None

ENTRIES = """
    CREATE TABLE manifest_entries (
      -- What is committed for each store. Its content is in store_contents under the same
      -- batch_number.
      schema_name TEXT NOT NULL,
      schema_version INTEGER NOT NULL,
      relative_path TEXT NOT NULL,
      content_hash TEXT NOT NULL,
      file_size INTEGER NOT NULL,
      mtime_ns INTEGER NOT NULL,
      run_id TEXT,
      capability_snapshot_id TEXT,
      behavior_fingerprint TEXT,
      last_write_receipt_id TEXT NOT NULL,
      state TEXT NOT NULL,
      batch_number INTEGER NOT NULL,  -- the batch that wrote it
      -- The file as it was published: with size and mtime it tells that nobody touched it since.
      -- NULL: not known (imported, upgraded, just put back); then the hash tells.
      file_inode INTEGER,
      file_ctime_ns INTEGER,
      CONSTRAINT pk_manifest_entries PRIMARY KEY (schema_name),
      CONSTRAINT fk_manifest_entries_batch_number_schema_name_batch_writes
        FOREIGN KEY(batch_number, schema_name)
        REFERENCES batch_writes (batch_number, schema_name),
      CONSTRAINT ck_manifest_entries_content_hash
        CHECK (content_hash GLOB 'sha256:*' AND length(content_hash) = 71),
      CONSTRAINT ck_manifest_entries_file_size CHECK (file_size >= 0),
      CONSTRAINT ck_manifest_entries_state
        CHECK (state IN (
          'healthy', 'missing', 'quarantined', 'future_schema', 'hash_mismatch',
          'uncommitted_write')),
      CONSTRAINT ck_manifest_entries_file_identity
        CHECK ((file_inode IS NULL) = (file_ctime_ns IS NULL)),
      CONSTRAINT uq_manifest_entries_relative_path UNIQUE (relative_path)
    ) WITHOUT ROWID, STRICT
    """

RETENTION = """
    CREATE TABLE history_retention (
      -- How much history is kept, as the last program said that named it. Exactly one row.
      -- NULL: no limit. What is current or open is kept in any case.
      id INTEGER NOT NULL,
      batches INTEGER,  -- committed and failed batches, with their receipts
      contents_per_store INTEGER,  -- committed contents of each store, the current one included
      max_age_seconds REAL,  -- how long ago a batch may have ended
      content_bytes INTEGER,  -- of the committed contents of each store, the current one included
      CONSTRAINT pk_history_retention PRIMARY KEY (id),
      CONSTRAINT ck_history_retention_one_row CHECK (id = 1),
      CONSTRAINT ck_history_retention_batches CHECK (batches >= 1),
      CONSTRAINT ck_history_retention_contents_per_store CHECK (contents_per_store >= 1),
      CONSTRAINT ck_history_retention_max_age_seconds CHECK (max_age_seconds > 0),
      CONSTRAINT ck_history_retention_content_bytes CHECK (content_bytes >= 1)
    ) STRICT
    """

TRIGGERS = [
    """
    CREATE TRIGGER write_batches_state_is_final BEFORE UPDATE OF state ON write_batches
    -- The legal transitions: a committed batch stays, a failed one never comes back. One that
    -- recovery had decided to finish fails only where what it wrote is nowhere any more.
    WHEN NOT (
      (OLD.state = 'preparing' AND NEW.state IN ('committing', 'committed', 'failed'))
      OR (OLD.state = 'committing' AND NEW.state IN ('committed', 'failed'))
    )
    BEGIN
      SELECT RAISE(ABORT, 'illegal transition of a batch state');
    END
    """,
    """
    CREATE TRIGGER store_contents_in_use_stay BEFORE DELETE ON store_contents
    -- What is committed now, and what an open batch is finished from, is not deleted.
    WHEN EXISTS (
      SELECT 1 FROM manifest_entries AS entry
      WHERE entry.schema_name = OLD.schema_name AND entry.batch_number = OLD.batch_number
    ) OR EXISTS (
      SELECT 1 FROM write_batches AS batch
      WHERE batch.batch_number = OLD.batch_number AND batch.state IN ('preparing', 'committing')
    )
    BEGIN
      SELECT RAISE(ABORT, 'the content of a current entry or of an open batch is not deleted');
    END
    """,
    """
    CREATE TRIGGER write_batches_in_use_stay BEFORE DELETE ON write_batches
    -- Nor is its batch. When a batch is deleted its contents follow, too late for their trigger.
    WHEN OLD.state IN ('preparing', 'committing') OR EXISTS (
      SELECT 1 FROM manifest_entries AS entry WHERE entry.batch_number = OLD.batch_number
    )
    BEGIN
      SELECT RAISE(ABORT, 'the batch of a current entry, or an open batch, is not deleted');
    END
    """,
]


def upgrade() -> None:
    """Remake the two tables with what they have, and make what is new."""
    run = op.get_bind().exec_driver_sql
    run("CREATE TABLE entries_before AS SELECT * FROM manifest_entries")
    run("DROP TABLE manifest_entries")
    run(_dedented(ENTRIES))
    run("INSERT INTO manifest_entries SELECT *, NULL, NULL FROM entries_before")
    run("DROP TABLE entries_before")
    run("CREATE INDEX ix_manifest_entries_batch_number ON manifest_entries (batch_number)")
    run("CREATE TABLE retention_before AS SELECT * FROM history_retention")
    run("DROP TABLE history_retention")
    run(_dedented(RETENTION))
    run("INSERT INTO history_retention SELECT *, NULL FROM retention_before")
    run("DROP TABLE retention_before")
    run("DROP TRIGGER write_batches_state_is_final")
    for trigger in TRIGGERS:
        run(_dedented(trigger))
    run("PRAGMA user_version = 4")


def downgrade() -> None:
    """An older program gets the back-up that the upgrade made."""
    raise RuntimeError("a revision is not taken back: restore the back-up instead")


def _dedented(statement: str) -> str:
    # `.schema` shows the text as it was executed, so it should look like something.
    lines = [line[4:] for line in statement.strip("\n").splitlines()]
    return "\n".join(lines).strip()
