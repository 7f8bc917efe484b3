"""One life from outside: starts the workers, disturbs them, waits for their end, has it judged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from rtstore import DATABASE_NAME, RuntimeStore
from tests.checker.caller import DESCRIPTORS, LEDGER, STORES, Caller, Shared
from tests.checker.journal import Journal
from tests.checker.judge import judge
from tests.checker.mix import Mix
from tests.checker.state import write_down_state
from tests.checker.verdict import Verdict
from tests.checker.worker import CHILD_S, run_in_child, work

LOCK_NAME = "runtime-store.lock"
TEAM = "team-a"
PATIENCE_S = 20.0
"""How long after its end a life may take until all calls are back."""


@dataclass
class Process:
    """A process of a life."""

    name: str
    pid: int
    killed: bool = False
    stopped_until: float | None = None
    status: int | None = None


@dataclass
class Life:
    """A life that is going on. `breaking` is called in every worker before it begins: controls."""

    mix: Mix
    folder: Path
    breaking: Callable[[], object] | None = None
    patience_s: float = PATIENCE_S
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory = self.folder / "runtime"
        self.journals = self.folder / "journals"
        self.scratch = self.folder / "scratch"
        for path in (self.journals, self.scratch):
            path.mkdir(parents=True)
        self.random = Random(f"{self.mix.seed} outside")
        self.journal = Journal(self.journals / "outside.journal")
        self._count = 0
        self._tampered = False

    def run(self) -> Verdict:
        """Live it, and judge it."""
        self._wait(self._start("setup", self._make), PATIENCE_S)
        self.end = time.monotonic() + self.mix.seconds
        for _ in range(self.mix.processes):
            self._start_worker()
        others = [
            self._start(name, partial(intrude, self.mix, self.directory, name, self.end))
            for name in ("shell", "reader")
            if self.mix.has(name)
        ]
        self._disturb()
        for other in others:
            self._wait(other, self.patience_s)
        self._let_end()
        for name in ("state", "again"):
            self._wait(self._start(name, partial(self._write_down, name)), PATIENCE_S)
        return judge(self.mix, self.journals)

    def _shared(self, name: str) -> Shared:
        journal = Journal(self.journals / f"{name}.journal")
        return Shared(self.mix, self.directory, self.scratch, journal, self.end, self.patience_s)

    def _make(self) -> None:
        self.end = 0.0
        caller = Caller("setup", self._shared("setup"))
        caller.calm = True
        with RuntimeStore.open(
            self.directory,
            team_name=TEAM,
            descriptors=DESCRIPTORS,
            retention=self.mix.retention,
        ) as store:
            facts = caller.facts_of_write(LEDGER, *STORES)
            arguments = caller.arguments(facts)
            arguments["writes"][LEDGER]["seen"] = []
            assert caller.call("write", lambda: store.write_batch(**arguments), store, **facts)

    def _write_down(self, name: str) -> None:
        self.end = 0.0
        write_down_state(Caller(name, self._shared(name)), self.journals / f"{name}.json")

    # --- processes ------------------------------------------------------------------------------

    def _start(self, name: str, function: Callable[[], object]) -> Process:
        process = Process(name, run_in_child(name, self.journals, function))
        self.processes.append(process)
        return process

    def _start_worker(self) -> None:
        self._count += 1
        name = f"p{self._count}"

        def function() -> None:
            if self.breaking is not None:
                self.breaking()
            work(name, self._shared(name), self.journals / "quiet")

        self._start(name, function)

    def _is_over(self, process: Process) -> bool:
        if process.status is None:
            done, status = os.waitpid(process.pid, os.WNOHANG)
            if done:
                process.status = status
                if status and not process.killed:
                    self.journal.write("died", name=process.name, status=status)
        return process.status is not None

    def _wait(self, process: Process, patience_s: float) -> None:
        end = time.monotonic() + patience_s
        while not self._is_over(process):
            if time.monotonic() > end:
                self._give_up(process)
                return
            time.sleep(0.002)

    def _give_up(self, process: Process) -> None:
        """It hangs: have it say where, and kill it with all its children."""
        self.journal.write("hang", name=process.name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGUSR1)
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGKILL)
        process.killed = True
        if process.status is None:
            process.status = os.waitpid(process.pid, 0)[1]

    # --- disturbances ---------------------------------------------------------------------------

    def _workers(self) -> list[Process]:
        return [
            process
            for process in self.processes
            if process.name.startswith("p") and not self._is_over(process)
        ]

    def _disturb(self) -> None:
        """Until the life is over, do to the workers what its mix says."""
        random, mix = self.random, self.mix
        half = time.monotonic() + mix.seconds * random.uniform(0.3, 0.7)
        chances: list[tuple[str, float, Callable[[], None]]] = [
            ("kill", 4.0, self._kill),
            ("stop", 4.0, self._stop),
            ("unlock", 15.0, self._unlock),
        ]
        while time.monotonic() < self.end:
            time.sleep(0.005)
            self._go_on()
            for name, per_s, action in chances:
                if mix.has(name) and random.random() < per_s * 0.005:
                    action()
            if mix.has("wal") and not self._tampered and time.monotonic() > half:
                self._tampered = True
                self._remove_wal()

    def _kill(self) -> None:
        """Kill one, or all at once; and some of the time just when a file was written."""
        workers = self._workers()
        self.random.shuffle(workers)
        victims = workers if self.random.random() < 0.3 else workers[:1]
        self._aim()
        for victim in victims:
            victim.killed = True
            os.kill(victim.pid, signal.SIGKILL)
            self.journal.write("killed", name=victim.name)
        for _ in victims:
            if time.monotonic() < self.end - 0.2:
                self._start_worker()

    def _aim(self) -> None:
        """Wait until a store file is another one, for then a batch is being published."""
        paths = [self.directory / descriptor.relative_path for descriptor in DESCRIPTORS]
        before, end = _inodes(paths), time.monotonic() + self.random.choice((0, 0.03, 0.03))
        while time.monotonic() < end and _inodes(paths) == before:
            pass

    def _stop(self) -> None:
        running = [process for process in self._workers() if process.stopped_until is None]
        if running:
            victim = self.random.choice(running)
            self._aim()
            os.kill(victim.pid, signal.SIGSTOP)
            self.journal.write("stopped", name=victim.name)
            victim.stopped_until = time.monotonic() + self.random.choice((0.01, 0.1, 0.5))

    def _go_on(self, *, all_of_them: bool = False) -> None:
        for process in self._workers():
            until = process.stopped_until
            if until is not None and (all_of_them or time.monotonic() >= until):
                os.kill(process.pid, signal.SIGCONT)
                process.stopped_until = None

    def _unlock(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.directory / LOCK_NAME)
            self.journal.write("unlocked")

    def _remove_wal(self) -> None:
        suffixes = self.random.choice((("-wal",), ("-wal", "-shm")))
        for suffix in suffixes:
            with suppress(FileNotFoundError):
                os.unlink(self.directory / f"{DATABASE_NAME}{suffix}")
        self.journal.write("wal removed", suffixes=suffixes)

    # --- the end --------------------------------------------------------------------------------

    def _let_end(self) -> None:
        """Wait until no worker calls any more, let each use its objects once more, and end."""
        self._go_on(all_of_them=True)
        bound = self.patience_s + (CHILD_S if self.mix.has("fork") else 0)
        end = time.monotonic() + bound
        while not all(self._has_done(process) for process in self._workers()):
            if time.monotonic() > end:
                for process in self._workers():
                    if not self._has_done(process):
                        self._give_up(process)
                break
            time.sleep(0.005)
        (self.journals / "quiet").touch()
        for process in self._workers():
            self._wait(process, 2 * self.patience_s)
        for process in self.processes:
            self._wait_for_group(process)

    def _has_done(self, process: Process) -> bool:
        return (self.journals / f"{process.name}.done").exists()

    def _wait_for_group(self, process: Process) -> None:
        """Wait for the children that a killed worker left."""
        end = time.monotonic() + CHILD_S
        with suppress(ProcessLookupError, PermissionError):
            while True:
                os.killpg(process.pid, 0)
                if time.monotonic() > end:
                    self._give_up(process)
                    return
                time.sleep(0.01)

    def keep(self, target: Path, verdict: Verdict) -> None:
        """Keep everything that a failure wants for its explanation."""
        shutil.rmtree(target, ignore_errors=True)
        with suppress(shutil.Error):  # what cannot be copied, or is gone by now, is left out
            shutil.copytree(self.folder, target, symlinks=True)
        target.mkdir(parents=True, exist_ok=True)
        (target / "verdict.txt").write_text(f"{self.mix}\n\n{verdict.details()}\n")
        (target / "mix.json").write_text(json.dumps({"seed": self.mix.seed}))


def _inodes(paths: list[Path]) -> list[int]:
    found = []
    for path in paths:
        with suppress(FileNotFoundError):  # whoever closes last removes it
            found.append(os.stat(path).st_ino)
    return found


def intrude(mix: Mix, directory: Path, name: str, end: float) -> None:
    """Be another program that uses the database: a shell that writes, or one that reads."""
    random = Random(f"{mix.seed} {name}")
    longest: Any = random.choice((0.05, 0.5, 2.0, 6.0) if name == "shell" else (0.05, 0.5))
    database = sqlite3.connect(directory / DATABASE_NAME, isolation_level=None, timeout=0.5)
    while time.monotonic() < end:
        time.sleep(random.uniform(0, 0.1))
        with suppress(sqlite3.OperationalError):
            database.execute("BEGIN IMMEDIATE" if name == "shell" else "BEGIN")
            database.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            time.sleep(random.uniform(0, longest))
            database.execute("ROLLBACK")
    database.close()
