"""Runs get a table: which one is active, and how the others ended.

Purpose: state of a run that is long dead is told from that of the active one, and a batch of a run
that ended or was superseded is refused. A process that begins a run is recorded, so that a run that
never ended can be told from one that still lives.
Concerns: the runs of an older database are taken from its batches. The run of the last committed
batch is the active one. A run whose last batch is a stop_tombstone has ended; every other one was
superseded by the run that wrote after it. No process is known of them. Two views are made anew.
"""

from __future__ import annotations

from alembic import op

revision = "0005_runs"
down_revision = "0004_file_identity"
branch_labels = None
depends_on = None

TIME = (
    "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]Z"
)

STATEMENTS = [
    f"""
    CREATE TABLE runs (
      -- One row for each life of the runtime. One is active, or none. Rows stay: a run id is not
      -- used again.
      run_number INTEGER NOT NULL,
      run_id TEXT NOT NULL,
      -- beginning: its first batch is logged, and not completed yet.
      state TEXT NOT NULL,
      began_at TEXT NOT NULL,
      begun_by_batch TEXT,  -- the id of its first batch; the batch itself may have been pruned
      -- The process that began or resumed it. NULL: not known (imported, or an older database).
      host TEXT,
      pid INTEGER,
      process_start TEXT,  -- tells it from a later one with this pid, and the directory from a copy
      ended_at TEXT,
      ending TEXT,  -- how a run that ended did: by itself, by an error, or stopped
      why TEXT,
      superseded_by TEXT,  -- the run that began while this one was active
      CONSTRAINT pk_runs PRIMARY KEY (run_number),
      CONSTRAINT uq_runs_run_id UNIQUE (run_id),
      CONSTRAINT ck_runs_run_id CHECK (run_id <> ''),
      CONSTRAINT ck_runs_state CHECK (state IN ('beginning', 'active', 'ended', 'superseded')),
      CONSTRAINT ck_runs_ending CHECK (ending IN ('finished', 'failed', 'stopped')),
      CONSTRAINT ck_runs_began_at CHECK (began_at GLOB '{TIME}'),
      CONSTRAINT ck_runs_ended_at CHECK (ended_at GLOB '{TIME}'),
      CONSTRAINT ck_runs_is_over
        CHECK ((state IN ('ended', 'superseded')) = (ended_at IS NOT NULL)),
      CONSTRAINT ck_runs_has_ended CHECK ((state = 'ended') = (ending IS NOT NULL)),
      CONSTRAINT ck_runs_was_superseded
        CHECK ((state = 'superseded') = (superseded_by IS NOT NULL)),
      CONSTRAINT ck_runs_process CHECK ((host IS NULL) = (pid IS NULL))
    ) STRICT
    """,
    """
    CREATE UNIQUE INDEX ix_runs_current ON runs (state) WHERE state IN ('beginning', 'active')
    """,
    """
    CREATE TRIGGER runs_state_is_final BEFORE UPDATE OF state ON runs
    -- The legal transitions: a run that ended or was superseded never comes back.
    WHEN NOT (
      (OLD.state = 'beginning' AND NEW.state = 'active')
      OR (OLD.state = 'active' AND NEW.state IN ('ended', 'superseded'))
    )
    BEGIN
      SELECT RAISE(ABORT, 'illegal transition of a run state');
    END
    """,
    """
    CREATE TRIGGER runs_keep_their_id BEFORE UPDATE OF run_id ON runs
    -- Otherwise the id that it had could be used again.
    BEGIN
      SELECT RAISE(ABORT, 'a run keeps its id');
    END
    """,
    """
    CREATE TRIGGER runs_stay BEFORE DELETE ON runs
    -- Otherwise its id could be used again. A run whose first batch failed has not begun.
    WHEN OLD.state <> 'beginning'
    BEGIN
      SELECT RAISE(ABORT, 'a run is not deleted: its id is not used again');
    END
    """,
]

