"""A dry run says what the recovery does, also where an entry of the manifest and its file are in
trouble at once: each kind of trouble of the one with each of the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import DATABASE_NAME, RuntimeStore
from rtstore.control.sqlite.engine import Database
from rtstore.model.descriptors import Registry
from rtstore.store import rehearse_upgrade
from tests.cli.commands import run
from tests.support import Picture, files_picture, open_store, plain_descriptor, write

NAME, OTHER = "own.a", "own.b"
FILE_OF = {NAME: "in/a.json", OTHER: "b.json"}
ENTRY_REASONS = ("entry_missing", "entry_altered")
WHERE = f"WHERE schema_name = '{NAME}'"
REMOVED = f"DELETE FROM manifest_entries {WHERE}"
ENTRIES = {
    "another size": f"UPDATE manifest_entries SET file_size = file_size + 1 {WHERE}",
    "another hash": "UPDATE manifest_entries SET content_hash = 'sha256:' || printf('%064d', 0) "
    f"{WHERE}",
    "another version": f"UPDATE manifest_entries SET schema_version = 9 {WHERE}",
    "gone": REMOVED,
    "gone with its content": f"{REMOVED}; DELETE FROM store_contents {WHERE} AND batch_number = 3",
    "sound": "",
}


def _edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"second"', b'"an edit"'))


def _newer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion": 1', b'"schemaVersion": 7'))


def _earlier(path: Path) -> None:
    path.write_bytes(path.with_name("earlier").read_bytes())


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("of a person")


def _runtime_directory(path: Path) -> None:
    path.unlink()
    open_store(path).close()


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("earlier"))


FILES: dict[str, Callable[[Path], object]] = {
    "sound": lambda path: None,
    "torn": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "zeros": lambda path: path.write_bytes(b"\0" * 40),
    "no JSON": lambda path: path.write_text("oops"),
    "edited": _edit,
    "of a newer version": _newer,
    "an earlier version": _earlier,
    "gone": Path.unlink,
    "a folder": _folder,
    "another runtime directory": _runtime_directory,
    "a link": _link,
}


SCENES = ("one store", "and another store's file is gone", "in the file that it was given since")


def _make(directory: Path, *, moved: bool) -> None:
    """Make a directory with two stores, one written twice; `moved` to their files afterwards."""
    now = [plain_descriptor(name, path) for name, path in FILE_OF.items()]
    former = [plain_descriptor(name, f"former/{path}") for name, path in FILE_OF.items()]
    with open_store(directory, descriptors=former if moved else now) as store:
        write(store, NAME, "first")
        path = store.descriptors.get(NAME).relative_path
        earlier = (directory / path).read_bytes()
        write(store, OTHER, "of b")
        write(store, NAME, "second")
    if moved:
        open_store(directory, descriptors=now).close()
    (directory / "in" / "earlier").write_bytes(earlier)


def _sql(directory: Path, script: str) -> None:
    with closing(sqlite3.connect(directory / "runtime-store.sqlite3")) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        found = triggers.fetchall()
        drop = "".join(f"DROP TRIGGER {name};" for name, _ in found)
        again = "".join(f"{sql};" for _, sql in found)
        connection.executescript(f"{drop}{script};{again}")


def _at(picture: Picture, path: str) -> dict[str, Any]:
    return {name: facts for name, facts in picture.items() if name.startswith(path)}


def _steps(result: Any) -> list[tuple[str, str, str | None]]:
    return [
        (step["action"]["schemaName"], step["action"]["kind"], step["action"].get("reason"))
        for step in result["steps"]
    ]


@pytest.mark.one_in(7)
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_dry_run_says_what_the_recovery_does(
    tmp_path: Path, entry: str, file: str, scene: str
) -> None:
    """Plan, dry run and recovery name the same steps, and the plan everything that is wrong with
    the file. Nothing is touched where they say so, and nothing without a step that says it."""
    directory = tmp_path / "t"
    _make(directory, moved=scene == SCENES[2])
    _sql(directory, ENTRIES[entry])
    FILES[file](directory / FILE_OF[NAME])
    if scene == SCENES[1]:
        (directory / FILE_OF[OTHER]).unlink()
    before = files_picture(directory)
    plan, printed = run("plan", directory, "--json").json(), run("plan", directory).out
    dry_run = run("recover", directory, "--dry-run", "--json").json()
    assert files_picture(directory) == before
    real = run("recover", directory, "--json").json()
    steps = _steps(real)
    assert _steps(dry_run) == steps
    assert [(it["schemaName"], it["kind"], it["reason"]) for it in plan["recovery"]] == steps
    for foreseen, done in zip(dry_run["steps"], real["steps"], strict=True):
        is_left = foreseen["intention"].startswith(("stop at", "leave", "do nothing"))
        assert is_left == (done["outcome"] != "done"), (foreseen, done)
    assert set(real["remaining"]["diagnostics"]) <= set(plan["plan"]["diagnostics"])
    touched = {name for name, _, reason in steps if reason not in ENTRY_REASONS}
    after = files_picture(directory)
    for name, path in FILE_OF.items():
        assert name in touched or _at(before, path) == _at(after, path)
    assert NAME not in touched or "No file is touched" not in " ".join(printed.split())


@pytest.mark.one_in(7)
@pytest.mark.parametrize("scene", SCENES[::2])
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_rehearsed_opening_names_the_files_that_go(
    tmp_path: Path, entry: str, file: str, scene: str
) -> None:
    """Those that it moves to quarantine once it has put the entry right are among them."""
    directory = tmp_path / "t"
    _make(directory, moved=scene == SCENES[2])
    _sql(directory, ENTRIES[entry])
    FILES[file](directory / FILE_OF[NAME])
    stores = Registry(plain_descriptor(name, path) for name, path in FILE_OF.items())
    database = Database(directory / DATABASE_NAME, read_only=True)
    try:
        tried = rehearse_upgrade(directory, database, stores)
    finally:
        database.close()
    with RuntimeStore.open(directory) as store:
        done = [item.relative_path for item in store.quarantined_files()]
    assert [*tried.quarantined] == done
