"""A new control database from the store files: what is taken, what is kept aside, what is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import (
    DATABASE_NAME,
    DELETED,
    KNOWN_DESCRIPTORS,
    ActionKind,
    CorruptDatabaseError,
    Descriptor,
    ForeignDatabaseError,
    InvalidRequestError,
    LockTimeoutError,
    NewerDatabaseError,
    NotARuntimeDirectoryError,
    RunIdentity,
    RuntimeStore,
    StoreClosedError,
    WriterLock,
    WrongTeamError,
    rebuild_database,
)
from rtstore.control import revisions
from rtstore.maintenance.rebuild_database import StoreOutcome
from tests.support import (
    DIAGNOSTICS,
    IDENTITY,
    LAUNCH,
    LEASES,
    LEDGER,
    SESSIONS,
    TEAM,
    agree,
    digest,
    file_of,
    files_picture,
    launch_state,
    new_directory,
    open_store,
    picture,
    plain_descriptor,
    write,
)
from tests.support.printed import lines_of

DIFFERENT = {LEASES: {"n": 3}, LEDGER: ["one", "two"], LAUNCH: launch_state()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with three stores and five batches."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        for number in range(3):
            write(store, LEASES, {"n": number + 1})
        write(store, LEDGER, DIFFERENT[LEDGER])
        write(store, LAUNCH, DIFFERENT[LAUNCH])
    return directory


def overwrite(path: Path, table: str) -> None:
    """Damage the root page of a table."""
    with closing(sqlite3.connect(path)) as raw:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        page = raw.execute(query, (table,)).fetchone()[0]
        size = raw.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)


def _begin_with_noise(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[:4096] = os.urandom(4096)
    path.write_bytes(content)


def _change_a_content(path: Path) -> None:
    """What SQLite does not see: a bit that turned over in the text of a store."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute(
            "UPDATE store_contents SET content = replace(content, 'updatedAt', 'updatedAu')"
        )


def _drop(kind: str, name: str) -> Callable[[Path], object]:
    def drop(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute(f"DROP {kind} {name}")

    return drop


def _change_a_time(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute("UPDATE batch_writes SET written_at = 'yesterday'")


BEYOND_HELP: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "only its log": lambda path: path.rename(path.with_name(path.name + "-wal")),
    "empty": lambda path: path.write_bytes(b""),
    "its beginning overwritten": _begin_with_noise,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:9000]),
    "the manifest overwritten": lambda path: overwrite(path, "runtime_manifest"),
    "the batches overwritten": lambda path: overwrite(path, "write_batches"),
    "a content changed": _change_a_content,
    "a row that makes no sense": _change_a_time,
    "the contents overwritten": lambda path: overwrite(path, "store_contents"),
    "a table dropped": _drop("TABLE", "recovery_actions"),
    "a trigger dropped": _drop("TRIGGER", "store_contents_in_use_stay"),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("spoil", BEYOND_HELP.values(), ids=BEYOND_HELP)
def test_files_become_what_is_committed(directory: Path, spoil: Callable[[Path], object]) -> None:
    """Whatever happened to the database, all files are committed as they are, byte for byte; the
    old database is kept aside as it was; the store works, and goes on."""
    path = directory / DATABASE_NAME
    spoil(path)
    before = picture(directory, without=("runtime-store.lock",))
    report = rebuild_database(directory, team_name=TEAM)
    assert [store.schema_name for store in report.stores if store.outcome == "from_file"] == [
        LAUNCH,
        LEDGER,
        LEASES,
    ]
    assert {store.outcome for store in report.stores} == {"from_file", "missing"}
    after = picture(directory, without=("runtime-store.lock",))
    moved = {
        f"runtime-store.broken-001/{name}": facts
        for name, facts in before.items()
        if name.startswith(DATABASE_NAME)
    }
    assert {name: facts for name, facts in after.items() if "broken-001/" in name} == moved
    kept = None if spoil is BEYOND_HELP["gone"] else directory / "runtime-store.broken-001"
    assert report.kept_aside == kept
    assert before.items() - after.items() == {
        item for item in before.items() if item[0].startswith(DATABASE_NAME)
    }
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        assert store.last_recovery is None
        assert agree(store)
        assert {name: store.read(name).data for name in DIFFERENT} == DIFFERENT
        assert store.manifest().high_watermark == report.high_watermark
        (batch,) = store.batches()
        assert (batch.batch_id, batch.reason) == (report.batch_id, "recovery")
        write(store, LEASES, {"n": 4})
        assert store.manifest().high_watermark == report.high_watermark + 1
    with pytest.raises(InvalidRequestError, match="sound"):
        rebuild_database(directory)


