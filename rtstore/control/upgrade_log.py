"""The record of upgrades in the database, and queries that work with any revision."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, insert, select

from rtstore.control.schema import database_upgrades, runtime_manifest
from rtstore.control.sqlite.statements import Statement
from rtstore.model.records import DatabaseUpgrade
from rtstore.model.times import format_time


def insert_upgrade(
    connection: Connection, *, found: str, reached: str, upgraded_at: datetime, backup_path: str
) -> None:
    """Record an upgrade, in the transaction that makes it."""
    _INSERT.run(
        connection,
        upgrade_number=None,
        from_revision=found,
        to_revision=reached,
        upgraded_at=format_time(upgraded_at),
        backup_path=backup_path,
    )


def list_upgrades(connection: Connection) -> list[DatabaseUpgrade]:
    """Return the upgrades of this database, oldest first."""
    return [DatabaseUpgrade.model_validate(row) for row in _SELECT.all(connection)]


def team_name(connection: Connection) -> str | None:
    """Return the team of a database of any revision, or None when the row is missing."""
    name = _SELECT_TEAM.scalar(connection)
    return None if name is None else str(name)


_INSERT = Statement(insert(database_upgrades))
_SELECT = Statement(select(database_upgrades).order_by(database_upgrades.c.upgrade_number))
_SELECT_TEAM = Statement(select(runtime_manifest.c.team_name))
