"""Power lost at every point: every disk state that may be left is laid out, opened and checked."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rtstore import DATABASE_NAME, Durability
from tests.crash.check import check, torn_files
from tests.crash.client import FILES, holds
from tests.crash.disk import Disk, DiskState, Image
from tests.crash.ledger import Ledger, Note
from tests.crash.probe import END, Fault, Point, Probe, TracedFileSystem, watched
from tests.crash.product import scenario_of
from tests.crash.sameness import Passed
from tests.crash.scenarios import Scenario
from tests.crash.workers import Copies, Share, Tally, workshop

FULL = 2
"""PRAGMA synchronous = FULL."""
NEW = f".{DATABASE_NAME}.new"


def cut_power_everywhere(name: str, share: Share) -> Tally:
    """Cut the power before each point of a scenario's act; check every state that may be left."""
    scenario, tally = scenario_of(name), Tally()
    with workshop() as workplace:
        base = scenario.begin(workplace / "beginning")
        copies = Copies(workplace / "beginning", workplace)
        outages = Outages(scenario, share)
        with copies.fresh() as directory:
            outages.watch_act(directory, workplace)
        passed = Passed()
        # The last ones first when one is enough: what was acknowledged is most easily lost.
        found = outages.found[::-1] if share.stop_at_first else outages.found
        for outage in found:
            tally.points += 1 if outage.first else 0
            ledger = Ledger.of(base, outages.notes[: outage.notes])
            with Copies(workplace / "nothing", workplace).fresh() as directory:
                outage.state.lay_out(directory)
                problems = []
                if scenario.options.durability is Durability.FILES:
                    problems += torn_files(directory, ledger)
                    problems += _old_files(directory, ledger)
                problems += check(directory, ledger, scenario, whole=False, passed=passed)
            tally.check(f"{name}, power lost at {outage.point} ({outage.state.label})", problems)
            if share.enough(tally):
                break
    return tally


def _old_files(directory: Path, ledger: Ledger) -> Iterator[str]:
    """With flushed files, what was acknowledged is in them before anybody opened the store."""
    for store, relative_path in FILES.items():
        told = [number for number, batch_id in enumerate(ledger.intents) if batch_id in ledger.told]
        last = max((n for n in told if store in _intents(ledger)[n]), default=None)
        if last is None:
            continue
        new = [writes[store] for writes in _intents(ledger)[last:] if store in writes]
        path = directory / relative_path
        found = path.read_bytes() if path.is_file() else None
        if not any(found is None if data is None else holds(found, data) for data in new):
            yield f"{relative_path} was acknowledged as flushed, and is {(found or b'')[:40]!r}"


def _intents(ledger: Ledger) -> list[dict[str, object]]:
    return [intent.writes for intent in ledger.intents.values()]


@dataclass(frozen=True)
class Outage:
    """One state that a loss of power at a point may leave."""

    point: Point
    state: DiskState
    notes: int
    """How many notes the caller had made by then."""
    first: bool
    """The first of its point."""


class Outages:
    """Runs an act once on a modelled disk, and keeps every different state on the way."""

    def __init__(self, scenario: Scenario, share: Share) -> None:
        self.notes: list[Note] = []
        self.found: list[Outage] = []
        self._scenario = scenario
        self._share = share
        self._dice = random.Random(f"{share.seed} {scenario.name}")
        self._seen: set[tuple[DiskState, int]] = set()

    def watch_act(self, directory: Path, workplace: Path) -> None:
        """Run the act."""
        camera = Camera(directory, workplace / "picture")
        image = camera.take() if (directory / DATABASE_NAME).exists() else None
        disk = Disk(directory, image, self._scenario.unflushed)

        def watch(point: Point) -> Fault | None:
            self._look(disk, point)
            return self._scenario.refusal(point)

        probe = DiskProbe(watch, disk, camera)
        with watched(probe):
            caller = self._scenario.carry_out(
                directory, self.notes.append, ModelledFileSystem(probe, disk), "act"
            )
            probe.reach(END, "the end")
            caller.close()
            probe.reach(END, "the end, closed")
            probe.off = True

    def _look(self, disk: Disk, point: Point) -> None:
        first = True
        if self._share.draws:
            states = disk.drawn(self._dice, self._share.draws)
        else:
            states = disk.states(full=self._share.full)
        for state in states:
            key = (state, len(self.notes))
            if key not in self._seen:
                self._seen.add(key)
                self.found.append(Outage(point, state, len(self.notes), first))
                first = False


