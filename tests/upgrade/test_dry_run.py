"""`rtstore upgrade --dry-run` says what the upgrade would: it is refused where that is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import (
    KNOWN_DESCRIPTORS,
    DatabaseMissingError,
    Descriptor,
    InvalidRequestError,
    RuntimeStore,
    StoreFileChangedError,
    UnsafePathError,
)
from rtstore.cli.exits import ExitCode
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.cli.commands import run
from tests.support import LEASES, SESSIONS, breadth, files_picture, plain_descriptor
from tests.upgrade.freeze import unpack
from tests.upgrade.test_data import FIRST, THIRD, A, C, begin

MOVED = [item.model_copy(update={"relative_path": f"moved/{item.relative_path}"}) for item in THIRD]
TAKEN = [*MOVED[:2], plain_descriptor(C, "a.json")]
FAILING = [
    plain_descriptor(A, "a.json", 2).model_copy(update={"upgrades": {1: lambda data: data["no"]}}),
    *FIRST[1:],
]
LEASES_2 = [
    plain_descriptor(LEASES, "opencode-host-leases.json", 2).model_copy(
        update={"upgrades": {1: lambda data: [data]}}
    )
]


def at_zd(descriptor: Descriptor) -> Descriptor:
    """The same store in a folder."""
    return descriptor.model_copy(update={"relative_path": "zd/x.json"})


BEHIND = [at_zd(item) if item.schema_name == LEASES else item for item in KNOWN_DESCRIPTORS]


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


def without_an_entry(directory: Path) -> None:
    """Somebody took it out of the manifest; an opening makes it again where its file is there."""
    sql(directory, "DELETE FROM manifest_entries WHERE schema_name = 'own.a'")


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


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "name", breadth.params(["THIRD", "MOVED", "TAKEN", None], normal=["MOVED"])
)
@pytest.mark.parametrize("trouble", TROUBLE)
def test_it_says_what_the_upgrade_would(tmp_path: Path, trouble: str, name: str | None) -> None:
    """The same refusal, or the same stores and parts; and nothing is changed before."""
    directory = begin(tmp_path)
    for make in TROUBLE[trouble]:
        make(directory)
    as_the_upgrade(directory, [] if name is None else ["--descriptors", f"{__name__}:{name}"])


@pytest.mark.parametrize(
    "trouble",
    breadth.params(
        ["none", "no file", "a view dropped", "history deleted"], normal=["none", "no file"]
    ),
)
@pytest.mark.parametrize("name", ["THIRD", "FAILING"])
def test_of_a_store_without_an_entry(tmp_path: Path, trouble: str, name: str) -> None:
    """Its data is upgraded where its entry is made again; where that fails, nothing is changed."""
    directory = begin(tmp_path)
    for make in (without_an_entry, *TROUBLE[trouble]):
        make(directory)
    before = everything(directory)
    code = as_the_upgrade(directory, ["--descriptors", f"{__name__}:{name}"])
    assert (code != 0) is (name == "FAILING" and trouble != "no file")
    if code != 0:
        assert everything(directory) == before


@pytest.mark.parametrize("revision", breadth.params(REVISIONS[:-1], normal=REVISIONS[3:4]))
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
        for key in (
            *("stores", "putBack", "removedRows", "unregistered", "revisions"),
            *("moved", "quarantined"),
        ):
            assert tried[key] == done[key], key
    return found.code


def _swapped() -> list[Descriptor]:
    """Two stores, each with the other's file."""
    found = list(KNOWN_DESCRIPTORS)
    at = {item.schema_name: index for index, item in enumerate(found)}
    one, other = at[LEASES], at[SESSIONS]
    paths = found[one].relative_path, found[other].relative_path
    found[one] = found[one].model_copy(update={"relative_path": paths[1]})
    found[other] = found[other].model_copy(update={"relative_path": paths[0]})
    return found


SWAPPED = _swapped()
CROSSED = [
    item.model_copy(update={"relative_path": other.relative_path})
    for item, other in zip(FIRST, [FIRST[1], FIRST[0], *FIRST[2:]], strict=True)
]