def test_what_can_still_be_read_is_used(directory: Path) -> None:
    """Team, identities, descriptors and the high watermark come from what is readable; so does the
    committed content of a file that is gone or torn, when its hash is right."""
    own = plain_descriptor("own.notes", "notes.json")
    with RuntimeStore.open(directory, descriptors=[*KNOWN_DESCRIPTORS, own]) as s:
        write(s, "own.notes", "mine")
        torn, gone = file_of(s, LEASES), file_of(s, LEDGER)
    torn.write_bytes(torn.read_bytes()[:20])
    gone.unlink()
    overwrite(directory / DATABASE_NAME, "recovery_runs")
    with pytest.raises(WrongTeamError):
        rebuild_database(directory, team_name="another")
    report = rebuild_database(directory)
    assert (report.team_name, report.high_watermark) == (TEAM, 7)
    assert report.active_identity == IDENTITY
    outcomes = {store.schema_name: store.outcome for store in report.stores}
    assert (outcomes[LEASES], outcomes[LEDGER]) == (StoreOutcome.FROM_DATABASE,) * 2
    assert outcomes["own.notes"] == StoreOutcome.FROM_FILE
    with RuntimeStore.open(directory) as store:
        assert agree(store)
        assert store.read("own.notes").data == "mine"
        assert store.read(LEASES).data == DIFFERENT[LEASES]
        plan = store.plan_recovery(expected=IDENTITY)
        assert not [action for action in plan.actions if "stale" in (action.reason or "")]


@pytest.mark.parametrize("table", ["runtime_manifest", "manifest_entries"])
def test_the_active_identity_is_read_wherever_it_is_left(directory: Path, table: str) -> None:
    """Without the manifest's row it is that of the last batch; without entries it is in that row.
    The high watermark goes on. So a runtime of that identity finds nothing stale."""
    with open_store(directory) as store:
        head = store.manifest()
    overwrite(directory / DATABASE_NAME, table)
    given = RunIdentity(run_id="run-1")  # as the doctor's command has it: a part of what is known
    report = rebuild_database(directory, team_name=TEAM, identity=given)
    assert report.active_identity == head.active_identity
    assert report.high_watermark == head.high_watermark + 1
    with RuntimeStore.open(directory) as store:
        plan = store.plan_recovery(expected=head.active_identity)
        assert not [action for action in plan.actions if "stale" in (action.reason or "")]


def test_the_active_identity_where_the_manifest_makes_no_sense(directory: Path) -> None:
    """The row can be read, and the model refuses it: the identity is that of the last batch of a
    run, whole, whatever was given of it."""
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("UPDATE runtime_manifest SET updated_at = '2026-99-99T99:99:99.999Z'")
    report = rebuild_database(directory, identity=RunIdentity(run_id=IDENTITY.run_id))
    assert report.active_identity == IDENTITY
    with RuntimeStore.open(directory) as store:
        plan = store.plan_recovery(expected=IDENTITY)
        assert not [action for action in plan.actions if "stale" in (action.reason or "")]


def test_what_no_write_would_take_is_left_out(directory: Path) -> None:
    """A file with a key twice, data that its model refuses, a newer file and a link stay as they
    are, and each is named with the reason; the plan sees them."""
    with open_store(directory) as store:
        files = {name: file_of(store, name) for name in (LEASES, LEDGER, LAUNCH, SESSIONS)}
    files[LEASES].write_text('{"schemaVersion": 1, "data": {"n": 1, "n": 2}}')
    files[LAUNCH].write_text('{"schemaVersion": 1, "updatedAt": null, "data": {"no": "run"}}')
    files[LEDGER].write_text('{"schemaVersion": 9, "updatedAt": null, "data": 1}')
    files[SESSIONS].symlink_to(files[LEDGER])
    (directory / DATABASE_NAME).write_bytes(b"")
    before = {name: (path.is_symlink(), path.read_bytes()) for name, path in files.items()}
    report = rebuild_database(directory, team_name=TEAM)
    left_out = {store.schema_name: store.detail for store in report.stores if store.detail}
    assert left_out.keys() == files.keys()
    assert "invalid_json: an object has the key 'n' twice" in str(left_out[LEASES])
    assert "schema version 9" in str(left_out[LEDGER])
    assert "symbolic link" in str(left_out[SESSIONS])
    assert all(any(name in text for text in report.lost) for name in files)
    assert (report.batch_id, report.high_watermark) == (None, 0)
    assert before == {name: (path.is_symlink(), path.read_bytes()) for name, path in files.items()}
    with RuntimeStore.open(directory, recover=False) as store:
        assert not store.plan_recovery().manifest_healthy


