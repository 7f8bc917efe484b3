"""Arguments of the wrong kind: each its own clear error, before anything is made or written."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rtstore import (
    DATABASE_NAME,
    KNOWN_DESCRIPTORS,
    AsyncRuntimeStore,
    BackupDamagedError,
    CallError,
    Database,
    Descriptor,
    InvalidRequestError,
    LockTimeoutError,
    Retention,
    RunIdentity,
    RuntimeStore,
    StorageError,
    UnknownStoreError,
    import_directory,
    import_team,
    rebuild_database,
    restore_backup,
    upgrade_directory,
)
from rtstore.maintenance.backup import back_up
from rtstore.model import arguments
from rtstore.model.ids import new_batch_id
from rtstore.testing import Seams
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LAUNCH,
    LEASES,
    TEAM,
    file_of,
    files_picture,
    new_directory,
    open_store,
    options_of,
    picture,
    write,
)

EAST = timezone(timedelta(hours=5))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"team_name": "\ud800"}, "team_name"),
        ({"team_name": TEAM, "clock": lambda: datetime(2026, 4, 21)}, "clock"),  # noqa: DTZ001
        ({"team_name": TEAM, "clock": lambda: "noon"}, "clock"),
        ({"team_name": TEAM, "clock": lambda: datetime(1, 1, 1, tzinfo=EAST)}, "clock"),
        ({"team_name": TEAM, "durability": "always"}, "durability"),
        ({"team_name": 7}, "team_name"),
        ({"team_name": TEAM, "descriptors": KNOWN_DESCRIPTORS[0]}, "descriptors"),
        ({"team_name": TEAM, "descriptors": ["opencode.hostLeases"]}, "descriptors"),
        ({"team_name": TEAM, "lock_timeout_s": "5"}, "lock_timeout_s"),
        ({"team_name": TEAM, "lock_timeout_s": -1}, "lock_timeout_s"),
        ({"team_name": TEAM, "lock_timeout_s": float("nan")}, "lock_timeout_s"),
        ({"team_name": TEAM, "lock_timeout_s": float("inf")}, "lock_timeout_s"),
        ({"team_name": TEAM, "retention": 7}, "retention"),
        ({"team_name": TEAM, "clock": None}, "clock"),
        ({"team_name": TEAM, "batch_id_factory": "id"}, "batch_id_factory"),
        ({"team_name": TEAM, "receipt_id_factory": 1}, "receipt_id_factory"),
        ({"team_name": TEAM, "plan_id_factory": None}, "plan_id_factory"),
        ({"team_name": TEAM, "on_event": "print"}, "on_event"),
        ({"team_name": TEAM, "fs": "files"}, "fs"),
        ({"team_name": TEAM, "read_only": "x"}, "read_only"),
        ({"team_name": TEAM, "read_only": None}, "read_only"),
        ({"team_name": TEAM, "recover": 0}, "recover"),
        ({"team_name": TEAM, "upgrade": "no"}, "upgrade"),
    ],
)
def test_a_store_is_not_begun_with_wrong_arguments(
    tmp_path: Path, arguments: dict[str, Any], field: str
) -> None:
    """A clock without a zone, a name that is no text, a time-out that is no number: the field is
    named, and no directory made."""
    with pytest.raises(InvalidRequestError) as raised:
        RuntimeStore.open(tmp_path / "new", **options_of(**arguments))
    assert raised.value.field == field
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("clock", [datetime.now, lambda: "noon"])
def test_a_clock_without_a_zone_is_named_in_a_directory_that_is_there(
    tmp_path: Path, clock: Any
) -> None:
    """By `open`, which plans what to recover, and by a store that recovers nothing."""
    directory = new_directory(tmp_path)
    with pytest.raises(InvalidRequestError) as raised:
        RuntimeStore.open(directory, seams=Seams(clock=clock))
    assert raised.value.field == "clock"
    with (
        RuntimeStore.open(directory, seams=Seams(clock=clock), recover=False) as store,
        pytest.raises(InvalidRequestError) as raised,
    ):
        store.check_readiness()
    assert raised.value.field == "clock"


def _back_up(directory: Path, clock: Any) -> None:
    database = Database(directory / DATABASE_NAME, read_only=True)
    try:
        back_up(directory, database, directory.parent / "backup", clock=clock)
    finally:
        database.close()


WITH_A_CLOCK: dict[str, Callable[[Path, Any], object]] = {
    "rebuild_database": lambda directory, clock: rebuild_database(
        directory, force=True, clock=clock
    ),
    "back_up": _back_up,
    "upgrade_directory": lambda directory, clock: upgrade_directory(directory, clock=clock),
    "import_directory": lambda directory, clock: import_directory(directory, clock=clock),
    "import_team": lambda directory, clock: import_team(directory, clock=clock),
}


@pytest.mark.parametrize("clock", [datetime.now, lambda: "noon", None])
@pytest.mark.parametrize("name", WITH_A_CLOCK)
def test_no_clock_without_a_zone_makes_rebuilds_or_copies_anything(
    tmp_path: Path, name: str, clock: Any
) -> None:
    """Whoever takes a clock asks it first, and names it."""
    directory = new_directory(tmp_path)
    if name == "rebuild_database":
        (directory / DATABASE_NAME).write_bytes(b"")
    elif name.startswith("import"):
        with open_store(directory) as store:
            write(store, LEASES, {"leases": []})
            store.export(tmp_path / "legacy")
        directory = tmp_path / "legacy"
    before = picture(tmp_path)
    with pytest.raises(InvalidRequestError) as raised:
        WITH_A_CLOCK[name](directory, clock)
    assert raised.value.field == "clock"
    assert picture(tmp_path) == before


def test_a_number_that_is_too_large_is_called_so(tmp_path: Path) -> None:
    """And not too small."""
    with open_store(new_directory(tmp_path)) as store:
        write(store, LEASES, 1)
        for call in (
            lambda: _write(store, expected_high_watermark=2**70),
            lambda: _write(store, expected={LEASES: 2**70}),
            lambda: store.read(LEASES, at=2**70),
        ):
            with pytest.raises(InvalidRequestError, match=f"{2**63 - 1} or less, not {2**70}"):
                call()


@pytest.mark.parametrize("writes", [None, 7, ["store"], [("one", "two", "three")]])
def test_writes_of_the_wrong_kind_are_named(tmp_path: Path, writes: Any) -> None:
    """What is neither a mapping nor pairs is refused by name, and nothing is written."""
    with RuntimeStore.open(tmp_path / "dir", team_name=TEAM) as store:
        with pytest.raises(InvalidRequestError) as raised:
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)
        assert raised.value.field == "writes"
        assert store.batches() == []


@pytest.mark.parametrize("wrong", [None, 7, b"bytes", "", "a\0b"])
def test_what_is_no_path_is_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    """Least of all an empty one, as an unset variable gives: no store is made where we happen to
    be."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequestError) as raised:
        RuntimeStore.open(wrong, team_name=TEAM)
    assert raised.value.field == "directory"
    assert list(tmp_path.iterdir()) == []


