"""Finds out that a write-ahead log (WAL) is not of the database beside it.

SQLite takes any WAL that has the name, and writes it into the database. Nothing in a WAL names its
database, so only a contradiction shows that it is of another one, or of another copy of this one.
Each contradiction here is impossible after any crash, a loss of power amid a checkpoint included:

* Page 1 has a change counter. Each commit that writes the page leaves the counter as it is or adds
  one (`pager_write_changecounter` of SQLite). So the first version of page 1 in a WAL is at most
  one ahead of the database, and the last is not behind it.
* The row of the manifest is on one page. The last batch that it names without the WAL is on record
  with the WAL, too, or pruned and followed by others; and the team is the same.

Where a page may be torn, or the schema was changed in the WAL, nothing is said. Everything is
looked at without a connection that writes. The index of the WAL, the `-shm`, has no data: SQLite
may make it anew where there is one.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.control.sqlite import copying, idle, processes, sessions
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import driver_of
from rtstore.errors import CorruptDatabaseError, RuntimeStoreError
from rtstore.foreign import suppress_system_error, system_error
from rtstore.forks import no_fork
from rtstore.model.times import parse_time

_HEADER_BYTES, _FRAME_BYTES = 32, 24  # of a WAL, and of each page in it (sqlite.org/walformat.html)
_LITTLE, _BIG = 0x377F0682, 0x377F0683  # the beginning of a WAL: the order of bytes of its sums
_COUNTER, _COOKIE = slice(24, 28), slice(40, 44)  # of page 1 (sqlite.org/fileformat.html, 1.3)
_INTERIOR = 5  # the kind of a page of a table that has pages below it
_SECTOR = 512
"""Bytes. What a disk writes whole: of a page that is longer, a loss of power may leave a part."""


def problem_of_wal(path: Path) -> str | None:
    """Return in words why the WAL next to a database is not of it, or None.

    A database that a process has open is not looked at: its WAL is in use. None also where it
    cannot be found out.
    """
    if idle.wal_size(path) <= _HEADER_BYTES or not idle.knows_what_is_open():
        return None
    try:
        if _is_open(path):
            return None
        wal = _Wal(path)
        before = idle.piece(path, 0, 100), wal.header
        problem = _contradiction(path, wal, before[0])
        if problem is not None and (idle.piece(path, 0, 100), _Wal(path).header) != before:
            return None  # somebody opened it meanwhile
    except system_error(ValueError, struct.error):
        return None
    return None if problem is not None and _is_open(path) else problem


def spoils_pages(path: Path, is_sound: Callable[[Path], bool]) -> bool:
    """Return whether a copy of a database without its WAL is sound, and the WAL spoils its pages. A
    WAL that fits has batches, whatever somebody did to the rows. False where it cannot be found
    out."""
    if idle.wal_size(path) == 0 or not idle.knows_what_is_open() or _has_sound_pages(path):
        return False
    with (
        suppress_system_error(RuntimeStoreError),
        tempfile.TemporaryDirectory(prefix="rtstore-wal-") as temporary,
    ):
        alone = Path(temporary) / path.name
        with alone.open("wb") as copy:
            copy.writelines(idle.pieces(path, copying.PIECE_BYTES))
        return is_sound(alone)
    return False


def _has_sound_pages(path: Path) -> bool:
    try:
        copying.check(path)
    except CorruptDatabaseError:
        return False
    except RuntimeStoreError:
        pass  # that cannot be found out
    return True


def _is_open(path: Path) -> bool:
    found = os.stat(path)
    return sessions.is_in_use((found.st_dev, found.st_ino)) or bool(processes.connected(path))


def _contradiction(path: Path, wal: _Wal, header: bytes) -> str | None:
    if not wal.is_whole or not wal.frames:
        return None  # SQLite does not read it
    page_size = int.from_bytes(header[16:18])
    if wal.page_size != (1 << 16 if page_size == 1 else page_size):
        return f"the WAL has pages of {wal.page_size} bytes, the database of {page_size}"
    firsts = wal.versions_of(1)
    return _in_counters(wal, header, firsts) or _in_rows(path, wal, header, firsts)


# --- the change counter ---------------------------------------------------------------------------


def _in_counters(wal: _Wal, header: bytes, firsts: list[bytes]) -> str | None:
    if not firsts:
        return None
    counter = int.from_bytes(header[_COUNTER])
    counters = [int.from_bytes(page[_COUNTER]) for page in firsts]
    at = f"and the database is at change {counter}"
    # A frame counts only if all before it are whole. Their sums are slow, and seldom asked for.
    if counter > max(counters):
        read = wal.versions_of(1, wal.committed())
        last = max((int.from_bytes(page[_COUNTER]) for page in read), default=counter)
        return f"the WAL ends at change {last}, {at}" if counter > last else None
    if counter < counters[0] - 1 and wal.is_valid_to_page_1():
        return f"the WAL goes on from change {counters[0] - 1}, {at}"
    return None


# --- the row of the manifest ----------------------------------------------------------------------


class _Row(NamedTuple):
    """What the manifest's own row says of the last batch."""

    team_name: str
    high_watermark: int
    last_batch_id: str | None
    updated_at: str

    def makes_sense(self) -> bool:
        """Return whether a record was read where one is: its time, at the end of it, is a time."""
        parse_time(self.updated_at)
        return bool(self.team_name) and self.high_watermark >= 0


