"""A directory whose database is gone is not a new one, and nobody begins anew in it unasked."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    KNOWN_DESCRIPTORS,
    DatabaseMissingError,
    FileSystem,
    InvalidRequestError,
    RuntimeStore,
    RuntimeStoreError,
    StopError,
    rebuild_database,
)
from rtstore.control.revisions import NEW_SUFFIX
from tests.cli.commands import run, words_of
from tests.cli.troubles import LEASES_FILE
from tests.support import (
    IDENTITY,
    LEASES,
    TEAM,
    Crash,
    agree,
    new_directory,
    open_store,
    picture,
    plain_descriptor,
    write,
)

OWN = [plain_descriptor("own.notes", "notes.json"), plain_descriptor("own.deep", "own/deep.json")]
LOCK = "runtime-store.lock"


def _remove_database(directory: Path) -> None:
    for path in directory.glob("runtime-store*"):
        path.unlink()


@pytest.fixture
def lost(tmp_path: Path) -> Path:
    """Two stores of a runtime's own, and no database."""
    directory = tmp_path / "a team's"
    with open_store(directory, descriptors=OWN) as store:
        for item in OWN:
            write(store, item.schema_name, {"of": item.schema_name})
    _remove_database(directory)
    return directory


WAYS_IN: dict[str, Callable[[Path], Any]] = {
    "open": lambda place: RuntimeStore.open(place, team_name=TEAM),
    "open with its descriptors": lambda place: open_store(place, descriptors=OWN),
    "open without recovering": lambda place: open_store(place, recover=False),
    "read-only": lambda place: RuntimeStore.open(place, read_only=True),
    "without a team": RuntimeStore.open,
}


@pytest.mark.parametrize("way_in", WAYS_IN.values(), ids=WAYS_IN)
def test_opening_refuses_and_touches_nothing(
    lost: Path, way_in: Callable[[Path], RuntimeStore]
) -> None:
    """Whatever the stores are called: their envelope is enough. The error is one that stops, and
    has what was found."""
    before = picture(lost)
    with pytest.raises(DatabaseMissingError, match="rebuild_database") as caught:
        way_in(lost)
    assert isinstance(caught.value, StopError)
    assert (caught.value.directory, caught.value.found) == (lost, ("notes.json", "own/deep.json"))
    assert picture(lost) == before


@pytest.mark.parametrize("command", ["status", "plan", "recover", "doctor", "init", "upgrade"])
def test_every_command_says_so(lost: Path, command: str) -> None:
    """None of them makes a database, and none advises to begin anew."""
    before = picture(lost)
    result = run(command, lost, *(["--team", TEAM] if command == "init" else []))
    assert result.code == (1 if command == "doctor" else 5), result
    assert "gone" in result.out + result.err
    assert "rebuild_database" in result.out + result.err
    assert "rtstore init" not in result.out + result.err
    assert picture(lost) == before


@pytest.mark.parametrize("columns", [None, 60])
def test_the_command_to_rebuild_can_be_copied(lost: Path, columns: int | None) -> None:
    """What a person must put into it stands outside, and what was given is in it."""
    given = ["--team", TEAM, "--run-id", "run 1", "--behavior-fingerprint", "x"]
    told = run("rebuild", lost, *given, columns=columns).err
    command = ["rebuild", str(lost), *given]
    beginning = told.partition(" Run:")[2].partition("(MODULE:NAME is ")[0]
    assert words_of(beginning) == [*command, "--descriptors", "MODULE:NAME"]
    assert "--force" not in told  # no runtime could open what that makes
    shutil.copy(lost / "notes.json", lost / LEASES_FILE)
    told = run("rebuild", lost, *given, columns=columns).err
    forced = told[told.rindex("(rtstore rebuild") + 1 : told.rindex(")")]
    assert words_of(forced) == [*command, "--force"]


def test_the_runtime_rebuilds_its_own_stores(lost: Path) -> None:
    """The command does not leave out what it cannot name, unless it is told to; then the files stay
    and are adopted. The runtime, which has the names, gets everything back."""
    with pytest.raises(InvalidRequestError, match=r"notes\.json.*descriptors=\[\.\.\.\]"):
        rebuild_database(lost, team_name=TEAM)
    second = Path(shutil.copytree(lost, lost.parent / "second"))
    rebuild_database(lost, team_name=TEAM, descriptors=OWN)
    with open_store(lost, descriptors=OWN) as store:
        assert agree(store)
        assert store.read("own.deep").data == {"of": "own.deep"}
    assert run("rebuild", second, "--team", TEAM).code == 2
    assert run("rebuild", second, "--team", TEAM, "--force").code == 0
    with open_store(second, descriptors=OWN, recover=False) as store:
        for item in OWN:
            store.adopt(item.schema_name, identity=IDENTITY)
            assert store.read(item.schema_name).data == {"of": item.schema_name}


