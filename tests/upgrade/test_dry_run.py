"""`rtstore upgrade --dry-run` says what the upgrade would: it is refused where that is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.cli.commands import run
from tests.support import LEASES, files_picture, plain_descriptor
from tests.upgrade.freeze import unpack
from tests.upgrade.test_data import THIRD, C, begin

MOVED = [item.model_copy(update={"relative_path": f"moved/{item.relative_path}"}) for item in THIRD]
TAKEN = [*MOVED[:2], plain_descriptor(C, "a.json")]
LEASES_2 = [
    plain_descriptor(LEASES, "opencode-host-leases.json", 2).model_copy(
        update={"upgrades": {1: lambda data: [data]}}
    )
]


def edited(directory: Path) -> None:
    """Another program changed the value of the first store."""
    (directory / "a.json").write_text('{"schemaVersion": 1, "data": {"value": 7}}')


def of_a_newer_program(directory: Path) -> None:
    """A program that is not known yet wrote the file."""
    (directory / "a.json").write_text('{"schemaVersion": 9, "data": {"value": 7}}')


def torn(directory: Path) -> None:
    """A loss of power left half of the file."""
    path = directory / "a.json"
    path.write_bytes(path.read_bytes()[:20])


def linked(directory: Path) -> None:
    """The file is somewhere else."""
    (directory / "a.json").rename(directory / "elsewhere")
    (directory / "a.json").symlink_to("elsewhere")


def without_its_batch(directory: Path) -> None:
    """Somebody dropped the trigger that keeps them, and deleted a batch that is in use."""
    sql(directory, "DROP TRIGGER write_batches_in_use_stay", "DELETE FROM write_batches")


def without_its_batch_and_all_triggers(directory: Path) -> None:
    """The trigger is there again."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        query = "SELECT sql FROM sqlite_schema WHERE name = 'write_batches_in_use_stay'"
        ((made,),) = raw.execute(query)
    without_its_batch(directory)
    sql(directory, made)


def without_marks(directory: Path) -> None:
    """Somebody set what says which revision it is at."""
    sql(directory, "PRAGMA user_version = 0", "PRAGMA application_id = 0")


def without_a_view(directory: Path) -> None:
    """It is made again."""
    sql(directory, "DROP VIEW run_log")


def without_history(directory: Path) -> None:
    """What is left of the first batch is removed."""
    sql(directory, "DELETE FROM write_batches WHERE batch_number = 2")


def sql(directory: Path, *statements: str) -> None:
    """Run statements as somebody does in a shell."""
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        for statement in statements:
            raw.execute(statement)


TROUBLE: dict[str, tuple[Callable[[Path], object], ...]] = {
    "none": (),
    "an edit": (edited,),
    "an edit of a newer program": (of_a_newer_program,),
    "a torn file": (torn,),
    "no file": (lambda directory: (directory / "a.json").unlink(),),
    "a link": (linked,),
    "no batch of an entry": (without_its_batch,),
    "no batch of an entry, and nothing dropped": (without_its_batch_and_all_triggers,),
    "no marks": (without_marks,),
    "no marks, and an edit": (without_marks, edited),
    "a view dropped": (without_a_view,),
    "a view dropped, and an edit": (without_a_view, edited),
    "history deleted": (without_history,),
}


@pytest.mark.parametrize("name", ["THIRD", "MOVED", "TAKEN", None])
@pytest.mark.parametrize("trouble", TROUBLE)
def test_it_says_what_the_upgrade_would(tmp_path: Path, trouble: str, name: str | None) -> None:
    """The same refusal, or the same stores and parts; and nothing is changed before."""
    directory = begin(tmp_path)
    for make in TROUBLE[trouble]:
        make(directory)
    as_the_upgrade(directory, [] if name is None else ["--descriptors", f"{__name__}:{name}"])


@pytest.mark.parametrize("revision", REVISIONS[:-1])
@pytest.mark.parametrize("is_edited", [False, True])
def test_of_an_older_database(tmp_path: Path, revision: str, *, is_edited: bool) -> None:
    """It is tried on a copy, with the files of the directory."""
    directory = unpack(revision, tmp_path)
    if is_edited:
        path = directory / "opencode-host-leases.json"
        path.write_text('{"schemaVersion": 1, "data": {"n": 77}}')
    code = as_the_upgrade(directory, ["--descriptors", f"{__name__}:LEASES_2"])
    assert (code != 0) is is_edited


def as_the_upgrade(directory: Path, options: list[str]) -> int:
    """Try an upgrade, and then do it with the same outcome. Return its exit code."""
    before = files_picture(directory)
    tried = run("upgrade", directory, *options, "--dry-run", "--json").json()
    assert files_picture(directory) == before
    found = run("upgrade", directory, *options, "--json")
    done = found.json()
    assert ("error" in tried) == ("error" in done), (tried, done)
    if "error" in done:
        assert tried == done
    else:
        for key in ("stores", "putBack", "removedRows", "unregistered", "revisions"):
            assert tried[key] == done[key], key
    return found.code
