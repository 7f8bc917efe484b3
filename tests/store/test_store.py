"""The facade: opening, reading, snapshots, readiness, closing."""

from __future__ import annotations

import threading
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    ActionKind,
    InvalidRequestError,
    NotARuntimeDirectoryError,
    ReadinessImpact,
    ReadinessReason,
    ReadOnlyStoreError,
    RebuildRequest,
    RebuildStrategy,
    Retention,
    RunAliveError,
    RunIdentity,
    RuntimeStore,
    StoreClosedError,
    StoreFileChangedError,
    UnknownStoreError,
)
from rtstore.control.lock import LOCK_NAME
from rtstore.errors import Hint
from rtstore.model.descriptors import KNOWN_DESCRIPTORS
from rtstore.testing import Seams
from tests.support import (
    CHECKPOINT,
    FILE_OF,
    IDENTITY,
    LAUNCH,
    LEASES,
    LEDGER,
    NOON,
    SESSIONS,
    TEAM,
    Ids,
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

# --- opening ------------------------------------------------------------------------------------


def test_opening_makes_the_directory_and_the_database(tmp_path: Path) -> None:
    """One call is enough; what it makes is a store in which nothing was committed."""
    directory = tmp_path / "teams" / "a"
    with RuntimeStore.open(directory, team_name=TEAM, seams=Seams(clock=lambda: NOON)) as store:
        manifest = store.manifest()

        assert (store.directory, store.team_name) == (directory, TEAM)
        assert (manifest.high_watermark, manifest.entries, manifest.updated_at) == (0, (), NOON)
        assert store.batches() == []
        assert store.snapshot().contents == {}
        assert store.last_recovery is None
        assert (directory / DATABASE_NAME).is_file()


def test_a_directory_may_be_given_as_text(tmp_path: Path) -> None:
    """`open("teams/team-a", ...)` reads well."""
    with RuntimeStore.open(str(tmp_path / "a"), team_name=TEAM) as store:
        assert store.directory == tmp_path / "a"


def test_opening_again_needs_no_team_and_finds_everything(tmp_path: Path) -> None:
    """Team, descriptors, contents and identity are in the database."""
    own = plain_descriptor("test.own", "own.json")
    directory = new_directory(tmp_path)
    with open_store(directory, descriptors=[own, *KNOWN_DESCRIPTORS]) as store:
        write(store, "test.own", [1])
    with RuntimeStore.open(directory) as store:
        assert store.team_name == TEAM
        assert store.descriptors.names[0] == "test.own"
        assert store.read("test.own").data == [1]
        assert store.manifest().active_identity == IDENTITY


def test_descriptors_are_those_given_last(tmp_path: Path) -> None:
    """A runtime that registers other stores is remembered; what was committed stays readable
    under its own name."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, 1)
    with open_store(directory, descriptors=[plain_descriptor("test.own", "own.json")]) as store:
        with pytest.raises(UnknownStoreError, match=r"Known: test\.own"):
            store.read(LEASES)
        assert store.manifest().entry(LEASES) is not None
    with open_store(directory) as store:
        assert store.descriptors.names == ("test.own",)
    with open_store(directory, descriptors=KNOWN_DESCRIPTORS) as store:
        assert store.read(LEASES).data == 1


def test_many_threads_that_open_a_new_directory_at_once_make_one_store(tmp_path: Path) -> None:
    """Whoever comes second opens what the first one made."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with RuntimeStore.open(tmp_path / "new", team_name=TEAM) as store:
                write(store, LEASES, number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    with RuntimeStore.open(tmp_path / "new") as store:
        assert store.manifest().high_watermark == 6


# --- reading ------------------------------------------------------------------------------------


def test_reading_gives_the_content_and_where_it_comes_from(store: RuntimeStore) -> None:
    """Data, version, time, hash, batch and the identity that it is bound to."""
    write(store, LEDGER, "earlier")
    write(store, LEASES, {"a": [1]})

    content = store.read(LEASES)

    assert content.data == {"a": [1]}
    assert (content.schema_name, content.schema_version, content.updated_at) == (LEASES, 1, NOON)
    assert content.content_hash == digest(file_of(store, LEASES).read_bytes())
    assert (content.batch_id, content.high_watermark) == ("batch-2", 2)
    assert (content.run_id, content.capability_snapshot_id, content.behavior_fingerprint) == (
        "run-1",
        "cap-1",
        "behavior-1",
    )


def test_what_was_never_written_cannot_be_read(store: RuntimeStore) -> None:
    """No content is not the same as empty content."""
    with pytest.raises(InvalidRequestError, match="never written") as caught:
        store.read(LEASES)

    assert (caught.value.field, caught.value.store) == ("store", LEASES)


def test_a_file_that_nobody_committed_is_not_read(store: RuntimeStore) -> None:
    """It is somebody else's, and the reader is told so."""
    file_of(store, LEASES).write_text("{}")

    with pytest.raises(StoreFileChangedError) as caught:
        store.read(LEASES)
    with pytest.raises(InvalidRequestError):
        store.read(LEASES, verify=False)

    assert caught.value.found_hash == digest(b"{}")


def test_a_changed_file_is_neither_used_nor_overlooked(store: RuntimeStore) -> None:
    """Reading raises with both hashes; without verifying it gives what is committed."""
    write(store, LEASES, "committed")
    path = file_of(store, LEASES)
    committed = path.read_bytes()
    changed = committed.replace(b"committed", b"by hand!!")
    path.write_bytes(changed)

    with pytest.raises(StoreFileChangedError) as caught:
        store.read(LEASES)

    error = caught.value
    assert (error.store, error.path) == (LEASES, path)
    assert (error.expected_hash, error.found_hash) == (digest(committed), digest(changed))
    assert "rtstore plan" in str(error)
    assert store.read(LEASES, verify=False).data == "committed"
    assert path.read_bytes() == changed


@pytest.mark.parametrize("kind", ["missing", "directory", "link"])
def test_a_file_that_is_no_file_any_more_is_not_overlooked(store: RuntimeStore, kind: str) -> None:
    """Removed, or replaced by something else: the content is there, the file is not."""
    write(store, LEASES, 1)
    path = file_of(store, LEASES)
    path.rename(path.with_name("moved.json"))
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("moved.json")

    with pytest.raises(StoreFileChangedError):
        store.read(LEASES)

    assert store.read(LEASES, verify=False).data == 1


def test_a_file_that_was_only_touched_is_read(store: RuntimeStore) -> None:
    """Size and time are a hint; the hash decides."""
    write(store, LEASES, 1)
    path = file_of(store, LEASES)
    content = path.read_bytes()
    path.touch()
    assert store.read(LEASES).data == 1
    path.unlink()
    path.write_bytes(content)
    assert store.read(LEASES).data == 1


def test_a_snapshot_holds_what_is_committed_and_names_its_watermark(store: RuntimeStore) -> None:
    """Some stores or all; a store that was never written is absent; files are not looked at."""
    write(store, LEASES, 1)
    write(store, LEDGER, 2)
    file_of(store, LEASES).unlink()

    everything = store.snapshot()
    some = store.snapshot([LEDGER, SESSIONS])

    assert everything.high_watermark == some.high_watermark == 2
    assert {name: everything.data(name) for name in everything.contents} == {LEASES: 1, LEDGER: 2}
    assert list(some.contents) == [LEDGER]
    assert some.contents[LEDGER] == store.read(LEDGER)
    with pytest.raises(UnknownStoreError):
        store.snapshot(["no.such.store"])


# --- looking without touching -------------------------------------------------------------------


def test_read_only_opens_look_and_change_nothing(tmp_path: Path) -> None:
    """Not a byte, a name or a time in the directory is another one afterwards, damage included;
    and nothing can be written."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, 1)
        write(store, LEDGER, 2)
    (directory / FILE_OF[LEDGER]).unlink()
    (directory / f".{FILE_OF[LEDGER]}.rtstore-tmp").write_text("half")
    before = picture(directory)

    with open_store(directory, read_only=True) as store:
        assert store.read(LEASES).data == 1
        assert store.snapshot().high_watermark == 2
        assert store.batches(limit=1)[0].batch_id == "batch-2"
        plan, check = store.assess()
        assert plan.readiness_impact is ReadinessImpact.BLOCKED
        assert not check.ok
    assert picture(directory) == before

    with open_store(directory, read_only=True) as store:
        for attempt in (lambda: write(store, LEASES, 2), lambda: store.recover(plan)):
            with pytest.raises(ReadOnlyStoreError, match="read-only"):
                attempt()
    assert files_picture(directory).items() <= before.items()


def test_read_only_refuses_to_write_before_anything_is_made(tmp_path: Path) -> None:
    """Every call that writes says that the store was opened read-only; not even the file of the
    writer lock is made by it."""
    directory = new_directory(tmp_path)
    (directory / LOCK_NAME).unlink(missing_ok=True)
    before = picture(directory)
    called: list[RebuildRequest] = []
    rebuilders = dict.fromkeys(RebuildStrategy, called.append)
    with open_store(directory, read_only=True) as store:
        plan = store.plan_recovery()
        for call in (
            lambda: write(store, LEASES, 1),
            lambda: store.update(LEASES, str, identity=IDENTITY, reason=CHECKPOINT),
            lambda: store.begin_run("run-2", rebuilders=rebuilders),
            store.end_run,
            lambda: store.revert(LEASES, to=1, identity=IDENTITY),
            lambda: store.recover(plan),
            lambda: store.adopt(LEASES, identity=IDENTITY),
            lambda: store.restore_quarantined(1),
            lambda: store.prune(Retention(batches=1)),
            store.export,
        ):
            with pytest.raises(ReadOnlyStoreError, match="without read_only=True"):
                call()
    assert (picture(directory), called) == (before, [])


def test_read_only_says_so_before_it_looks_at_the_active_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run cannot begin here whatever becomes of the process of the active one: the advice to stop
    that, or to supersede it, would lead to the next refusal."""
    with open_store(directory := new_directory(tmp_path)) as store:
        store.begin_run("run-1", writes={LEASES: 1})
        monkeypatch.setattr("rtstore.commit.begin.is_this_process", lambda _: False)
        with pytest.raises(RunAliveError):
            store.begin_run("run-2", keep="all")
        with open_store(directory, read_only=True) as other:
            for supersede in (False, True):
                with pytest.raises(ReadOnlyStoreError):
                    other.begin_run("run-2", keep="all", supersede=supersede)


def test_read_only_needs_a_store(tmp_path: Path) -> None:
    """It makes none, and says how one is made."""
    with pytest.raises(NotARuntimeDirectoryError, match="rtstore init") as caught:
        RuntimeStore.open(tmp_path / "none", team_name=TEAM, read_only=True)

    assert caught.value.directory == tmp_path / "none"
    assert caught.value.hint is Hint.CREATE
    assert list(tmp_path.iterdir()) == []


# --- readiness ----------------------------------------------------------------------------------


def test_a_new_store_is_not_ready(store: RuntimeStore) -> None:
    """The launch state and others must be there before a runtime may start on them."""
    check = store.check_readiness(expected=IDENTITY)

    assert (check.ok, check.reason) == (False, ReadinessReason.RECOVERY_REQUIRED)
    assert f"Runtime store missing: {LAUNCH}" in check.diagnostics


def test_readiness_follows_the_files_the_identity_and_the_invariants(tmp_path: Path) -> None:
    """Ready; stale for another run; degraded by a lost rebuildable store; blocked where committed
    stores contradict each other."""
    names = (LAUNCH, SESSIONS, "opencode.compatibilitySnapshot")
    known = [item for item in KNOWN_DESCRIPTORS if item.schema_name in names]
    with open_store(new_directory(tmp_path), descriptors=known) as store:
        sessions = {"sessions": [{"teamName": TEAM, "memberName": "Builder", "runId": "run-1"}]}
        launch = launch_state(
            capabilitySnapshotId="cap-1",
            members=[{"name": "Builder", "launchState": "confirmed_alive"}],
        )
        store.write_batch(
            identity=IDENTITY,
            reason=CHECKPOINT,
            writes={LAUNCH: launch, SESSIONS: sessions, names[2]: {"snapshotId": "cap-1"}},
        )
        ready = store.check_readiness(expected=IDENTITY)
        assert (ready.ok, ready.reason) == (True, ReadinessReason.MANIFEST_VALID)
        assert store.check_readiness().ok

        other = store.check_readiness(expected=RunIdentity(run_id="run-2"))
        assert not other.ok
        assert f"Runtime store {LAUNCH} has stale run id" in other.diagnostics

        file_of(store, SESSIONS).write_text("{bad")
        plan, degraded = store.assess(expected=IDENTITY)
        assert degraded.reason is ReadinessReason.REBUILD_IN_PROGRESS
        kinds = {action.schema_name: action.kind for action in plan.actions}
        assert kinds[SESSIONS] is ActionKind.RESTORE_COMMITTED

        write(store, SESSIONS, {"sessions": []})
        blocked = store.check_readiness(expected=IDENTITY)
        assert blocked.reason is ReadinessReason.RECOVERY_REQUIRED
        assert blocked.diagnostics == (
            "confirmed member Builder has no matching OpenCode session record",
        )


@pytest.mark.parametrize("known", [(LAUNCH,), (LAUNCH, SESSIONS), None], ids=str)
def test_what_is_committed_is_missing_to_nobody(
    tmp_path: Path, known: tuple[str, ...] | None
) -> None:
    """A program with few of the descriptors, or with a newer version of one, says nothing of what
    it cannot judge: that a record is missing least of all."""
    with open_store(new_directory(tmp_path)) as store:
        store.write_batch(
            identity=IDENTITY,
            reason=CHECKPOINT,
            writes={
                LAUNCH: launch_state(
                    capabilitySnapshotId="cap-1",
                    members=[{"name": "Builder", "launchState": "confirmed_alive"}],
                ),
                SESSIONS: {
                    "sessions": [{"teamName": TEAM, "memberName": "Builder", "runId": "run-1"}]
                },
                "opencode.compatibilitySnapshot": {"snapshotId": "cap-1"},
            },
        )
        directory = store.directory
    mine = [item for item in KNOWN_DESCRIPTORS if known is None or item.schema_name in known]
    if known is None:
        update = {"schema_version": 2, "upgrades": {1: lambda data: data}, "payload": None}
        mine = [
            item.model_copy(update=update) if item.schema_name == SESSIONS else item
            for item in mine
        ]
    with RuntimeStore.open(directory, descriptors=mine, upgrade=False) as store:
        told = " ".join(store.check_readiness(expected=IDENTITY).diagnostics)
        assert "no matching" not in told
        assert "does not match" not in told


# --- closing ------------------------------------------------------------------------------------


def test_a_closed_store_refuses_and_closing_twice_is_harmless(tmp_path: Path) -> None:
    """Every use afterwards says that it is closed."""
    directory = new_directory(tmp_path)
    store = open_store(directory)
    write(store, LEASES, 1)
    store.close()
    store.close()

    for use in (
        lambda: store.read(LEASES),
        lambda: write(store, LEASES, 2),
        store.snapshot,
        store.plan_recovery,
        lambda: store.update(LEASES, lambda data: data, identity=IDENTITY, reason=CHECKPOINT),
    ):
        with pytest.raises(StoreClosedError, match="is closed"):
            use()
    assert not store.lock.is_held()


def test_closing_leaves_the_database_in_one_file(tmp_path: Path) -> None:
    """The last one to close moves the WAL into it, so that one file can be carried away."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, 1)
        with open_store(directory, batch_id_factory=Ids("b"), receipt_id_factory=Ids("r")) as two:
            write(two, LEASES, 2)
            before = files_picture(directory)
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [FILE_OF[LEASES], DATABASE_NAME, "runtime-store.lock"]
    )
    assert files_picture(directory) == before


def test_an_error_inside_of_the_block_closes_too(tmp_path: Path) -> None:
    """The store is a context manager like any other."""
    with pytest.raises(ZeroDivisionError), open_store(new_directory(tmp_path)) as store:
        raise ZeroDivisionError
    with pytest.raises(StoreClosedError):
        store.manifest()


def test_seams_are_taken_by_their_names_as_well(tmp_path: Path) -> None:
    """A program of an earlier version gives a clock or a file system to `open` by its name; the
    signature shows `seams` alone, and any other name is refused."""
    options: dict[str, Any] = {"clock": lambda: NOON, "fs": None, "plan_id_factory": lambda: "p"}
    with RuntimeStore.open(tmp_path / "r", team_name="t", **options) as store:
        batch = store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEDGER: 1})
        assert (batch.started_at, store.plan_recovery().plan_id) == (NOON, "p")
    assert "seams" in signature(RuntimeStore.open).parameters
    assert not options.keys() & signature(RuntimeStore.open).parameters.keys()
    wrong: dict[str, Any] = {"clocks": options["clock"]}
    with pytest.raises(TypeError, match="clocks"):
        RuntimeStore.open(tmp_path / "r", **wrong)
    wrong = {"clock": 1}
    with pytest.raises(InvalidRequestError, match="clock"):
        RuntimeStore.open(tmp_path / "r", **wrong)