NOT_OURS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "JSON of others": lambda place: (place / "package.json").write_text('{"data": 1}'),
    "JSON of others under a store's name": lambda place: (place / "launch-state.json").write_text(
        '{"sessions": []}'
    ),
    "half an envelope": lambda place: (place / "x.json").write_text(
        '{"schemaVersion": 1, "data": 2}'
    ),
    "a lock": lambda place: (place / LOCK).touch(),
    "a team's directory below": lambda place: new_directory(place, "team"),
    "a link": lambda place: (place / "x.json").symlink_to("nowhere"),
    "an empty quarantine": lambda place: (place / "quarantine").mkdir(),
}


@pytest.mark.parametrize("what", NOT_OURS.values(), ids=NOT_OURS)
def test_a_new_directory_is_made_beside_what_is_not_ours(
    tmp_path: Path, what: Callable[[Path], object]
) -> None:
    """What shows no database that was there keeps none out."""
    what(tmp_path)
    assert run("init", tmp_path, "--team", TEAM).code == 0
    RuntimeStore.open(tmp_path).close()


ENVELOPE = {"schemaVersion": 1, "updatedAt": "2026-04-21T12:00:00.000Z", "data": None}
LEFT: dict[str, Callable[[Path], object]] = {
    "compact": lambda place: (place / "x.json").write_text(json.dumps(ENVELOPE)),
    "keys in another order": lambda place: (place / "x.json").write_text(
        json.dumps(dict(reversed(ENVELOPE.items())))
    ),
    "torn": lambda place: (place / "x.json").write_text(json.dumps(ENVELOPE)[:-3]),
    "large": lambda place: (place / "x.json").write_text(
        json.dumps({**ENVELOPE, "data": "x" * (3 << 20)})
    ),
    "torn under a store's name": lambda place: (place / "launch-state.json").write_text("{"),
    "emptied under a store's name": lambda place: (place / "launch-state.json").touch(),
    "a database that an upgrade kept": lambda place: (
        place / "runtime-store.backup-0001-20260101T000000.000Z.sqlite3"
    ).touch(),
    "a database set aside": lambda place: (place / "runtime-store.broken-001").mkdir(),
}


@pytest.mark.parametrize("what", LEFT.values(), ids=LEFT)
def test_what_a_store_left_is_recognised(tmp_path: Path, what: Callable[[Path], object]) -> None:
    """However it is written, and though it is torn."""
    what(tmp_path)
    with pytest.raises(DatabaseMissingError):
        RuntimeStore.open(tmp_path, team_name=TEAM)


