"""Many processes at one runtime directory: what they do, and what came of it.

Everything here runs in a worker of the crew, which may fork.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from rtstore import (
    ActionKind,
    Retention,
    RuntimeStore,
    RuntimeStoreError,
    StoreClosedError,
    StoreFileChangedError,
)
from rtstore.model.descriptors import HOST_LEASES, LAUNCH_STATE, SESSION_STORE
from rtstore.testing import Seams
from tests.crash.check import check
from tests.crash.children import Child, Say, killer
from tests.crash.client import TEAM, Caller, Options, new_data
from tests.crash.ledger import IDENTITY, Broken, Escaped, Found, Ledger, Note, Refused
from tests.crash.probe import Fault, Point, Probe, watched
from tests.crash.scenarios import Scenario
from tests.crash.workers import workshop

CHECKPOINT = (LAUNCH_STATE, SESSION_STORE, HOST_LEASES)


@dataclass
class Outcome:
    """What came of a crowd."""

    processes: int = 0
    kills: int = 0
    batches: int = 0
    """Batches that are committed in the end."""
    acknowledged: int = 0
    looks: int = 0
    """Plans, readiness checks, reads and snapshots made beside the writers."""
    items: list[str] = field(default_factory=list)
    """What updates added, in order."""
    high_watermark: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.processes} processes, {self.batches} batches, {self.kills} kills, "
            f"acknowledged {self.acknowledged}, looks {self.looks}, "
            f"problems {len(self.problems)} {self.problems[:5]}"
        )


def _made(directory: Path, _: Say) -> None:
    with RuntimeStore.open(directory, team_name=TEAM):
        pass


ALL = Options(retention=Retention(batches=None), alone=False)
"""Every batch stays, so that each that was acknowledged can be asked for."""
CROWD = Scenario("crowd", _made, lambda _: None, options=ALL)
"""All a crowd needs of a scenario: the known stores, and no file of anybody else's."""


def _finish(directory: Path, ledger: Ledger, outcome: Outcome) -> Outcome:
    """Look at what the crowd left, without it. Opening may finish a batch, which drops history
    unless it is told otherwise."""
    with RuntimeStore.open(directory, team_name=TEAM, retention=ALL.retention) as store:
        snapshot = store.snapshot([SESSION_STORE])
        outcome.items = (snapshot.data(SESSION_STORE) or {}).get("items", [])
        outcome.high_watermark = snapshot.high_watermark
        outcome.batches = len(store.batches())
    outcome.acknowledged = len(ledger.told)
    outcome.problems += [f"refused: {refused}" for refused in ledger.refused.values()]
    outcome.problems += check(directory, ledger, CROWD)
    return outcome


# --- updates ------------------------------------------------------------------------------------


def update_together(processes: int, updates: int) -> Outcome:
    """Some processes, each of which updates the same store again and again."""
    outcome = Outcome(processes=processes)
    with workshop() as workplace:
        directory = workplace / "crowd"
        notes = CROWD.begin(directory)

        def work(prefix: str) -> Callable[[Say], None]:
            def update(say: Say) -> None:
                caller = Caller(directory, prefix, say, options=ALL)
                for _ in range(updates):
                    caller.update(SESSION_STORE)
                caller.close()

            return update

        children = [Child(work(f"updater-{number}")) for number in range(processes)]
        ended = Child.wait_for_all(children)
        outcome.problems += [str(child) for child in ended if not child.finished]
        ledger = Ledger.of(notes, *(child.notes for child in ended))
        return _finish(directory, ledger, outcome)


# --- lives --------------------------------------------------------------------------------------

ROLES = (
    "update", "update", "update", "write", "write", "read", "plan", "recover", "threads", "threads",
)  # fmt: skip
TOGETHER = 4
POINTS = {"threads": 1000}
"""How far a life may go before it is killed; the others up to 400 points."""


def live_and_die(seed: int, rounds: int) -> Outcome:
    """Updaters, writers, readers, planners and recoveries side by side, alone in their process or
    as its threads; each process is killed before a point drawn from the seed (or lives on to its
    end), and others take its place."""
    dice, outcome, names = random.Random(seed), Outcome(), count(1)
    with workshop() as workplace:
        directory = workplace / "crowd"
        ledger = Ledger.of(CROWD.begin(directory))
        for _ in range(rounds):
            roles = [dice.choice(ROLES) for _ in range(TOGETHER)]
            drawn = [(role, dice.randint(1, POINTS.get(role, 400))) for role in roles]
            children = [
                Child(_life(directory, role, f"{role}-{next(names)}", point))
                for role, point in drawn
            ]
            for ended in Child.wait_for_all(children):
                outcome.processes += 1
                outcome.kills += ended.killed_at is not None
                outcome.looks += sum(isinstance(note, Found) for note in ended.notes)
                if ended.killed_at is None and not ended.finished:
                    outcome.problems.append(str(ended))
                for note in ended.notes:
                    ledger.add(note)
        return _finish(directory, ledger, outcome)


