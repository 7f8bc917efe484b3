"""Views that answer in milliseconds, however long the history is; a history that is thinned by age.

Purpose: `store_history` and `store_changes` look at the versions that a query asks for, and at the
version before each, through an index; with windows they went through every content. Of two versions
only what differs is looked into. The batches of a run, and those that failed, are found through an
index. The history may be thinned by age.
Concerns: the two indexes are built from every row of `write_batches`, which takes a moment where
there are many. `history_retention` is made anew, for a column that is added later has no place for
its comment; it has one row. No directory thins its history until a program says so. The three
views are made anew, with two more columns, and without an order of their own where an order would
keep SQLite from looking at a part only.
"""

from __future__ import annotations

from alembic import op

revision = "0007_fast_views"
down_revision = "0006_open_words"
branch_labels = None
depends_on = None

RETENTION = """
    CREATE TABLE history_retention (
      -- How much history is kept, as the last program said that named it. Exactly one row.
      -- NULL: no limit. What is current or open is kept in any case.
      id INTEGER NOT NULL,
      batches INTEGER,  -- committed and failed batches, with their receipts
      contents_per_store INTEGER,  -- committed contents of each store, the current one included
      max_age_seconds REAL,  -- how long ago a batch may have ended
      content_bytes INTEGER,  -- of the committed contents of each store, the current one included
      -- 1: of what is older than an hour, each store keeps the last content of each hour, and of
      -- what is older than a day, that of each day
      thin_by_age INTEGER NOT NULL,
      CONSTRAINT pk_history_retention PRIMARY KEY (id),
      CONSTRAINT ck_history_retention_one_row CHECK (id = 1),
      CONSTRAINT ck_history_retention_batches CHECK (batches >= 1),
      CONSTRAINT ck_history_retention_contents_per_store CHECK (contents_per_store >= 1),
      CONSTRAINT ck_history_retention_max_age_seconds CHECK (max_age_seconds > 0),
      CONSTRAINT ck_history_retention_content_bytes CHECK (content_bytes >= 1),
      CONSTRAINT ck_history_retention_thin_by_age CHECK (thin_by_age IN (0, 1))
    ) STRICT
    """

INDEXES = [
    "CREATE INDEX ix_write_batches_run_id ON write_batches (run_id)",
    "CREATE INDEX ix_write_batches_failed ON write_batches (batch_number) WHERE state = 'failed'",
]

