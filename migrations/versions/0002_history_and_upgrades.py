"""What was learned from the first release: finding bytes by hash, upgrades on record, more views.

Purpose: the search for a version of a store by its hash goes through an index of its own; every
upgrade leaves a row that says from where, to where, when, and where the back-up is.
Concerns: the index is built from every row of batch_writes, which takes a moment in a directory
with a long history. Views that are here in a new shape are dropped and made anew.
"""

from __future__ import annotations

from alembic import op

revision = "0002_history_and_upgrades"
down_revision = "0001_control_database"
branch_labels = None
depends_on = None

TIME = (
    "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]Z"
)

TABLES = [
    f"""
    CREATE TABLE database_upgrades (
      -- One row for each time that this database was brought to a newer revision.
      upgrade_number INTEGER NOT NULL,
      from_revision TEXT NOT NULL,
      to_revision TEXT NOT NULL,
      upgraded_at TEXT NOT NULL,
      backup_path TEXT NOT NULL,  -- the database as it was before, below the runtime directory
      CONSTRAINT pk_database_upgrades PRIMARY KEY (upgrade_number),
      CONSTRAINT ck_database_upgrades_upgraded_at CHECK (upgraded_at GLOB '{TIME}')
    ) STRICT
    """,
    """
    CREATE INDEX ix_batch_writes_schema_name_content_hash
      ON batch_writes (schema_name, content_hash)
    """,
]