def _no_tables(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA application_id = 1")
        made.execute("PRAGMA application_id = 0")


EMPTY: dict[str, Callable[[Path], object]] = {
    "of 0 bytes": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "without tables": _no_tables,
    "only its first page": lambda path: path.write_bytes(path.read_bytes()[:4096]),
    "only its header": lambda path: path.write_bytes(path.read_bytes()[:100]),
}


@pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY)
def test_an_empty_database_is_no_new_one(tmp_path: Path, empty: Callable[[Path], object]) -> None:
    """Nothing is made of it; the rebuild gives everything back."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, 1)
    empty(directory / DATABASE_NAME)
    before = picture(directory)
    with pytest.raises(StopError):
        open_store(directory)
    assert picture(directory) == before
    rebuild_database(directory, team_name=TEAM, force=True)
    with open_store(directory) as store:
        assert store.read(LEASES).data == 1


def test_a_first_session_without_its_wal(tmp_path: Path) -> None:
    """The database is sound, and knows of no batch, while the files do: opening refuses, looking
    works, and the rebuild needs no force, for there is no history to lose. What was opened before
    the first batch opens again."""
    directory = tmp_path / "runtime"
    store = open_store(directory, descriptors=OWN)
    RuntimeStore.open(directory).close()
    write(store, "own.notes", "mine")
    copy = Path(
        shutil.copytree(
            directory, tmp_path / "copy", ignore=shutil.ignore_patterns("*-wal", "*-shm")
        )
    )
    store.close()
    with pytest.raises(DatabaseMissingError, match="knows of no batch"):
        open_store(copy, descriptors=OWN)
    with RuntimeStore.open(copy, read_only=True) as looking:
        assert not looking.check_readiness().ok
    assert f"rtstore rebuild {copy}" in run("doctor", copy).out
    assert run("rebuild", copy).code == 0
    with open_store(copy, descriptors=OWN) as rebuilt:
        assert rebuilt.read("own.notes").data == "mine"
    with pytest.raises(InvalidRequestError, match="sound"):
        rebuild_database(copy)


LOOKING = ("status", "plan", "doctor")


@pytest.mark.parametrize("known", [False, True], ids=["own stores", "known ones, too"])
def test_a_rebuild_without_descriptors_is_no_end(tmp_path: Path, known: bool) -> None:
    """The database that it makes knows no batch, and no store of the runtime's own. What looks at
    it names the rebuild with descriptors, which needs no force: the runtime is refused."""
    directory = new_directory(tmp_path)
    with open_store(directory, descriptors=[*KNOWN_DESCRIPTORS, *OWN]) as store:
        for item in OWN:
            write(store, item.schema_name, {"of": item.schema_name})
        if known:
            write(store, LEASES, 1)
    (directory / DATABASE_NAME).write_bytes(b"x")
    kept = (directory / LEASES_FILE).rename(tmp_path / "kept") if known else None
    assert run("rebuild", directory, "--team", TEAM, "--force").code == 0
    if kept is not None:
        kept.rename(directory / LEASES_FILE)
    with pytest.raises(DatabaseMissingError):
        open_store(directory, descriptors=OWN)
    for command in LOOKING:
        said = " ".join(run(command, directory).out.split())
        way = f"rtstore rebuild {directory} --team {TEAM} --descriptors MODULE:NAME"
        assert way in said, command
        assert "notes.json, own/deep.json" in said
        assert "nothing is committed yet: start the runtime" not in said
    rebuild_database(directory, team_name=TEAM, descriptors=[*KNOWN_DESCRIPTORS, *OWN])
    with open_store(directory, descriptors=[*KNOWN_DESCRIPTORS, *OWN]) as store:
        assert store.read("own.notes").data == {"of": "own.notes"}


def _file(name: str, **document: object) -> Callable[[Path], object]:
    def make(place: Path) -> None:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(json.dumps(document))

    return make


OF_OTHERS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "JSON of others": _file("package.json", data=1),
    "JSON of others in a folder": _file("own/package.json", data=1),
    "a lane": lambda place: open_store(place / "lanes" / "one", descriptors=OWN).close(),
}


@pytest.mark.parametrize("what", OF_OTHERS.values(), ids=OF_OTHERS)
def test_files_of_others_keep_no_runtime_out(
    tmp_path: Path, what: Callable[[Path], object]
) -> None:
    """What no opening refuses is not called a store file: the runtime can start."""
    RuntimeStore.open(tmp_path, team_name=TEAM).close()
    what(tmp_path)
    for command in LOOKING:
        said = " ".join(run(command, tmp_path).out.split())
        assert "nothing is committed yet: start the runtime" in said, command
        assert "--descriptors" not in said


def test_a_store_file_beside_stores_that_the_database_knows(tmp_path: Path) -> None:
    """The runtime has opened the directory with its descriptors: the file is none of its."""
    open_store(tmp_path, descriptors=OWN).close()
    _file("x.json", **ENVELOPE)(tmp_path)
    open_store(tmp_path, descriptors=OWN).close()
    for command in LOOKING:
        assert "rebuild" not in run(command, tmp_path).out, command


# --- making the first one -------------------------------------------------------------------------


class _Traced(FileSystem):
    """Dies at one of its calls that change something."""

    def __init__(self, dies_at: int) -> None:
        self.calls, self._dies_at = 0, dies_at

    def _count(self) -> None:
        self.calls += 1
        if self.calls >= self._dies_at:
            raise Crash

    def create(self, path: Path, mode: int) -> int:
        self._count()
        return super().create(path, mode)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._count()
        super().unlink(path)

    def fsync_directory(self, path: Path) -> None:
        self._count()
        super().fsync_directory(path)


def test_a_database_half_made_is_ours_and_is_finished(tmp_path: Path) -> None:
    """Whoever died making the first database keeps nobody out: what it left is no database that was
    there, and the next one makes its own."""
    for dies_at in range(1, 12):
        directory = tmp_path / str(dies_at)
        fs = _Traced(dies_at)
        try:
            open_store(directory, fs=fs).close()
        except Crash:
            with open_store(directory) as store:
                write(store, LEASES, 1)
            left = {path.name for path in directory.iterdir()}
            assert not any(NEW_SUFFIX in name for name in left)
            continue
        assert dies_at > 3
        return
    raise AssertionError("it never came to its end")


def test_two_that_make_it_at_once(tmp_path: Path) -> None:
    """Each gets the one database, though one may have written its first file before the other has
    looked whether there is a database."""
    for number in range(6):
        directory = tmp_path / str(number)
        errors: list[RuntimeStoreError] = []
        threads = [threading.Thread(target=_begin, args=(directory, errors)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        with RuntimeStore.open(directory) as store:
            assert store.manifest().high_watermark == 4


def _begin(directory: Path, errors: list[RuntimeStoreError]) -> None:
    try:
        with RuntimeStore.open(directory, team_name=TEAM) as store:
            write(store, LEASES, 1)
    except RuntimeStoreError as error:
        errors.append(error)


def test_one_that_came_first_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for a database and the look at the files somebody makes one and writes: that
    is no directory that lost it."""
    directory = tmp_path / "runtime"
    from rtstore.control import revisions

    real = revisions.exists
    looks: list[Path] = []

    def exists(path: Path) -> bool:
        found = real(path)
        if not looks:
            looks.append(path)
            with monkeypatch.context() as patch:
                patch.setattr(revisions, "exists", real)
                with open_store(directory) as first:
                    write(first, LEASES, 1)
        return found

    monkeypatch.setattr(revisions, "exists", exists)
    with open_store(directory) as store:
        assert store.read(LEASES).data == 1
    assert looks


