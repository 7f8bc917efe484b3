"""SIGKILL before every SQL statement and every file operation of an upgrade, and what is left.

    python -m tests.upgrade.kills [--quick] [kill|control|crowd] [REVISION]

With --quick those points are left out before which nothing can have changed since the last one.
Prints a line of JSON for each job and revision: how many points, before SQL statements and before
file operations, and one more at the end. Run in a process of one thread, which forks a child for
each trial.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from rtstore import FileSystem, RuntimeStore, RuntimeStoreError, upgrade_directory
from rtstore.control import revisions
from rtstore.control.lock import LOCK_NAME
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite import copying
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.maintenance.upgrade import BACKUPS_KEPT, backups_in
from rtstore.testing import Seams
from tests.crash.children import Child, Say
from tests.crash.kills import Act, kill, points_of
from tests.crash.ledger import Broken
from tests.crash.probe import TracedFileSystem
from tests.crash.workers import Copies, Tally, workshop
from tests.upgrade.freeze import unpack
from tests.upgrade.states import (
    chosen,
    looked_at,
    newest_schema,
    problems_in_use,
    problems_of_backups,
    problems_of_database,
    problems_of_files,
)

Check = Callable[[Path], list[str]]
PROCESSES = 10


@dataclass
class Kills(Tally):
    """What was tried, and before what."""

    kinds: Counter[str] = field(default_factory=Counter)
    """How many points there were before SQL statements, file operations, and the end."""
    different: int = 0
    """How many different directories passed."""

    def line(self, job: str, **more: str) -> str:
        """What is printed of it."""
        facts = {"job": job, **more, "points": self.points, **self.kinds}
        facts |= {"different": self.different} if self.different else {}
        first = [failure[:300] for failure in self.failures[:3]]
        return json.dumps({**facts, "failures": len(self.failures), "first": first})


def kill_everywhere(
    label: str,
    beginning: Path,
    act: Act,
    check: Check,
    *,
    quick: bool = False,
    stop_at_first: bool = False,
) -> Kills:
    """Kill an act before each of its points, each time on a fresh copy of the beginning; check.

    With `quick` those points are left out before which nothing can have changed since the last
    one. Of a control, the first failure is enough.
    """
    tally, copies = Kills(), Copies(beginning, beginning.parent)
    checks = InChildren(check, tally)
    for point in points_of(act, copies):
        if stop_at_first and tally.failures:
            break
        if quick and not point.changes:
            continue
        with copies.fresh() as directory:
            ended = kill(directory, act, point)
            tally.points += 1
            tally.kinds[point.kind] += 1
            where = f"{label}, killed at {point}"
            if ended.killed_at is None:
                tally.failures.append(f"{where}: it was not hit; {ended}")
                continue
            checks.look_at(where, directory)
    return tally


class InChildren:
    """Checks directories, each in a process of its own: what one opens and warms up must not help
    the next. A directory that is like one that passed is not checked again: what comes of it is
    the same."""

    def __init__(self, check: Check, tally: Kills) -> None:
        self._check = check
        self._tally = tally
        self._passed: set[str] = set()

    def look_at(self, where: str, directory: Path) -> None:
        """Check a directory; put what is wrong with it into the tally."""
        state = state_of(directory)
        problems = [] if state in self._passed else self._problems_of(directory)
        if not problems:
            self._passed.add(state)
        self._tally.different = len(self._passed)
        self._tally.check(where, problems)

    def _problems_of(self, directory: Path) -> list[str]:
        problems: list[str] = []

        def work(say: Say) -> None:
            for problem in self._check(directory):
                say(Broken(problem))

        ended = Child(work).wait()
        if not ended.finished:
            problems.append(str(ended))
        return problems + [str(note) for note in ended.notes if isinstance(note, Broken)]


def state_of(directory: Path) -> str:
    """A digest of all that a directory holds: names, modes, bytes and times. Those who only look
    give a WAL and its `-shm` another time, and what the lock file says is for messages only."""
    found = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        facts = path.lstat()
        has_time = stat.S_ISREG(facts.st_mode) and not path.name.endswith(("-wal", "-shm", ".lock"))
        time = facts.st_mtime_ns if has_time else 0
        found.update(f"{path.relative_to(directory)}\0{facts.st_mode}\0{time}\0".encode())
        if path.is_symlink():
            found.update(os.fsencode(path.readlink()))
        elif path.is_file() and path.name != LOCK_NAME:
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


# --- the upgrade --------------------------------------------------------------------------------


def opening(directory: Path, _say: Say, fs: TracedFileSystem) -> None:
    """Open an older store, which upgrades it."""
    RuntimeStore.open(directory, seams=Seams(fs=fs), recover=False).close()


def check_upgrade(frozen: str) -> Check:
    """The store is at the old revision or at the new one, whole; then a runtime goes on."""

    def check(directory: Path) -> list[str]:
        look = looked_at(directory)
        problems = problems_of_database(look / DATABASE_NAME, frozen, (frozen, REVISIONS[-1]))
        problems += problems_of_files(look, frozen)
        problems += problems_of_backups(look, frozen)
        return problems or problems_in_use(directory)

    return check


def begin(frozen: str, workplace: Path) -> Path:
    """A frozen directory that was upgraded before, time and again, and in which a process died that
    made a back-up: there is something to tidy."""
    directory = unpack(frozen, workplace / "before")
    kept = upgrade_directory(directory).backup
    assert kept is not None
    beginning = unpack(frozen, workplace)
    for day in range(BACKUPS_KEPT + 1):
        name = f"runtime-store.backup-{frozen}-2026050{day + 1}T080000.000Z.sqlite3"
        shutil.copy(kept, beginning / name)
    (beginning / ".runtime-store.backup-new.sqlite3").write_bytes(b"half a back-up")
    assert problems_of_backups(beginning, frozen) == []
    newest_schema()  # as the back-ups: the children that check find it done
    return beginning


def killed(frozen: str, *, quick: bool = False) -> Kills:
    """Kill the upgrade of a frozen directory everywhere."""
    copying.PAGES_AT_ONCE = 8
    with workshop() as workplace:
        before, check = begin(frozen, workplace), check_upgrade(frozen)
        return kill_everywhere(frozen, before, opening, check, quick=quick)


def in_pieces(directory: Path, _say: Say, _fs: TracedFileSystem) -> None:
    """An upgrade as it must not be: each statement in a transaction of its own."""
    import sqlite3

    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: sqlite3.connect(directory / DATABASE_NAME, isolation_level=None),
        poolclass=NullPool,
    )
    with engine.connect() as connection:
        revisions.run_revisions(connection)
    engine.dispose()


def control(frozen: str) -> Kills:
    """The upgrade in pieces, killed everywhere: the check must see it."""
    with workshop() as workplace:
        return kill_everywhere(
            frozen,
            unpack(frozen, workplace),
            in_pieces,
            check_upgrade(frozen),
            stop_at_first=True,
        )


# --- many at once -------------------------------------------------------------------------------


def crowd(frozen: str) -> Kills:
    """Ten processes open one old store at the same moment, and each writes a batch."""
    tally = Kills()
    with workshop() as workplace:
        directory = unpack(frozen, workplace)
        waiting, starting = os.pipe()

        def work(_: Say) -> None:
            os.close(starting)
            os.read(waiting, 1)  # ends for all when the parent closes its end
            with RuntimeStore.open(directory) as store:
                store.update(
                    "own.notes",
                    lambda notes: [*notes, os.getpid()],
                    identity=store.manifest().active_identity,  # type: ignore[arg-type]
                    reason="delivery_commit",
                )

        children = [Child(work) for _ in range(PROCESSES)]
        os.close(waiting)
        os.close(starting)
        ended = Child.wait_for_all(children)
        tally.points += len(ended)
        tally.failures += [str(child) for child in ended if not child.finished]
        with RuntimeStore.open(directory) as store:
            notes = store.read("own.notes").data
            upgrades = store.upgrades()
        backups = backups_in(directory, FileSystem())
        if len(notes) != 3 + PROCESSES or len(upgrades) != 1 or len(backups) != 1:
            problem = f"{len(upgrades)} upgrades, {len(backups)} back-ups, notes {notes}"
            tally.failures.append(problem)
    return tally


def main(arguments: list[str]) -> None:
    """The command: one line of JSON for each job and revision."""
    jobs: dict[str, Callable[[str], Kills]] = {
        "kill": partial(killed, quick="--quick" in arguments),
        "control": control,
        "crowd": crowd,
    }
    for name in [each for each in arguments if each in jobs] or jobs:
        for frozen in chosen(arguments):
            try:
                tally = jobs[name](frozen)
            except RuntimeStoreError as error:
                raise SystemExit(str(error)) from error
            print(tally.line(name, revision=frozen), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
