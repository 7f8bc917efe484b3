"""Every kind of trouble, walked: what is advised is run as it is printed, until the runtime may
start or somebody is named who must act."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rtstore import (
    DATABASE_NAME,
    KNOWN_DESCRIPTORS,
    BatchFailedError,
    Descriptor,
    RuntimeStore,
    import_directory,
)
from rtstore.cli.demo.writer import IDENTITY, TEAM
from rtstore.control.lock import LOCK_NAME
from rtstore.testing import Seams
from tests.cli.commands import crashed_team, ready_team, run, words_of
from tests.cli.troubles import LEASES_FILE, TROUBLES
from tests.legacy.build import FERRY, MANIFEST, OTHER_MANIFEST, OWN, RECEIPTS
from tests.maintenance.test_rebuild_database import overwrite
from tests.support import LAUNCH, LEASES, SESSIONS, WatchedFileSystem, at, plain_descriptor, write

SOMEBODY = (
    "the runtime must",
    "a person must",
    "start the newer program",
    "start the runtime",
    "start the expected run",
    "nothing is committed yet",
)
"""How an advice begins that no command can follow."""

NOTES = plain_descriptor("own.notes", "own/notes.json")


class Step(NamedTuple):
    """One advice, and what status said when it was given."""

    state: str
    advice: str


def advice_for(directory: Path) -> tuple[str, list[dict[str, Any]]]:
    """What status says, or else the doctor: the state, and what to do about it; nothing when it is
    ready."""
    status = run("status", directory, "--json").json()
    if "verdict" in status:
        stores = [(item["schemaName"], item["state"], item["action"]) for item in status["stores"]]
        return f"{status['verdict']} {stores}", [] if status["verdict"] == "ready" else status[
            "next"
        ]
    found = run("doctor", directory, "--json").json()["findings"]
    red = [item for item in found if item["level"] == "red"]
    sentences = " ".join(str(item["sentence"]) for item in red)
    return sentences, [way for item in red for way in item["ways"]]


def walk(
    directory: Path, *, choose: Callable[[list[Any]], Any] = lambda ways: ways[0]
) -> list[Step]:
    """Follow the advice to its end. Fails where an advice comes back, or there is none."""
    steps: list[Step] = []
    for _ in range(12):
        state, ways = advice_for(directory)
        if state.startswith("ready"):
            return steps
        assert ways, f"nothing is advised for: {state}"
        commands = [way for way in ways if way["command"]]
        if not commands:
            named = " ".join(way["why"] for way in ways)
            assert any(word in named for word in SOMEBODY), named
            return [*steps, Step(state, named)]
        command = choose(commands)["command"]
        step = Step(state, command)
        assert step not in steps, f"it leads back to itself: {step}"
        steps.append(step)
        directory = _run(command, directory)
    raise AssertionError(f"no end of it: {steps}")


def _run(command: str, directory: Path) -> Path:
    """Run what was printed, as it is; gives where the store is then."""
    if not command.startswith("rtstore "):
        before, _, ours = command.partition(" && rtstore ")
        subprocess.run(["bash", "-c", before.removeprefix("sudo ")], check=True)
        return _run(f"rtstore {ours}", directory) if ours else directory
    words = words_of(command)
    result = run(*[TEAM if word == "NAME" else word for word in words])
    assert result.code in (0, 1), (command, result)
    return Path(words[2]) if words[0] == "restore" else directory


# --- more kinds of trouble ------------------------------------------------------------------------


def _with(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(parent: Path) -> Path:
        directory = ready_team(parent)
        change(directory)
        return directory

    return make


def _own_store(parent: Path) -> Path:
    directory = parent / "own team"
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=[NOTES]) as store:
        store.write_batch(identity=IDENTITY, reason="delivery_commit", writes={"own.notes": 1})
    return directory


def _own_stores_without_database(parent: Path) -> Path:
    directory = _own_store(parent)
    (directory / DATABASE_NAME).unlink()
    return directory


def _own_stores_beside(content: bytes | None) -> Callable[[Path], Path]:
    """The database is not one any more: `content`, or without it another program's."""

    def make(parent: Path) -> Path:
        directory = _own_store(parent)
        path = directory / DATABASE_NAME
        path.unlink()
        if content is None:
            with closing(sqlite3.connect(path)) as other, other:
                other.execute("CREATE TABLE notes (text)")
        else:
            path.write_bytes(content)
        return directory

    return make