def test_a_file_of_a_time_that_the_database_cannot_hold_is_taken(directory: Path) -> None:
    """Its time only says whether the file was looked at before: it is as committed."""
    with open_store(directory) as store:
        path = file_of(store, LEASES)
    try:
        os.utime(path, ns=(2**63, 2**63))
    except OSError:
        pytest.skip("no such times here")
    if path.stat().st_mtime_ns < 2**63:
        pytest.skip("no such times here")
    (directory / DATABASE_NAME).unlink()
    rebuild_database(directory, team_name=TEAM, descriptors=KNOWN_DESCRIPTORS)
    with RuntimeStore.open(directory) as store:
        actions = {item.schema_name: item.kind for item in store.plan_recovery().actions}
        assert actions[LEASES] is ActionKind.NONE


NOTES, TASKS = "team.notes", "team.tasks"
OLD_NOTES, NEW_NOTES = (Descriptor(NOTES, relative_path=f"{name}.json") for name in ("old", "new"))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A directory of a store of a runtime's own, whose file was edited since its last write."""
    with RuntimeStore.open(tmp_path / "t", team_name=TEAM, descriptors=[OLD_NOTES]) as store:
        write(store, NOTES, "committed")
    path = tmp_path / "t" / "old.json"
    path.write_bytes(path.read_bytes().replace(b"committed", b"edited"))
    return tmp_path / "t"