CONTROLS = ("\0", "\n", "\t", "\r", "\x1b", "\x7f", "\x85", "\u2028")
"""Characters that no line of a page or a command holds."""

CALLERS_TEXTS: dict[str, Callable[[RuntimeStore, str], Any]] = {
    "identity.run_id": lambda store, text: _write(store, identity=RunIdentity(run_id=text)),
    "identity.capability_snapshot_id": lambda store, text: _write(
        store, identity=RunIdentity(run_id="run-1", capability_snapshot_id=text)
    ),
    "identity.behavior_fingerprint": lambda store, text: store.begin_run(
        RunIdentity(run_id="run-2", behavior_fingerprint=text), keep="all"
    ),
    "begin_run: identity.run_id": lambda store, text: store.begin_run(text, keep="all"),
    "start_state: identity.run_id": lambda store, text: store.start_state(text),
    "expected: identity.run_id": lambda store, text: store.check_readiness(
        expected=RunIdentity(run_id=text)
    ),
    "adopt: identity.run_id": lambda store, text: store.adopt(
        LEASES, identity=RunIdentity(run_id=text)
    ),
    "revert: identity.run_id": lambda store, text: store.revert(
        LEASES, to=1, identity=RunIdentity(run_id=text)
    ),
    "recover: identity.run_id": lambda store, text: store.recover(
        store.plan_recovery(), identity=RunIdentity(run_id=text)
    ),
    "rebuild: identity.run_id": lambda store, text: rebuild_database(
        store.directory, identity=RunIdentity(run_id=text), force=True
    ),
    "batch_id": lambda store, text: _write(store, batch_id=text),
    "update: batch_id": lambda store, text: store.update(
        LEASES, lambda data: data, identity=IDENTITY, reason=CHECKPOINT, batch_id=text
    ),
    "why": lambda store, text: store.end_run(why=text),
    "team_name": lambda store, text: RuntimeStore.open(store.directory / "new", team_name=text),
    "batch_id_factory": lambda store, text: _write_with(store, batch_id_factory=lambda: text),
    "receipt_id_factory": lambda store, text: _write_with(store, receipt_id_factory=lambda: text),
    "plan_id_factory": lambda store, text: _plan_with(store, plan_id_factory=lambda: text),
}


