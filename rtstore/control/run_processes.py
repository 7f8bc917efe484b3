"""The process of a run: which one it is, and whether it still lives, as far as this host can tell.

A pid alone is not enough, because pids are used again. On Linux a process is told by its boot, its
pid namespace and its start in clock ticks since the boot, whatever the clock says
(proc_pid_stat(5), field 22). Elsewhere only the absence of a pid is certain.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from rtstore.model.runs import RunProcess

_PROC = Path("/proc")


def this_process() -> RunProcess:
    """Return the facts of this process that a run records."""
    pid, where = os.getpid(), _where()
    ticks = _ticks(pid)
    start = None if where is None or ticks is None else f"{where}/{ticks}"
    return RunProcess(host=socket.gethostname() or "localhost", pid=pid, start=start)


def is_this_process(process: RunProcess | None) -> bool:
    """Return whether a recorded process is this one."""
    return process is not None and process == this_process()


def is_alive(process: RunProcess | None) -> bool | None:
    """Return whether a recorded process is alive; None when that is not known: it was not recorded,
    or is of another host, or of another pid namespace."""
    if process is None or process.host != (socket.gethostname() or "localhost"):
        return None
    if process.start is None:
        return None if _exists(process.pid) else False
    where, _, ticks = process.start.rpartition("/")
    here = _where()
    if here is None:
        return None
    if where != here:
        same_boot = where.partition("/")[0] == here.partition("/")[0]
        return None if same_boot else False
    return ticks == _ticks(process.pid)


def _where() -> str | None:
    """Return the boot and the pid namespace of this process, or None when they are not known."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
    except (OSError, ValueError):
        return None
    return f"{boot}/{namespace}"


def _ticks(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the boot; None when it is gone."""
    with suppress(OSError, ValueError):
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        if fields[0] not in ("Z", "X"):  # a zombie has ended; only its parent has not asked yet
            return fields[19]
    return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
