"""Find the processes that have a database open, or a file locked. Works on Linux; elsewhere finds
none.

Only files of `/proc` are opened: opening and closing a database would drop its locks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rtstore.control.sqlite.ground import is_known_free
from rtstore.foreign import suppress_system_error, system_error
from rtstore.model.records import Record
from rtstore.model.times import Timestamp

_PROC = Path("/proc")
_WRITE_LOCK = 120
"""The byte of the `-shm` that a write transaction locks (sqlite.org/walformat.html, 2.3.2)."""
_READ_MARKS = range(123, 128)
"""The bytes of the `-shm` of which each read transaction locks one (same page)."""
_SHARED_FIRST = 0x40000002
"""The first byte of the shared lock, which every connection holds on a WAL database while it has
it open (sqlite.org/lockingv3.html)."""


def listed(found: Sequence[Process]) -> str:
    """Return one process or several, in words."""
    names = ", ".join(f"{item.pid} ({item.command})" for item in found)
    return f"process {names}" if len(found) == 1 else f"processes {names}"


def sql_writer(database: Path) -> Process | None:
    """Return the process that has a write transaction open on a WAL database, or None."""
    shared_memory = database.with_name(database.name + "-shm")
    for pid, kind, first, _ in _locks_on(shared_memory):
        if kind == "WRITE" and first == _WRITE_LOCK and pid > 0:
            return process(pid)
    return None


def in_transaction(database: Path) -> tuple[Process, ...]:
    """Return the processes that read in a transaction on a WAL database, without this one. While
    one of them stays in it, the WAL is not begun anew, and grows with each batch."""
    if is_known_free(database):
        return ()
    shared_memory = database.with_name(database.name + "-shm")
    pids = {
        pid
        for pid, kind, first, last in _locks_on(shared_memory)
        # The kernel joins locks of a process on bytes that follow each other.
        if kind == "READ" and any(first <= mark <= last for mark in _READ_MARKS)
    }
    return tuple(process(pid) for pid in sorted(pids - {os.getpid()}) if pid > 0)


def connected(database: Path) -> tuple[Process, ...]:
    """Return the processes that have a WAL database open, without this one."""
    if is_known_free(database):
        return ()
    pids = {pid for pid, _, first, _ in _locks_on(database) if first == _SHARED_FIRST}
    return tuple(process(pid) for pid in sorted(pids - {os.getpid()}) if pid > 0)


def reading(database: Path) -> tuple[Process, ...]:
    """Return the processes that `connected` returns, without one that closes the database as the
    last, or has it for itself: these lock it to write."""
    if is_known_free(database):  # to list all locks, the kernel stops all processors: 2 ms and more
        return ()
    pids = {
        pid
        for pid, kind, first, _ in _locks_on(database)
        if first == _SHARED_FIRST and kind == "READ"
    }
    return tuple(process(pid) for pid in sorted(pids - {os.getpid()}) if pid > 0)


class Flock(NamedTuple):
    """A lock with flock(2) on a file, and a process that has it."""

    pid: int
    path: str
    is_exclusive: bool


def flock_takers(paths: Sequence[str]) -> set[int] | None:
    """Return the processes that took the locks with flock on files, or None where the system does
    not tell. One of them may have ended since, and left its lock to a child: `flocks_of` asks."""
    # Some file systems show another device here than `stat` does.
    ends = tuple(f":{inode}" for _, inode in _identified(paths))
    try:
        lines = _lines_of_locks()
    except system_error(UnicodeDecodeError):
        return None
    # 1: FLOCK  ADVISORY  WRITE 17589 fe:00:2368219 0 EOF
    return {
        int(words[4])
        for words in map(str.split, lines)
        if words[1:2] == ["FLOCK"] and words[5].endswith(ends)
    }


def flocks_of(paths: Sequence[str], pids: Iterable[int] | None = None) -> list[Flock]:
    """Return the locks with flock that processes have on files, as their descriptors show. Without
    `pids`, of every process. Those of another user or container are not shown."""
    wanted = _identified(paths)
    if pids is None:
        pids = _all_pids()
    return [lock for pid in sorted(pids) for lock in set(_flocks_of(pid, wanted))]


def _identified(paths: Sequence[str]) -> dict[tuple[int, int], str]:
    """Return the files that are there by device and inode."""
    found = {}
    for path in paths:
        with suppress_system_error():
            status = os.stat(path)
            found[status.st_dev, status.st_ino] = path
    return found


def _all_pids() -> list[int]:
    with suppress_system_error():
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    return []


def _flocks_of(pid: int, wanted: dict[tuple[int, int], str]) -> Iterator[Flock]:
    place, inodes = f"{_PROC}/{pid}", {str(inode) for _, inode in wanted}
    with suppress_system_error():  # it has ended, or is another user's
        for number in os.listdir(f"{place}/fdinfo"):
            for is_exclusive, inode in _flocks_in(f"{place}/fdinfo/{number}"):
                if inode not in inodes:
                    continue  # what it has open may be on a medium that does not answer
                with suppress_system_error():
                    found = os.stat(f"{place}/fd/{number}")
                    if path := wanted.get((found.st_dev, found.st_ino)):
                        yield Flock(pid, path, is_exclusive)


def _flocks_in(facts: str) -> Iterator[tuple[bool, str]]:
    """Yield of each lock with flock of a descriptor whether it is exclusive, and the inode."""
    with suppress_system_error():
        text = Path(facts).read_text(encoding="utf-8", errors="replace")
        for words in map(str.split, text.splitlines()):
            # lock:   1: FLOCK  ADVISORY  WRITE 17589 fe:00:2368219 0 EOF
            if words[:1] == ["lock:"] and words[2] == "FLOCK":
                yield words[4] == "WRITE", words[6].rpartition(":")[2]


def process(pid: int) -> Process:
    """Return the command and the start time of a process, as far as they are known."""
    command, since = "an unknown program", None
    with suppress_system_error(ValueError):
        command = (_PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
        since = _started(pid)
    return Process(pid=pid, command=command, since=since)


def _lines_of_locks() -> list[str]:
    """Return every lock of the system, each in a line. Raises OSError, UnicodeDecodeError."""
    return (_PROC / "locks").read_text(encoding="utf-8").splitlines()


def _locks_on(path: Path) -> list[tuple[int, str, int, float]]:
    """Return the locks on a file (POSIX and OFD): process, READ or WRITE, first and last byte."""
    try:
        wanted = os.stat(path)
        lines = _lines_of_locks()
    except system_error(UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        words = line.split()
        # 1: POSIX  ADVISORY  WRITE 17589 fe:00:2368219 120 120
        if len(words) < 8 or words[1] not in ("POSIX", "OFDLCK"):
            continue
        with suppress(ValueError):
            major, minor, inode = words[5].split(":")
            device = os.makedev(int(major, 16), int(minor, 16))
            if (device, int(inode)) == (wanted.st_dev, wanted.st_ino):
                last = float("inf") if words[7] == "EOF" else int(words[7])
                found.append((int(words[4]), words[3], int(words[6]), last))
    return found


def _started(pid: int) -> datetime:
    """Return the start time of a process: boot time plus its ticks. Raises OSError, ValueError."""
    text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(text.rpartition(")")[2].split()[19])
    (boot,) = (
        int(line.split()[1])
        for line in (_PROC / "stat").read_text(encoding="utf-8").splitlines()
        if line.startswith("btime ")
    )
    return datetime.fromtimestamp(boot + ticks / os.sysconf("SC_CLK_TCK"), UTC)


class Process(Record):
    """A process that has the database open, or something locked."""

    pid: int
    command: str
    since: Timestamp | None = None
