"""The control database: manifest, batches, receipts, contents, evidence, recoveries, views.

Purpose: everything that the first release keeps, with the views for people.
Concerns: none; there is nothing older. The file-only ancestor's directories are imported, not
migrated.
"""

from __future__ import annotations

from alembic import op

revision = "0001_control_database"
down_revision = None
branch_labels = None
depends_on = None

TIME = (
    "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]Z"
)

TABLES = [
    """
    CREATE TABLE store_descriptors (
      -- What is known of each store beforehand, as the runtime registered it when it last opened.
      schema_name TEXT NOT NULL,
      position INTEGER NOT NULL,
      schema_version INTEGER NOT NULL,
      relative_path TEXT NOT NULL,
      criticality TEXT NOT NULL,
      owner TEXT NOT NULL,
      rebuild_strategy TEXT NOT NULL,
      CONSTRAINT pk_store_descriptors PRIMARY KEY (schema_name),
      CONSTRAINT ck_store_descriptors_schema_version CHECK (schema_version >= 1),
      CONSTRAINT ck_store_descriptors_criticality
        CHECK (criticality IN (
          'readiness_blocking', 'rebuildable_from_provider',
          'rebuildable_from_canonical_destination', 'diagnostic_only')),
      CONSTRAINT ck_store_descriptors_owner
        CHECK (owner IN (
          'launch', 'session', 'delivery', 'permission', 'host', 'compatibility',
          'ui', 'diagnostics', 'e2e')),
      CONSTRAINT ck_store_descriptors_rebuild_strategy
        CHECK (rebuild_strategy IN (
          'none', 'poll_opencode_provider', 'verify_canonical_destinations',
          'rerun_capability_discovery', 'rebuild_from_launch_state',
          'drop_after_quarantine')),
      CONSTRAINT uq_store_descriptors_relative_path UNIQUE (relative_path)
    ) WITHOUT ROWID, STRICT
    """,
    f"""
    CREATE TABLE runtime_manifest (
      -- What is committed now. Exactly one row; the stores are in manifest_entries.
      id INTEGER NOT NULL,
      schema_version INTEGER NOT NULL,
      team_name TEXT NOT NULL,
      active_run_id TEXT,  -- identity of the last committed batch
      active_capability_snapshot_id TEXT,
      active_behavior_fingerprint TEXT,
      high_watermark INTEGER NOT NULL,  -- number of committed batches
      last_committed_batch_id TEXT,
      -- not NULL: a batch is open (being written, or its writer died)
      last_preparing_batch_id TEXT,
      last_recovery_plan_id TEXT,
      updated_at TEXT NOT NULL,
      imported_at TEXT,  -- not NULL: taken over from a file-only runtime directory
      imported_hash TEXT,  -- hash of the control files that were imported
      CONSTRAINT pk_runtime_manifest PRIMARY KEY (id),
      CONSTRAINT ck_runtime_manifest_one_row CHECK (id = 1),
      CONSTRAINT ck_runtime_manifest_team_name CHECK (team_name <> ''),
      CONSTRAINT ck_runtime_manifest_high_watermark CHECK (high_watermark >= 0),
      CONSTRAINT ck_runtime_manifest_updated_at CHECK (updated_at GLOB '{TIME}'),
      CONSTRAINT ck_runtime_manifest_imported_at CHECK (imported_at GLOB '{TIME}'),
      CONSTRAINT ck_runtime_manifest_imported_hash
        CHECK (imported_hash GLOB 'sha256:*' AND length(imported_hash) = 71)
    ) STRICT
    """,
    f"""
    CREATE TABLE write_batches (
      -- One row for each atomic write of one or more stores, in the order they were logged.
      batch_number INTEGER NOT NULL,
      batch_id TEXT NOT NULL,
      -- preparing -> committed; preparing -> committing -> committed (recovery took
      -- over); preparing -> failed
      state TEXT NOT NULL,
      reason TEXT NOT NULL,
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
        CHECK (reason IN (
          'launch_checkpoint', 'permission_reconcile', 'delivery_commit',
          'host_lease_update', 'compatibility_discovery', 'stop_tombstone',
          'migration', 'recovery')),
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
    """
    CREATE INDEX ix_write_batches_open ON write_batches (batch_number)
      WHERE state IN ('preparing', 'committing')
    """,
    f"""
    CREATE TABLE batch_writes (
      -- What each batch writes, planned in full when it is logged. In a committed batch:
      -- the receipts.
      batch_number INTEGER NOT NULL,
      schema_name TEXT NOT NULL,
      position INTEGER NOT NULL,  -- order of publication within the batch
      receipt_id TEXT NOT NULL,
      schema_version INTEGER NOT NULL,
      relative_path TEXT NOT NULL,
      content_hash TEXT NOT NULL,  -- of the file's exact bytes
      file_size INTEGER NOT NULL,
      -- nanoseconds since 1970; the file is given this time when it is published
      mtime_ns INTEGER NOT NULL,
      written_at TEXT NOT NULL,
      CONSTRAINT pk_batch_writes PRIMARY KEY (batch_number, schema_name),
      CONSTRAINT ck_batch_writes_content_hash
        CHECK (content_hash GLOB 'sha256:*' AND length(content_hash) = 71),
      CONSTRAINT ck_batch_writes_file_size CHECK (file_size >= 0),
      CONSTRAINT ck_batch_writes_written_at CHECK (written_at GLOB '{TIME}'),
      CONSTRAINT fk_batch_writes_batch_number_write_batches
        FOREIGN KEY(batch_number)
        REFERENCES write_batches (batch_number) ON DELETE CASCADE,
      CONSTRAINT uq_batch_writes_receipt_id UNIQUE (receipt_id)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE INDEX ix_batch_writes_schema_name_batch_number
      ON batch_writes (schema_name, batch_number)
    """,
    """
    CREATE TABLE store_contents (
      -- The exact text of a store file as of a batch: first the redo log, then history.
      -- JSON: try content ->> '$.data'.
      schema_name TEXT NOT NULL,
      batch_number INTEGER NOT NULL,
      content TEXT NOT NULL,
      CONSTRAINT pk_store_contents PRIMARY KEY (schema_name, batch_number),
      CONSTRAINT fk_store_contents_batch_number_schema_name_batch_writes
        FOREIGN KEY(batch_number, schema_name)
        REFERENCES batch_writes (batch_number, schema_name) ON DELETE CASCADE
    ) STRICT
    """,
    """
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
      CONSTRAINT uq_manifest_entries_relative_path UNIQUE (relative_path)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE INDEX ix_manifest_entries_batch_number ON manifest_entries (batch_number)
    """,
    f"""
    CREATE TABLE quarantined_files (
      -- Files kept as evidence before they were overwritten, moved or removed.
      quarantine_number INTEGER NOT NULL,
      schema_name TEXT,
      relative_path TEXT NOT NULL,
      quarantine_path TEXT NOT NULL,  -- where the bytes are now, below the runtime directory
      reason TEXT NOT NULL,
      content_hash TEXT,  -- NULL: not a regular file; moved as it was
      file_size INTEGER,
      quarantined_at TEXT NOT NULL,
      plan_id TEXT,
      batch_id TEXT,  -- the batch that was about to overwrite the file
      restored_at TEXT,  -- not NULL: taken back to where it was
      CONSTRAINT pk_quarantined_files PRIMARY KEY (quarantine_number),
      CONSTRAINT ck_quarantined_files_content_hash
        CHECK (content_hash GLOB 'sha256:*' AND length(content_hash) = 71),
      CONSTRAINT ck_quarantined_files_file_size CHECK (file_size >= 0),
      CONSTRAINT ck_quarantined_files_quarantined_at CHECK (quarantined_at GLOB '{TIME}'),
      CONSTRAINT ck_quarantined_files_restored_at CHECK (restored_at GLOB '{TIME}'),
      CONSTRAINT uq_quarantined_files_quarantine_path UNIQUE (quarantine_path)
    ) STRICT
    """,
    f"""
    CREATE TABLE recovery_runs (
      -- Every recovery that had something to do. completed_at NULL: interrupted, or still
      -- running.
      run_number INTEGER NOT NULL,
      plan_id TEXT NOT NULL,
      started_by TEXT NOT NULL,
      high_watermark INTEGER NOT NULL,
      readiness_impact TEXT NOT NULL,
      started_at TEXT NOT NULL,
      completed_at TEXT,
      remaining_impact TEXT,  -- readiness impact of the plan made afterwards
      CONSTRAINT pk_recovery_runs PRIMARY KEY (run_number),
      CONSTRAINT ck_recovery_runs_started_by CHECK (started_by IN ('open', 'write', 'recover')),
      CONSTRAINT ck_recovery_runs_readiness_impact
        CHECK (readiness_impact IN ('none', 'degraded', 'blocked')),
      CONSTRAINT ck_recovery_runs_remaining_impact
        CHECK (remaining_impact IN ('none', 'degraded', 'blocked')),
      CONSTRAINT ck_recovery_runs_started_at CHECK (started_at GLOB '{TIME}'),
      CONSTRAINT ck_recovery_runs_completed_at CHECK (completed_at GLOB '{TIME}')
    ) STRICT
    """,
    """
    CREATE INDEX ix_recovery_runs_unfinished ON recovery_runs (run_number)
      WHERE completed_at IS NULL
    """,
    f"""
    CREATE TABLE recovery_actions (
      -- What each recovery did, action by action. outcome NULL: not carried out yet.
      run_number INTEGER NOT NULL,
      position INTEGER NOT NULL,
      kind TEXT NOT NULL,
      schema_name TEXT NOT NULL,
      reason TEXT,
      outcome TEXT,
      detail TEXT,
      completed_at TEXT,
      CONSTRAINT pk_recovery_actions PRIMARY KEY (run_number, position),
      CONSTRAINT ck_recovery_actions_kind
        CHECK (kind IN (
          'none', 'roll_forward', 'restore_committed', 'quarantine',
          'rebuild_from_provider', 'rebuild_from_canonical_destination',
          'rerun_capability_discovery', 'block_readiness')),
      CONSTRAINT ck_recovery_actions_outcome CHECK (outcome IN ('done', 'skipped', 'failed')),
      CONSTRAINT ck_recovery_actions_completed_at CHECK (completed_at GLOB '{TIME}'),
      CONSTRAINT fk_recovery_actions_run_number_recovery_runs
        FOREIGN KEY(run_number)
        REFERENCES recovery_runs (run_number) ON DELETE CASCADE
    ) WITHOUT ROWID, STRICT
    """,
]

TRIGGERS = [
    """
    CREATE TRIGGER write_batches_state_is_final BEFORE UPDATE OF state ON write_batches
    -- The legal transitions: a committed batch stays, a failed one never comes back.
    WHEN NOT (
      (OLD.state = 'preparing' AND NEW.state IN ('committing', 'committed', 'failed'))
      OR (OLD.state = 'committing' AND NEW.state = 'committed')
    )
    BEGIN
      SELECT RAISE(ABORT, 'illegal transition of a batch state');
    END
    """,
]

VIEWS = [
    """
    CREATE VIEW current_stores AS
    -- What is committed now, store by store: which batch wrote it, when, in which run,
    -- and the data.
    SELECT entry.schema_name AS store,
           entry.relative_path AS file,
           batch.batch_id,
           batch.reason,
           written.written_at,
           entry.run_id,
           entry.capability_snapshot_id,
           entry.behavior_fingerprint,
           entry.file_size,
           entry.content_hash,
           json_extract(stored.content, '$.data') AS data
    FROM manifest_entries AS entry
    JOIN write_batches AS batch ON batch.batch_number = entry.batch_number
    JOIN batch_writes AS written
      ON written.batch_number = entry.batch_number AND written.schema_name = entry.schema_name
    LEFT JOIN store_contents AS stored
      ON stored.batch_number = entry.batch_number AND stored.schema_name = entry.schema_name
    """,
    """
    CREATE VIEW batch_log AS
    -- Every batch, newest first, with the stores that it wrote.
    SELECT batch.batch_number,
           batch.batch_id,
           batch.state,
           batch.reason,
           batch.high_watermark,
           batch.run_id,
           batch.started_at,
           batch.completed_at,
           (SELECT count(*) FROM batch_writes AS written
            WHERE written.batch_number = batch.batch_number) AS store_count,
           (SELECT group_concat(schema_name, ', ') FROM
             (SELECT schema_name FROM batch_writes AS written
              WHERE written.batch_number = batch.batch_number ORDER BY position)) AS stores,
           batch.origin,
           batch.last_error
    FROM write_batches AS batch
    ORDER BY batch.batch_number DESC
    """,
    """
    CREATE VIEW write_receipts AS
    -- Proof that a store file was written in a committed batch.
    SELECT written.receipt_id,
           batch.batch_id,
           written.schema_name,
           batch.team_name,
           batch.run_id,
           batch.capability_snapshot_id,
           batch.behavior_fingerprint,
           written.schema_version,
           written.relative_path,
           written.content_hash,
           written.file_size,
           written.mtime_ns,
           written.written_at
    FROM batch_writes AS written
    JOIN write_batches AS batch ON batch.batch_number = written.batch_number
    WHERE batch.state = 'committed'
    """,
    """
    CREATE VIEW store_history AS
    -- How a store changed over time: one row for each committed batch that wrote it. data is NULL
    -- where the content is older than the retention.
    SELECT written.schema_name AS store,
           batch.high_watermark,
           batch.batch_id,
           batch.reason,
           written.written_at,
           batch.run_id,
           written.file_size,
           written.content_hash,
           json_extract(stored.content, '$.data') AS data
    FROM batch_writes AS written
    JOIN write_batches AS batch ON batch.batch_number = written.batch_number
    LEFT JOIN store_contents AS stored
      ON stored.batch_number = written.batch_number AND stored.schema_name = written.schema_name
    WHERE batch.state = 'committed'
    ORDER BY written.schema_name, written.batch_number
    """,
    """
    CREATE VIEW open_problems AS
    -- What is open or went wrong, as far as the database knows. Whether the files agree with it
    -- takes a look at the files: rtstore plan DIR
    SELECT 'open batch' AS problem,
           batch_id AS subject,
           started_at AS since,
           CASE origin
             WHEN 'written' THEN
               'being written now, or its writer died; opening the store finishes it'
             ELSE 'imported unfinished; its contents were never logged'
           END AS explanation
    FROM write_batches WHERE state IN ('preparing', 'committing')
    UNION ALL
    SELECT 'failed batch', batch_id, coalesce(completed_at, started_at), last_error
    FROM write_batches WHERE state = 'failed'
    UNION ALL
    SELECT 'quarantined file', quarantine_path, quarantined_at, reason
    FROM quarantined_files WHERE restored_at IS NULL
    UNION ALL
    SELECT 'unfinished recovery', plan_id, started_at, 'interrupted, or still running'
    FROM recovery_runs WHERE completed_at IS NULL
    UNION ALL
    SELECT 'content not in database', entry.schema_name, NULL,
           'the file did not match its entry when it was imported'
    FROM manifest_entries AS entry
    WHERE NOT EXISTS (
      SELECT 1 FROM store_contents AS stored
      WHERE stored.batch_number = entry.batch_number AND stored.schema_name = entry.schema_name
    )
    """,
    """
    CREATE VIEW recovery_log AS
    -- What recoveries did, action by action, newest first.
    SELECT run.run_number,
           run.plan_id,
           run.started_by,
           run.started_at,
           action.kind,
           action.schema_name AS store,
           action.reason,
           action.outcome,
           action.detail,
           run.readiness_impact AS impact_before,
           run.remaining_impact AS impact_after
    FROM recovery_runs AS run
    LEFT JOIN recovery_actions AS action ON action.run_number = run.run_number
    ORDER BY run.run_number DESC, action.position
    """,
]


def upgrade() -> None:
    """Make every table, index, trigger and view."""
    connection = op.get_bind()
    for statement in (*TABLES, *TRIGGERS, *VIEWS):
        connection.exec_driver_sql(_dedented(statement))
    connection.exec_driver_sql("PRAGMA user_version = 1")


def downgrade() -> None:
    """There is nothing older to go back to."""
    raise RuntimeError("the first revision cannot be taken back: delete the database instead")


def _dedented(statement: str) -> str:
    # `.schema` shows the text as it was executed, so it should look like something.
    lines = [line[4:] for line in statement.strip("\n").splitlines()]
    return "\n".join(lines).strip()
