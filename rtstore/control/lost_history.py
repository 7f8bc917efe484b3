"""Find and remove what is left of batches that somebody deleted by hand.

In the `sqlite3` shell foreign keys are off: with a batch its writes and contents do not go. Its
history is lost then, and nothing else: no entry and no open batch needs those rows.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, exists, func, select

from rtstore.control.schema import (
    batch_deletions,
    batch_writes,
    manifest_entries,
    recovery_actions,
    recovery_runs,
    store_contents,
    write_batches,
)
from rtstore.control.sqlite.statements import Statement, driver_of


def count_remains(connection: Connection) -> int:
    """Return how many rows refer to a batch, or to a recovery, that somebody deleted, and are
    needed for nothing."""
    counts = (_COUNT_WRITES, _COUNT_CONTENTS, _COUNT_ACTIONS)
    found = sum(int(statement.scalar(connection)) for statement in counts)
    if _has_deletions(connection):
        found += int(_COUNT_DELETIONS.scalar(connection))
    return found


def remove_remains(connection: Connection) -> None:
    """Delete the rows that `count_remains` counts, in the caller's transaction."""
    statements = [_DELETE_WRITES, _DELETE_CONTENTS, _DELETE_ACTIONS]
    if _has_deletions(connection):
        statements.append(_DELETE_DELETIONS)
    for statement in statements:
        statement.run(connection)


def _has_deletions(connection: Connection) -> bool:
    query = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'batch_deletions'"
    return bool(driver_of(connection).execute(query).fetchone()[0])


_write_is_left = ~exists().where(
    write_batches.c.batch_number == batch_writes.c.batch_number
) & ~exists().where(
    manifest_entries.c.batch_number == batch_writes.c.batch_number,
    manifest_entries.c.schema_name == batch_writes.c.schema_name,
)
# The writes go first: then the contents have none, as if somebody had deleted those, too.
_content_is_left = ~exists().where(
    batch_writes.c.batch_number == store_contents.c.batch_number,
    batch_writes.c.schema_name == store_contents.c.schema_name,
) & ~exists().where(
    manifest_entries.c.batch_number == store_contents.c.batch_number,
    manifest_entries.c.schema_name == store_contents.c.schema_name,
)
_deletion_is_left = ~exists().where(write_batches.c.batch_number == batch_deletions.c.batch_number)
_action_is_left = ~exists().where(recovery_runs.c.run_number == recovery_actions.c.run_number)

_COUNT_WRITES = Statement(select(func.count()).select_from(batch_writes).where(_write_is_left))
_COUNT_CONTENTS = Statement(
    select(func.count()).select_from(store_contents).where(_content_is_left)
)
_COUNT_DELETIONS = Statement(
    select(func.count()).select_from(batch_deletions).where(_deletion_is_left)
)
_COUNT_ACTIONS = Statement(
    select(func.count()).select_from(recovery_actions).where(_action_is_left)
)
_DELETE_WRITES = Statement(delete(batch_writes).where(_write_is_left))
_DELETE_CONTENTS = Statement(delete(store_contents).where(_content_is_left))
_DELETE_DELETIONS = Statement(delete(batch_deletions).where(_deletion_is_left))
_DELETE_ACTIONS = Statement(delete(recovery_actions).where(_action_is_left))