def drop_table(directory: Path, *names: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        for name in names:
            raw.execute(f"DROP TABLE {name}")


@pytest.mark.parametrize("lost", ["store_contents", "store_descriptors"])
def test_a_store_that_was_given_a_new_file_is_found_at_the_old_one(notes: Path, lost: str) -> None:
    """As long as the database knows it. It stays there, and an opening moves it, with the edit that
    the rebuild took."""
    drop_table(notes, lost)
    report = rebuild_database(notes, descriptors=[NEW_NOTES], identity=IDENTITY)
    (taken,) = report.stores
    assert (taken.outcome, taken.relative_path) == (StoreOutcome.FROM_FILE, "old.json")
    assert f"{NOTES} stays in its file old.json" in report.notes[0]
    with RuntimeStore.open(notes) as store:
        assert store.read(NOTES).data == "edited"
        assert store.check_readiness().ok
    with RuntimeStore.open(notes, descriptors=[NEW_NOTES]) as store:
        assert store.read(NOTES).data == "edited"
        assert store.check_readiness().ok
        assert (notes / "new.json").exists()
        assert agree(store)


def test_a_store_that_an_opening_moved_is_taken_from_its_new_file(notes: Path) -> None:
    """Its entry has the old one until the next write."""
    with RuntimeStore.open(notes, descriptors=[NEW_NOTES], foreign_edits="ignore"):
        assert (notes / "new.json").exists()
    drop_table(notes, "store_contents")
    for given in ([NEW_NOTES], None):
        (taken,) = rebuild_database(notes, descriptors=given, force=True).stores
        assert (taken.outcome, taken.relative_path) == (StoreOutcome.FROM_FILE, "new.json")


@pytest.mark.parametrize("lost", ["store_descriptors", "store_descriptors manifest_entries"])
@pytest.mark.parametrize("is_edited", [False, True])
def test_an_older_program_does_not_bring_its_old_file_back(
    notes: Path, lost: str, *, is_edited: bool
) -> None:
    """A store was moved and written since, and no descriptor can be read: its entry, or else its
    last batch, says which file is its."""
    with RuntimeStore.open(notes, descriptors=[NEW_NOTES], foreign_edits="ignore") as store:
        write(store, NOTES, "moved")
    assert (notes / "old.json").exists()
    if is_edited:
        path = notes / "new.json"
        path.write_bytes(path.read_bytes().replace(b"moved", b"by hand"))
    drop_table(notes, *lost.split())
    report = rebuild_database(notes, descriptors=[OLD_NOTES], identity=IDENTITY)
    (taken,) = report.stores
    assert (taken.outcome, taken.relative_path) == (StoreOutcome.FROM_FILE, "new.json")
    with RuntimeStore.open(notes, descriptors=[OLD_NOTES]) as store:
        assert store.read(NOTES).data == ("by hand" if is_edited else "moved")
        assert store.check_readiness().ok


def test_a_store_that_an_opening_moved_and_nobody_remembers(notes: Path) -> None:
    """What is committed is there under the name of the descriptor: that is its file now. An edit of
    the former one is not taken."""
    with RuntimeStore.open(notes, descriptors=[OLD_NOTES], foreign_edits="ignore") as store:
        write(store, NOTES, "again")
    with RuntimeStore.open(notes, descriptors=[NEW_NOTES]):
        pass
    path = notes / "old.json"
    path.write_bytes(path.read_bytes().replace(b"again", b"stray"))
    drop_table(notes, "store_descriptors")
    (taken,) = rebuild_database(notes, descriptors=[NEW_NOTES]).stores
    assert (taken.outcome, taken.relative_path) == (StoreOutcome.FROM_FILE, "new.json")


def test_the_file_of_another_store_is_not_taken(notes: Path) -> None:
    """An opening refuses that, too, and a rebuild has no batch that says whose file it is."""
    drop_table(notes, "store_contents")
    before = files_picture(notes)
    other = Descriptor(TASKS, relative_path="old.json")
    with pytest.raises(InvalidRequestError, match=rf"old\.json is that of store {NOTES}"):
        rebuild_database(notes, descriptors=[NEW_NOTES, other])
    assert files_picture(notes) == before
    report = rebuild_database(notes, descriptors=[OLD_NOTES, Descriptor(TASKS)])
    assert [store.outcome for store in report.stores] == ["from_file", "missing"]


def test_without_a_database_nobody_knows_the_old_file(notes: Path) -> None:
    """The rebuild does not go past it as if the store had never been written. Each way that it
    names works."""
    (notes / DATABASE_NAME).unlink()
    before = files_picture(notes)
    with pytest.raises(InvalidRequestError) as told:
        rebuild_database(notes, team_name=TEAM, descriptors=[NEW_NOTES])
    assert files_picture(notes) == before
    assert "none of these descriptors names old.json" in told.value.problem
    assert f"{NOTES} (no new.json)" in told.value.problem
    ways = {name: notes.with_name(name) for name in ("older descriptors", "force")}
    for copy in ways.values():
        shutil.copytree(notes, copy)
    rebuild_database(ways["older descriptors"], team_name=TEAM, descriptors=[OLD_NOTES])
    with RuntimeStore.open(ways["older descriptors"], descriptors=[NEW_NOTES]) as store:
        assert store.read(NOTES).data == "edited"
        assert agree(store)
    forced = rebuild_database(ways["force"], team_name=TEAM, descriptors=[NEW_NOTES], force=True)
    assert [store.outcome for store in forced.stores] == ["missing"]
    (note,) = forced.notes
    assert "old.json: none of these names it, so it is left as it is" in note


@pytest.mark.parametrize("with_known", [True, False])
def test_files_to_be_adopted_later(tmp_path: Path, *, with_known: bool) -> None:
    """That way out is named only where it leads on: a database without a batch opens no runtime
    that has stores for those files."""
    directory, own = tmp_path / "team", [Descriptor("own.a"), Descriptor("own.b")]
    stores = [*own, *(item for item in KNOWN_DESCRIPTORS if item.schema_name == LEASES)]
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=stores) as store:
        for item in stores if with_known else own:
            write(store, item.schema_name, 1)
    (directory / DATABASE_NAME).unlink()
    with pytest.raises(InvalidRequestError, match="--descriptors MODULE:NAME") as told:
        rebuild_database(directory, team_name=TEAM, identity=IDENTITY)
    assert ("adopt them one by one" in told.value.problem) is with_known
    if with_known:
        rebuild_database(directory, team_name=TEAM, identity=IDENTITY, force=True)
        with RuntimeStore.open(directory, descriptors=stores) as store:
            for item in own:
                store.adopt(item)
            assert agree(store)
            assert [store.read(item).data for item in stores] == [1, 1, 1]


