"""A process that was stopped while another run began writes nothing when it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore import DATABASE_NAME, RunAliveError, RunIdentity
from tests.support import (
    CHECKPOINT,
    FILE_OF,
    LAUNCH,
    LEASES,
    LEDGER,
    answer,
    child,
    hear,
    launch_state,
    open_store,
    picture,
)
from tests.upgrade.freeze import rows_of

RUN_B = RunIdentity(run_id="run-B")

ZOMBIE = """
import asyncio, json
from concurrent.futures import ThreadPoolExecutor
from rtstore import AsyncRuntimeStore, RunIdentity, RuntimeStore
from tests.support import CHECKPOINT, LEASES, LEDGER, launch_state

A = RunIdentity(run_id="run-A")
store = RuntimeStore.open(sys.argv[1])
run = store.begin_run(A, writes={LEASES: ["A"], LEDGER: ["A"]})
first = run.batch.batch_id
run.update(LEASES, lambda data: [*data, "again"], reason=CHECKPOINT)
options = {"identity": A, "reason": CHECKPOINT}

def in_threads():
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(run.write_batch, CHECKPOINT, {LEASES: [n]}) for n in range(6)]
        found = [call.exception() for call in calls]
    assert all(type(error) is type(found[0]) for error in found), found
    raise found[0]

def never(data):
    raise AssertionError("it was called")

async def together(*calls):
    async with AsyncRuntimeStore.open(sys.argv[1]) as other:
        found = await asyncio.gather(*(call(other) for call in calls), return_exceptions=True)
    assert all(type(error) is type(found[0]) for error in found), found
    raise found[0]

ways = {
    "write_batch": lambda: store.write_batch(writes={LEASES: [1]}, **options),
    "write_batch at a high watermark": lambda: run.write_batch(
        CHECKPOINT, {LEASES: [1]}, expected_high_watermark=store.manifest().high_watermark
    ),
    "write_batch with an id": lambda: run.write_batch(CHECKPOINT, {LEASES: [1]}, batch_id="mine"),
    "write_batch of a stop_tombstone": lambda: run.write_batch("stop_tombstone", {LEASES: [1]}),
    "write_batch of a file by hand": lambda: run.write_batch(CHECKPOINT, {LEDGER: [1]}),
    "update": lambda: run.update(LEASES, never, reason=CHECKPOINT),
    "group of threads": in_threads,
    "adopt": lambda: store.adopt(LEDGER, identity=A),
    "revert": lambda: store.revert(LEASES, to=first, identity=A),
    "asyncio, write_batch": lambda: asyncio.run(together(
        lambda other: other.write_batch(writes={LEASES: [1]}, **options))),
    "asyncio, update": lambda: asyncio.run(together(
        lambda other: other.update(LEASES, never, **options))),
    "asyncio, adopt": lambda: asyncio.run(together(
        lambda other: other.adopt(LEDGER, identity=A))),
    "asyncio, revert": lambda: asyncio.run(together(
        lambda other: other.revert(LEASES, to=first, identity=A))),
    "asyncio, group": lambda: asyncio.run(together(
        *[lambda other: other.write_batch(writes={LEASES: [1]}, **options)] * 5,
        lambda other: other.update(LEDGER, never, **options))),
    "another store of the process": lambda: RuntimeStore.open(sys.argv[1]).write_batch(
        writes={LEASES: [1]}, **options),
    "recover": lambda: run.recover(),
    "recover and rebuild": lambda: store.recover(
        store.plan_recovery(expected=A), rebuilders={LEASES: never, LEDGER: never}),
    "end": lambda: run.end(),
    "end_run": lambda: store.end_run("run-A", why="it is over"),
    "begin_run": lambda: store.begin_run(A, writes={LEASES: [1]}, supersede=True),
}
say(json.dumps(list(ways)))
for name, way in ways.items():
    wait()
    try:
        way()
        found = {"type": "nothing was raised"}
    except Exception as error:
        found = {"type": type(error).__name__, "text": str(error)}
        found |= {key: str(value) for key, value in vars(error).items()}
    say(json.dumps(found))
wait()
"""


def _state_of(pid: int) -> str:
    """The state letter of a process: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def _stop(zombie: subprocess.Popen[str]) -> None:
    """Stop a process, and see that it is stopped."""
    os.kill(zombie.pid, signal.SIGSTOP)
    found = os.waitid(os.P_PID, zombie.pid, os.WSTOPPED | os.WNOWAIT)
    assert found is not None
    assert found.si_status == signal.SIGSTOP
    assert _state_of(zombie.pid) == "T"


def _everything(directory: Path) -> tuple[Any, ...]:
    """Every file byte for byte, the database and its WAL included, and every row. The database is
    hashed by another process: closing it here would drop the locks of SQLite."""
    database = directory / DATABASE_NAME
    hashes = subprocess.run(
        ["sha256sum", str(database), f"{database}-wal"], check=True, capture_output=True, text=True
    ).stdout
    assert hashes.count("\n") == 2, hashes
    without = ("-shm", ".sqlite3", "-wal", ".lock")
    return picture(directory, without=without), hashes, rows_of(database)


def _ways(zombie: subprocess.Popen[str]) -> Iterator[str]:
    yield from json.loads(hear(zombie))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_a_zombie_changes_not_one_byte(directory: Path) -> None:
    """Process A begins run-A and is stopped; B begins run-B and writes; A goes on and is refused in
    every way of writing. Neither a file, nor the database, nor its WAL has another byte then."""
    with child(ZOMBIE, directory) as zombie, open_store(directory) as store:
        ways = list(_ways(zombie))
        _stop(zombie)
        with pytest.raises(RunAliveError) as refused:
            store.begin_run(RUN_B, writes={LAUNCH: launch_state("run-B")})
        assert refused.value.pid == zombie.pid
        run = store.begin_run(RUN_B, writes={LEASES: ["B"]}, keep="all", supersede=True)
        assert run.superseded is not None
        assert run.superseded == store.runs()[1]
        os.kill(zombie.pid, signal.SIGCONT)
        for number, way in enumerate(ways):
            _stop(zombie)
            run.write_batch(CHECKPOINT, {LEASES: ["B", number], LEDGER: ["B", number]})
            (directory / FILE_OF[LEDGER]).write_text(
                json.dumps({"schemaVersion": 1, "updatedAt": None, "data": ["by hand", number]}),
                encoding="utf-8",
            )
            before = _everything(directory)
            os.kill(zombie.pid, signal.SIGCONT)
            answer(zombie)
            told = json.loads(hear(zombie))
            assert told["type"] == "StaleRunError", (way, told)
            assert (told["run_id"], told["state"]) == ("run-A", "superseded"), way
            assert (told["by"], told["active_run_id"]) == ("run-B", "run-B"), way
            assert told["since"] == str(run.superseded.ended_at), way
            assert _everything(directory) == before, way
        assert [(item.run_id, item.state.value) for item in store.runs()] == [
            ("run-B", "active"), ("run-A", "superseded"),
        ]  # fmt: skip
        assert store.read(LEASES).data == ["B", len(ways) - 1]
        assert len(ways) == 20
