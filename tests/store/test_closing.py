"""The end of a store: closed beside threads that write, or dropped and never closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rtstore import RuntimeStore, StoreClosedError
from rtstore.control.sqlite.ground import Ground, Names
from tests.control.build import run
from tests.support import TEAM

COMMON = """
import asyncio, gc, logging, os, sys, threading, time, warnings
from pathlib import Path
from rtstore import AsyncRuntimeStore, Batch, RuntimeStore, StoreClosedError
from tests.support import CHECKPOINT, IDENTITY, LEASES, TEAM

directory = Path(sys.argv[1])
# A step of the loop that was slow on a busy machine is no error.
logging.getLogger("asyncio").addFilter(lambda record: "Executing" not in record.msg)

def write(store, name):
    return store.write_batch(
        identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: {"of": name}}, batch_id=name
    )

def check(answers):
    # What was said of every batch holds for whoever looks afterwards.
    with RuntimeStore.open(directory) as store:
        for name, answer in answers.items():
            found = store.batch(name)
            if isinstance(answer, Batch):
                assert found is not None and found.state == answer.state, (name, found)
            else:
                assert isinstance(answer, StoreClosedError), repr(answer)
                assert found is None, (name, answer)
        store.read(LEASES)
        assert store.last_recovery is None
"""

THREADS = (
    COMMON
    + """
for turn in range(6):
    store = RuntimeStore.open(directory, team_name=TEAM)
    answers, written = {}, threading.Semaphore(0)

    def work(number):
        for count in range(100000):
            name = f"batch-{turn}-{number}-{count}"
            try:
                answers[name] = write(store, name)
                store.read(LEASES, verify=False)
                written.release()
            except BaseException as error:
                answers.setdefault(name, error)
                assert isinstance(error, StoreClosedError), repr(error)
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    for _ in range(5):
        assert written.acquire(timeout=20)
    closers = [threading.Thread(target=store.close) for _ in range(turn % 2)]
    [closer.start() for closer in closers]
    store.close()
    [thread.join(20) for thread in (*threads, *closers)]
    assert not any(thread.is_alive() for thread in threads)
    check(answers)
left = sorted(item.name for item in directory.iterdir() if "sqlite3-" in item.name)
assert left == [], left
print("fine")
"""
)


def test_closing_beside_threads_that_write(tmp_path: Path) -> None:
    """Every call ends with a batch that is there, or with a refusal of one that is not."""
    assert run(THREADS, tmp_path / "runtime") == "fine\n"


TASKS = (
    COMMON
    + """
async def turn(number):
    store = await AsyncRuntimeStore.open(directory, team_name=TEAM)
    answers = {}

    async def work(of):
        for count in range(100000):
            name = f"batch-{number}-{of}-{count}"
            try:
                answers[name] = await store.write_batch(
                    identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: name}, batch_id=name
                )
            except StoreClosedError as error:
                answers[name] = error
                return

    tasks = [asyncio.create_task(work(of)) for of in range(8)]
    while len(answers) < 20:
        await asyncio.sleep(0.001)
    await asyncio.gather(*(store.aclose() for _ in range(1 + number % 2)))
    await asyncio.gather(*tasks)
    return answers

for number in range(4):
    check(asyncio.run(turn(number)))
print("fine")
"""
)


def test_closing_beside_tasks_that_write(tmp_path: Path) -> None:
    """The same of a store for asyncio: what was submitted is written or refused, and said so."""
    assert run(TASKS, tmp_path / "runtime") == "fine\n"


DROPPED = (
    COMMON
    + """
how = sys.argv[2]
RuntimeStore.open(directory, team_name=TEAM).close()  # what is imported and cached by then, is
gc.collect()

def opened():
    return {Path(os.readlink(f"/proc/self/fd/{n}")).name for n in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{n}")}

def use():
    store = RuntimeStore.open(directory)
    write(store, "batch-1")
    store.read(LEASES)
    assert any("sqlite3" in name for name in opened())

async def use_on_a_loop():
    store = await AsyncRuntimeStore.open(directory)
    await store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 1})
    await store.read(LEASES)


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    use() if how == "threads" else asyncio.run(use_on_a_loop())
    for _ in range(1000):  # a thread of the store may be about to forget it
        gc.collect()
        if caught:
            break
        time.sleep(0.01)
told = [str(each.message) for each in caught if each.category is ResourceWarning]
assert len(told) == 1 and "was not closed" in told[0] and str(directory) in told[0], told
left = {name for name in opened() if "sqlite3" in name or name.endswith(".lock")}
assert left == set(), left
with RuntimeStore.open(directory) as store:
    assert len(store.batches()) == 1
    write(store, "batch-2")
print("fine")
"""
)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc")
def test_a_read_in_the_middle_of_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing removes the WAL: a read that comes then is told that the store is closed, and not
    that somebody took the WAL away."""
    store = RuntimeStore.open(tmp_path / "runtime", team_name=TEAM)
    store.manifest()
    is_in_place = Ground.is_in_place

    def close_first(self: Ground, names: Names) -> bool:
        store.close()
        return is_in_place(self, names)

    monkeypatch.setattr(Ground, "is_in_place", close_first)
    with pytest.raises(StoreClosedError, match="is closed"):
        store.manifest()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("how", ["threads", "a loop"])
def test_a_store_that_nobody_closes(tmp_path: Path, how: str) -> None:
    """It warns once, leaves no descriptor, loses nothing, and the directory can be opened again."""
    assert run(DROPPED, tmp_path / "runtime", how) == "fine\n"
