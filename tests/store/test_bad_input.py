"""Bad input: its own clear error, the field or the path named, and not a byte written."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from rtstore import (
    ConflictError,
    InvalidRequestError,
    LockTimeoutError,
    NewerStoreFileError,
    RunIdentity,
    RuntimeStore,
    RuntimeStoreError,
    UnknownStoreError,
    UnsafePathError,
    WriterLock,
)
from tests.support import (
    CHECKPOINT,
    FILE_OF,
    IDENTITY,
    LAUNCH,
    LEASES,
    LEDGER,
    SESSIONS,
    Picture,
    launch_state,
    new_directory,
    open_store,
    picture,
    plain_descriptor,
    write,
)

NESTED = plain_descriptor("test.nested", "folder/nested.json")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which a store was committed, with files of others beside it."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, "committed")
    (directory / "notes.txt").write_text("somebody's")
    (directory / FILE_OF[LEDGER]).write_text("by hand")
    return directory


def everything(directory: Path) -> Picture:
    """A picture of all that is there; who held the writer lock last is nobody's data."""
    return {
        name: facts if name != "runtime-store.lock" else ("", 0, "")
        for name, facts in picture(directory).items()
    }


def cycle() -> list[Any]:
    """A list that holds itself."""
    found: list[Any] = []
    found.append(found)
    return found


class Row(NamedTuple):
    """One kind of bad input."""

    call: Callable[[RuntimeStore], Any]
    error: type[BaseException]
    names: str
    """What the message must name."""
    field: str | None = None


def batch(writes: Any, **options: Any) -> Callable[[RuntimeStore], Any]:
    """A call that writes a batch, beside a store whose data is good."""
    call = {"identity": IDENTITY, "reason": CHECKPOINT, "writes": writes, **options}
    return lambda store: store.write_batch(**call)


def data(value: Any, field: str, names: str = LEASES) -> Row:
    """Data that is refused."""
    return Row(batch({LEDGER: "good", LEASES: value}), InvalidRequestError, names, field)


def update(
    change: Callable[[Any], Any], *, stores: Any = LEASES, **options: Any
) -> Callable[[RuntimeStore], Any]:
    """A call that updates the leases, or several stores."""
    call = {"identity": IDENTITY, "reason": CHECKPOINT, **options}
    return lambda store: store.update(stores, change, **call)


def update_two(change: Callable[[Any], Any], names: str, field: str = "change") -> Row:
    """An update of two stores that is refused; the first of them is committed."""
    return Row(update(change, stores=[LEASES, SESSIONS]), InvalidRequestError, names, field)


def without_returning(data: Any) -> Any:
    """Change one store in place, and return the other."""
    data[LEASES] = "new"
    return {SESSIONS: {"sessions": []}}


