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

VIEWS: dict[str, str] = {}
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