class Camera:
    """Takes pictures of the database while it is open.

    Another program does it: closing any descriptor of the file in this process would drop SQLite's
    locks. No fork of this process does: the library closes its connections before one, and waits
    for the SQL transaction that the picture is taken in.
    """

    def __init__(self, directory: Path, picture: Path) -> None:
        self._directory = directory
        self._picture = picture
        self.closed = 0
        """How many connections were closed so far."""

    def take(self) -> Image:
        """The database and its WAL, as they are. (Not the `-shm`: it is made anew.)

        Raises AssertionError when a connection was closed meanwhile: that may checkpoint, and the
        picture would be of no moment.
        """
        closed = self.closed
        image = self._take()
        assert self.closed == closed, "a connection was closed while a picture was taken"
        return image

    def _take(self) -> Image:
        shutil.rmtree(self._picture, ignore_errors=True)
        self._picture.mkdir()
        names = (DATABASE_NAME, f"{DATABASE_NAME}-wal", NEW)
        there = [path for name in names if (path := self._directory / name).exists()]
        if there:
            subprocess.run(["cp", "--", *there, self._picture], check=True)
        if (self._picture / NEW).exists():
            return {"": (self._picture / NEW).read_bytes()}
        return {
            path.name.removeprefix(DATABASE_NAME): path.read_bytes()
            for path in self._picture.iterdir()
        }


class DiskProbe(Probe):
    """A probe that also keeps the modelled disk up to date with SQLite."""

    def __init__(self, watcher: object, disk: Disk, camera: Camera) -> None:
        super().__init__(watcher)  # type: ignore[arg-type]
        self.disk = disk
        self.camera = camera
        self.off = False

    def reach(self, kind: str, call: str, subject: str = "") -> Fault | None:
        return None if self.off else super().reach(kind, call, subject)

    def committed(self, level: int) -> None:
        if not self.off and self.disk.last_image() is not None:
            self.disk.committed(self.camera.take(), sure=level >= FULL)

    def checkpointed(self) -> None:
        """The WAL may have been written back: then everything was flushed."""
        self.camera.closed += 1
        last = self.disk.last_image()
        if self.off or last is None:
            return
        image = self.camera.take()
        if image != last:
            self.disk.checkpointed(image)


class ModelledFileSystem(TracedFileSystem):
    """The real file system, which tells the modelled disk what it did."""

    def __init__(self, probe: DiskProbe, disk: Disk) -> None:
        super().__init__(probe)
        self.disk = disk
        self._camera = probe.camera

    def create(self, path: Path, mode: int) -> int:
        descriptor = super().create(path, mode)
        self.disk.created(path, descriptor)
        return descriptor

    def write(self, descriptor: int, content: memoryview) -> int:
        written = super().write(descriptor, content)
        self.disk.file(descriptor).content += bytes(content[:written])
        return written

    def set_mode(self, descriptor: int, mode: int) -> None:
        super().set_mode(descriptor, mode)
        self.disk.file(descriptor).mode = mode

    def set_mtime(self, descriptor: int, mtime_ns: int) -> None:
        super().set_mtime(descriptor, mtime_ns)
        self.disk.file(descriptor).mtime_ns = mtime_ns

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        file = self.disk.file(descriptor)
        file.flushed = file.content

    def flush(self, path: Path) -> None:
        super().flush(path)
        self.disk.flushed_bytes(path)

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self.disk.closed(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        database = self._camera.take() if target.name == DATABASE_NAME else None
        self.disk.renamed(source, target, database)

    def rename_new(self, source: Path, target: Path) -> bool:
        renamed = super().rename_new(source, target)
        if renamed:
            self.disk.renamed(source, target, None)
        return renamed

    def exchange(self, first: Path, second: Path) -> bool:
        exchanged = super().exchange(first, second)
        if exchanged:
            self.disk.exchanged(first, second)
        return exchanged

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.disk.unlinked(path)

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self.disk.made(path)

    def fsync_directory(self, path: Path) -> None:
        super().fsync_directory(path)
        self.disk.flushed_names(path)

    def overtake(self, path: Path, content: bytes) -> None:
        super().overtake(path, content)
        self.disk.overwritten(path, content)
        self.disk.flushed_names(path.parent)