def own_stores_forgotten(parent: Path) -> Path:
    """Rebuilt by somebody who forced it, and named no store."""
    directory = _own_stores_without_database(parent)
    assert run("rebuild", directory, "--team", TEAM, "--force").code == 0
    return directory


def _first_session_without_wal(parent: Path) -> Path:
    directory = parent / "first"
    store = RuntimeStore.open(parent / "origin", team_name=TEAM, descriptors=[NOTES])
    store.write_batch(identity=IDENTITY, reason="delivery_commit", writes={"own.notes": 1})
    shutil.copytree(parent / "origin", directory, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    store.close()
    return directory


def _first_known_session_without_wal(parent: Path) -> Path:
    """The same with a store that a runtime can do without: its file alone is no more than degraded
    to a plan."""
    directory = parent / "first"
    known = [item for item in KNOWN_DESCRIPTORS if item.schema_name == LEASES]
    with RuntimeStore.open(parent / "origin", team_name=TEAM, descriptors=known) as store:
        write(store, LEASES, 1)
        shutil.copytree(
            parent / "origin", directory, ignore=shutil.ignore_patterns("*-wal", "*-shm")
        )
    return directory


def _only_quarantined(directory: Path) -> None:
    (directory / LEASES_FILE).write_text("{")
    assert run("recover", directory).code == 0
    for path in directory.iterdir():
        if path.is_file():
            path.unlink()


def _newer_committed(parent: Path) -> Path:
    directory = parent / "newer"
    newer = plain_descriptor("own.notes", "notes.json", version=2)
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=[newer]) as store:
        store.write_batch(identity=IDENTITY, reason="delivery_commit", writes={"own.notes": 1})
    older = plain_descriptor("own.notes", "notes.json")
    RuntimeStore.open(directory, descriptors=[older], upgrade=False).close()
    return directory


def _newer_file(directory: Path) -> None:
    path = directory / LEASES_FILE
    path.write_text(path.read_text().replace('"schemaVersion": 1', '"schemaVersion": 2'))


def _refused_data(directory: Path) -> None:
    lax = [
        known.model_copy(update={"payload": None}) if known.schema_name == LAUNCH else known
        for known in KNOWN_DESCRIPTORS
    ]
    with RuntimeStore.open(directory, descriptors=lax) as store:
        store.write_batch(identity=IDENTITY, reason="delivery_commit", writes={LAUNCH: 7})


def _only_a_failed_batch(parent: Path) -> Path:
    """Nothing was ever committed, and files that nobody committed lie there."""
    directory = parent / "failed"
    failing = WatchedFileSystem(at("rename", directory / LEASES_FILE, OSError(5, "no disk")))
    with (
        RuntimeStore.open(directory, team_name=TEAM, seams=Seams(fs=failing)) as store,
        pytest.raises(BatchFailedError),
    ):
        store.write_batch(identity=IDENTITY, reason="delivery_commit", writes={LEASES: {}})
    for name in (LEASES_FILE, "opencode-diagnostics.json"):
        (directory / name).write_text('{"schemaVersion": 1, "data": {}}')
    return directory


def _imported_open(parent: Path) -> Path:
    directory = Path(shutil.copytree(OWN / FERRY, parent / "runtime"))
    import_directory(directory)
    return directory


def delete_contents(directory: Path) -> None:
    """By somebody who means it: past what the database holds against it."""
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        query = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?"
        triggers = raw.execute(query, ("store_contents",)).fetchall()
        for name, _ in triggers:
            raw.execute(f'DROP TRIGGER "{name}"')
        raw.execute("DELETE FROM store_contents")
        for _, sql in triggers:
            raw.execute(sql)


def delete_batch_writes(directory: Path) -> None:
    """In a shell, which holds no foreign keys."""
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("DELETE FROM batch_writes")


def _delete_descriptors(directory: Path) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("DELETE FROM store_descriptors")


def _own_store_without_descriptors(parent: Path) -> Path:
    directory = _own_store(parent)
    _delete_descriptors(directory)
    return directory


def _contents_and_a_file_gone(directory: Path) -> None:
    delete_contents(directory)
    (directory / LEASES_FILE).unlink()


def _contents_gone_and_an_edit(directory: Path) -> None:
    delete_contents(directory)
    path = directory / LEASES_FILE
    path.write_text(path.read_text().replace("{", "{ ", 1))