@pytest.mark.parametrize("revision", breadth.params(REVISIONS[:-1], normal=REVISIONS[2:3]))
def test_descriptors_with_other_stores_files_are_refused_before_an_older_database_changes(
    tmp_path: Path, revision: str
) -> None:
    """What the exit code says of a wrong call holds: nothing changed, and the older program goes
    on."""
    directory = unpack(revision, tmp_path)
    before = everything(directory)

    tried = run("upgrade", directory, "--descriptors", f"{__name__}:SWAPPED", "--dry-run")
    done = run("upgrade", directory, "--descriptors", f"{__name__}:SWAPPED")
    for recover in (True, False):
        with pytest.raises(InvalidRequestError, match="is that of store"):
            RuntimeStore.open(directory, descriptors=SWAPPED, recover=recover)

    assert (tried.code, tried.err) == (done.code, done.err)
    assert done.code == ExitCode.WRONG_CALL
    assert everything(directory) == before


@pytest.mark.parametrize("revision", breadth.params(REVISIONS[:-1], normal=REVISIONS[2:3]))
@pytest.mark.parametrize("what", ["a file in the way", "a link in the way", "an edit"])
def test_what_an_opening_is_refused_with_is_found_before_an_older_database_changes(
    tmp_path: Path, revision: str, what: str
) -> None:
    """Neither the upgrade nor an opening has upgraded it then, or backed it up."""
    directory, name, way = unpack(revision, tmp_path), "LEASES_2", tmp_path / "runtime" / "zd"
    if what == "an edit":
        edit = '{"schemaVersion": 1, "data": {"n": 77}}'
        (directory / "opencode-host-leases.json").write_text(edit)
    else:
        name = "BEHIND"
        way.write_text("in the way") if "file" in what else way.symlink_to(tmp_path)
    before = everything(directory)

    tried = run("upgrade", directory, "--descriptors", f"{__name__}:{name}", "--dry-run")
    done = run("upgrade", directory, "--descriptors", f"{__name__}:{name}")
    with pytest.raises((UnsafePathError, StoreFileChangedError)) as told:
        RuntimeStore.open(directory, descriptors=globals()[name])

    assert (tried.code, tried.err) == (done.code, done.err)
    assert done.code == (4 if what == "an edit" else ExitCode.WRONG_CALL)
    assert everything(directory) == before
    if what == "an edit":
        assert "nothing of it was changed" in told.value.__notes__[-1]
        options = ["--descriptors", f"{__name__}:LEASES_2"]  # as the note says
        assert run("upgrade", directory).code == ExitCode.READY
        assert run("adopt", directory, LEASES).code == ExitCode.READY
        assert run("upgrade", directory, *options).code == ExitCode.READY


@pytest.mark.parametrize("edits", ["adopt", "ignore"])
def test_an_opening_that_deals_with_an_edit_upgrades_an_older_database(
    tmp_path: Path, edits: str
) -> None:
    """What is tried on a copy first looks at the files of the directory."""
    directory = unpack(REVISIONS[2], tmp_path)
    path = directory / "opencode-host-leases.json"
    path.write_text('{"schemaVersion": 1, "data": {"n": 77}}')
    moved = [at_zd(LEASES_2[0])]
    with RuntimeStore.open(directory, descriptors=moved, foreign_edits=edits) as store:
        assert (store.read(LEASES).data == [{"n": 77}]) is (edits == "adopt")


def test_a_database_that_lost_its_batches_is_not_upgraded(tmp_path: Path) -> None:
    """Its WAL did not come along: an opening is refused, and changes nothing."""
    directory = unpack(REVISIONS[3], tmp_path)
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        query = "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        triggers = [f"DROP TRIGGER {name}" for (name,) in raw.execute(query)]
    tables = ("manifest_entries", "batch_writes", "store_contents", "write_batches")
    sql(
        directory,
        *triggers,
        *(f"DELETE FROM {table}" for table in tables),
        "UPDATE runtime_manifest SET high_watermark = 0, last_committed_batch_id = NULL, "
        "last_preparing_batch_id = NULL, active_run_id = NULL",
    )
    before = everything(directory)
    for descriptors in (None, KNOWN_DESCRIPTORS):
        with pytest.raises(DatabaseMissingError, match="knows of no batch"):
            RuntimeStore.open(directory, descriptors=descriptors)
    assert everything(directory) == before


def everything(directory: Path) -> dict[str, bytes]:
    """What is in all files; of the WAL and its index, nothing: readers make them again."""
    return {
        path.name: path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock"))
    }


@pytest.mark.parametrize("spoil", [without_history, without_a_view, without_marks])
def test_descriptors_with_other_stores_files_are_refused_before_a_database_is_mended(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Nothing of it is made again, or removed, nor backed up."""
    directory = begin(tmp_path)
    spoil(directory)
    before = everything(directory)

    done = run("upgrade", directory, "--descriptors", f"{__name__}:CROSSED")

    assert done.code == ExitCode.WRONG_CALL
    assert everything(directory) == before
