"""Runs the revisions: on the connection that rtstore hands over, or on a runtime directory.

From a checkout, for whoever writes revisions:

    alembic -x directory=DIR current
    alembic -x directory=DIR check
    alembic -x directory=DIR upgrade head
    alembic revision --rev-id 0003_what_it_does -m "What it does."

Looking changes nothing. An upgrade by hand does all that rtstore does around the revisions: writer
lock, back-up, one transaction, checks, a row that says so. A revision that has shipped is never
edited again: `tests/upgrade/freeze.py` freezes what it makes.
"""

from __future__ import annotations

from pathlib import Path

from alembic import context
from sqlalchemy import Connection

from rtstore.control.schema import metadata

NEVER = {
    "downgrade": "a revision is not taken back",
    "stamp": "a revision is run, never only written down: user_version would say otherwise",
    "ensure_version": "rtstore init makes a control database",
}


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


def run_by_hand(command: str, directory: Path) -> None:
    """Run a command that somebody gave to alembic. Raises `RuntimeStoreError`."""
    from rtstore.control import revisions
    from rtstore.control.sqlite.engine import DATABASE_NAME, Database
    from rtstore.maintenance.upgrade import upgrade_by_hand

    path = directory / DATABASE_NAME
    if not revisions.exists(path):
        raise SystemExit(f"there is no control database in {directory}: rtstore init makes one")
    if command == "upgrade" and revisions.inspect_revision(path) != context.get_head_revision():
        with upgrade_by_hand(directory) as connection:
            run(connection)
        return
    revisions.inspect_revision(path)
    database = Database(path, read_only=True)
    try:
        database.read(run)
    finally:
        database.close()


def instead_of_downgrade(directory: str | None) -> str:
    """Name what has the state from before an upgrade: a back-up that one left, if there is any."""
    from rtstore.files.system import FileSystem
    from rtstore.maintenance.upgrade import backups_in
    from rtstore.shell import shell_command

    if directory is None:
        return "rtstore restore makes a directory of a back-up that an upgrade left"
    kept = backups_in(Path(directory), FileSystem()) if Path(directory).is_dir() else []
    if not kept:
        return f"no upgrade left a back-up in {directory}, to make a directory of"
    command = shell_command("rtstore", "restore", kept[-1])
    return f"{command} NEW_DIR makes a directory of the back-up that the last upgrade left"


def main() -> None:
    """What alembic asks for."""
    from rtstore.errors import RuntimeStoreError

    options = context.config.cmd_opts
    command = "" if options is None else options.cmd[0].__name__
    directory = context.get_x_argument(as_dictionary=True).get("directory")
    if command in NEVER:
        instead = ""
        if command == "downgrade":
            instead = f": {instead_of_downgrade(directory if isinstance(directory, str) else None)}"
        raise SystemExit(f"alembic {command}: {NEVER[command]}{instead}")
    if not isinstance(directory, str) or not directory:
        raise SystemExit(
            f"say which runtime directory: alembic -x directory=DIR {command or '...'}"
        )
    try:
        run_by_hand(command, Path(directory))
    except RuntimeStoreError as error:
        raise SystemExit(str(error)) from None


if context.is_offline_mode():
    raise SystemExit("rtstore runs its revisions on a database, not as a script")

handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    main()
