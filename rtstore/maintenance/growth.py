"""Says which stores have a history that outgrows their data, and the commands that end that, and
that give its space back: pure, for `rtstore status`, `rtstore doctor` and `rtstore prune`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rtstore.control.contents import StoreSize
from rtstore.model.records import Suggestion
from rtstore.shell import shell_command

LARGE_HISTORY, MANY_TIMES = 128 << 20, 10
"""A history of a store outgrows its data when it is larger than this, in bytes, and so many times
as large. The usual limit of 64 MiB keeps it below."""
LARGE_WAL = 64 << 20
"""In bytes. Without a reader that stays in a transaction it is smaller, but for large batches."""
USUAL_MIB = 64
"""The limit of a program that names none, in MiB."""


def outgrown(sizes: Iterable[StoreSize], content_bytes: int | None) -> tuple[StoreSize, ...]:
    """Return the stores whose history outgrows their data many times over, and is not what the
    remembered limit of bytes asks for (None: no limit)."""
    wanted = max(LARGE_HISTORY, 2 * (content_bytes or 0))
    return tuple(
        store for store in sizes if store.history_bytes > max(wanted, MANY_TIMES * store.file_bytes)
    )


def space_returning(database: Path) -> Suggestion:
    """Return the command that lets a database give free space back again."""
    return Suggestion(
        command=shell_command("sqlite3", database, "PRAGMA auto_vacuum = 2; VACUUM"),
        why="has it give free space back again, now and later; stop every program that has the "
        "database open first",
    )


def pruning(directory: Path, content_bytes: int | None) -> Suggestion:
    """Return the command that drops history that has outgrown its data. `content_bytes` is the
    remembered limit (None: no limit)."""
    if content_bytes:
        return Suggestion(
            command=shell_command("rtstore", "prune", directory),
            why="drops what is beyond the limits that the directory remembers, and gives the space "
            "back",
        )
    return Suggestion(
        command=shell_command("rtstore", "prune", directory, "--mib", str(USUAL_MIB)),
        why=f"keeps the newest {USUAL_MIB} MiB of each store, this once; a program that opens it "
        "with Retention(content_bytes=...) has it stay so",
    )
