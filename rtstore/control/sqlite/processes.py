"""Find the processes that have a database open or locked. Works on Linux; elsewhere finds none.

Only files of `/proc` are opened: opening and closing a database would drop its locks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

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


def has_flock(path: Path, pid: int) -> bool:
    """Return whether a process is known to hold a file with flock. The device is not compared:
    some file systems show another one here."""
    with suppress_system_error(UnicodeDecodeError):
        end = f":{os.stat(path).st_ino}"
        for line in (_PROC / "locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            # 1: FLOCK  ADVISORY  WRITE 17589 fe:00:2368219 0 EOF
            is_flock = words[1:2] == ["FLOCK"] and words[3:5] == ["WRITE", str(pid)]
            if is_flock and words[5].endswith(end):
                return True
    return False


def process(pid: int) -> Process:
    """Return the command and the start time of a process, as far as they are known."""
    command, since = "an unknown program", None
    with suppress_system_error(ValueError):
        command = (_PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
        since = _started(pid)
    return Process(pid=pid, command=command, since=since)


def _locks_on(path: Path) -> list[tuple[int, str, int, float]]:
    """Return the locks on a file (POSIX and OFD): process, READ or WRITE, first and last byte."""
    try:
        wanted = os.stat(path)
        lines = (_PROC / "locks").read_text(encoding="ascii").splitlines()
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
        for line in (_PROC / "stat").read_text(encoding="ascii").splitlines()
        if line.startswith("btime ")
    )
    return datetime.fromtimestamp(boot + ticks / os.sysconf("SC_CLK_TCK"), UTC)


class Process(Record):
    """A process that has the database open or locked."""

    pid: int
    command: str
    since: Timestamp | None = None