VIEWS: dict[str, str] = {
    "store_history": """
    CREATE VIEW store_history AS
    -- How a store changed over time: one row for each committed batch that wrote it. size_change is
    -- against the version before it on record; data is NULL where the content is not kept any more.
    -- The newest first: ORDER BY batch_number DESC
    SELECT written.schema_name AS store,
           written.batch_number,
           batch.high_watermark,
           batch.batch_id,
           batch.reason,
           written.written_at,
           unixepoch('now') - unixepoch(written.written_at) AS age_seconds,
           batch.run_id,
           written.file_size,
           written.file_size - (
             SELECT earlier.file_size
             FROM batch_writes AS earlier
             JOIN write_batches AS its_batch ON its_batch.batch_number = earlier.batch_number
             WHERE earlier.schema_name = written.schema_name
               AND earlier.batch_number < written.batch_number
               AND its_batch.state = 'committed'
             ORDER BY earlier.batch_number DESC
             LIMIT 1
           ) AS size_change,
           written.content_hash,
           CASE WHEN json_valid(stored.content) THEN json_extract(stored.content, '$.data') END
             AS data
    FROM batch_writes AS written
    JOIN write_batches AS batch ON batch.batch_number = written.batch_number
    LEFT JOIN store_contents AS stored
      ON stored.batch_number = written.batch_number AND stored.schema_name = written.schema_name
    WHERE batch.state = 'committed'
      AND written.batch_number > 0  -- has SQLite take the index that is in their order
    """,
    "store_changes": """
    CREATE VIEW store_changes AS
    -- What each committed batch changed in a store, value by value, as far as both versions are
    -- kept. before is NULL: the value is new; after is NULL: it went. Both are JSON. Only versions
    -- that the query asks for are compared. The newest first: ORDER BY batch_number DESC
    SELECT written.schema_name AS store,
           written.batch_number,
           batch.high_watermark,
           batch.batch_id,
           batch.reason,
           written.written_at,
           unixepoch('now') - unixepoch(written.written_at) AS age_seconds,
           batch.run_id,
           change.value ->> 0 AS path,  -- try data ->> path on store_history
           change.value ->> 1 AS before,
           change.value ->> 2 AS after
    FROM batch_writes AS written
    JOIN write_batches AS batch ON batch.batch_number = written.batch_number
    JOIN json_each((
      WITH RECURSIVE pair AS (
        SELECT stored.content, former.content AS earlier
        FROM store_contents AS stored
        JOIN store_contents AS former
          ON former.schema_name = stored.schema_name AND former.batch_number = (
            SELECT earlier.batch_number
            FROM batch_writes AS earlier
            JOIN write_batches AS its_batch ON its_batch.batch_number = earlier.batch_number
            WHERE earlier.schema_name = written.schema_name
              AND earlier.batch_number < written.batch_number
              AND its_batch.state = 'committed'
            ORDER BY earlier.batch_number DESC
            LIMIT 1
          )
        WHERE stored.schema_name = written.schema_name
          AND stored.batch_number = written.batch_number
          AND json_valid(stored.content) AND json_valid(former.content)
          AND (  -- numbers have no gaps: no batch in between was dropped, which may have written it
            SELECT count(*) FROM write_batches AS between_them
            WHERE between_them.batch_number > former.batch_number
              AND between_them.batch_number < stored.batch_number
          ) = stored.batch_number - former.batch_number - 1
      ),
      node(path, before, after) AS (  -- what differs, from the outside in, as JSON
        SELECT '$',
               CASE WHEN json_type(earlier, '$.data') IN ('object', 'array', 'true', 'false', 'null')
                    THEN earlier -> '$.data'
                    WHEN json_type(earlier, '$.data') IS NOT NULL
                    THEN json_quote(earlier ->> '$.data') END,
               CASE WHEN json_type(content, '$.data') IN ('object', 'array', 'true', 'false', 'null')
                    THEN content -> '$.data'
                    WHEN json_type(content, '$.data') IS NOT NULL
                    THEN json_quote(content ->> '$.data') END
        FROM pair
        UNION ALL
        SELECT node.path || (member.value ->> 0), member.value ->> 1, member.value ->> 2
        FROM node
        JOIN json_each((
          SELECT json_group_array(json_array(name, before, after))
          FROM (
            SELECT name, max(before) AS before, max(after) AS after
            FROM (
              SELECT substr(fullkey, 2) AS name,
                     NULL AS before,
                     CASE WHEN type IN ('object', 'array') THEN value
                          WHEN type IN ('true', 'false', 'null') THEN type
                          ELSE json_quote(value) END AS after
              FROM json_each(iif(node.after GLOB '[[{]*', node.after, '[]'))
              UNION ALL
              SELECT substr(fullkey, 2),
                     CASE WHEN type IN ('object', 'array') THEN value
                          WHEN type IN ('true', 'false', 'null') THEN type
                          ELSE json_quote(value) END,
                     NULL
              FROM json_each(iif(node.before GLOB '[[{]*', node.before, '[]'))
            )
            GROUP BY name
            HAVING max(before) IS NOT max(after)
          )
        )) AS member
        WHERE node.before GLOB '[[{]*' OR node.after GLOB '[[{]*'
      ),
      leaf AS (
        SELECT path,
               iif(before GLOB '[[{]*' AND before NOT IN ('[]', '{}'), NULL, before) AS before,
               iif(after GLOB '[[{]*' AND after NOT IN ('[]', '{}'), NULL, after) AS after
        FROM node
      )
      SELECT json_group_array(json_array(path, before, after))
      FROM (SELECT path, before, after FROM leaf WHERE before IS NOT after ORDER BY path)
    )) AS change
    WHERE batch.state = 'committed'
      AND written.batch_number > 0  -- has SQLite take the index that is in their order
    """,
    "run_log": """
    CREATE VIEW run_log AS
    -- Every run, the latest first: its state, how it ended, what it wrote, and when.
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
           (SELECT started_at FROM write_batches AS batch WHERE batch.run_id = run.run_id
            ORDER BY batch.batch_number LIMIT 1) AS first_batch_at,
           last.started_at AS last_batch_at,
           unixepoch('now') - unixepoch(last.started_at) AS age_seconds,
           (SELECT count(*) FROM write_batches AS batch
            WHERE batch.run_id = run.run_id AND batch.state = 'committed') AS committed,
           (SELECT count(*) FROM write_batches AS batch
            WHERE batch.run_id = run.run_id AND batch.state = 'failed') AS failed,
           (SELECT count(*) FROM write_batches AS batch
            WHERE +batch.run_id = run.run_id  -- by the index of the open ones
              AND batch.state IN ('preparing', 'committing')) AS open,
           (SELECT group_concat(schema_name, ', ') FROM
             (SELECT DISTINCT receipt.schema_name FROM write_receipts AS receipt
              WHERE receipt.run_id = run.run_id ORDER BY receipt.schema_name)) AS stores,
           (SELECT coalesce(sum(receipt.file_size), 0) FROM write_receipts AS receipt
            WHERE receipt.run_id = run.run_id) AS bytes,
           run.host,
           run.pid  -- whether it still lives: rtstore runs DIR
    FROM runs AS run
    LEFT JOIN write_batches AS last ON last.batch_number = (
      SELECT max(batch.batch_number) FROM write_batches AS batch WHERE batch.run_id = run.run_id
    )
    ORDER BY run.run_number DESC
    """,
}
"""Views that are remade in a new shape, by name."""


def upgrade() -> None:
    """Make the indexes, and remake the table and the views."""
    run = op.get_bind().exec_driver_sql
    run("CREATE TABLE retention_before AS SELECT * FROM history_retention")
    run("DROP TABLE history_retention")
    run(_dedented(RETENTION))
    run("INSERT INTO history_retention SELECT *, 0 FROM retention_before")
    run("DROP TABLE retention_before")
    for statement in INDEXES:
        run(statement)
    for name, statement in VIEWS.items():
        run(f"DROP VIEW IF EXISTS {name}")
        run(_dedented(statement))
    run("PRAGMA user_version = 7")


def downgrade() -> None:
    """An older program gets the back-up that the upgrade made."""
    raise RuntimeError("a revision is not taken back: restore the back-up instead")


def _dedented(statement: str) -> str:
    # `.schema` shows the text as it was executed, so it should look like something.
    lines = [line[4:] for line in statement.strip("\n").splitlines()]
    return "\n".join(lines).strip()