_ROW = "SELECT team_name, high_watermark, last_committed_batch_id, updated_at FROM runtime_manifest"
_ROOT = "SELECT rootpage FROM sqlite_schema WHERE name = 'runtime_manifest'"
_BATCHES = (  # every row: an index may be another database's
    "SELECT max(batch_id = ?), max(high_watermark = ?) FROM write_batches NOT INDEXED"
)


def _in_rows(path: Path, wal: _Wal, header: bytes, firsts: list[bytes]) -> str | None:
    if _changes_schema(path, wal, header, firsts):
        return None  # the table may be on another page without the WAL
    try:
        with no_fork(), closing(_alone(path)) as connection:
            (root,) = connection.execute(_ROOT).fetchone()
            row = _Row._make(connection.execute(_ROW).fetchone())
            if not row.makes_sense():
                return None
    except (sqlite3.Error, TypeError, AttributeError, ValueError):
        return None
    with suppress_system_error(RuntimeStoreError), _with_index(path) as there:
        problem = _in_whole(there, row)
        return None if problem is not None and _may_be_torn(path, wal, root) else problem
    return None


def _in_whole(path: Path, row: _Row) -> str | None:
    database = Database(path, read_only=True)
    try:
        return database.read(partial(_compare, row))
    except CorruptDatabaseError:
        spoils = spoils_pages(path, _has_sound_pages)
        return "the pages of the database are sound without the WAL only" if spoils else None
    finally:
        database.close()


@contextmanager
def _with_index(path: Path) -> Iterator[Path]:
    """Yield where a database can be read with its WAL, and nothing is made beside it. A crash
    leaves the index of the WAL; where there is none, SQLite would make one, so that is a copy."""
    if os.path.lexists(f"{path}-shm"):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rtstore-wal-") as temporary:
        copy = Path(temporary) / path.name
        for suffix in ("", "-wal"):
            with copy.with_name(copy.name + suffix).open("wb") as file:
                source = path.with_name(path.name + suffix)
                file.writelines(idle.pieces(source, copying.PIECE_BYTES))
        yield copy


