"""SIGKILL before every SQL statement and file operation of a rebuild, and a rebuild after it.

    python -m tests.maintenance.rebuild_kills [--quick]

Prints a line of JSON for each job; `--quick` kills only before what changes something. Run in a
process of one thread, which forks a child for each trial.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection

from rtstore import (
    DATABASE_NAME,
    CorruptDatabaseError,
    InvalidRequestError,
    RuntimeStore,
    rebuild_database,
)
from rtstore.control import manifest, revisions
from rtstore.maintenance.rebuild_database.making import BROKEN_PREFIX
from rtstore.model.descriptors import KNOWN_DESCRIPTORS
from tests.crash.children import Say
from tests.crash.probe import TracedFileSystem
from tests.crash.workers import Tally, workshop
from tests.maintenance.test_rebuild_database import overwrite
from tests.support import (
    LEASES,
    LEDGER,
    NOON,
    TEAM,
    agree,
    digest,
    new_directory,
    open_store,
    write,
)
from tests.upgrade.kills import kill_everywhere

DATA = {LEASES: {"n": 2}, LEDGER: "kept"}
BROKEN = "broken.hashes"
"""Beside the directory: what the damaged database and its WAL were."""


def begin(place: Path) -> Path:
    """A place with a directory whose database is damaged and has a WAL."""
    place.mkdir()
    directory = new_directory(place)
    with open_store(directory) as store:
        write(store, LEASES, {"n": 1})
        write(store, LEDGER, DATA[LEDGER])
        write(store, LEASES, DATA[LEASES])
    path = directory / DATABASE_NAME
    overwrite(path, "write_batches")
    path.with_name(path.name + "-wal").write_bytes(b"what a dead writer left" * 100)
    (place / BROKEN).write_text(json.dumps(_hashes(directory)))
    return place


def _hashes(folder: Path) -> dict[str, str]:
    return {
        suffix: digest((folder / f"{DATABASE_NAME}{suffix}").read_bytes())
        for suffix in ("", "-wal")
        if (folder / f"{DATABASE_NAME}{suffix}").exists()
    }


def rebuilding(place: Path, _say: Say, fs: TracedFileSystem) -> None:
    """Rebuild."""
    rebuild_database(_directory(place), team_name=TEAM, fs=fs)


def in_place(place: Path, _say: Say, fs: TracedFileSystem) -> None:
    """A rebuild as it must not be: the old database goes before the new one is there."""
    directory = _directory(place)
    for suffix in ("", "-wal"):
        fs.unlink(directory / f"{DATABASE_NAME}{suffix}")
    revisions.create(directory / DATABASE_NAME, fs, _nothing_committed, lock=None)


def _nothing_committed(connection: Connection) -> None:
    manifest.insert_manifest(connection, manifest.default_manifest(TEAM, NOON))
    manifest.save_descriptors(connection, KNOWN_DESCRIPTORS)


def check(place: Path) -> list[str]:
    """Whatever there is: nobody starts with an empty store, the damaged database is whole
    somewhere, and rebuilding once more gives a store with everything."""
    directory = _directory(place)
    was = json.loads((place / BROKEN).read_text())
    problems = []
    if _hashes(directory) != was:  # no longer, or not all of it, in its place
        problems += _problems_in_use(directory)
    with suppress(InvalidRequestError):  # it is sound: the killed one had come to its end
        rebuild_database(directory, team_name=TEAM)
    with RuntimeStore.open(directory) as store:
        problems += [] if _is_whole(store) else ["the second rebuild lost something"]
    kept = [_hashes(folder) for folder in sorted(directory.glob(f"{BROKEN_PREFIX}*"))]
    if kept != [was]:
        problems.append(f"the damaged database is not as it was, in one folder: {kept}")
    if revisions.rebuilt_path(directory / DATABASE_NAME).exists():
        problems.append("the waiting database is still there")
    return problems


def _problems_in_use(directory: Path) -> list[str]:
    try:
        with RuntimeStore.open(directory, team_name=TEAM) as store:
            return [] if _is_whole(store) else ["a store without its data was opened"]
    except CorruptDatabaseError:
        return []


def _is_whole(store: RuntimeStore) -> bool:
    entries = {entry.schema_name for entry in store.manifest().entries}
    return (
        entries == DATA.keys()
        and agree(store)
        and all(store.read(name).data == data for name, data in DATA.items())
    )


def _directory(place: Path) -> Path:
    (directory,) = (path for path in place.iterdir() if path.is_dir())
    return directory


def main() -> None:
    """The command."""
    quick = "--quick" in sys.argv
    for name, act in {"rebuild": rebuilding, "control": in_place}.items():
        with workshop() as workplace:
            place = begin(workplace / "beginning")
            tally: Tally = kill_everywhere(
                name,
                place,
                act,
                check,
                quick=quick and name != "control",
                stop_at_first=name == "control",
            )
        line = {
            "job": name,
            "points": tally.points,
            "failures": len(tally.failures),
            "first": [failure[:300] for failure in tally.failures[:3]],
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
