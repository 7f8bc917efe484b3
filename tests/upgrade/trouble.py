"""What else may go wrong with an upgrade: an error in place of any call, and a loss of power.

    python -m tests.upgrade.trouble [--quick] [fail|power|control] [REVISION]

With --quick no error takes the place of a statement that only looks or sets. Prints a line of JSON
for each job and revision. Run in a process of one thread, which forks a child for each check.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rtstore import RuntimeStoreError, upgrade_directory
from rtstore.control.sqlite import copying
from tests.crash.disk import Disk, DiskState, File
from tests.crash.faults import faults_at
from tests.crash.kills import points_of
from tests.crash.power_loss import Camera, DiskProbe, ModelledFileSystem
from tests.crash.probe import END, Fault, Point, Probe, watched
from tests.crash.workers import Copies, workshop
from tests.upgrade.kills import InChildren, Kills, begin, check_upgrade, opening
from tests.upgrade.states import chosen

# --- an error in place of any call ----------------------------------------------------------------


_LOOKING = frozenset({"PRAGMA", "SELECT"})


def failing(frozen: str, *, quick: bool) -> Kills:
    """Let every call of an upgrade fail in each way; check what is left, and that a runtime goes on
    with it when the trouble is over."""
    tally = Kills()
    checks = InChildren(check_upgrade(frozen), tally)
    with workshop() as workplace:
        copies = Copies(begin(frozen, workplace), workplace)
        for point in points_of(opening, copies):
            if quick and point.call in _LOOKING:
                continue
            for fault, lasting in faults_at(point, full=False):
                tally.points += 1
                tally.kinds[point.kind] += 1
                how = "from there on" if lasting else "once"
                where = f"{frozen}, {fault} {how} instead of {point}"
                with copies.fresh() as directory:
                    error = _fail(directory, point, fault, lasting=lasting)
                    if error is None:
                        checks.look_at(where, directory)
                    else:
                        tally.failures.append(f"{where}: it came out as {error!r}")
    return tally


def _fail(directory: Path, failing_at: Point, fault: Fault, *, lasting: bool) -> Exception | None:
    """Upgrade with a fault at a point; return what was raised and is no error of the store's."""

    def watch(point: Point) -> Fault | None:
        later = lasting and point.number > failing_at.number and point.kind == failing_at.kind
        hit = point.number == failing_at.number or (later and point.call != "ROLLBACK")
        return fault if hit else None

    with watched(Probe(watch)) as fs:
        try:
            upgrade_directory(directory, fs=fs)
        except RuntimeStoreError:
            return None
        except Exception as error:
            return error
    return None


# --- a loss of power ------------------------------------------------------------------------------


class _PowerFileSystem(ModelledFileSystem):
    """SQLite writes and flushes the back-up by itself: when it gets its name it is on the disk."""

    disk: Disk

    def rename(self, source: Path, target: Path) -> None:
        """Rename, with the bytes that SQLite flushed."""
        node = self.disk.node(source)
        assert isinstance(node, File)
        node.content = node.flushed = source.read_bytes()
        super().rename(source, target)


class _Forgetful(_PowerFileSystem):
    """An upgrade as it must not be: the name of the back-up is not flushed."""

    def fsync_directory(self, path: Path) -> None:
        """Do nothing."""


def power_lost(
    frozen: str, kind: type[_PowerFileSystem] = _PowerFileSystem, *, stop_at_first: bool = False
) -> Kills:
    """Cut the power before every call of an upgrade; check everything that may be left of it. Of a
    control, the first failure is enough."""
    tally = Kills()
    checks = InChildren(check_upgrade(frozen), tally)
    with workshop() as workplace:
        beginning = begin(frozen, workplace)
        with Copies(beginning, workplace).fresh() as directory:
            found = _states_of(directory, workplace, kind)
        for point, state in found:
            with Copies(workplace / "nothing", workplace).fresh() as directory:
                state.lay_out(directory)
                checks.look_at(f"{frozen}, power lost at {point} ({state.label})", directory)
            tally.points += 1
            tally.kinds[point.kind] += 1
            if stop_at_first and tally.failures:
                break
    return tally


def _states_of(
    directory: Path, workplace: Path, kind: type[_PowerFileSystem]
) -> list[tuple[Point, DiskState]]:
    camera = Camera(directory, workplace / "picture")
    disk = Disk(directory, camera.take())
    found: dict[DiskState, Point] = {}

    def watch(point: Point) -> Fault | None:
        for state in disk.states(full=True):
            found.setdefault(state, point)
        return None

    probe = DiskProbe(watch, disk, camera)
    with watched(probe):
        upgrade_directory(directory, fs=kind(probe, disk))
        probe.reach(END, "the end")
    return [(point, state) for state, point in found.items()]


def forgotten(frozen: str) -> Kills:
    """The control: a name that was not flushed must be missed."""
    return power_lost(frozen, _Forgetful, stop_at_first=True)


def main(arguments: list[str]) -> None:
    """The command."""
    copying.PAGES_AT_ONCE = 8
    quick = "--quick" in arguments
    jobs: dict[str, Callable[[str], Kills]] = {
        "fail": partial(failing, quick=quick),
        "power": power_lost,
        "control": forgotten,
    }
    for name in [each for each in arguments if each in jobs] or jobs:
        for frozen in chosen(arguments):
            print(jobs[name](frozen).line(name, revision=frozen), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