# --- in its own words -----------------------------------------------------------------------------


def test_a_directory_that_was_moved_while_it_is_open(tmp_path: Path) -> None:
    """It is not called locked, nor without a database; nothing appears where it was; where it is
    now it opens."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, 1)
        moved = directory.rename(tmp_path / "moved")
        for call in (
            lambda: write(store, LEASES, 2),
            lambda: store.read(LEASES),
            store.check_readiness,
        ):
            with pytest.raises(RuntimeStoreError, match="moved, renamed or removed"):
                call()
    assert not directory.exists()
    with open_store(moved) as store:
        assert store.read(LEASES).data == 1


def test_a_database_full_of_zeros(tmp_path: Path) -> None:
    """It is said so, with the ways out, and not advised to be moved away as another program's."""
    directory = new_directory(tmp_path)
    path = directory / DATABASE_NAME
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(StopError, match=r"nothing but zeros.*rtstore doctor") as caught:
        open_store(directory)
    assert "Move it away" not in str(caught.value)


def test_a_directory_that_is_a_link_to_nothing(tmp_path: Path) -> None:
    """It is called that."""
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InvalidRequestError, match="leads to nothing"):
        RuntimeStore.open(tmp_path / "link", team_name=TEAM)


@pytest.mark.parametrize("had_one", [False, True])
def test_files_of_a_runtime_that_never_had_a_database(tmp_path: Path, had_one: bool) -> None:
    """Nothing but store files does not show that a database was lost: that is not claimed, by
    opening, the doctor, or the status of a folder. A rebuild makes one in either case."""
    directory = tmp_path / "folder" / "team"
    with open_store(directory) as store:
        write(store, LEASES, 1)
    for path in directory.glob("runtime-store.*"):
        if not (had_one and path.name == "runtime-store.lock"):
            path.unlink()
    claim = "its database is gone" if had_one else "its database is gone, or it never had one"
    with pytest.raises(DatabaseMissingError) as caught:
        RuntimeStore.open(directory, team_name=TEAM)
    assert caught.value.problem == claim
    assert f"the store files are there, but {claim}" in run("status", directory.parent).out
    doctor = run("doctor", directory).out
    assert ("it is gone, or there never was one, but the store files" in doctor) is not had_one
    assert run("rebuild", directory, "--team", TEAM).code == 0