def _link_to(directory: Path, target: str | None, *, edited: bool = False) -> None:
    path = directory / LEASES_FILE
    if target is None:
        path.unlink()
        path.symlink_to("nowhere")
        return
    elsewhere = directory.parent / target
    path.rename(elsewhere)
    if edited:
        elsewhere.write_text(elsewhere.read_text().replace("{", "{ ", 1))
    path.symlink_to(elsewhere.absolute())


def _linked_folder(parent: Path) -> Path:
    directory = _own_store(parent)
    (directory / "own").rename(parent / "away")
    (directory / "own").symlink_to((parent / "away").absolute())
    return directory


def _folder_to_nowhere(parent: Path) -> Path:
    directory = _linked_folder(parent)
    shutil.rmtree(parent / "away")
    return directory


def _folder_to_a_file(parent: Path) -> Path:
    directory = _folder_to_nowhere(parent)
    (parent / "away").write_text("no folder")
    return directory


def _never_committed(parent: Path) -> Path:
    directory = _own_store(parent)
    more = plain_descriptor("own.more", "more.json")
    RuntimeStore.open(directory, descriptors=[NOTES, more]).close()
    shutil.copy(directory / "own" / "notes.json", directory / "more.json")
    return directory


def _bytes(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    return _with(lambda directory: change(directory / DATABASE_NAME))


def _beside_another(parent: Path) -> Path:
    """The back-up of another directory of the same team lies beside it."""
    (parent / "other").mkdir()
    other = ready_team(parent / "other")
    with RuntimeStore.open(other) as store:
        store.update(LEASES, lambda data: data, identity=IDENTITY, reason="host_lease_update")
        store.back_up(parent / "backup-of-the-other")
    directory = ready_team(parent)
    overwrite(directory / DATABASE_NAME, "write_batches")
    return directory


def _pipe_as_lock(directory: Path) -> None:
    (directory / LOCK_NAME).unlink()
    os.mkfifo(directory / LOCK_NAME)


def _odd_lock(directory: Path, target: str | None) -> None:
    lock = directory / LOCK_NAME
    lock.unlink()
    if target is None:
        lock.mkdir()
    else:
        lock.symlink_to(target)


def _empty_database(parent: Path, team: str) -> Path:
    """An empty database takes the place of the one that knows the files."""
    directory = ready_team(parent)
    RuntimeStore.open(parent / "fresh", team_name=team).close()
    shutil.copy(parent / "fresh" / DATABASE_NAME, directory / DATABASE_NAME)
    return directory


def old_copy(parent: Path) -> Path:
    """The database is a copy from before two batches that were acknowledged."""
    directory = ready_team(parent)
    before = (directory / DATABASE_NAME).read_bytes()
    with RuntimeStore.open(directory) as store:
        for name in (LEASES, SESSIONS):
            store.update(name, lambda data: {**data}, identity=IDENTITY, reason="delivery_commit")
    (directory / DATABASE_NAME).write_bytes(before)
    return directory


def damaged_own_store(parent: Path) -> Path:
    """The database still tells the descriptors, and not what was committed."""
    directory = _own_store(parent)
    overwrite(directory / DATABASE_NAME, "write_batches")
    return directory


def _damaged_own_store_without_files(parent: Path) -> Path:
    directory = damaged_own_store(parent)
    shutil.rmtree(directory / "own")
    return directory


def _exported(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    """A directory of the legacy format."""

    def make(parent: Path) -> Path:
        directory = parent / "exported"
        assert run("export", ready_team(parent), "--to", directory).code == 0
        change(directory)
        return directory

    return make


def _cut(name: str) -> Callable[[Path], object]:
    return lambda directory: os.truncate(directory / name, 300)


def _manifest_to_nowhere(directory: Path) -> None:
    (directory / MANIFEST).unlink()
    (directory / MANIFEST).symlink_to("nowhere")


def _manifest_not_as_receipts(directory: Path) -> None:
    path = directory / MANIFEST
    document = json.loads(path.read_text())
    document["data"]["entries"][0]["fileSize"] += 1
    path.write_text(json.dumps(document))


def _newer_manifest(directory: Path) -> None:
    path = directory / MANIFEST
    path.write_text(path.read_text().replace('"schemaVersion": 1', '"schemaVersion": 9', 1))


def _two_manifests(directory: Path) -> None:
    text = (directory / MANIFEST).read_text()
    (directory / OTHER_MANIFEST).write_text(text.replace("highWatermark", "highWaterMark"))


def _refused_statement(parent: Path) -> Path:
    directory = crashed_team(parent)
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
        raw.execute(
            "CREATE TRIGGER audit BEFORE UPDATE ON write_batches "
            "BEGIN SELECT RAISE(ABORT, 'it is read-only'); END"
        )
    return directory


MORE: dict[str, Callable[[Path], Path]] = {
    "stores of its own, the database gone": _own_stores_without_database,
    "stores of its own, the database cut to a byte": _own_stores_beside(b"S"),
    "stores of its own, the database nonsense": _own_stores_beside(b"nonsense" * 1000),
    "stores of its own, another program's database": _own_stores_beside(None),
    "a first session without its WAL": _first_session_without_wal,
    "a first session without its WAL, of a known store": _first_known_session_without_wal,
    "an empty database of the same team": lambda parent: _empty_database(parent, TEAM),
    "an empty database of another team": lambda parent: _empty_database(parent, "blue"),
    "an old copy of the database": old_copy,
    "stores of its own, the database damaged": damaged_own_store,
    "stores of its own, database damaged and no file": _damaged_own_store_without_files,
    "the legacy files": _exported(lambda _: None),
    "the legacy manifest torn": _exported(_cut(MANIFEST)),
    "the legacy receipts torn": _exported(_cut(RECEIPTS)),
    "the legacy manifest a link to nothing": _exported(_manifest_to_nowhere),
    "the legacy manifest contradicts the receipts": _exported(_manifest_not_as_receipts),
    "the legacy manifest of a newer program": _exported(_newer_manifest),
    "two manifests of the legacy format": _exported(_two_manifests),
    "nothing but quarantine": _with(_only_quarantined),
    "what is committed is a newer program's": _newer_committed,
    "a file of a newer program": _with(_newer_file),
    "what is committed does not pass its model": _with(_refused_data),
    "nothing but a batch that failed": _only_a_failed_batch,
    "an imported batch without contents": _imported_open,
    "contents deleted": _with(delete_contents),
    "the writes of batches deleted": _with(delete_batch_writes),
    "descriptors deleted": _with(_delete_descriptors),
    "the descriptors of stores of its own deleted": _own_store_without_descriptors,
    "contents deleted, and a file": _with(_contents_and_a_file_gone),
    "contents deleted, and a file edited": _with(_contents_gone_and_an_edit),
    "a file that is a link": _with(lambda place: _link_to(place, "same.json")),
    "a link to an edited file": _with(lambda place: _link_to(place, "an edit.json", edited=True)),
    "a link to nothing": _with(lambda place: _link_to(place, None)),
    "a folder that is a link": _linked_folder,
    "a folder that is a link to nothing": _folder_to_nowhere,
    "a folder that is a link to a file": _folder_to_a_file,
    "a file that nobody committed": _never_committed,
    "the database full of zeros": _bytes(lambda path: path.write_bytes(bytes(path.stat().st_size))),
    "the first page alone": _bytes(lambda path: os.truncate(path, 4096)),
    "half of the database": _bytes(
        lambda path: os.truncate(path, path.stat().st_size // 8192 * 4096)
    ),
    "a text under the database's name": _bytes(lambda path: path.write_text("version 1\n" * 99)),
    "only its WAL": _bytes(lambda path: path.rename(path.with_name(path.name + "-wal"))),
    "the back-up of another directory beside it": _beside_another,
    "the lock file is a directory": _with(lambda place: _odd_lock(place, None)),
    "the lock file is a link to nothing": _with(lambda place: _odd_lock(place, "nowhere")),
    "the lock file is a pipe": _with(_pipe_as_lock),
    "the lock file is a link": _with(lambda place: _odd_lock(place, DATABASE_NAME)),
    "crashed": crashed_team,
    "a trigger refuses what completes a batch": _refused_statement,
}

WALKED: dict[str, Callable[[Path], Path]] = {
    **{name: item.make for name, item in TROUBLES.items() if not item.sql_lock},
    **MORE,
}


def with_registry(directory: Path, descriptors: list[Descriptor]) -> None:
    """Have a runtime open a directory, as it does when it starts."""
    RuntimeStore.open(directory, descriptors=descriptors).close()
