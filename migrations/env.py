"""Runs the revisions: on the connection that rtstore hands over, or on a runtime directory.

From a checkout, for whoever writes revisions:

    alembic -x directory=DIR current
    alembic -x directory=DIR check
"""

from __future__ import annotations

from pathlib import Path

from alembic import context
from sqlalchemy import Connection

from rtstore.database.engine import DATABASE_NAME
from rtstore.database.schema import metadata
from rtstore.database.upgrade import revision_connection
from rtstore.lock import WriterLock


def run(connection: Connection) -> None:
    """Run in the transaction that the connection is in; whoever began it commits it."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,  # SQLite alters tables by rebuilding them
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("rtstore runs its revisions on a database, not as a script")

handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    directory = context.get_x_argument(as_dictionary=True).get("directory")
    if not directory:
        raise SystemExit("say which runtime directory: alembic -x directory=DIR ...")
    database = Path(directory) / DATABASE_NAME
    if not database.is_file():
        raise SystemExit(f"there is no control database in {directory}: rtstore init makes one")
    with WriterLock(Path(directory)).hold(), revision_connection(database) as own:
        run(own)
