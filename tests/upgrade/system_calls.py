"""SIGKILL in place of every system call of an upgrade that changes a file, SQLite's own included.

    python -m tests.upgrade.system_calls [--quick] [REVISION]

Needs strace, which puts the signal in the place of the call. Prints a line of JSON for each
revision; with --quick only the first and the last call of each kind are tried. Run in a process of
one thread, which forks a child for each check.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.crash.workers import Copies, workshop
from tests.support import CHECKOUT
from tests.upgrade.kills import InChildren, Kills, begin, check_upgrade
from tests.upgrade.states import chosen

CALLS = ",".join(
    f"?{call}"  # an architecture has one of the unlinks, another one the other
    for call in (
        *("write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate"),
        *("fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir"),
    )
)
UPGRADE = "import sys; from rtstore import upgrade_directory; upgrade_directory(sys.argv[1])"


class CannotTraceError(Exception):
    """There is no strace here, or it may not trace."""


def killed_in(frozen: str, *, quick: bool = False) -> Kills:
    """Kill the upgrade of a frozen directory in place of each system call."""
    tally = Kills()
    checks = InChildren(check_upgrade(frozen), tally)
    with workshop() as workplace:
        copies = Copies(begin(frozen, workplace), workplace)
        with copies.fresh() as directory:
            code, calls = _upgrade(directory, workplace / "log")
        if code != 0 or not calls:
            raise CannotTraceError(f"strace ended with {code} after {len(calls)} calls")
        for number, call in enumerate(calls, start=1):
            nth = calls[:number].count(call)  # strace counts each kind by itself
            if quick and nth not in (1, calls.count(call)):
                continue
            with copies.fresh() as directory:
                inject = f"inject={call}:error=EIO:signal=KILL:when={nth}"
                code, done = _upgrade(directory, workplace / "log", "-e", inject)
                tally.points += 1
                tally.kinds[call] += 1
                where = f"{frozen}, killed in place of call {number}, {call}"
                if (code, done) != (-signal.SIGKILL, calls[:number]):
                    tally.failures.append(f"{where}: it was not hit, and ended with {code}")
                    continue
                checks.look_at(where, directory)
    return tally


def _upgrade(directory: Path, log: Path, *options: str) -> tuple[int, list[str]]:
    """Upgrade a directory under strace; return how it ended, and the calls that it made."""
    strace = shutil.which("strace")
    if strace is None:
        raise CannotTraceError("there is no strace here")
    done = subprocess.run(
        [
            *(strace, "-f", "-o", str(log), "-e", f"trace={CALLS}", "-e", "signal=none", *options),
            *(sys.executable, "-B", "-c", UPGRADE, str(directory)),
        ],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        check=False,
    )
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return done.returncode, [line.split()[1].partition("(")[0] for line in lines if "(" in line]


def main(arguments: list[str]) -> None:
    """The command."""
    for frozen in chosen(arguments):
        try:
            tally = killed_in(frozen, quick="--quick" in arguments)
        except CannotTraceError as error:
            raise SystemExit(str(error)) from error
        print(tally.line("system calls", revision=frozen), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
