"""What each command prints for a reader of some width, kept in files that a test compares.

    python -m tests.cli.widths --renew    write what is printed now into the files

The commands run one after the other in a fresh directory, at one fixed moment. Ids that a command
makes, and sizes of databases, are masked by others of the same length.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, closing, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from pathlib import Path
from unittest.mock import patch

from rtstore import DATABASE_NAME, RuntimeStore
from rtstore.cli.demo.writer import IDENTITY, TEAM, fatal_checkpoint, first_checkpoints
from rtstore.model.times import Clock
from rtstore.testing import Seams, crash_at
from tests.cli.commands import run

WIDTHS = (80, 40, None)
FILES = Path(__file__).parent / "shown"
SESSIONS, LAUNCH = "opencode.sessionStore", "opencode.launchState"

COMMANDS = (
    "init new --team b",
    "status team",
    "status team --run-id run-9",
    "status teams",
    "watch team -n 0",
    "runs team",
    "log team",
    f"log team --store {SESSIONS} --since 1",
    "log crashed",
    f"history team {SESSIONS}",
    f"show team {SESSIONS} --at 1",
    f"diff team {SESSIONS}",
    "plan team",
    "plan torn",
    "plan crashed",
    "recover torn --dry-run",
    "recover torn",
    "recover crashed",
    "quarantine torn",
    "quarantine show torn 1",
    "quarantine diff torn 1",
    "quarantine restore torn 1",
    f"adopt torn {SESSIONS}",
    "quarantine prune torn --older-than 0 --dry-run",
    f"revert torn {SESSIONS} --to 1",
    "prune team --batches 1 --dry-run",
    "export team --to files",
    "report team -o team.html",
    "end-run team --why done",
    "backup team backups/team",
    "verify backups/team",
    "restore backups/team again",
    "quarantine nowhere",
)
"""Those that print nothing of this machine: not `doctor`, nor the demo."""

_ID = re.compile(r"\b(batch|plan|receipt)-(?!01dad0)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_SHORT_ID = re.compile(r"\b(batch|plan|receipt)-(?!01da)[0-9a-f]{4}…[0-9a-f]{4}")
_REVISION = re.compile(r"\b\d{4}_[a-z_]+")
_KIBIBYTES = re.compile(r"\b\d+\.\d KiB")


class _Noon(datetime):
    """A clock that stands, some minutes after the last batch."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _Noon:
        return cls(2026, 4, 21, 12, 34, 56, tzinfo=tz)


def printed(width: int | None) -> str:
    """Return every command with what it prints for a reader of that width; None: not known."""
    parts = []
    with _directories(), patch("rtstore.model.times.datetime", _Noon):
        for command in COMMANDS:
            result = run(*command.split(), columns=width)
            parts.append(f"$ rtstore {command}\n{result.out}{result.err}")
    return _masked("\n".join(parts))


def file_of(width: int | None) -> Path:
    """Return the file for readers of that width."""
    return FILES / ("any-width.txt" if width is None else f"{width}-columns.txt")


def _masked(text: str) -> str:
    text = _ID.sub(r"\1-00000000-0000-7000-8000-000000000000", text)
    text = _REVISION.sub("REVISION", text)
    return _KIBIBYTES.sub("N KiB", _SHORT_ID.sub(r"\1-0000…0000", text))


@contextmanager
def _directories() -> Iterator[None]:
    """Stand in a folder with a team, one that a crash left, one with torn files, and all three."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        with RuntimeStore.open("team", team_name=TEAM, seams=Seams(clock=_clock())) as store:
            for number, checkpoint in enumerate([*first_checkpoints(), fatal_checkpoint()], 1):
                store.write_batch(
                    identity=IDENTITY,
                    reason=checkpoint.reason,
                    writes=checkpoint.writes,
                    batch_id=_batch_id(number),
                )
            _crash(Path(shutil.copytree("team", "crashed")), _batch_id(5))
        for directory in ("team", "crashed"):
            with closing(sqlite3.connect(f"{directory}/{DATABASE_NAME}")) as raw, raw:
                raw.execute("UPDATE runs SET pid = 4242, process_start = '1'")
        torn = Path(shutil.copytree("team", "torn"))
        sessions = torn / "opencode-sessions.json"
        sessions.write_text(sessions.read_text().replace("alice", "alicia"))
        (torn / "opencode-host-leases.json").write_text("{")
        (torn / "launch-state.json").unlink()
        for name in ("team", "crashed", "torn"):
            shutil.copytree(name, Path("teams", name))
        yield


def _clock() -> Clock:
    seconds = count(1)
    return lambda: datetime(2026, 4, 21, 12, tzinfo=UTC) + timedelta(seconds=next(seconds))


def _batch_id(number: int) -> str:
    return f"batch-01dad0aa-5c0{number}-7000-8000-a9087476000{number}"


def _crash(directory: Path, batch_id: str) -> None:
    checkpoint = fatal_checkpoint()
    with crash_at("in-file-3"), RuntimeStore.open(directory, seams=Seams(clock=_clock())) as store:
        store.write_batch(
            identity=IDENTITY,
            reason=checkpoint.reason,
            writes=checkpoint.writes,
            batch_id=batch_id,
        )


def main() -> None:
    """Write the files."""
    if sys.argv[1:] != ["--renew"]:
        sys.exit(__doc__)
    FILES.mkdir(exist_ok=True)
    for width in WIDTHS:
        file_of(width).write_text(printed(width), encoding="utf-8")


if __name__ == "__main__":
    main()