@pytest.mark.parametrize("name", CALLERS_TEXTS)
def test_no_id_and_no_note_holds_a_control_character(tmp_path: Path, name: str) -> None:
    """Each is refused by name, and nothing is written: a command could not name what has it, and a
    page would show something else. Other characters are a caller's own affair."""
    with open_store(new_directory(tmp_path)) as store:
        write(store, LEASES, {"leases": []})
        before = files_picture(tmp_path)
        for char in CONTROLS:
            with pytest.raises(InvalidRequestError, match="control character") as raised:
                CALLERS_TEXTS[name](store, f"run{char}1")
            assert raised.value.field == name.rpartition(": ")[2]
            assert repr(char) in str(raised.value) or ascii(char) in str(raised.value)
        assert [batch.high_watermark for batch in store.batches()] == [1]
        assert [(run.run_id, run.state) for run in store.runs()] == [("run-1", "active")]
        assert files_picture(tmp_path) == before


def test_ids_and_notes_of_other_characters_are_kept(tmp_path: Path) -> None:
    """Letters of any language, marks, spaces and emoji are as they were given."""
    text = "läuf 1/\u00a0\u05d0\U0001f680 'x'"
    with open_store(new_directory(tmp_path)) as store:
        identity = RunIdentity(run_id=text, behavior_fingerprint=text)
        batch = _write(store, identity=identity, batch_id=text)
        assert (batch.batch_id, batch.run_id, batch.behavior_fingerprint) == (text, text, text)
        assert store.end_run(why=text).why == text