def test_a_file_that_a_store_left_behind_becomes_no_other_store(tmp_path: Path) -> None:
    """Beside a store that was deleted, the former file of one that moved looks like its file. No
    command is printed that makes it that; it is said whose content the file has, and what is
    printed leaves it as it is."""
    directory = tmp_path / "t"
    gone, before = Descriptor("own.gone"), Descriptor(NOTES, relative_path="old.json")
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=[gone, before]) as store:
        write(store, "own.gone", "what was deleted")
        write(store, NOTES, "notes")
        store.write_batch(identity=IDENTITY, reason="it_went", writes={"own.gone": DELETED})
    RuntimeStore.open(directory, descriptors=[gone, NEW_NOTES]).close()
    (directory / DATABASE_NAME).unlink()
    with pytest.raises(InvalidRequestError) as told:
        rebuild_database(directory, team_name=TEAM, descriptors=[gone, NEW_NOTES])
    assert "own.gone (no own.gone.json)" in told.value.problem
    assert f"old.json is, byte for byte, new.json of {NOTES}" in told.value.problem
    assert "may have been deleted" in told.value.problem
    assert "mv " not in told.value.problem
    report = rebuild_database(directory, team_name=TEAM, descriptors=[gone, NEW_NOTES], force=True)
    assert [store.outcome for store in report.stores] == ["missing", "from_file"]
    with RuntimeStore.open(directory) as store:
        assert store.read(NOTES).data == "notes"
        assert store.manifest().entry("own.gone") is None
    assert (directory / "old.json").exists()


def test_a_file_that_was_never_committed_is_taken_and_said(directory: Path) -> None:
    """A file changed by hand is the truth now, of the run that its store is of unless one is
    given; one of which the old database says nothing is of no run."""
    with open_store(directory) as store:
        path = file_of(store, LEASES)
        never = file_of(store, DIAGNOSTICS)
    for changed in (path, never):
        changed.write_text('{"schemaVersion": 1, "updatedAt": null, "data": "by hand"}')
    overwrite(directory / DATABASE_NAME, "recovery_runs")
    shutil.copytree(directory, directory.with_name("twin"))
    report = rebuild_database(directory)
    details = {store.schema_name: store.detail for store in report.stores}
    assert "differs from what was committed" in str(details[LEASES])
    with RuntimeStore.open(directory) as store:
        assert store.read(LEASES).run_id == "run-1"
        assert store.read(LAUNCH).run_id == "run-1"
        assert store.read(DIAGNOSTICS).run_id is None
    rebuild_database(directory.with_name("twin"), identity=RunIdentity(run_id="run-2"))
    with RuntimeStore.open(directory.with_name("twin")) as store:
        assert store.read(LEASES).run_id == "run-2"
        assert store.manifest().active_identity == IDENTITY


# --- what is refused ------------------------------------------------------------------------------


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '0099_later'")
        raw.execute("PRAGMA user_version = 99")


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE theirs (a)")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


REFUSED: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "sound": (lambda path: None, InvalidRequestError),
    "newer": (_newer, NewerDatabaseError),
    "another program's": (_foreign, ForeignDatabaseError),
    "a directory": (_directory, ForeignDatabaseError),
    "empty, and whose it is is not said": (
        lambda path: path.write_bytes(b""),
        InvalidRequestError,
    ),
}