CALLS = {
    "unknown store": Row(batch({LEASES: 1, "no.such": 1}), UnknownStoreError, "no.such"),
    "unknown store read": Row(lambda s: s.read("no.such"), UnknownStoreError, "no.such"),
    "unknown store updated": Row(
        lambda s: s.update("no.such", str, identity=IDENTITY, reason=CHECKPOINT),
        UnknownStoreError,
        "no.such",
    ),
    "unknown store in a snapshot": Row(
        lambda s: s.snapshot(["no.such"]), UnknownStoreError, "no.such"
    ),
    "a name that is no name": Row(batch({(): 1}), UnknownStoreError, "()"),
    "a name that cannot be hashed": Row(batch([([], 1)]), UnknownStoreError, "[]"),
    "store twice": Row(batch([(LEASES, 1), (LEASES, 2)]), InvalidRequestError, LEASES, "writes"),
    "empty batch": Row(batch({}), InvalidRequestError, "empty", "writes"),
    "empty batch of pairs": Row(batch(iter(())), InvalidRequestError, "empty", "writes"),
    "NaN": data(math.nan, "data"),
    "infinity": data({"a": [0, math.inf]}, "data.a[1]"),
    "set": data({"tags": {1}}, "data.tags"),
    "tuple": data([(1, 2)], "data[0]"),
    "bytes": data({"raw": b"x"}, "data.raw"),
    "object": data(object(), "data"),
    "lone surrogate": data({"text": "\ud800"}, "data.text"),
    "lone surrogate in a key": data({"\udfff": 1}, r"data.'\udfff'", "surrogate"),
    "key that is no string": data({"a": {7: 1}}, "data.a", "7"),
    "cycle": data(cycle(), "data[0]"),
    "number that cannot be read back": data({"n": 10**5000}, "data.n", "4300"),
    "data that the payload model refuses": Row(
        batch({LEASES: 1, LAUNCH: {**launch_state(), "members": [{}, {"name": 5}]}}),
        InvalidRequestError,
        LAUNCH,
        "data.members[0].name",
    ),
    "data that is another store's": Row(
        batch({LAUNCH: {"sessions": []}}), InvalidRequestError, LAUNCH, "data.teamName"
    ),
    "no data for a store that needs some": Row(
        batch({LAUNCH: None}), InvalidRequestError, LAUNCH, "data"
    ),
    "unknown reason": Row(
        batch({LEASES: 1}, reason="Because"), InvalidRequestError, "Because", "reason"
    ),
    "reason of no type": Row(batch({LEASES: 1}, reason=7), InvalidRequestError, "7", "reason"),
    "identity as a dictionary": Row(
        batch({LEASES: 1}, identity={"run_id": "run-1"}),
        InvalidRequestError,
        "RunIdentity",
        "identity",
    ),
    "no identity": Row(update(str, identity=None), InvalidRequestError, "RunIdentity", "identity"),
    "empty batch id": Row(
        batch({LEASES: 1}, batch_id=" "), InvalidRequestError, "empty", "batch_id"
    ),
    "batch id that is no text": Row(
        batch({LEASES: 1}, batch_id=7), InvalidRequestError, "batch_id", "batch_id"
    ),
    "batch id with a lone surrogate": Row(
        batch({LEASES: 1}, batch_id="job-\ud800"), InvalidRequestError, "surrogate", "batch_id"
    ),
    "update that returns nothing": Row(
        update(lambda _: None), InvalidRequestError, LEASES, "change"
    ),
    "update that returns no JSON": Row(
        update(lambda _: {"a": {1}}), InvalidRequestError, LEASES, "data.a"
    ),
    "update of no stores": Row(update(dict, stores=[]), InvalidRequestError, "empty", "store"),
    "update of one store twice": Row(
        update(dict, stores=[LEASES, LEDGER, LEASES]), InvalidRequestError, LEASES, "store"
    ),
    "update of stores, one of which is unknown": Row(
        update(dict, stores=[LEASES, "no.such"]), UnknownStoreError, "no.such"
    ),
    "update of what is no list": Row(update(dict, stores=7), InvalidRequestError, "7", "store"),
    "update that returns another store": update_two(lambda data: {**data, LEDGER: 1}, LEDGER),
    "update that returns no mapping": update_two(lambda data: [*data], LEASES),
    "update of two that returns nothing": update_two(lambda _: None, "None"),
    "update that returns None for a store": update_two(lambda d: {**d, LEASES: None}, LEASES),
    "update that returns what its model refuses": update_two(
        lambda data: {LEASES: [2], SESSIONS: {"sessions": "none"}}, SESSIONS, "data.sessions"
    ),
    "update that returns no JSON for one of two": update_two(
        lambda data: {LEASES: {1}, SESSIONS: {"sessions": []}}, LEASES, "data"
    ),
    "update that leaves out what it changed": update_two(without_returning, LEASES),
    "update with an id that is no text": Row(
        update(lambda _: 1, batch_id=7), InvalidRequestError, "batch_id", "batch_id"
    ),
    "versions as a list": Row(
        batch({LEASES: 1}, expected=[LEASES]), InvalidRequestError, "mapping", "expected"
    ),
    "a version of a store that is not in the batch": Row(
        batch({LEASES: 1}, expected={LEDGER: None}), InvalidRequestError, LEDGER, "expected"
    ),
    "a version that is none": Row(
        batch({LEASES: 1}, expected={LEASES: -1}), InvalidRequestError, "-1", f"expected[{LEASES}]"
    ),
    "another version": Row(batch({LEASES: 1}, expected={LEASES: 7}), ConflictError, LEASES),
    "a version of what was never written": Row(
        batch({SESSIONS: {"sessions": []}}, expected={SESSIONS: 1}), ConflictError, SESSIONS
    ),
    "a version before the first of what was written": Row(
        batch({LEASES: 1}, expected={LEASES: None}), ConflictError, LEASES
    ),
    "update that raises": Row(update(lambda data: data["a"]), TypeError, "indices"),
    "another watermark": Row(batch({LEASES: 1}, expected_high_watermark=7), ConflictError, "7"),
    "reading what was never written": Row(
        lambda s: s.read(LAUNCH), InvalidRequestError, LAUNCH, "store"
    ),
    "adopting what is committed": Row(
        lambda s: s.adopt(LEASES), InvalidRequestError, LEASES, "file"
    ),
    "adopting what is no JSON": Row(
        lambda s: s.adopt(LEDGER), InvalidRequestError, "invalid_json", "file"
    ),
    "adopting nothing": Row(lambda s: s.adopt(LAUNCH), InvalidRequestError, LAUNCH, "store"),
}


