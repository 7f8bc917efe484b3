"""Arguments of the wrong kind: each its own clear error, before anything is made or written."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from rtstore import KNOWN_DESCRIPTORS, AsyncRuntimeStore, InvalidRequestError, RuntimeStore
from tests.support import CHECKPOINT, IDENTITY, LEASES, TEAM, new_directory, open_store, write


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"team_name": "\ud800"}, "team_name"),
        ({"team_name": TEAM, "clock": lambda: datetime(2026, 4, 21)}, "clock"),  # noqa: DTZ001
        ({"team_name": TEAM, "clock": lambda: "noon"}, "clock"),
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
    ],
)
def test_a_store_is_not_begun_with_wrong_arguments(
    tmp_path: Path, arguments: dict[str, Any], field: str
) -> None:
    """A clock without a zone, a name that is no text, a time-out that is no number: the field is
    named, and no directory made."""
    with pytest.raises(InvalidRequestError) as raised:
        RuntimeStore.open(tmp_path / "new", **arguments)
    assert raised.value.field == field
    assert list(tmp_path.iterdir()) == []


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
    ("batch_id", lambda store: _write(store, batch_id=5)),
    ("change", lambda store: _update(store, {"leases": []})),
    ("change", lambda store: _update(store, _coroutine_function)),
    ("change", lambda store: _update(store, _in_disguise)),
    ("stores", lambda store: store.snapshot(LEASES)),
    ("limit", lambda store: store.batches(limit=-1)),
    ("limit", lambda store: store.batches(limit="1")),  # type: ignore[arg-type]
    ("limit", lambda store: store.history(LEASES, limit="1")),  # type: ignore[arg-type]
    ("limit", lambda store: store.history(LEASES, limit=0)),
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
    ("quarantine_number", lambda store: store.take_back("1")),  # type: ignore[arg-type]
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
