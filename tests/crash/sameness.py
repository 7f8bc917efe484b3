"""What is in a directory, and when two of them are the same to whoever opens them next.

Many crashes come to the same end: what recovers them leaves the same files and the same rows. What
follows is then the same, too, so the check tries it for the first of them only.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from rtstore import DATABASE_NAME
from rtstore.control.lock import LOCK_NAME
from rtstore.model.times import utc_now
from rtstore.testing import StepClock
from tests.crash.ledger import Ledger

WAL = f"{DATABASE_NAME}-wal"
OURS = {DATABASE_NAME, WAL, f"{DATABASE_NAME}-shm", LOCK_NAME}

_TIME = re.compile(r"(?<=\bmtime_ns=)[0-9]+")
"""The time of a file in what a caller was told of a batch."""


class Seen(NamedTuple):
    """A file or a directory."""

    content: bytes | None
    """None for a directory, and for what is no file."""
    mode: int
    mtime_ns: int
    identity: tuple[int, int]
    """Number and change time, as the database remembers them."""


class Table(NamedTuple):
    """The rows of a table, in the order in which they lie."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True)
class Sight:
    """All that a directory holds: files by their bytes, the database by its rows."""

    files: Mapping[str, Seen] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    about: tuple[object, ...] = ()
    """What else SQLite says of the database: schema, version, and how many pages."""
    damage: tuple[str, ...] = ()
    """What is wrong with the database as a file of SQLite."""

    @cached_property
    def contents(self) -> tuple[object, ...]:
        """What another program finds: names, bytes and rows."""
        files = [(name, seen.content) for name, seen in self.files.items() if name not in OURS]
        return tuple(files), tuple(self.tables.items())

    def digest(self, ledger: Ledger) -> str:
        """The same for two directories, and what was promised of them, that neither the library nor
        the check can tell apart.

        Names, bytes, modes and rows are compared as they are. A time of a file is only ever
        compared with others, so it stands for its place in their order; the file that a row
        remembers by number and change time is the one that is there, or not.
        """
        promised = repr(_promises(ledger))
        times = {*self._times(), *map(int, _TIME.findall(promised))}
        order: dict[int | None, int] = {time: place for place, time in enumerate(sorted(times))}
        promised = _TIME.sub(lambda found: str(order[int(found[0])]), promised)
        told = hashlib.sha256(repr(self.about).encode() + promised.encode())
        for name, seen in self.files.items():
            told.update(repr((name, seen.mode, order.get(_time_of(name, seen)))).encode())
            told.update(hashlib.sha256(seen.content or b"").digest())
        for name, table in self.tables.items():
            for row in table.rows:
                told.update(repr((name, self._without_times(table.columns, row, order))).encode())
        return told.hexdigest()

    def _times(self) -> Iterator[int]:
        for name, seen in self.files.items():
            if (time := _time_of(name, seen)) is not None:
                yield time
        for table in self.tables.values():
            if "mtime_ns" in table.columns:
                at = table.columns.index("mtime_ns")
                yield from (found for row in table.rows if isinstance(found := row[at], int))

    def _without_times(
        self, columns: Sequence[str], row: Sequence[object], order: Mapping[int | None, int]
    ) -> list[object]:
        told = dict(zip(columns, row, strict=True))
        time = told.get("mtime_ns")
        if isinstance(time, int):
            told["mtime_ns"] = order[time]
        if told.get("file_inode") is not None:
            there = self.files.get(str(told["relative_path"]))
            remembered = (told["file_inode"], told["file_ctime_ns"])
            told["file_inode"] = there is not None and remembered == there.identity
            told["file_ctime_ns"] = "of that file"
        return list(told.values())


def _time_of(name: str, seen: Seen) -> int | None:
    """The time of a store's file; nobody looks at those of folders, or of the database."""
    return None if name in OURS or seen.content is None else seen.mtime_ns


def _promises(ledger: Ledger) -> tuple[object, ...]:
    refused = [(refused.batch_id, refused.outcome) for refused in ledger.refused.values()]
    over = sorted(ledger.ending), sorted(ledger.ended)
    return list(ledger.intents.values()), ledger.told, refused, over, ledger.foreign


def look_at(directory: Path, *, in_depth: bool = False) -> Sight:
    """Read all of a directory; `in_depth` also looks for damage. (This opens the database.)"""
    files = dict(sorted(_files(directory)))
    path = directory / DATABASE_NAME
    if not path.exists():
        return Sight(files)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables = {name: _table(connection, name) for name in _tables(connection)}
        schema = connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
        asked = ("user_version", "page_count", "freelist_count", "journal_mode")
        said = [connection.execute(f"PRAGMA {name}").fetchone() for name in asked]
        damage = tuple(damage_through(connection)) if in_depth else ()
    return Sight(files, tables, (*schema, *said), damage)


def damage_through(connection: sqlite3.Connection) -> Iterator[str]:
    """What is wrong with a database: pages, indexes, and references to rows that are not there."""
    answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if answer != "ok":
        yield f"integrity_check: {answer}"
    orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
    if orphans:
        yield f"foreign_key_check: {orphans}"


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    return [name for (name,) in found]


def _table(connection: sqlite3.Connection, name: str) -> Table:
    rows = connection.execute(f'SELECT * FROM "{name}" NOT INDEXED')
    columns = tuple(column for column, *_ in rows.description)
    return Table(columns, tuple(rows))


def _files(directory: Path) -> Iterator[tuple[str, Seen]]:
    for name, is_folder in names_below(directory):
        path = directory / name
        there = path.lstat()
        # Closing any descriptor of the database would drop the locks that this process has on it.
        reads = not is_folder and path.is_file() and name not in OURS
        content = path.read_bytes() if reads else None
        number = there.st_ino if there.st_ino < 1 << 63 else there.st_ino - (1 << 64)
        yield name, Seen(content, there.st_mode, there.st_mtime_ns, (number, there.st_ctime_ns))


def names_below(directory: Path, above: str = "") -> Iterator[tuple[str, bool]]:
    """Every name below a directory, and whether it is one of a directory itself."""
    for entry in os.scandir(directory):
        is_folder = entry.is_dir()
        yield f"{above}{entry.name}", is_folder
        if is_folder and not entry.is_symlink():
            yield from names_below(directory / entry.name, f"{above}{entry.name}/")


class Passed:
    """The directories from which a scenario was found to go on as it should, and its clock.

    The clock begins anew for each trial, after the beginning was built: what is written at the same
    step has the same time in all trials.
    """

    def __init__(self) -> None:
        self._began = utc_now()
        self._places: set[str] = set()

    def clock(self, *, later: int = 0) -> StepClock:
        """The clock of a trial, or of a process that comes so many others later."""
        return StepClock(self._began + later * timedelta(seconds=1))

    def place(self, seen: Sight, ledger: Ledger, step: str) -> str | None:
        """What stands for a directory at a step of the check; None where something is still in the
        WAL, or where there is no database, or where a promise was seen to be broken."""
        if WAL in seen.files or not seen.tables or ledger.problems:
            return None
        return f"{step} {seen.digest(ledger)}"

    def __contains__(self, place: object) -> bool:
        return place in self._places

    def add(self, place: str) -> None:
        """From here it went on as it should."""
        self._places.add(place)