@pytest.mark.parametrize("row", CALLS.values(), ids=CALLS.keys())
def test_a_call_that_cannot_be_carried_out_changes_nothing(directory: Path, row: Row) -> None:
    """Its own error names the field or the store; no file, no row, not a byte is another one."""
    before = everything(directory)
    with open_store(directory, recover=False) as store:
        with pytest.raises(row.error) as caught:
            row.call(store)

        assert row.names in str(caught.value)
        str(caught.value).encode()
        if isinstance(caught.value, InvalidRequestError):
            assert caught.value.field == row.field
        if isinstance(caught.value, RuntimeStoreError):
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert not store.lock.is_held()
        assert len(store.batches()) == 1
        assert store.quarantined_files() == []
    assert everything(directory) == before


@pytest.mark.parametrize("made", [7, None, "", "id-\ud800"])
@pytest.mark.parametrize("factory", ["batch_id_factory", "receipt_id_factory"])
def test_a_factory_that_makes_no_ids_is_named(directory: Path, factory: str, made: Any) -> None:
    """Ids come from outside, so they are checked like any other input."""
    before = everything(directory)
    with open_store(directory, recover=False, **{factory: lambda: made}) as store:
        with pytest.raises(InvalidRequestError) as caught:
            write(store, LEASES, 1)
        assert caught.value.field == factory
        assert len(store.batches()) == 1
    assert everything(directory) == before


def test_an_identity_needs_a_run() -> None:
    """State that is bound to no run cannot be told from that of another."""
    for wrong in ("", None, 7):
        with pytest.raises(ValidationError, match=r"run_id|runId"):
            RunIdentity.model_validate({"runId": wrong})


# --- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../out.json", "a/../../out.json", "/out.json", "C:/out.json"])
def test_a_path_that_leaves_the_directory_cannot_be_registered(path: str) -> None:
    """It is refused with its text when the descriptor is made: no store with it can be opened."""
    with pytest.raises(InvalidRequestError, match="runtime directory") as caught:
        plain_descriptor("test.out", path)

    assert path in str(caught.value)


def _link_at_the_end(directory: Path, outside: Path) -> None:
    (directory / "folder").mkdir()
    (directory / NESTED.relative_path).symlink_to(outside / "target.json")


def _link_on_the_way(directory: Path, outside: Path) -> None:
    (directory / "folder").symlink_to(outside)