def _alone(path: Path) -> sqlite3.Connection:
    """Open a connection that reads the main file without the WAL."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _compare(row: _Row, connection: Connection) -> str | None:
    """Compare the row without the WAL with everything as it is with the WAL."""
    driver = driver_of(connection)
    found = _Row._make(driver.execute(_ROW).fetchone())
    if found.team_name != row.team_name:
        return f"the WAL is of team {found.team_name!r}, and the database of team {row.team_name!r}"
    if row.last_batch_id is None:
        return None
    is_known, is_taken = driver.execute(
        _BATCHES, (row.last_batch_id, row.high_watermark)
    ).fetchone()
    if is_known or not (is_taken or found.high_watermark < row.high_watermark):
        return None
    return f"the WAL does not have the last batch of the database, {row.last_batch_id}"


def _changes_schema(path: Path, wal: _Wal, header: bytes, firsts: list[bytes]) -> bool:
    """Return whether a WAL may change the schema. Each change is in page 1, as a cookie, and on a
    page below it. Page 1 of the database may be of the WAL already, or torn: those in the WAL are
    whole."""
    if any(page[_COOKIE] != header[_COOKIE] for page in firsts):
        return True
    below = set[int]()
    for page in firsts:
        pages = set(_children(page, at=100))
        if not pages:
            return True  # page 1 has all of it
        below |= pages
    if not below.isdisjoint(frame.page for frame in wal.frames):
        return True
    kinds = (idle.piece(path, (page - 1) * wal.page_size, 1) for page in below)
    return any(kind == bytes([_INTERIOR]) for kind in kinds)


def _children(page: bytes, at: int) -> Iterator[int]:
    if page[at] != _INTERIOR:
        return
    (cells,) = struct.unpack_from(">H", page, at + 3)
    yield from struct.unpack_from(">I", page, at + 8)
    for start in struct.unpack_from(f">{cells}H", page, at + 12):
        yield from struct.unpack_from(">I", page, start)


def _may_be_torn(path: Path, wal: _Wal, root: int) -> bool:
    """Return whether some of a page of the database may have come from the WAL: a sector of it that
    is not empty is the same there. A checkpoint that lost power leaves a page so."""
    page = idle.piece(path, (root - 1) * wal.page_size, wal.page_size)
    versions = wal.versions_of(root)
    return any(
        any(sector) and any(version[start : start + _SECTOR] == sector for version in versions)
        for start in range(_SECTOR, wal.page_size, _SECTOR)
        for sector in (page[start : start + _SECTOR],)
    )


# --- the WAL --------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """A version of a page in a WAL."""

    page: int
    at: int
    """Where its bytes begin, in the file."""


class _Wal:
    """The WAL of a database, as plain files are read: SQLite has no lock on it."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + "-wal")
        with self._path.open("rb", buffering=0) as file:
            self.header = file.read(_HEADER_BYTES)
            magic, _, self.page_size = struct.unpack_from(">III", self.header)
            self._order = {_LITTLE: "<", _BIG: ">"}.get(magic)
            self.frames = list(self._frames(file.fileno()))

    @property
    def is_whole(self) -> bool:
        """Whether the header is that of a WAL, and as it was written."""
        if self._order is None:
            return False
        return self._sum(self.header[:24], (0, 0)) == struct.unpack_from(">II", self.header, 24)

    def _frames(self, file: int) -> Iterator[_Frame]:
        """Yield what was written since the WAL was begun anew: with its salts, in its order."""
        if self._order is None or not _SECTOR <= self.page_size <= 1 << 16:
            return
        at, salts, end = _HEADER_BYTES, self.header[16:24], os.fstat(file).st_size
        while at + _FRAME_BYTES + self.page_size <= end:  # a kill leaves the last one incomplete
            frame = os.pread(file, _FRAME_BYTES, at)
            if frame[8:16] == salts:
                yield _Frame(int.from_bytes(frame[:4]), at + _FRAME_BYTES)
            at += _FRAME_BYTES + self.page_size

    def versions_of(self, page: int, frames: list[_Frame] | None = None) -> list[bytes]:
        """Return every version of a page in all frames, or in these, in their order."""
        among = self.frames if frames is None else frames
        with self._path.open("rb", buffering=0) as file:
            found = (frame.at for frame in among if frame.page == page)
            return [os.pread(file.fileno(), self.page_size, at) for at in found]

    def is_valid_to_page_1(self) -> bool:
        """Return whether the sums of all frames until the first version of page 1 are right."""
        return any(frame.page == 1 for frame, _ in self._whole())

    def committed(self) -> list[_Frame]:
        """Return the frames that SQLite reads: whole ones, until the last that ends a transaction.
        A crash leaves others behind them, of which any part may be missing."""
        whole, until = [], 0
        for frame, ends_transaction in self._whole():
            whole.append(frame)
            until = len(whole) if ends_transaction else until
        return whole[:until]

    def _whole(self) -> Iterator[tuple[_Frame, bool]]:
        """Yield each frame until the first whose sum is wrong, and whether a transaction ends with
        it."""
        found = struct.unpack_from(">II", self.header, 24)
        size = _FRAME_BYTES + self.page_size
        with self._path.open("rb", buffering=0) as file:
            for number, frame in enumerate(self.frames):
                at = _HEADER_BYTES + number * size
                whole = os.pread(file.fileno(), size, at)
                if frame.at != at + _FRAME_BYTES:
                    return  # a frame before it has other salts
                found = self._sum(whole[_FRAME_BYTES:], self._sum(whole[:8], found))
                if found != struct.unpack_from(">II", whole, 16):
                    return
                yield frame, any(whole[4:8])

    def _sum(self, content: bytes, before: tuple[int, ...]) -> tuple[int, ...]:
        first, second = before
        words = struct.unpack(f"{self._order}{len(content) // 4}I", content)
        for one, other in zip(words[::2], words[1::2], strict=True):
            first = (first + one + second) & 0xFFFFFFFF
            second = (second + other + first) & 0xFFFFFFFF
        return first, second
