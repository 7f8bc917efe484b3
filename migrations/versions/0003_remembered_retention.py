"""How much history is kept is remembered in the directory, not only in the programs that open it.

Purpose: a program that names no retention keeps what the others keep, and drops nothing of it.
Concerns: a directory that comes from before is given what every program that named none kept by:
1,000 batches and 50 contents a store. Where twice as much is there, its runtime keeps more, and has
not had the time to say so: no limit then. The next program that names one is believed.
"""

from __future__ import annotations

from alembic import op

revision = "0003_remembered_retention"
down_revision = "0002_history_and_upgrades"
branch_labels = None
depends_on = None

TABLE = """
    CREATE TABLE history_retention (
      -- How much history is kept, as the last program said that named it. Exactly one row.
      -- NULL: no limit. What is current or open is kept in any case.
      id INTEGER NOT NULL,
      batches INTEGER,  -- committed and failed batches, with their receipts
      contents_per_store INTEGER,  -- committed contents of each store, the current one included
      max_age_seconds REAL,  -- how long ago a batch may have ended
      CONSTRAINT pk_history_retention PRIMARY KEY (id),
      CONSTRAINT ck_history_retention_one_row CHECK (id = 1),
      CONSTRAINT ck_history_retention_batches CHECK (batches >= 1),
      CONSTRAINT ck_history_retention_contents_per_store CHECK (contents_per_store >= 1),
      CONSTRAINT ck_history_retention_max_age_seconds CHECK (max_age_seconds > 0)
    ) STRICT
    """

ROW = """
    INSERT INTO history_retention
    SELECT 1,
           CASE WHEN (SELECT count(*) FROM write_batches) <= 2000 THEN 1000 END,
           CASE WHEN NOT EXISTS
             (SELECT 1 FROM store_contents GROUP BY schema_name HAVING count(*) > 100) THEN 50 END,
           NULL
    """


def upgrade() -> None:
    """Make what is new."""
    connection = op.get_bind()
    connection.exec_driver_sql(_dedented(TABLE))
    connection.exec_driver_sql(_dedented(ROW))
    connection.exec_driver_sql("PRAGMA user_version = 3")


def downgrade() -> None:
    """An older program gets the back-up that the upgrade made."""
    raise RuntimeError("a revision is not taken back: restore the back-up instead")


def _dedented(statement: str) -> str:
    # `.schema` shows the text as it was executed, so it should look like something.
    lines = [line[4:] for line in statement.strip("\n").splitlines()]
    return "\n".join(lines).strip()