def _link_to_nowhere(directory: Path, outside: Path) -> None:
    (directory / "folder").symlink_to(outside / "nowhere")


def _directory_at_the_end(directory: Path, _: Path) -> None:
    (directory / NESTED.relative_path).mkdir(parents=True)


def _file_on_the_way(directory: Path, _: Path) -> None:
    (directory / "folder").write_text("a file")


@pytest.mark.parametrize(
    "spoil",
    [_link_at_the_end, _link_on_the_way, _link_to_nowhere, _directory_at_the_end, _file_on_the_way],
)
@pytest.mark.parametrize(
    "call",
    [
        batch({"test.other": 1, "test.nested": 1}),
        lambda store: store.adopt("test.nested", identity=IDENTITY),
    ],
    ids=["write", "adopt"],
)
def test_a_path_that_leaves_the_directory_on_disk_is_not_written(
    tmp_path: Path,
    spoil: Callable[[Path, Path], None],
    call: Callable[[RuntimeStore], Any],
) -> None:
    """The error names the path and its store; nothing inside or outside is touched."""
    directory, outside = new_directory(tmp_path), tmp_path / "outside"
    outside.mkdir()
    (outside / "target.json").write_text("not ours")
    spoil(directory, outside)
    other = plain_descriptor("test.other", "other.json")
    open_store(directory, descriptors=[other, NESTED], recover=False).close()
    before = everything(directory), picture(outside)

    with (
        open_store(directory, recover=False) as store,
        pytest.raises(UnsafePathError) as caught,
    ):
        call(store)

    assert caught.value.store == NESTED.schema_name
    assert caught.value.path in NESTED.relative_path
    assert str(directory / "folder") in str(caught.value)
    assert (everything(directory), picture(outside)) == before


# --- the state that is found -------------------------------------------------------------------


def test_a_locked_directory_is_left_as_it_is(directory: Path) -> None:
    """Who waits in vain hears who holds it; reading needs no lock."""
    before = everything(directory)
    with (
        open_store(directory, recover=False, lock_timeout_s=0.05) as store,
        WriterLock(directory).hold(),
    ):
        with pytest.raises(LockTimeoutError) as caught:
            write(store, LEASES, "late")
        assert caught.value.path == directory / "runtime-store.lock"
        assert "held by process" in str(caught.value)
        assert store.read(LEASES).data == "committed"
    assert everything(directory) == before


def test_a_newer_file_of_one_store_refuses_the_whole_batch(directory: Path) -> None:
    """Also what was changed by hand beside it stays where it is."""
    (directory / FILE_OF[LEASES]).write_text('{"schemaVersion": 2, "data": 1}')
    before = everything(directory)
    with (
        open_store(directory, recover=False) as store,
        pytest.raises(NewerStoreFileError, match="schema version 2, this program knows 1"),
    ):
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEDGER: 1, LEASES: 1})
    assert everything(directory) == before


def naive() -> datetime:
    """A clock that does not say where its time is meant."""
    return datetime(2026, 4, 21, 12, 0)  # noqa: DTZ001 - that is the point


def test_a_clock_without_a_zone_writes_nothing(directory: Path) -> None:
    """Found out when a batch is to be written: the field is named, as for any other argument."""
    before = everything(directory)
    with open_store(directory, recover=False) as store:
        store._writer._clock = naive
        for call in (batch({LEASES: 1}), update(lambda data: data)):
            with pytest.raises(InvalidRequestError, match="time zone") as caught:
                call(store)
            assert caught.value.field == "clock"
    assert everything(directory) == before


@pytest.mark.parametrize(
    "options", [{}, {"team_name": "team-a"}, {"read_only": True}, {"upgrade": False}]
)
def test_a_file_for_a_directory(tmp_path: Path, options: dict[str, Any]) -> None:
    """A regular file is told to be no directory; no store can be made of it."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidRequestError, match="is not a directory"):
        RuntimeStore.open(tmp_path / "file", **options)
    assert (tmp_path / "file").read_text() == "mine"
