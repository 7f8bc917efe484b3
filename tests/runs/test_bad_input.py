"""A run that cannot begin or end says why, and nothing is written: no row, no byte of a file."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    InvalidRequestError,
    LockTimeoutError,
    OpenBatchError,
    RebuildStrategy,
    RunIdentity,
    RuntimeStore,
    StaleRunError,
    StoreFileChangedError,
    UnknownStoreError,
)
from rtstore.testing import Seams
from tests.commit.test_in_doubt import leave_open
from tests.support import (
    DIAGNOSTICS,
    FILE_OF,
    LAUNCH,
    LEASES,
    LEDGER,
    SESSIONS,
    WatchedFileSystem,
    files_picture,
    hear,
    new_directory,
    open_store,
)
from tests.support.forked import forked
from tests.upgrade.freeze import rows_of

FIRST = RunIdentity(run_id="run-1", capability_snapshot_id="cap-1", behavior_fingerprint="blue")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RuntimeStore]:
    """A store in which run-0 was superseded, run-1 ended, and run-2 is active."""
    with open_store(new_directory(tmp_path)) as opened:
        opened.begin_run("run-0", writes={LEASES: ["old"]})
        opened.begin_run(FIRST, writes={LEASES: ["old"], LEDGER: ["old"]})
        opened.end_run("run-1", why="an operator said so")
        opened.begin_run(second(), keep="all")
        yield opened


def second(**other: str) -> RunIdentity:
    """The identity of the active run, or another one of that id."""
    return FIRST.model_copy(update={"run_id": "run-2", **other})


def everything(store: RuntimeStore) -> tuple[Any, ...]:
    """Every row of the database, and every byte of the files."""
    return rows_of(store.directory / DATABASE_NAME), files_picture(store.directory)


def _raises(_: object) -> Any:
    raise ZeroDivisionError("the provider is gone")


async def _awaits(_: object) -> Any:
    """Not a plain function."""


def _never(_: object) -> Any:
    raise AssertionError("it was called")


def _begin(run: Any = "run-3", **how: Any) -> Callable[[RuntimeStore], object]:
    return lambda store: store.begin_run(run, **how)


def _end(*run_id: Any, **how: Any) -> Callable[[RuntimeStore], object]:
    return lambda store: store.end_run(*run_id, **{"why": "to see", **how})


POLL = RebuildStrategy.POLL_OPENCODE_PROVIDER
BAD: dict[str, tuple[Callable[[RuntimeStore], object], type[BaseException], str]] = {
    "another snapshot": (
        _begin(second(capability_snapshot_id="cap-2"), keep="all"),
        InvalidRequestError,
        "identity: run run-2 is active with capability snapshot 'cap-1'",
    ),
    "another fingerprint": (
        _begin(second(behavior_fingerprint="green"), writes={LEASES: [1]}),
        InvalidRequestError,
        "behavior fingerprint 'blue': a run that begins anew takes a new id",
    ),
    "the id of a run that ended": (
        _begin("run-1", writes={LEASES: [1]}, rebuilders={LEDGER: _never}),
        StaleRunError,
        "run run-1 ended at 2026-04-21 12:00:00 UTC (an operator said so); run run-2 is active",
    ),
    "the id of a run that was superseded": (
        _begin("run-0", keep="all"),
        StaleRunError,
        "run run-0 was superseded by run run-1 at 2026-04-21 12:00:00 UTC; run run-2 is active",
    ),
    "an unknown store to keep": (_begin(keep=["no"]), UnknownStoreError, "unknown store 'no'"),
    "an unknown store to write": (_begin(writes={"no": 1}), UnknownStoreError, "'no'"),
    "an unknown store to rebuild": (
        _begin(rebuilders={"no": _never}),
        InvalidRequestError,
        "rebuilders",
    ),
    "a store to keep that nobody wrote": (
        _begin(keep=[LEASES, DIAGNOSTICS]),
        InvalidRequestError,
        f"keep ({DIAGNOSTICS}): nothing is committed for it",
    ),
    "keep as a text": (_begin(keep=LEASES), InvalidRequestError, "keep: must be a list"),
    "keep as a number": (_begin(keep=5), InvalidRequestError, "keep"),
    "kept and given": (
        _begin(keep=[LEASES], writes={LEASES: [1]}),
        InvalidRequestError,
        f"keep ({LEASES}): the store is in writes as well",
    ),
    "kept and rebuilt": (
        _begin(keep=[LEASES], rebuilders={LEASES: _never}),
        InvalidRequestError,
        f"keep ({LEASES}): the store is in rebuilders as well",
    ),
    "given and rebuilt": (
        _begin(writes={LEASES: [1]}, rebuilders={LEASES: _never}),
        InvalidRequestError,
        f"rebuilders ({LEASES}): the store is in writes as well",
    ),
    "nothing at all": (_begin(), InvalidRequestError, "a run begins with at least one store"),
    "data that its model refuses": (
        _begin(writes={LEASES: [1], LAUNCH: {"providerId": 5}}),
        InvalidRequestError,
        LAUNCH,
    ),
    "a rebuilder that raises": (
        _begin(writes={LEASES: [1]}, rebuilders={LEDGER: _raises}),
        ZeroDivisionError,
        "the provider is gone",
    ),
    "a rebuilder that returns nothing": (
        _begin(writes={LEASES: [1]}, rebuilders={LEDGER: lambda _: None}),
        InvalidRequestError,
        f"rebuilders ({LEDGER}): the rebuilder returned None: the run did not begin",
    ),
    "a rebuilder that returns what its model refuses": (
        _begin(rebuilders={POLL: lambda _: {"sessions": 5}}),
        InvalidRequestError,
        SESSIONS,
    ),
    "a rebuilder that is not called": (
        _begin(rebuilders={LEDGER: [1]}),
        InvalidRequestError,
        f"rebuilders[{LEDGER}]",
    ),
    "a rebuilder that is awaited": (
        _begin(rebuilders={LEDGER: _awaits}),
        InvalidRequestError,
        f"rebuilders[{LEDGER}]",
    ),
    "rebuilders in a list": (_begin(rebuilders=[_never]), InvalidRequestError, "rebuilders"),
    "an empty id": (_begin("", keep="all"), InvalidRequestError, "run_id"),
    "an id that is a number": (_begin(5, keep="all"), InvalidRequestError, "identity"),
    "no id": (_begin(None, keep="all"), InvalidRequestError, "identity"),
    "the end of an unknown run": (_end("no"), InvalidRequestError, "no run 'no' was ever begun"),
    "the end of a run that ended": (_end("run-1"), StaleRunError, "run run-1 ended"),
    "the end of one that was superseded": (_end("run-0"), StaleRunError, "superseded by run run-1"),
    "an end for an empty reason": (_end(why=""), InvalidRequestError, "why"),
    "an end for a reason that is too long": (
        _end(why="x" * 501),
        InvalidRequestError,
        "has 501 characters, and may have 500",
    ),
    "an end in an unknown way": (_end(ending="lost"), InvalidRequestError, "ending"),
    "an end of a number": (_end(5), InvalidRequestError, "run_id"),
}
"""What is called, the error that it raises, and what that says."""


@pytest.mark.parametrize("name", BAD)
def test_it_says_why_and_nothing_is_written(store: RuntimeStore, name: str) -> None:
    """A bad beginning or end is refused with an error of its own, before anything is written; the
    active run goes on."""
    call, kind, text = BAD[name]
    before = everything(store)
    with pytest.raises(kind) as refused:
        call(store)
    assert type(refused.value) is kind
    assert text in str(refused.value)
    assert everything(store) == before
    store.write_batch(identity=second(), reason="host_lease_update", writes={LEASES: ["on"]})


def test_what_a_rebuilder_raised_has_a_note(store: RuntimeStore) -> None:
    """It says which store it was, which run did not begin, and that nothing was written."""
    with pytest.raises(ZeroDivisionError) as refused:
        store.begin_run("run-3", rebuilders={LEDGER: _raises})
    (note,) = refused.value.__notes__
    said = f"rtstore: the rebuilder of {LEDGER} raised it; run run-3 did not begin"
    assert note == f"{said}, and nothing was written"


def test_no_run_is_active(store: RuntimeStore) -> None:
    """Where no run is active there is none to end; a run that ended is not ended again."""
    store.end_run(why="done")
    before = everything(store)
    with pytest.raises(InvalidRequestError, match="no run is active: there is nothing to end"):
        store.end_run(why="done")
    with pytest.raises(StaleRunError, match=r"run run-2 ended .* \(done\); no run is active"):
        store.write_batch(identity=second(), reason="host_lease_update", writes={LEASES: [1]})
    assert everything(store) == before


def test_a_kept_store_was_changed_by_hand(store: RuntimeStore) -> None:
    """What somebody wrote into a file is neither taken over nor overwritten unseen."""
    (store.directory / FILE_OF[LEDGER]).write_text('{"by": "hand"}', encoding="utf-8")
    before = everything(store)
    with pytest.raises(StoreFileChangedError, match="changed by somebody else"):
        store.begin_run("run-3", keep="all", writes={LEASES: [1]})
    assert everything(store) == before


HOLD = """
from rtstore import RunIdentity, RuntimeStore
from tests.support import LEASES, CHECKPOINT
def change(data):
    say("within")
    wait()
    return [1]