@pytest.mark.parametrize(("spoil", "error"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_left_as_it_is(
    directory: Path, spoil: Callable[[Path], object], error: type[Exception]
) -> None:
    """A sound database, a newer one and another program's are not touched."""
    spoil(directory / DATABASE_NAME)
    before = picture(directory, without=("runtime-store.lock", "broken-001"))
    with pytest.raises(error):
        rebuild_database(directory)
    assert picture(directory, without=("runtime-store.lock", "broken-001")) == before


def test_on_demand(directory: Path) -> None:
    """With `force`, a sound database and another program's are set aside; a newer one is not."""
    assert rebuild_database(directory, force=True).high_watermark == 6
    _foreign(directory / DATABASE_NAME)
    report = rebuild_database(directory, force=True, team_name=TEAM)
    assert report.kept_aside == directory / "runtime-store.broken-002"
    _newer(directory / DATABASE_NAME)
    with pytest.raises(NewerDatabaseError):
        rebuild_database(directory, force=True)


def test_places_without_a_store(tmp_path: Path) -> None:
    """No such directory, one with nothing of a store in it, and one of the legacy format: sent to
    the right command, and nothing is made."""
    (tmp_path / "notes.txt").write_text("mine")
    for directory in (tmp_path / "missing", tmp_path):
        with pytest.raises(NotARuntimeDirectoryError, match="rtstore init"):
            rebuild_database(directory, team_name=TEAM)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "opencode-runtime-manifest.json").write_text("{}")
    with pytest.raises(NotARuntimeDirectoryError, match="rtstore import"):
        rebuild_database(tmp_path, team_name=TEAM)


def test_not_beside_a_writer(directory: Path) -> None:
    """It waits for the writer lock, and gives up without touching anything."""
    (directory / DATABASE_NAME).write_bytes(b"")
    before = picture(directory, without=("runtime-store.lock",))
    with WriterLock(directory).hold(), pytest.raises(LockTimeoutError):
        rebuild_database(directory, team_name=TEAM, lock_timeout_s=0.05)
    assert picture(directory, without=("runtime-store.lock",)) == before


# --- the others -----------------------------------------------------------------------------------


def test_who_had_the_old_one_open_notices(directory: Path) -> None:
    """A store that was open all along neither writes into the database that was set aside, nor
    reads from it."""
    with RuntimeStore.open(directory) as store:
        rebuild_database(directory, force=True)
        for call in (
            lambda: write(store, LEASES, "lost?"),
            lambda: store.read(LEASES),
            store.manifest,
        ):
            with pytest.raises(StoreClosedError, match="rebuilt"):
                call()
    with RuntimeStore.open(directory) as store:
        assert store.read(LEASES).data == DIFFERENT[LEASES]


def test_who_had_the_old_one_open_takes_nothing_along(directory: Path) -> None:
    """The last connection to close removes the WAL by its name, which is the new database's now:
    SQLite notices that its own was moved (SQLITE_FCNTL_HAS_MOVED), and leaves the WAL alone."""
    wal = directory / f"{DATABASE_NAME}-wal"
    old = RuntimeStore.open(directory)
    write(old, LEASES, {"n": 3})
    rebuild_database(directory, force=True)
    with RuntimeStore.open(directory) as new:
        write(new, LEASES, "new")
        before = wal.stat().st_ino, wal.stat().st_size
        old.close()
        assert (wal.stat().st_ino, wal.stat().st_size) == before
        write(new, LEDGER, "newer")
    with RuntimeStore.open(directory) as store:
        assert (store.read(LEASES).data, store.read(LEDGER).data) == ("new", "newer")
        assert agree(store)


def test_an_interrupted_rebuild_is_in_nobodys_way_but_its_own(directory: Path) -> None:
    """While the new database waits and the old one is gone, nobody starts with an empty store; a
    second rebuild goes on, with what the old one tells."""
    path = directory / DATABASE_NAME
    overwrite(path, "recovery_runs")
    folder = directory / "runtime-store.broken-001"
    folder.mkdir()
    path.rename(folder / path.name)
    revisions.rebuilt_path(path).write_bytes((folder / path.name).read_bytes())
    for options in ({"team_name": TEAM}, {"read_only": True}):
        with pytest.raises(CorruptDatabaseError, match="interrupted"):
            RuntimeStore.open(directory, **options)
    hashed = digest((folder / path.name).read_bytes())
    report = rebuild_database(directory)
    assert (report.team_name, report.kept_aside) == (TEAM, folder)
    assert digest((folder / path.name).read_bytes()) == hashed
    assert not revisions.rebuilt_path(path).exists()
    with RuntimeStore.open(directory) as store:
        assert agree(store)


@pytest.mark.early
@pytest.mark.thorough
def test_killed_anywhere_it_can_be_run_again() -> None:
    """Killed before any step that changes something: nobody starts with an empty store, the old
    database and its WAL are whole in one folder, and the next rebuild has everything. A rebuild
    that removes the old database first does not pass."""
    lines = {line["job"]: line for line in lines_of("tests.maintenance.rebuild_kills", "--quick")}
    assert lines["rebuild"]["points"] > 8
    assert lines["rebuild"]["failures"] == 0, lines["rebuild"]["first"]
    assert lines["control"]["failures"] > 0