FILL = """
    INSERT INTO runs (run_number, run_id, state, began_at, begun_by_batch, ended_at, ending, why,
                      superseded_by)
    WITH written AS (
      SELECT run_id, min(batch_number) AS first_number, max(batch_number) AS last_number,
             min(started_at) AS began_at, max(started_at) AS last_at
      FROM write_batches
      WHERE state = 'committed' AND run_id <> ''
      GROUP BY run_id
    ),
    named AS (
      SELECT active_run_id AS run_id FROM runtime_manifest
      UNION
      SELECT run_id FROM manifest_entries
    ),
    known AS (
      SELECT * FROM written
      UNION ALL
      SELECT run_id, NULL, 0, updated_at, updated_at
      FROM named JOIN runtime_manifest
      WHERE run_id <> '' AND run_id NOT IN (SELECT run_id FROM written)
    ),
    ordered AS (
      SELECT known.*,
             run_id IS (SELECT active_run_id FROM runtime_manifest) AS is_last,
             (SELECT reason FROM write_batches WHERE batch_number = last_number)
               IS 'stop_tombstone' AS is_stopped,
             row_number() OVER one_by_one AS run_number,
             lead(run_id) OVER one_by_one AS successor,
             lead(began_at) OVER one_by_one AS successor_began_at
      FROM known
      WINDOW one_by_one AS (
        ORDER BY run_id IS (SELECT active_run_id FROM runtime_manifest), last_number, run_id
      )
    ),
    judged AS (
      SELECT *,
             CASE WHEN is_last AND NOT is_stopped THEN 'active'
                  WHEN is_stopped OR successor IS NULL THEN 'ended'
                  ELSE 'superseded' END AS state
      FROM ordered
    )
    SELECT run_number, run_id, state, began_at,
           (SELECT batch_id FROM write_batches WHERE batch_number = first_number),
           CASE state WHEN 'ended' THEN last_at
                      WHEN 'superseded' THEN max(last_at, successor_began_at) END,
           iif(state = 'ended', 'stopped', NULL),
           CASE WHEN state = 'ended' AND is_stopped THEN 'its last batch is a stop_tombstone'
                WHEN state = 'ended' THEN 'nothing names it as the active run' END,
           iif(state = 'superseded', successor, NULL)
    FROM judged
    """

VIEWS: dict[str, str] = {
    "run_log": """
    CREATE VIEW run_log AS
    -- Every run, the latest first: its state, how it ended, what it wrote, and when.
    WITH written AS (
      SELECT run_id,
             min(started_at) AS first_batch_at,
             max(started_at) AS last_batch_at,
             count(*) FILTER (WHERE state = 'committed') AS committed,
             count(*) FILTER (WHERE state = 'failed') AS failed,
             count(*) FILTER (WHERE state IN ('preparing', 'committing')) AS open,
             max(batch_number) AS last_number
      FROM write_batches
      GROUP BY run_id
    ),
    received AS (
      SELECT run_id, group_concat(schema_name, ', ') AS stores, sum(bytes) AS bytes
      FROM (
        SELECT run_id, schema_name, sum(file_size) AS bytes
        FROM write_receipts
        GROUP BY run_id, schema_name
        ORDER BY run_id, schema_name
      )
      GROUP BY run_id
    )
    SELECT run.run_id,
           run.state,
           run.state = 'active' AS is_active,
           run.began_at,
           run.ended_at,
           run.ending,
           run.why,
           run.superseded_by,
           last.reason AS last_reason,
           last.batch_id AS last_batch_id,
           written.first_batch_at,
           written.last_batch_at,
           unixepoch('now') - unixepoch(written.last_batch_at) AS age_seconds,
           coalesce(written.committed, 0) AS committed,
           coalesce(written.failed, 0) AS failed,
           coalesce(written.open, 0) AS open,
           received.stores,
           coalesce(received.bytes, 0) AS bytes,
           run.host,
           run.pid  -- whether it still lives: rtstore runs DIR
    FROM runs AS run
    LEFT JOIN written ON written.run_id = run.run_id
    LEFT JOIN received ON received.run_id = run.run_id
    LEFT JOIN write_batches AS last ON last.batch_number = written.last_number
    ORDER BY run.run_number DESC
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
           run.state AS run_state,
           run.host AS run_host,
           run.pid AS run_pid,  -- whether that process still lives: rtstore status DIR
           manifest.active_capability_snapshot_id AS capability_snapshot_id,
           manifest.active_behavior_fingerprint AS behavior_fingerprint,
           (SELECT count(*) FROM manifest_entries) AS store_count,
           (SELECT coalesce(sum(file_size), 0) FROM manifest_entries) AS bytes,
           (SELECT count(*) FROM open_problems) AS problem_count
    FROM runtime_manifest AS manifest
    LEFT JOIN write_batches AS batch ON batch.batch_id = manifest.last_committed_batch_id
    LEFT JOIN runs AS run ON run.run_id = manifest.active_run_id
    """,
}
"""Views that are remade in a new shape, by name."""


def upgrade() -> None:
    """Make the table, fill it from the batches, and remake the views."""
    run = op.get_bind().exec_driver_sql
    for statement in (*STATEMENTS, FILL):
        run(_dedented(statement))
    for name, statement in VIEWS.items():
        run(f"DROP VIEW IF EXISTS {name}")
        run(_dedented(statement))
    run("PRAGMA user_version = 5")


def downgrade() -> None:
    """An older program gets the back-up that the upgrade made."""
    raise RuntimeError("a revision is not taken back: restore the back-up instead")


def _dedented(statement: str) -> str:
    # `.schema` shows the text as it was executed, so it should look like something.
    lines = [line[4:] for line in statement.strip("\n").splitlines()]
    return "\n".join(lines).strip()