store = RuntimeStore.open(sys.argv[1])
store.update(LEASES, change, identity=RunIdentity(run_id="run-1"), reason=CHECKPOINT)
"""


def test_beside_a_batch_that_is_under_way(tmp_path: Path) -> None:
    """A run does not begin while another process is within a batch: it waits, and says for whom."""
    directory = new_directory(tmp_path)
    with (
        forked(HOLD, directory) as holder,
        open_store(directory, lock_timeout_s=0.05) as store,
    ):
        assert hear(holder) == "within"
        before = everything(store)
        with pytest.raises(LockTimeoutError) as refused:
            store.begin_run("run-2", writes={LEASES: [2]}, supersede=True)
        assert str(holder.pid) in str(refused.value)
        assert everything(store) == before


def test_beside_a_batch_that_cannot_be_finished(tmp_path: Path) -> None:
    """A dead writer of the old run left a batch, and the disk has no room to finish it: no run
    begins over it. With room, its batch is finished first, and the new run keeps what it wrote."""
    directory = new_directory(tmp_path)
    leave_open(directory, {LEASES: "last", LEDGER: "last"})
    full: list[OSError] = [OSError(errno.ENOSPC, "No space left on device")]
    fs = WatchedFileSystem(lambda _, name, __: full[0] if name == "create" and full else None)
    with RuntimeStore.open(directory, recover=False, seams=Seams(fs=fs)) as store:
        rows, files = everything(store)
        with pytest.raises(OpenBatchError, match="No space left"):
            store.begin_run("run-2", keep="all")
        now, files_now = everything(store)
        # That it was tried is on record, and that the old batch goes forward; nothing else.
        tried = {"recovery_runs", "recovery_actions", "write_batches"}
        assert {name for name in rows if now[name] != rows[name]} <= tried
        assert len(now["write_batches"]) == len(rows["write_batches"])
        assert files_now == files
        full.clear()
        run = store.begin_run(
            "run-2", keep=[LEASES], rebuilders={LEDGER: lambda old: old.data + "!"}
        )
        assert store.read(LEASES).data == "last"
        assert store.read(LEDGER).data == "last!"
        assert run.superseded is not None
        assert [(item.run_id, item.state.value) for item in store.runs()] == [
            ("run-2", "active"), ("run-1", "superseded"),
        ]  # fmt: skip