def _life(directory: Path, role: str, name: str, point: int) -> Callable[[Say], None]:
    def live(say: Say) -> None:
        kill = killer(say, point)
        with watched(Probe(kill)) as fs:
            caller = Caller(directory, name, say, fs=fs, options=ALL)
            if role == "threads":
                _live_in_threads(caller, name)
            elif role in ("read", "plan"):
                with RuntimeStore.open(
                    directory, team_name=TEAM, recover=False, seams=Seams(fs=fs)
                ) as store:
                    _look(store, say, plan=role == "plan")
            else:
                _act(caller, role)
            caller.close()

    return live


def _act(caller: Caller, role: str) -> None:
    if role == "update":
        for _ in range(4):
            caller.update(SESSION_STORE)
    elif role == "write":
        for _ in range(3):
            caller.write(LAUNCH_STATE, HOST_LEASES)
    else:
        caller.recover()


def _live_in_threads(first: Caller, name: str) -> None:
    """All roles at once, through one open store; batches of the writers share flushes."""
    store, say = first.open(), first.say
    roles = ("update", "update", "write", "write", "write", "recover")

    def act(number: int, role: str) -> None:
        caller = Caller(first.directory, f"{name}-{number}", say, options=ALL)
        caller.store = store
        _act(caller, role)

    with ThreadPoolExecutor(len(roles) + 1) as pool:
        under_way = [pool.submit(act, *pair) for pair in enumerate(roles, start=1)]
        under_way.append(pool.submit(_look, store, say, plan=True))
        for future in under_way:
            future.result()


def _look(store: RuntimeStore, say: Say, *, plan: bool) -> None:
    """Look at a store whose writers may have died: some of what is seen may be in want of a
    recovery, but it is said in the store's own words."""
    for _ in range(5):
        try:
            if plan:
                store.check_readiness(expected=IDENTITY)
            else:
                store.read(LAUNCH_STATE)
        except RuntimeStoreError:
            pass
        _compare(store, say)
        say(Found("a look"))


def _compare(store: RuntimeStore, say: Say) -> None:
    """The stores of one batch are as of one batch, whoever is writing."""
    contents = store.snapshot([LAUNCH_STATE, HOST_LEASES]).contents
    batches = {content.batch_id for content in contents.values()}
    if len(batches) > 1:
        say(Broken(f"a snapshot is of {batches}"))


# --- looking on ---------------------------------------------------------------------------------


def look_on(batches: int) -> Outcome:
    """One healthy writer, and beside it a planner, a readiness check, a reader and a snapshot, each
    in a process of its own and without pause. Nobody may see anything wrong."""
    outcome = Outcome(processes=5)
    with workshop() as workplace:
        directory, over = workplace / "crowd", workplace / "over"
        notes = CROWD.begin(directory)
        first = Caller(directory, "first", notes.append, options=ALL)
        first.write(*CHECKPOINT)
        first.close()

        def write(say: Say) -> None:
            caller = Caller(directory, "writer", say, options=ALL)
            for _ in range(batches):
                caller.write(*CHECKPOINT)
            caller.close()

        def watch(look: Callable[[RuntimeStore, Say], None]) -> Callable[[Say], None]:
            def work(say: Say) -> None:
                with RuntimeStore.open(directory, team_name=TEAM, retention=ALL.retention) as store:
                    looks = 0
                    while not over.exists():
                        look(store, say)
                        looks += 1
                say(Found(looks))

            return work

        looks = (_plan, _check_readiness, _read, _take_snapshot)
        watchers = [Child(watch(look), limit_s=900) for look in looks]
        writer = Child(write, limit_s=900).wait()
        over.touch()
        ended = Child.wait_for_all(watchers)
        outcome.problems += [str(child) for child in (writer, *ended) if not child.finished]
        outcome.problems += _false_alarms([note for child in ended for note in child.notes])
        outcome.looks = sum(_looks(child.notes) for child in ended)
        return _finish(directory, Ledger.of(notes, writer.notes), outcome)


def _looks(notes: list[Note]) -> int:
    return sum(int(str(note.value)) for note in notes if isinstance(note, Found))


