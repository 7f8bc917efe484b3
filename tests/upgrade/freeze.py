"""Freezes the newest revision: a populated runtime directory that every later release must open.

    python -m tests.upgrade.freeze            before the revision ships for the first time
    python -m tests.upgrade.freeze --again    when it was changed before it shipped

A revision that has shipped is never frozen again: the point of it is that it does not change. What
lies in `fixtures/NNNN/` is the directory as a killed writer left it (`runtime.tar.xz`, the WAL
included), and what was in it, told by plain SQL when it was frozen (`facts.json`).
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.support import CHECKOUT, digest

FIXTURES = Path(__file__).parent / "fixtures"
ARCHIVE, FACTS = "runtime.tar.xz", "facts.json"
NOT_KEPT = ("-shm", "runtime-store.lock")


def folder_of(revision: str) -> Path:
    """Where a revision is frozen."""
    return FIXTURES / revision.split("_", 1)[0]


def unpack(revision: str, parent: Path) -> Path:
    """A copy of a frozen runtime directory."""
    directory = parent / "runtime"
    with tarfile.open(folder_of(revision) / ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return directory


@cache
def facts_of(revision: str) -> dict[str, Any]:
    """What was in it when it was frozen."""
    found: dict[str, Any] = json.loads((folder_of(revision) / FACTS).read_bytes())
    return found


def rows_of(path: Path) -> dict[str, list[list[Any]]]:
    """Every row of every table of a database, told by plain SQL."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table'"
            " AND name NOT IN ('sqlite_sequence', 'alembic_version') ORDER BY name"
        ).fetchall()
        return {
            name: sorted(map(list, connection.execute(f'SELECT * FROM "{name}"')), key=repr)
            for (name,) in tables
        }


def schema_of(path: Path) -> dict[str, str]:
    """The text of everything in a schema, by kind and name."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
        )
        return dict(found.fetchall())


def _die_in(directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.upgrade.life", str(directory)], cwd=CHECKOUT, check=False
    )
    if done.returncode != -signal.SIGKILL:
        raise SystemExit(f"the writer was to be killed, but ended with {done.returncode}")
    if not (directory / f"{DATABASE_NAME}-wal").stat().st_size:
        raise SystemExit("the killed writer left no WAL")


def _facts(directory: Path, scratch: Path, revision: str) -> dict[str, Any]:
    # Looked at in a copy: whoever opens the database merges the WAL when it closes.
    copy = Path(shutil.copytree(directory, scratch))
    return {
        "revision": revision,
        "schema": schema_of(copy / DATABASE_NAME),
        "rows": rows_of(copy / DATABASE_NAME),
        "files": {
            path.relative_to(directory).as_posix(): digest(path.read_bytes())
            for path in sorted(directory.rglob("*"))
            if path.is_file() and not path.name.startswith("runtime-store.")
        },
    }


def freeze(revision: str) -> Path:
    """Freeze the code's newest revision; return the folder."""
    folder = folder_of(revision)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "runtime"
        _die_in(directory)
        facts = _facts(directory, Path(temporary) / "copy", revision)
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / ARCHIVE, "w:xz", preset=9) as archive:
            for path in sorted(directory.rglob("*")):
                if not path.name.endswith(NOT_KEPT):
                    archive.add(path, path.relative_to(directory), recursive=False, filter=_plain)
        text = json.dumps(facts, indent=1, ensure_ascii=True)
        (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    return folder


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names and numbers of the machine that froze it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def main(arguments: list[str]) -> None:
    """The command."""
    revision = REVISIONS[-1]
    if folder_of(revision).exists() and arguments != ["--again"]:
        raise SystemExit(f"{revision} is frozen already; not shipped yet? Then with --again")
    folder = freeze(revision)
    for path in sorted(folder.iterdir()):
        print(f"{path.relative_to(CHECKOUT)}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