def test_what_an_earlier_version_wrote_is_found_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that is looked for may hold anything: its batch is shown, its run is ended, and what it
    left is adopted and reverted."""
    odd = "run\t1"
    with open_store(new_directory(tmp_path), batch_id_factory=new_batch_id) as store:
        with monkeypatch.context() as earlier:
            earlier.setattr(arguments, "_NOT_IN_A_LINE", ())
            _write(store, identity=RunIdentity(run_id=odd), batch_id=odd)
            _write(store, identity=RunIdentity(run_id=odd), writes={LEASES: 3})
        assert store.batch(odd) is not None
        assert store.read(LEASES, at=odd).data == 2
        assert store.revert(LEASES, to=odd).run_id == odd
        file = file_of(store, LEASES)
        file.write_bytes(file.read_bytes().replace(b'"data": 2', b'"data": 4'))
        assert store.adopt(LEASES).run_id == odd
        assert store.check_readiness().ok is store.assess()[1].ok
        assert store.end_run(odd).run_id == odd


async def _coroutine_function(data: Any) -> Any:
    return data


def _in_disguise(data: Any) -> Any:
    return _coroutine_function(data)


CALLS: list[tuple[str, Callable[[RuntimeStore], Any]]] = [
    ("identity", lambda store: _write(store, identity={"runId": "run-1"})),
    ("identity", lambda store: _write(store, identity=None)),
    ("reason", lambda store: _write(store, reason=None)),
    ("expected_high_watermark", lambda store: _write(store, expected_high_watermark="1")),
    ("expected_high_watermark", lambda store: _write(store, expected_high_watermark=True)),
    ("expected_high_watermark", lambda store: _write(store, expected_high_watermark=-1)),
    ("expected_high_watermark", lambda store: _write(store, expected_high_watermark=2**70)),
    ("batch_id", lambda store: _write(store, batch_id=5)),
    ("change", lambda store: _update(store, {"leases": []})),
    ("change", lambda store: _update(store, _coroutine_function)),
    ("change", lambda store: _update(store, _in_disguise)),
    ("stores", lambda store: store.snapshot(LEASES)),
    ("limit", lambda store: store.batches(limit=-1)),
    ("limit", lambda store: store.batches(limit="1")),  # type: ignore[arg-type]
    ("limit", lambda store: store.history(LEASES, limit="1")),  # type: ignore[arg-type]
    ("limit", lambda store: store.history(LEASES, limit=-1)),
    ("stores", lambda store: store.snapshot(5)),  # type: ignore[arg-type]
    ("retention", lambda store: store.prune(0)),  # type: ignore[arg-type]
    ("retention", lambda store: store.prune({"batches": 2})),  # type: ignore[arg-type]
    ("progress", lambda store: store.prune(progress=5)),  # type: ignore[arg-type]
    ("identity", lambda store: store.revert(LEASES, to=1, identity=False)),  # type: ignore[arg-type]
    ("identity", lambda store: store.adopt(LEASES, identity="")),  # type: ignore[arg-type]
    ("rebuilders", lambda store: _recover(store, [])),
    ("batch_id", lambda store: store.batch(None)),  # type: ignore[arg-type]
    ("identity", lambda store: store.plan_recovery(expected="run-1")),  # type: ignore[arg-type]
    ("identity", lambda store: store.check_readiness(expected={})),  # type: ignore[arg-type]
    ("plan", lambda store: store.recover(None)),  # type: ignore[arg-type]
    ("identity", lambda store: store.recover(store.plan_recovery(), identity="r")),  # type: ignore[arg-type]
    ("rebuilders", lambda store: _recover(store, len)),
    ("rebuilders", lambda store: _recover(store, {"somehow": len})),
    ("rebuilders[poll_opencode_provider]", lambda store: _recover(store, {POLL: 1})),
    (
        "rebuilders[poll_opencode_provider]",
        lambda store: _recover(store, {POLL: _coroutine_function}),
    ),
    ("quarantine_number", lambda store: store.restore_quarantined("1")),  # type: ignore[arg-type]
    ("destination", lambda store: store.back_up(None)),  # type: ignore[arg-type]
    ("destination", lambda store: store.back_up("")),
    ("destination", lambda store: store.export(7)),  # type: ignore[arg-type]
    ("to", lambda store: store.revert(LEASES, to=None)),  # type: ignore[arg-type]
    ("a", lambda store: store.diff(LEASES, object())),  # type: ignore[arg-type]
]
POLL = "poll_opencode_provider"


def _write(store: RuntimeStore, **options: Any) -> Any:
    return store.write_batch(
        **{"identity": IDENTITY, "reason": CHECKPOINT, "writes": {LEASES: 2}, **options}
    )


def _write_with(store: RuntimeStore, **factory: Any) -> None:
    with open_store(store.directory, **factory) as other:
        _write(other)


def _plan_with(store: RuntimeStore, **factory: Any) -> None:
    with open_store(store.directory, **factory) as other:
        other.plan_recovery()


def _update(store: RuntimeStore, change: Any) -> Any:
    return store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)


def _recover(store: RuntimeStore, rebuilders: Any) -> Any:
    return store.recover(store.plan_recovery(), rebuilders=rebuilders)


@pytest.mark.parametrize(("field", "call"), CALLS)
def test_arguments_of_the_wrong_kind_are_named(
    tmp_path: Path, field: str, call: Callable[[RuntimeStore], Any]
) -> None:
    """Whatever the method, the error is ours, says which argument it is, and nothing was done."""
    with open_store(new_directory(tmp_path)) as store:
        write(store, LEASES, 1)
        before = store.manifest()
        with pytest.raises(InvalidRequestError) as raised:
            call(store)
        assert raised.value.field == field
        assert store.manifest() == before
        assert not store.lock.is_held()


class _Evil:
    """An object that is nothing, and cannot even be shown or compared."""

    def __repr__(self) -> str:
        raise ValueError("no text of it")

    __str__ = __repr__
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ValueError("not to be compared")


KINDS: list[Any] = [
    None, True, False, 0, -1, 3.5, math.nan, math.inf, 2**63, -(10**5000), "", " ", "a\nb", "a\0b",
    "\ud800", "x" * 100_000, b"raw", b"", [], [1], {}, {"a": 1}, (), {1}, object(), _Evil(), len,
    int, ValueError("error"), timedelta(0), timedelta(days=-1), timedelta.max, datetime.min,  # noqa: DTZ901
    datetime.max.replace(tzinfo=UTC), Path("x"), IDENTITY, Retention(), KNOWN_DESCRIPTORS[0],
]  # fmt: skip
"""One of each kind; for every parameter most of them are wrong."""

PARAMETERS: dict[str, Callable[[RuntimeStore, Any], Any]] = {
    "batch": lambda store, wrong: store.batch(wrong),
    "batches(limit)": lambda store, wrong: store.batches(limit=wrong),
    "read": lambda store, wrong: store.read(wrong),
    "read(at)": lambda store, wrong: store.read(LEASES, at=wrong),
    "snapshot": lambda store, wrong: store.snapshot(wrong),
    "update": lambda store, wrong: store.update(wrong, str, identity=IDENTITY, reason=CHECKPOINT),
    "update(change)": lambda store, wrong: _update(store, None if callable(wrong) else wrong),
    "write_batch(identity)": lambda store, wrong: _write(store, identity=wrong),
    "write_batch(reason)": lambda store, wrong: _write(store, reason=wrong),
    "write_batch(writes)": lambda store, wrong: _write(store, writes=wrong),
    "write_batch(name)": lambda store, wrong: _write(store, writes=[(wrong, 1)]),
    "write_batch(data)": lambda store, wrong: _write(store, writes={LAUNCH: wrong}),
    "write_batch(batch_id)": lambda store, wrong: _write(store, batch_id=wrong),
    "adopt": lambda store, wrong: store.adopt(wrong),
    "adopt(identity)": lambda store, wrong: store.adopt(LEASES, identity=wrong),
    "adopt(reason)": lambda store, wrong: store.adopt(LEASES, reason=wrong),
    "assess": lambda store, wrong: store.assess(expected=wrong),
    "plan_recovery": lambda store, wrong: store.plan_recovery(expected=wrong),
    "prune_quarantine": lambda store, wrong: store.prune_quarantine(older_than=wrong),
    "recover": lambda store, wrong: store.recover(wrong),
    "recover(rebuilders)": lambda store, wrong: store.recover(
        store.plan_recovery(), rebuilders=wrong
    ),
    "recover(identity)": lambda store, wrong: store.recover(store.plan_recovery(), identity=wrong),
    "restore_quarantined": lambda store, wrong: store.restore_quarantined(wrong),
    "diff": lambda store, wrong: store.diff(wrong, 1),
    "diff(a)": lambda store, wrong: store.diff(LEASES, wrong),
    "diff(b)": lambda store, wrong: store.diff(LEASES, 1, wrong),
    "history": lambda store, wrong: store.history(wrong),
    "history(limit)": lambda store, wrong: store.history(LEASES, limit=wrong),
    "revert": lambda store, wrong: store.revert(wrong, to=1),
    "revert(to)": lambda store, wrong: store.revert(LEASES, to=wrong),
    "revert(identity)": lambda store, wrong: store.revert(LEASES, to=1, identity=wrong),
    "revert(reason)": lambda store, wrong: store.revert(LEASES, to=1, reason=wrong),
    "prune": lambda store, wrong: store.prune(wrong),
    "prune(progress)": lambda store, wrong: store.prune(progress=wrong),
    "back_up": lambda store, wrong: store.back_up(wrong),
    "back_up(progress)": lambda store, wrong: store.back_up("backup", progress=wrong),
    "export": lambda store, wrong: store.export(wrong),
    "open": lambda _, wrong: RuntimeStore.open(wrong, team_name=TEAM).close(),
    "open(team_name)": lambda _, wrong: RuntimeStore.open("new", team_name=wrong).close(),
    "open(descriptors)": lambda _, wrong: _open(descriptors=wrong),
    "open(retention)": lambda _, wrong: _open(retention=wrong),
    "open(lock_timeout_s)": lambda _, wrong: _open(lock_timeout_s=wrong),
    "open(on_event)": lambda _, wrong: _open(on_event=wrong),
    "open(fs)": lambda _, wrong: _open(fs=wrong),
    "open(seams)": lambda _, wrong: _open(seams=wrong),
    "restore_backup": lambda _, wrong: restore_backup(wrong, "restored"),
    "restore_backup(directory)": lambda _, wrong: restore_backup("none", wrong),
    "import_directory": lambda _, wrong: import_directory(wrong),
    "import_team": lambda _, wrong: import_team(wrong),
    "upgrade_directory": lambda _, wrong: upgrade_directory(wrong),
    "rebuild_database": lambda _, wrong: rebuild_database(wrong),
    "import_directory(progress)": lambda _, wrong: import_directory("none", progress=wrong),
    "import_team(lock_timeout_s)": lambda _, wrong: import_team("none", lock_timeout_s=wrong),
    "upgrade_directory(progress)": lambda _, wrong: upgrade_directory("none", progress=wrong),
    "rebuild_database(identity)": lambda _, wrong: rebuild_database("none", identity=wrong),
    "RunIdentity": lambda _, wrong: RunIdentity(run_id=wrong),
    "Retention": lambda _, wrong: Retention(batches=wrong),
    "Descriptor": lambda _, wrong: _descriptor(schema_name=wrong),
    "Descriptor(relative_path)": lambda _, wrong: _descriptor(relative_path=wrong),
    "Descriptor(criticality)": lambda _, wrong: _descriptor(criticality=wrong),
    "Descriptor(payload)": lambda _, wrong: _descriptor(payload=wrong),
    "Descriptor(upgrades)": lambda _, wrong: _descriptor(upgrades=wrong),
}


def _open(**options: Any) -> None:
    RuntimeStore.open("new", team_name=TEAM, **options_of(**options)).close()


def _descriptor(**fields: Any) -> Descriptor:
    return Descriptor(**{**KNOWN_DESCRIPTORS[0].model_dump(), **fields})


@pytest.mark.parametrize("call", PARAMETERS.values(), ids=PARAMETERS.keys())
def test_whatever_the_argument_no_foreign_exception_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[RuntimeStore, Any], Any]
) -> None:
    """Each kind is taken or refused as an error of the call, in few words; the store works on."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    taken = 0
    with open_store(new_directory(tmp_path)) as store:
        write(store, LEASES, 1)
        write(store, LEASES, 2)
        for wrong in KINDS:
            try:
                call(store, wrong)
            except (CallError, StorageError, BackupDamagedError) as error:
                assert 0 < len(str(error)) < 700, str(error)[:1000]
                assert "pydantic.dev" not in str(error)
            else:
                taken += 1
        assert taken < len(KINDS) / 2
        assert store.read(LEASES, verify=False).batch_id
        assert not store.lock.is_held()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: RunIdentity(run_id=5), "RunIdentity.run_id"),  # type: ignore[arg-type]
        (lambda: RunIdentity(run_id=b"x"), "RunIdentity.run_id"),  # type: ignore[arg-type]
        (lambda: RunIdentity(run_id="\ud800"), "RunIdentity.run_id"),
        (RunIdentity, "RunIdentity.run_id"),
        (lambda: Retention(batches=0), "Retention.batches"),
        (lambda: _descriptor(schema_name=5), "Descriptor.schema_name"),
        (lambda: _descriptor(relative_path="../x"), "Descriptor.relative_path"),
    ],
)
def test_what_is_made_wrongly_is_an_error_of_the_call(
    make: Callable[[], object], field: str
) -> None:
    """The error names the class and the field; validating data stays pydantic's."""
    with pytest.raises(InvalidRequestError) as raised:
        make()
    assert raised.value.field == field
    assert "\n" not in str(raised.value)
    with pytest.raises(ValidationError):
        RunIdentity.model_validate({"runId": 5})


