"""Broken directories, one of each kind: what `doctor` and `status` say, the fix, and `status` then.

    python -m tests.cli.troubles [NAME ...]

prints the transcript; the commands are run in this process, but for those of the shell.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rtstore import (
    DATABASE_NAME,
    FileSystem,
    RunIdentity,
    RuntimeStore,
    rebuild_database,
)
from rtstore.cli.demo.writer import TEAM
from tests.cli.commands import Crash, Result, crashed_team, ready_team, run, words_of
from tests.maintenance.test_rebuild_database import overwrite
from tests.support import child, hear

LEASES_FILE = "opencode-host-leases.json"


@dataclass(frozen=True)
class Trouble:
    """A kind of trouble: how it comes about, and where the store is once it is fixed."""

    make: Callable[[Path], Path]
    check: str
    """The check that finds it."""
    level: str
    says: str
    """Words of the sentence."""
    fix: str
    """How the command that is printed begins."""
    fixed_at: str = ""
    """What is added to the directory's name to get where the store is then."""
    sql_lock: bool = False
    """Another process has a write transaction open meanwhile."""


@dataclass(frozen=True)
class Told:
    """What was run, and what it printed."""

    command: str
    result: Result


# --- how they come about --------------------------------------------------------------------------


def _with(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(parent: Path) -> Path:
        directory = ready_team(parent)
        change(directory)
        return directory

    return make


def _database(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    return _with(lambda directory: change(directory / DATABASE_NAME))


def _tear(directory: Path) -> None:
    path = directory / LEASES_FILE
    path.write_bytes(path.read_bytes()[:40])
    (directory / "opencode-sessions.json").unlink()


def _edit(directory: Path) -> None:
    path = directory / LEASES_FILE
    path.write_text(path.read_text().replace("updatedAt", "updated_at"))


def _damage_with_backup(directory: Path) -> None:
    assert run("backup", directory, directory.parent / "backup-of-monday").code == 0
    overwrite(directory / DATABASE_NAME, "write_batches")


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmarks (url)")


def _out_of_wal(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)


class _Dying(FileSystem):
    """Dies before the new database gets its name."""

    def rename(self, source: Path, target: Path) -> None:
        if target.name == DATABASE_NAME and target.parent.name == "team":
            raise Crash
        super().rename(source, target)


def _sql(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            for statement in statements:
                raw.execute(statement)

    return change


def _delete_old_batch(directory: Path) -> None:
    with RuntimeStore.open(directory) as store:
        identity = store.manifest().active_identity
        assert identity is not None
        leases = store.read("opencode.hostLeases").data
        for number in range(2):
            writes = {"opencode.hostLeases": {**leases, "number": number}}
            store.write_batch(identity=identity, reason="launch_checkpoint", writes=writes)
    _sql("DELETE FROM write_batches WHERE batch_number = 4")(directory / DATABASE_NAME)


def _interrupted(directory: Path) -> None:
    (directory / DATABASE_NAME).write_bytes(b"")
    with suppress(Crash):
        rebuild_database(directory, team_name=TEAM, fs=_Dying())


def _link(path: Path) -> None:
    elsewhere = path.absolute().parent.parent / "elsewhere.sqlite3"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _hard_links(directory: Path) -> None:
    subprocess.run(["cp", "-al", directory, directory.with_name("linked")], check=True)


def _pipe_beside(path: Path) -> None:
    os.mkfifo(path.with_name(path.name + "-wal"))


def _wal_of_another(path: Path) -> None:
    with RuntimeStore.open(path.parent.parent / "other", team_name="other") as other:
        for number in range(30):
            writes = {"opencode.hostLeases": {"n": number, "text": "x" * 9_000}}
            other.write_batch(
                identity=RunIdentity(run_id="r"), reason="launch_checkpoint", writes=writes
            )
        shutil.copy(other.directory / f"{DATABASE_NAME}-wal", f"{path}-wal")


def _no_launch_state(directory: Path) -> None:
    (directory / "launch-state.json").unlink()
    overwrite(directory / DATABASE_NAME, "write_batches")


def _open_to_all(directory: Path) -> None:
    for path in (directory, *directory.iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o666)


TROUBLES = {
    "a writer died in the middle of a batch": Trouble(
        crashed_team, "stores", "red", "blocked", "rtstore recover"
    ),
    "files torn and deleted": Trouble(
        _with(_tear), "stores", "yellow", "degraded", "rtstore recover"
    ),
    "a file edited by hand": Trouble(_with(_edit), "stores", "yellow", "degraded", "rtstore adopt"),
    "the database damaged, with a back-up": Trouble(
        _with(_damage_with_backup), "database", "red", "damaged", "rtstore restore", "-restored"
    ),
    "the database damaged, without one": Trouble(
        _database(lambda path: overwrite(path, "write_batches")),
        "database",
        "red",
        "damaged",
        "rtstore rebuild",
    ),
    "a view of the database replaced": Trouble(
        _database(_sql("DROP VIEW run_log", "CREATE VIEW run_log AS SELECT 1 AS one")),
        "database",
        "red",
        "not what its revision makes",
        "rtstore upgrade",
    ),
    "the name of its revision edited": Trouble(
        _database(_sql("UPDATE alembic_version SET version_num = ''")),
        "database",
        "red",
        "gone or altered",
        "rtstore upgrade",
    ),
    "old batches deleted by hand": Trouble(
        _with(_delete_old_batch),
        "database",
        "yellow",
        "deleted history of it by hand",
        "rtstore upgrade",
    ),
    "the database emptied": Trouble(
        _database(lambda path: path.write_bytes(b"")),
        "database",
        "red",
        "truncated",
        "rtstore rebuild",
    ),
    "the database deleted": Trouble(
        _database(lambda path: path.unlink()), "database", "red", "gone", "rtstore rebuild"
    ),
    "the database renamed": Trouble(
        _database(lambda path: path.rename(f"{path}.old")),
        "database",
        "red",
        "under another name",
        "mv",
    ),
    "another program's database": Trouble(
        _database(_foreign), "database", "red", "not a control database", "rtstore rebuild"
    ),
    "a link instead of the database": Trouble(
        _database(_link), "database", "red", "not a regular file", "mv"
    ),
    "a copy of hard links": Trouble(
        _with(_hard_links), "database", "red", "has another name", "cp -p"
    ),
    "a pipe beside the database": Trouble(
        _database(_pipe_beside), "database", "red", "not a regular file", "mv"
    ),
    "the WAL of another database": Trouble(
        _database(_wal_of_another), "database", "red", "-wal, which", "mv"
    ),
    "the database and the launch state gone wrong": Trouble(
        _with(_no_launch_state), "database", "red", "damaged", "rtstore rebuild"
    ),
    "a rebuild that was interrupted": Trouble(
        _with(_interrupted), "database", "red", "interrupted", "rtstore rebuild"
    ),
    "a shell with an open write transaction": Trouble(
        ready_team, "lock", "red", "has a write transaction open", "kill", sql_lock=True
    ),
    "open to everybody": Trouble(
        _with(_open_to_all), "permissions", "yellow", "open to other users", "chmod"
    ),
    "taken out of WAL mode": Trouble(
        _database(_out_of_wal), "settings", "yellow", "out of WAL mode", "rtstore recover"
    ),
    "temporary files of a dead process": Trouble(
        _with(lambda directory: (directory / ".launch-state.json.rtstore-tmp").write_text("{")),
        "stray_files",
        "yellow",
        ".launch-state.json.rtstore-tmp",
        "rtstore recover",
    ),
}


# --- the way out ----------------------------------------------------------------------------------

HOLD = """
import sqlite3, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
say("locked")
while True:
    time.sleep(1)
"""


@contextmanager
def _meanwhile(trouble: Trouble, directory: Path) -> Iterator[None]:
    if not trouble.sql_lock:
        yield
        return
    with child(HOLD, directory.absolute() / DATABASE_NAME) as other:
        assert hear(other) == "locked"
        yield
        other.wait(timeout=30)  # the fix has ended it


def findings(directory: Path, check: str) -> list[dict[str, object]]:
    """What `doctor` finds of one check, as data."""
    found = run("doctor", directory, "--json").json()["findings"]
    return [finding for finding in found if finding["check"] == check]


def go_through(trouble: Trouble, parent: Path) -> tuple[list[Told], Path]:
    """Have the doctor look, and `status`; run the first fix of the finding; `status` again. Gives
    everything that was run, and the directory."""
    directory = trouble.make(parent)
    with _meanwhile(trouble, directory):
        told = [Told(f"rtstore {name} {directory}", run(name, directory))
                for name in ("doctor", "status")]  # fmt: skip
        ways = [
            way
            for finding in findings(directory, trouble.check)
            for way in finding["ways"]  # type: ignore[attr-defined]
        ]
        command = next(way["command"] for way in ways if way["command"])
        told.append(Told(command, run_command(command)))
    fixed = directory.with_name(directory.name + trouble.fixed_at)
    told.append(Told(f"rtstore status {fixed}", run("status", fixed)))
    left = [step["command"] for step in run("status", fixed, "--json").json()["next"]]
    if left and left[0]:  # what status prints is followed too
        told.append(Told(left[0], run_command(left[0])))
        told.append(Told(f"rtstore status {fixed}", run("status", fixed)))
    return told, directory


def run_command(command: str) -> Result:
    """Run what was printed: our own command in this process, others as a shell would."""
    if command.startswith("rtstore "):
        return run(*words_of(command))
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def main(names: list[str]) -> None:
    """Print the transcript."""
    place = Path(tempfile.mkdtemp(prefix="rtstore-troubles-"))
    try:
        os.chdir(place)
        for name in names or TROUBLES:
            folder = Path(name.replace(" ", "-").replace(",", ""))
            folder.mkdir()
            print(f"=== {name}\n")
            for told in go_through(TROUBLES[name], folder)[0]:
                output = (told.result.out + told.result.err).rstrip()
                print(f"$ {told.command}\n{output}\n[exit code {told.result.code}]\n")
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main(sys.argv[1:])