VIEWS: dict[str, str] = {
    "current_stores": """
    CREATE VIEW current_stores AS
    -- What is committed now, store by store, and since when: which batch wrote it, in which run,
    -- why, and the data.
    SELECT entry.schema_name AS store,
           entry.relative_path AS file,
           batch.batch_id,
           batch.reason,
           written.written_at,
           unixepoch('now') - unixepoch(written.written_at) AS age_seconds,
           entry.run_id,
           entry.capability_snapshot_id,
           entry.behavior_fingerprint,
           entry.file_size,
           entry.content_hash,
           CASE WHEN json_valid(stored.content) THEN json_extract(stored.content, '$.data') END
             AS data
    FROM manifest_entries AS entry
    JOIN write_batches AS batch ON batch.batch_number = entry.batch_number
    JOIN batch_writes AS written
      ON written.batch_number = entry.batch_number AND written.schema_name = entry.schema_name
    LEFT JOIN store_contents AS stored
      ON stored.batch_number = entry.batch_number AND stored.schema_name = entry.schema_name
    """,
    "batch_log": """
    CREATE VIEW batch_log AS
    -- Every batch, newest first, with the stores that it wrote. age_seconds: since it was logged.
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
           batch.last_error
    FROM write_batches AS batch
    ORDER BY batch.batch_number DESC
    """,
    "write_receipts": """
    CREATE VIEW write_receipts AS
    -- Proof that a store file was written in a committed batch. What a run wrote: WHERE run_id = ...
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
           written.written_at,
           unixepoch('now') - unixepoch(written.written_at) AS age_seconds
    FROM batch_writes AS written
    JOIN write_batches AS batch ON batch.batch_number = written.batch_number
    WHERE batch.state = 'committed'
    """,
    "store_history": """
    CREATE VIEW store_history AS
    -- How a store changed over time: one row for each committed batch that wrote it. size_change is
    -- against the version before; data is NULL where the content is older than the retention.
    SELECT written.schema_name AS store,
           batch.high_watermark,
           batch.batch_id,
           batch.reason,
           written.written_at,
           unixepoch('now') - unixepoch(written.written_at) AS age_seconds,
           batch.run_id,
           written.file_size,
           written.file_size - lag(written.file_size)
             OVER (PARTITION BY written.schema_name ORDER BY written.batch_number) AS size_change,
           written.content_hash,
           CASE WHEN json_valid(stored.content) THEN json_extract(stored.content, '$.data') END
             AS data
    FROM batch_writes AS written
    JOIN write_batches AS batch ON batch.batch_number = written.batch_number
    LEFT JOIN store_contents AS stored
      ON stored.batch_number = written.batch_number AND stored.schema_name = written.schema_name
    WHERE batch.state = 'committed'
    ORDER BY written.schema_name, written.batch_number
    """,
    "store_changes": """
    CREATE VIEW store_changes AS
    -- What each committed batch changed in a store, value by value, as far as both versions are
    -- kept. before is NULL: the value is new; after is NULL: it went. Both are JSON.
    WITH version AS (
      SELECT written.schema_name,
             batch.batch_number,
             batch.high_watermark,
             batch.batch_id,
             batch.reason,
             written.written_at,
             stored.content,
             lag(stored.content)
               OVER (PARTITION BY written.schema_name ORDER BY written.batch_number) AS earlier
      FROM batch_writes AS written
      JOIN write_batches AS batch ON batch.batch_number = written.batch_number
      LEFT JOIN store_contents AS stored
        ON stored.batch_number = written.batch_number AND stored.schema_name = written.schema_name
      WHERE batch.state = 'committed'
    ),
    pair AS (SELECT * FROM version WHERE json_valid(content) AND json_valid(earlier)),
    value AS (
      SELECT pair.*, leaf.fullkey, NULL AS before,
             iif(leaf.type IN ('true', 'false', 'null'), leaf.type, json_quote(leaf.value)) AS after
      FROM pair, json_tree(pair.content, '$.data') AS leaf
      WHERE leaf.atom IS NOT NULL OR leaf.type = 'null' OR leaf.value IN ('[]', '{}')
      UNION ALL
      SELECT pair.*, leaf.fullkey,
             iif(leaf.type IN ('true', 'false', 'null'), leaf.type, json_quote(leaf.value)), NULL
      FROM pair, json_tree(pair.earlier, '$.data') AS leaf
      WHERE leaf.atom IS NOT NULL OR leaf.type = 'null' OR leaf.value IN ('[]', '{}')
    )
    SELECT schema_name AS store,
           high_watermark,
           batch_id,
           reason,
           written_at,
           unixepoch('now') - unixepoch(written_at) AS age_seconds,
           '$' || substr(fullkey, 7) AS path,  -- try data ->> path on store_history
           max(before) AS before,
           max(after) AS after
    FROM value
    GROUP BY schema_name, batch_number, fullkey
    HAVING max(before) IS NOT max(after)
    ORDER BY schema_name, batch_number, fullkey
    """,
    "run_log": """
    CREATE VIEW run_log AS
    -- Every run that batches are known of, the latest first: what it wrote, and when.
    SELECT batch.run_id,
           batch.run_id IS (SELECT active_run_id FROM runtime_manifest) AS is_active,
           min(batch.started_at) AS first_batch_at,
           max(batch.started_at) AS last_batch_at,
           unixepoch('now') - unixepoch(max(batch.started_at)) AS age_seconds,
           count(*) FILTER (WHERE batch.state = 'committed') AS committed,
           count(*) FILTER (WHERE batch.state = 'failed') AS failed,
           count(*) FILTER (WHERE batch.state IN ('preparing', 'committing')) AS open,
           (SELECT group_concat(schema_name, ', ') FROM
             (SELECT DISTINCT schema_name FROM write_receipts AS receipt
              WHERE receipt.run_id IS batch.run_id ORDER BY schema_name)) AS stores,
           (SELECT coalesce(sum(file_size), 0) FROM write_receipts AS receipt
            WHERE receipt.run_id IS batch.run_id) AS bytes
    FROM write_batches AS batch
    GROUP BY batch.run_id
    ORDER BY max(batch.batch_number) DESC
    """,
    "open_problems": """
    CREATE VIEW open_problems AS
    -- What is open, failed or quarantined, as far as the database knows. Whether the files agree
    -- with it takes a look at the files: rtstore plan DIR
    SELECT problem,
           subject,
           since,
           unixepoch('now') - unixepoch(since) AS age_seconds,
           explanation
    FROM (
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
    )
    """,
    "current_state": """
    CREATE VIEW current_state AS
    -- One row: what is committed now and since when, by which batch, in which run, why.
    SELECT manifest.team_name,
           manifest.high_watermark,
           manifest.last_committed_batch_id AS batch_id,
           batch.reason,
           batch.completed_at AS committed_at,
           unixepoch('now') - unixepoch(batch.completed_at) AS age_seconds,
           manifest.active_run_id AS run_id,
           manifest.active_capability_snapshot_id AS capability_snapshot_id,
           manifest.active_behavior_fingerprint AS behavior_fingerprint,
           (SELECT count(*) FROM manifest_entries) AS store_count,
           (SELECT coalesce(sum(file_size), 0) FROM manifest_entries) AS bytes,
           (SELECT count(*) FROM open_problems) AS problem_count
    FROM runtime_manifest AS manifest
    LEFT JOIN write_batches AS batch ON batch.batch_id = manifest.last_committed_batch_id
    """,
    "store_sizes": """
    CREATE VIEW store_sizes AS
    -- How big each store is: what is committed, what is kept of its history, and its evidence.
    -- The whole database: SELECT page_count * page_size FROM pragma_page_count, pragma_page_size
    SELECT store.schema_name AS store,
           (SELECT file_size FROM manifest_entries AS entry
            WHERE entry.schema_name = store.schema_name) AS file_size,
           (SELECT count(*) FROM batch_writes AS written
            WHERE written.schema_name = store.schema_name) AS writes,
           (SELECT count(*) FROM store_contents AS stored
            WHERE stored.schema_name = store.schema_name) AS kept_contents,
           (SELECT coalesce(sum(written.file_size), 0)
            FROM store_contents AS stored
            JOIN batch_writes AS written
              ON written.batch_number = stored.batch_number
              AND written.schema_name = stored.schema_name
            WHERE stored.schema_name = store.schema_name) AS kept_bytes,
           (SELECT count(*) FROM quarantined_files AS evidence
            WHERE evidence.schema_name = store.schema_name
              AND evidence.restored_at IS NULL) AS quarantined_files,
           (SELECT coalesce(sum(file_size), 0) FROM quarantined_files AS evidence
            WHERE evidence.schema_name = store.schema_name
              AND evidence.restored_at IS NULL) AS quarantined_bytes
    FROM (SELECT schema_name FROM store_descriptors
          UNION SELECT schema_name FROM batch_writes) AS store
    ORDER BY kept_bytes DESC, store.schema_name
    """,
    "recovery_log": """
    CREATE VIEW recovery_log AS
    -- What recoveries did, action by action, newest first.
    SELECT run.run_number,
           run.plan_id,
           run.started_by,
           run.started_at,
           unixepoch('now') - unixepoch(run.started_at) AS age_seconds,
           run.completed_at,
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
}
"""Views that are new, or remade in a new shape, by name."""


def upgrade() -> None:
    """Make what is new, and remake what changed."""
    connection = op.get_bind()
    for statement in TABLES:
        connection.exec_driver_sql(_dedented(statement))
    for name, statement in VIEWS.items():
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
        connection.exec_driver_sql(_dedented(statement))
    connection.exec_driver_sql("PRAGMA user_version = 2")


def downgrade() -> None:
    """An older program gets the back-up that the upgrade made."""
    raise RuntimeError("a revision is not taken back: restore the back-up instead")


def _dedented(statement: str) -> str:
    # `.schema` shows the text as it was executed, so it should look like something.
    lines = [line[4:] for line in statement.strip("\n").splitlines()]
    return "\n".join(lines).strip()