def _false_alarms(notes: list[Note]) -> list[str]:
    return [
        f"false alarm: {note.problem if isinstance(note, Broken) else note}"
        for note in notes
        if isinstance(note, (Broken, Escaped, Refused))
    ]


def _plan(store: RuntimeStore, say: Say) -> None:
    plan = store.plan_recovery(expected=IDENTITY)
    wrong = [
        action
        for action in plan.actions
        if action.kind is not ActionKind.NONE and action.schema_name in CHECKPOINT
    ]
    if wrong:
        say(Broken(f"the plan is {wrong}: {plan.diagnostics}"))


def _check_readiness(store: RuntimeStore, say: Say) -> None:
    unwritten = {f"Runtime store missing: {name}" for name in store.descriptors.names}
    wrong = set(store.check_readiness(expected=IDENTITY).diagnostics) - unwritten
    if wrong:
        say(Broken(f"the readiness check says {wrong}"))


def _read(store: RuntimeStore, say: Say) -> None:
    for name in CHECKPOINT:
        try:
            store.read(name)
        except StoreFileChangedError as error:
            say(Broken(f"a read says {error}"))


def _take_snapshot(store: RuntimeStore, say: Say) -> None:
    contents = store.snapshot(CHECKPOINT).contents
    markers = {content.data["marker"] for content in contents.values()}
    if len(markers) != 1:
        say(Broken(f"a snapshot is of {markers}"))


# --- one after the other ------------------------------------------------------------------------


def outlive(_: int) -> Outcome:
    """A process has the store open; others are killed in the middle of a batch, at every point.
    Each time the survivor goes on writing, and finishes what the dead one began."""
    outcome = Outcome(processes=1)
    with workshop() as workplace:
        directory = workplace / "crowd"
        ledger = Ledger.of(CROWD.begin(directory))
        survivor = Caller(directory, "survivor", ledger.add, options=ALL)
        survivor.write(*CHECKPOINT)
        for number in count(1):
            ended = Child(_one_batch(directory, f"victim-{number}", number)).wait()
            outcome.processes += 1
            for note in ended.notes:
                ledger.add(note)
            if not survivor.write(*CHECKPOINT):
                outcome.problems.append(f"the survivor was refused after {ended.killed_at}")
            if ended.killed_at is None:
                break
            outcome.kills += 1
        survivor.close()
        return _finish(directory, ledger, outcome)


def _one_batch(directory: Path, name: str, point: int) -> Callable[[Say], None]:
    def work(say: Say) -> None:
        kill = killer(say, point)

        def watch(reached: Point) -> Fault | None:
            return kill(reached)

        with watched(Probe(watch)) as fs:
            caller = Caller(directory, name, say, fs=fs, options=ALL)
            caller.write(LAUNCH_STATE, HOST_LEASES)
            caller.close()

    return work


def fork_while_open(_: int) -> Outcome:
    """A process forks while it has a store open. The child is refused, in words, may open the store
    for itself, and takes nothing from its parent."""
    outcome = Outcome(processes=2)
    with workshop() as workplace:
        directory = workplace / "crowd"
        ledger = Ledger.of(CROWD.begin(directory))
        parent = Caller(directory, "parent", ledger.add, options=ALL)
        parent.write(*CHECKPOINT)
        store = parent.store
        assert store is not None

        def work(say: Say) -> None:
            for name, call in _calls(store).items():
                try:
                    call()
                except StoreClosedError as error:
                    if "fork" not in str(error):
                        say(Broken(f"{name}: {error}"))
                else:
                    say(Broken(f"{name} was not refused in a forked child"))
            store.close()
            own = Caller(directory, f"child-{os.getpid()}", say, options=ALL)
            own.write(*CHECKPOINT)
            own.close()

        ended = Child(work).wait()
        outcome.problems += [] if ended.finished else [str(ended)]
        for note in ended.notes:
            ledger.add(note)
        if not parent.write(*CHECKPOINT):
            outcome.problems.append("the parent was refused")
        parent.close()
        return _finish(directory, ledger, outcome)


def _calls(store: RuntimeStore) -> dict[str, Callable[[], object]]:
    writes = {LAUNCH_STATE: new_data(LAUNCH_STATE, "forked")}
    return {
        "write_batch": lambda: store.write_batch(
            identity=IDENTITY, reason="launch_checkpoint", writes=writes
        ),
        "update": lambda: store.update(
            HOST_LEASES, lambda data: data, identity=IDENTITY, reason="host_lease_update"
        ),
        "read": lambda: store.read(LAUNCH_STATE),
        "snapshot": store.snapshot,
        "plan_recovery": store.plan_recovery,
    }