def test_none_of_anything_is_an_answer(tmp_path: Path) -> None:
    """The newest 0 of them are none, of batches as of versions."""
    with open_store(new_directory(tmp_path)) as store:
        write(store, LEASES, 1)
        assert store.batches(limit=0) == []
        assert store.history(LEASES, limit=0) == []
        assert store.prune_quarantine(older_than=timedelta.max) == ()


def test_an_unknown_store_is_named_in_few_words(tmp_path: Path) -> None:
    """With the stores that there are, some of them where there are many, or that there are none."""
    many = [
        _descriptor(schema_name=f"own.{number}", relative_path=f"{number}.json")
        for number in range(30)
    ]
    for name, descriptors, words in (("many", many, "own.19 and 10 more."), ("no", [], "None is")):
        with RuntimeStore.open(tmp_path / name, team_name=TEAM, descriptors=descriptors) as store:
            with pytest.raises(UnknownStoreError, match=words) as raised:
                store.read("x" * 100_000)
            assert len(str(raised.value)) < 500


def test_a_second_object_inside_of_an_update_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    """It is this very process: to wait longer would not help."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store, open_store(directory, lock_timeout_s=0) as other:

        def change(_: Any) -> Any:
            with pytest.raises(LockTimeoutError, match="this very process") as raised:
                write(other, LEASES, 2)
            assert raised.value.is_own_process
            return 1

        _update(store, change)
        assert store.read(LEASES).data == 1


def test_a_store_says_what_it_is(tmp_path: Path) -> None:
    """Its team, its directory, and whether it is closed; and it cannot be sent elsewhere."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        text = f"<RuntimeStore of team 'team-a' in {directory}>"
        assert repr(store) == text
        around = AsyncRuntimeStore(store)
        assert repr(around) == f"<AsyncRuntimeStore around {text}>"
        for each in (store, around):
            with pytest.raises(TypeError, match="open the directory there"):
                pickle.dumps(each)
            with pytest.raises(TypeError, match="cannot be copied"):
                copy.deepcopy(each)
    assert repr(store) == f"<RuntimeStore of team 'team-a' in {directory} (closed)>"
