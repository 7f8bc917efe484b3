"""What each command prints for a reader of some width, kept in files that a test compares.

    python -m tests.cli.widths --renew    write what is printed now into the files
    python -m tests.cli.widths --here     print it on this terminal

The commands run one after the other in a fresh directory, at one fixed moment and on one machine
that is made up. Ids that a command makes, and sizes of databases, are masked. What a terminal shows
is in the files where it is not what a pipe of its width gets.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, closing, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rtstore import DATABASE_NAME, RuntimeStore
from rtstore.cli.demo.writer import (
    IDENTITY,
    TEAM,
    Kill,
    fatal_checkpoint,
    first_checkpoints,
    kill_writer,
)
from rtstore.model.times import Clock
from rtstore.testing import Seams, crash_at
from tests.cli.commands import call, run
from tests.cli.terminals import run_on_terminal
from tests.upgrade.freeze import unpack

WIDTHS = (80, 40, None)
FILES = Path(__file__).parent / "shown"
SESSIONS = "opencode.sessionStore"
OLD = "0005_runs"

COMMANDS = (
    "--help",
    "prune --help",
    "demo demo",
    "init new --team b",
    "guide",
    "guide asyncio",
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
    "doctor team",
    "doctor torn",
    "doctor crashed",
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
    "import files --dry-run",
    "import files",
    "report team -o team.html",
    "end-run team --why done",
    "backup team backups/team",
    "verify backups/team",
    "restore backups/team again",
    "status lost",
    "doctor lost",
    "rebuild lost --team demo-team --run-id run-7f3a",
    "status old",
    "upgrade old --dry-run",
    "upgrade old",
    "quarantine nowhere",
    "statu team",
    "prune team --days long",
    f"history team {SESSIONS[:-1]}",
)

_ID = re.compile(r"\b(batch|plan|receipt)-(?!01dad0)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_SHORT_ID = re.compile(r"\b(batch|plan|receipt)-(?!01da)[0-9a-f]{4}…[0-9a-f]{4}")
_REVISION = re.compile(r"\b\d{4}_[a-z_]+")
_KIBIBYTES = re.compile(r"\b\d+\.\d(\s+)KiB")
_REVISIONS = re.compile(r"\(\d+(\s+)revisions?\)")
_AGE = re.compile(r"(?<=launch_checkpoint  )\d+$", re.MULTILINE)
"""Of a batch of the demo, whose writer has a clock of its own."""
ON_A_TERMINAL = "  # on a terminal"
"""Follows the command whose output a terminal shows in another way."""


class _Noon(datetime):
    """A clock that stands, some minutes after the last batch."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _Noon:
        return cls(2026, 4, 21, 12, 34, 56, tzinfo=tz)


def printed(width: int | None) -> str:
    """Return every command with what it prints for a reader of that width; None: not known."""
    piped = outputs(lambda *words: _piped(words, width))
    if width is None:
        return _text(piped)
    shown = outputs(lambda *words: run_on_terminal(*words, columns=width))
    parts = {}
    for command, text in piped.items():
        parts[command] = text
        if shown[command] != text:
            parts[f"{command}{ON_A_TERMINAL}"] = shown[command]
    return _text(parts)


def _piped(words: tuple[str, ...], width: int | None) -> str:
    result = run(*words, columns=width)
    return result.out + result.err


def _text(parts: Mapping[str, str]) -> str:
    return "\n".join(f"$ rtstore {command}\n{text}" for command, text in parts.items())


def outputs(run_one: Callable[..., str]) -> dict[str, str]:
    """Run every command, one after the other, in fresh directories; return what each printed."""
    with _directories(), patch("rtstore.model.times.datetime", _Noon), _one_machine():
        return {command: masked(run_one(*command.split())) for command in COMMANDS}


@contextmanager
def _one_machine() -> Iterator[None]:
    """Let the doctor and the demo find what they would find on one machine."""
    gathered = "rtstore.maintenance.doctor.gather."

    def killed(*words: Any) -> Kill:
        return kill_writer(*words).model_copy(update={"process_id": 4242})

    size = os.statvfs_result((4096, 4096, *[1 << 24] * 6, 0, 255))
    pages = {"journal_mode": "wal", "page_size": 4096, "page_count": 47, "encoding": "UTF-8"}
    with (
        patch(f"{gathered}engine_version", lambda: (3, 40, 1)),
        patch(f"{gathered}_file_system", lambda _: "ext4"),
        patch(f"{gathered}_space", lambda _: size),
        patch(f"{gathered}_sizes", lambda *_: {"store files": 3 << 10, "database": 188 << 10}),
        patch(f"{gathered}settings", lambda _: pages),
        patch(f"{gathered}_from_the_future", lambda *_: ()),
        patch("rtstore.cli.commands.demo.kill_writer", killed),
        patch("rtstore.cli.commands.demo._by_program", lambda _: None),
    ):
        yield


def file_of(width: int | None) -> Path:
    """Return the file for readers of that width."""
    return FILES / ("any-width.txt" if width is None else f"{width}-columns.txt")


def masked(text: str) -> str:
    """Return what does not change from run to run."""
    text = _ID.sub(r"\1-00000000-0000-7000-8000-000000000000", text)
    text = _REVISION.sub("REVISION", text)
    text = _REVISIONS.sub(r"(N\1revisions)", _AGE.sub("0", text))
    return _KIBIBYTES.sub(r"N\1KiB", _SHORT_ID.sub(r"\1-0000…0000", text))


@contextmanager
def _directories() -> Iterator[None]:
    """Stand in a folder with a team, one that a crash left, one with torn files, and all three; one
    without its database, and one of an older revision."""
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
        (Path(shutil.copytree("team", "lost")) / DATABASE_NAME).unlink()
        unpack(OLD, Path()).rename("old")
        Path("old").chmod(0o700)
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
    """Write the files, or print here."""
    if sys.argv[1:] == ["--here"]:
        outputs(_here)
    elif sys.argv[1:] == ["--renew"]:
        FILES.mkdir(exist_ok=True)
        for width in WIDTHS:
            file_of(width).write_text(printed(width), encoding="utf-8")
    else:
        sys.exit(__doc__)


def _here(*words: str) -> str:
    print(f"$ rtstore {' '.join(words)}", flush=True)
    call(*words)
    print(flush=True)
    return ""


if __name__ == "__main__":
    main()
