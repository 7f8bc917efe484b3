"""Four processes that begin runs, write, end them, are killed and come back, in drawn orders.

Each is told one act at a time; some acts are told to two at once, and some processes are killed at
a drawn point within an act. What they were told is held against what is there in the end, without
the library's own idea of what a run is: the order of the batches alone says who wrote after whom.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import BinaryIO

from rtstore import (
    ActionKind,
    Batch,
    BatchState,
    InvalidRequestError,
    Retention,
    RunAliveError,
    RunIdentity,
    RunRecord,
    RuntimeStore,
    StaleRunError,
)
from rtstore.model.descriptors import HOST_LEASES, PROMPT_DELIVERY_LEDGER
from rtstore.testing import Seams
from tests.crash.children import LIMIT_S, Child, Say
from tests.crash.client import TEAM
from tests.crash.controls import no_fence
from tests.crash.ledger import Found, Ledger
from tests.crash.probe import Fault, Point, Probe, watched
from tests.crash.runs import problems_of_runs
from tests.crash.workers import Share, Tally, workshop

DRAWN, DRAWN_THOROUGH = 12, 47
"""How many interleavings are drawn with every change, and in each part of the thorough run."""
PARTS = 4
"""How many parts of the thorough run draw, beside each other."""
PROCESSES = 4
ACTS = 16
"""How many acts an interleaving has."""
POINTS = 90
"""A process that is killed within an act is so before one of so many points."""
STORES = (HOST_LEASES, PROMPT_DELIVERY_LEDGER)
KEEP_ALL = Retention(batches=None, contents_per_store=None)


@dataclass(frozen=True)
class Act:
    """What one process is told to do."""

    number: int
    verb: str
    """`begin`, `take over` (whoever lives), `write`, `update` or `end`."""
    run_id: str
    dies_at: int | None = None
    """It is killed before this point of the act."""

    @property
    def batch_id(self) -> str:
        """The id of the batch that it writes."""
        return f"batch-{self.number}"


@dataclass(frozen=True)
class Answer:
    """What came of an act; `dead` when the process was killed before it could tell."""

    act: Act
    outcome: str
    """`told`, `resumed`, `stale`, `alive`, `refused` or `dead`."""
    began: int
    """When it was told to the process: the number of acts that had been answered by then."""
    ended: int


# --- a process ------------------------------------------------------------------------------------


def _live(directory: Path, commands: BinaryIO, say: Say) -> None:
    """Carry out acts until killed."""
    current: list[Act] = []
    left = 0

    def watch(_: Point) -> Fault | None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    with watched(Probe(watch)) as fs:
        store: RuntimeStore | None = None
        while True:
            act: Act = pickle.load(commands)
            current[:], left = [act], act.dies_at or 0
            if store is None:
                store = RuntimeStore.open(
                    directory,
                    team_name=TEAM,
                    seams=Seams(batch_id_factory=lambda: current[0].batch_id, fs=fs),
                    retention=KEEP_ALL,
                )
            say(Found(_carry_out(store, act)))


def _carry_out(store: RuntimeStore, act: Act) -> str:
    identity, data = RunIdentity(run_id=act.run_id), [act.batch_id]
    try:
        if act.verb in ("begin", "take over"):
            run = store.begin_run(
                identity, writes={STORES[0]: data}, keep="all", supersede=act.verb == "take over"
            )
            return "resumed" if run.resumed else "told"
        if act.verb == "write":
            store.write_batch(
                identity=identity, reason="delivery_commit", writes=dict.fromkeys(STORES, data)
            )
        elif act.verb == "update":
            store.update(
                STORES[1],
                lambda old: [*(old or []), *data][-5:],
                identity=identity,
                reason="delivery_commit",
            )
        else:
            store.end_run(act.run_id, why=act.batch_id)
    except StaleRunError:
        return "stale"
    except RunAliveError:
        return "alive"
    except InvalidRequestError:
        return "refused"
    return "told"


class Process:
    """A child that carries out acts. It lives until it is killed."""

    def __init__(self, directory: Path) -> None:
        reading, writing = os.pipe()

        def work(say: Say) -> None:
            os.close(writing)
            with os.fdopen(reading, "rb") as commands:
                _live(directory, commands, say)

        self._child = Child(work)
        os.close(reading)
        self._commands = os.fdopen(writing, "wb")
        self._notes = self._child.listen()
        self.problems: list[str] = []

    def tell(self, act: Act) -> None:
        """Have an act begun."""
        pickle.dump(act, self._commands)
        self._commands.flush()

    def hear(self) -> str:
        """What came of the act; `dead` when the process is."""
        for note in self._notes:
            if isinstance(note, Found):
                return str(note.value)
            self.problems.append(str(note))
        return "dead"

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        os.kill(self._child.pid, signal.SIGKILL)
        self._commands.close()
        self._child.wait()


# --- an interleaving ------------------------------------------------------------------------------


@dataclass
class Interleaving:
    """One drawn order of acts, and what came of each."""

    directory: Path
    dice: random.Random
    slots: list[Process | None] = field(default_factory=lambda: [None] * PROCESSES)
    run_ids: list[str | None] = field(default_factory=lambda: [None] * PROCESSES)
    """The run that each writes for, whoever has begun another one since."""
    answers: list[Answer] = field(default_factory=list)
    kills: int = 0
    problems: list[str] = field(default_factory=list)
    _number: int = 0

    def go(self) -> None:
        """Carry it out; no process is left."""
        try:
            while self._number < ACTS:
                self._step()
        finally:
            for slot in range(PROCESSES):
                self._kill(slot)

    def _step(self) -> None:
        way = self.dice.random()
        if way < 0.12:
            self._kill(self.dice.randrange(PROCESSES))
            return
        first, second = self.dice.sample(range(PROCESSES), 2)
        together = [first, second] if way < 0.4 else [first]
        began, acts = len(self.answers), {}
        for slot in together:
            acts[slot] = self._draw(slot)
            process = self.slots[slot] = self.slots[slot] or Process(self.directory)
            process.tell(acts[slot])
        hurried = len(together) == 2 and self.dice.random() < 0.25
        if hurried:  # one is killed wherever it is
            self._kill(second, reap=False)
        heard = {slot: self._process(slot).hear() for slot in together}
        for slot, outcome in heard.items():
            self.answers.append(Answer(acts[slot], outcome, began, began + len(heard)))
            others = [  # those that live, or lived when it asked
                other
                for other in range(PROCESSES)
                if other != slot and (self.slots[other] or other in together)
            ]
            if outcome == "alive" and not others:
                self.problems.append(f"{acts[slot]} was refused, and no other process lives")
            if outcome == "dead" or (hurried and slot == second):
                self._kill(slot)

    def _draw(self, slot: int) -> Act:
        """What a process does next: it begins a run, or writes for the one it has, alive or not."""
        self._number += 1
        run_id = self.run_ids[slot]
        if run_id is None or self.dice.random() < 0.2:
            run_id = self.run_ids[slot] = f"run-{self._number}"
            verb = self.dice.choice(["begin", "take over", "take over", "write"])
        else:
            verb = self.dice.choice(["write", "write", "update", "update", "begin", "end"])
        dies_at = self.dice.randint(1, POINTS) if self.dice.random() < 0.15 else None
        return Act(self._number, verb, run_id, dies_at)

    def _process(self, slot: int) -> Process:
        process = self.slots[slot]
        assert process is not None
        return process

    def _kill(self, slot: int, *, reap: bool = True) -> None:
        process = self.slots[slot]
        if process is None:
            return
        if not reap:
            os.kill(process._child.pid, signal.SIGKILL)
            return
        process.kill()
        self.kills += 1
        self.problems += process.problems
        self.slots[slot] = None


# --- what it must have come to --------------------------------------------------------------------


@dataclass(frozen=True)
class Left:
    """What is there in the end."""

    batches: list[Batch]
    runs: list[RunRecord]


def _look(directory: Path) -> Left:
    def look(say: Say) -> None:
        with RuntimeStore.open(directory, team_name=TEAM, retention=KEEP_ALL) as store:
            plan = store.plan_recovery()
            # What no batch wrote is missing, and what a run left behind is another's.
            expected = {entry.schema_name for entry in store.manifest().entries}
            expected -= {item.schema_name for item in plan.stale_stores}
            for action in plan.actions:
                if action.kind is not ActionKind.NONE and action.schema_name in expected:
                    raise AssertionError(f"there is something to recover: {action}")
            say(Found(Left(store.batches(), store.runs())))

    ended = Child(look).wait()
    for note in ended.notes:
        if isinstance(note, Found) and isinstance(note.value, Left):
            return note.value
    raise AssertionError(str(ended))


def _wrote_what_was_lacking(batch_id: str, committed: list[Batch]) -> bool:
    """Whether a batch wrote only stores that no batch before it had written: a run that is resumed
    writes those."""
    written: set[str] = set()
    for batch in committed:
        names = {receipt.schema_name for receipt in batch.receipts}
        if batch.batch_id == batch_id:
            return not names & written
        written |= names
    return False


def judge(answers: list[Answer], left: Left) -> list[str]:
    """What is wrong with what is there, after what the processes were told."""
    committed = sorted(
        (batch for batch in left.batches if batch.state is BatchState.COMMITTED),
        key=lambda batch: batch.high_watermark or 0,
    )
    ledger = Ledger()
    for answer in answers:
        if answer.act.verb == "end":
            ledger.ending.add(answer.act.run_id)
            if answer.outcome == "told":
                ledger.ended.add(answer.act.run_id)
    problems = list(problems_of_runs(left.runs, committed, ledger))
    number_of = {batch.batch_id: batch.batch_number for batch in committed}
    over = {run.run_id for run in left.runs if run.is_over}
    for answer in answers:
        act, is_there = answer.act, answer.act.batch_id in number_of
        if answer.outcome == "told" and act.verb != "end" and not is_there:
            problems.append(f"acknowledged {act} is lost")
        completes = answer.outcome == "resumed" and _wrote_what_was_lacking(act.batch_id, committed)
        if answer.outcome not in ("told", "dead") and is_there and not completes:
            problems.append(f"{act} was answered with {answer.outcome}, and is there")
        if answer.outcome == "stale" and act.run_id not in over:
            problems.append(f"{act} was answered with stale, and its run is not over")
    problems += _in_time(answers, number_of)
    return problems


def _in_time(answers: list[Answer], number_of: dict[str, int]) -> list[str]:
    """What an act was told that is not true beside an act that had its answer before."""
    problems = []
    for before, after in combinations(answers, 2):
        if before.ended > after.began or {before.outcome, after.outcome} != {"told"}:
            continue
        if before.act.verb == "end" and after.act.run_id == before.act.run_id:
            problems.append(f"{after.act} was acknowledged after {before.act}")
        numbers = [number_of.get(item.act.batch_id) for item in (before, after)]
        if None not in numbers and numbers != sorted(numbers, key=lambda number: number or 0):
            problems.append(f"{after.act} was logged before {before.act}")
    return problems


def interleave(_: str, share: Share) -> Tally:
    """Draw interleavings, and judge each. Points are acts, states are interleavings."""
    tally = Tally()
    for number in range(share.first, share.first + share.draws):
        dice = random.Random(f"{share.seed} {number}")
        with workshop() as workplace:
            directory = workplace / "runtime"
            RuntimeStore.open(directory, team_name=TEAM).close()
            drawn = Interleaving(directory, dice)
            drawn.go()
            tally.points += len(drawn.answers)
            problems = [*drawn.problems, *judge(drawn.answers, _look(directory))]
            tally.check(f"interleaving {number}", problems)
        if share.enough(tally):
            break
    return tally


def interleave_without_fence(seed: int) -> Tally:
    """The same with a library in which a run that is over may write: up to the first that is
    caught."""

    def work(say: Say) -> None:
        no_fence()
        share = Share(draws=DRAWN, seed=seed, stop_at_first=True)
        say(Found(interleave("without a fence", share)))

    for note in Child(work, limit_s=10 * LIMIT_S).wait().notes:
        if isinstance(note, Found) and isinstance(note.value, Tally):
            return note.value
    raise AssertionError("nothing was found")
