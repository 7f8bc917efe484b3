"""The process of a run: which one it is, and whether this host knows that it still lives.

A pid alone is not enough, because pids are used again. On Linux a process is identified by its
boot, its pid namespace and its start in clock ticks since the boot, whatever the clock says
(proc_pid_stat(5), field 22). The ticks are those of the reader's time namespace
(time_namespaces(7)), so that namespace is recorded, too. Where /proc hides the processes of other
users (its option `hidepid`), only the absence of a pid is certain, as everywhere else.

A run is of one directory. In a copy of that (a back-up, or `cp -r`) the same row speaks of a
process that works elsewhere, so the directory is identified too, by its device and inode.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

from rtstore.foreign import suppress_system_error, system_error
from rtstore.model.runs import RunProcess

_PROC = Path("/proc")


def this_process(directory: Path) -> RunProcess:
    """Return the facts of this process that a run in a runtime directory records."""
    pid = os.getpid()
    parts = (*_where(), _directory(directory), _ticks(pid), _clock())
    start = None if None in parts else "/".join(map(str, parts))
    return RunProcess(host=_host(), pid=pid, start=start)


def is_this_process(process: RunProcess | None) -> bool:
    """Return whether a recorded process is this one."""
    return process is not None and is_this(process.host, process.pid, process.start)


def is_this(host: str | None, pid: int | None, start: str | None) -> bool:
    """Return whether the facts of a recorded process are those of this one."""
    if (host, pid) != (_host(), os.getpid()):
        return False
    recorded = _Start(start)
    return start is None or (*recorded.where, recorded.ticks) == _this()


def is_alive(process: RunProcess | None, directory: Path) -> bool | None:
    """Return whether a recorded process is alive and works in this directory. None when that is not
    known: it was not recorded, or is hidden from this user, or is of another host, of another
    namespace of pids or of times, or of the directory that this one is a copy of."""
    if process is None or process.host != _host():
        return None
    if process.start is None:
        return None if _exists(process.pid) else False
    recorded, here = _Start(process.start), _where()
    if None in here:
        return None
    if recorded.where[0] != here[0]:
        return False  # the host was started again
    if recorded.where != here or recorded.clock not in ("", _clock()):
        return None
    found = _look_at(process.pid)
    if found is None:
        return None if _exists(process.pid) else False
    if found.has_ended or found.ticks != recorded.ticks:
        return False
    return True if recorded.directory == _directory(directory) else None


class _Start:
    """The parts of a recorded start."""

    def __init__(self, start: str | None) -> None:
        parts = [*(start or "").split("/"), "", "", "", "", ""]
        self.where: tuple[str | None, str | None] = parts[0], parts[1]
        self.directory = parts[2]
        self.ticks = parts[3]
        self.clock = parts[4]
        """The time namespace; empty where none was recorded."""


def _this() -> tuple[str | None, ...]:
    """Return boot, namespace and start of this process, which stay the same: each batch asks."""
    pid = os.getpid()
    found = _known.get(pid) or (*_where(), _ticks(pid))
    if None not in found:
        _known[pid] = found
    return found


_known: dict[int, tuple[str | None, ...]] = {}


def _host() -> str:
    return socket.gethostname() or "localhost"


def _where() -> tuple[str | None, str | None]:
    """Return the boot and the pid namespace of this process; None where they are not known."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return boot, os.readlink(_PROC / "self/ns/pid")
    except system_error(UnicodeDecodeError):
        return None, None


def _clock() -> str:
    """Return the time namespace of this process; "-" where there is none."""
    try:
        return os.readlink(_PROC / "self/ns/time")
    except system_error():
        return "-"


def _directory(directory: Path) -> str | None:
    try:
        found = os.stat(directory)
    except system_error():
        return None
    return f"{found.st_dev:x}:{found.st_ino:x}"


class _Found(NamedTuple):
    """What /proc shows of a process."""

    state: str
    ticks: str
    """When it started, in clock ticks since the boot."""

    threads: str
    """How many threads it has. The first one counts as long as there is another."""

    @property
    def has_ended(self) -> bool:
        """Whether it is a zombie: it has ended, and its parent has not asked for it yet."""
        return self.state in ("Z", "X") and self.threads in ("0", "1")


def _look_at(pid: int) -> _Found | None:
    """Return what /proc shows of a process; None when there is none, or it is hidden."""
    with suppress_system_error(IndexError):
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return _Found(fields[0], fields[19], fields[17])
    return None


def _ticks(pid: int) -> str | None:
    found = _look_at(pid)
    return None if found is None else found.ticks


def is_stopped(process: RunProcess) -> bool:
    """Return whether a process that is alive is stopped by a signal (SIGSTOP, Ctrl-Z)."""
    return is_stopped_pid(process.pid)


def is_stopped_pid(pid: int) -> bool:
    """Return whether the process of this pid is stopped by a signal."""
    found = _look_at(pid)
    return found is not None and found.state in ("T", "t")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except system_error(OverflowError):
        return True
    return True
