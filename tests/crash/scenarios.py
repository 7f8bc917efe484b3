"""What is done while everything goes wrong: each scenario has a beginning and an act.

The beginning is built once, undisturbed, and copied for each trial; the act is what is killed,
failed and cut off from power at each of its points.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from rtstore import Durability
from rtstore.files.durable import temporary_path
from rtstore.model.descriptors import LAUNCH_STATE, SESSION_STORE
from rtstore.model.times import Clock, utc_now
from tests.crash import steps as stages
from tests.crash.children import Say
from tests.crash.client import DEFAULT_OPTIONS, FILES, LANE, Caller, Options
from tests.crash.ledger import Foreign, Note
from tests.crash.probe import Fault, FileFault, Point, TracedFileSystem


@dataclass(frozen=True)
class Scenario:
    """A beginning and an act."""

    name: str
    build: stages.Build
    act: stages.Act
    options: Options = DEFAULT_OPTIONS
    disk_refuses: str | None = None
    """While the act runs, a file of this name cannot be made: the disk is full."""
    polls: bool = False
    """Its recoveries can ask the provider for what is lost."""
    unflushed: str | None = None
    """A directory whose names were not flushed before the act."""
    opens: bool = False
    """The act is the opening; in the others it is not failed again in the fast part."""
    recover_first: bool = False
    """After the act only a recovery makes way for a further batch."""
    torn_before: bool = False
    """The beginning itself has store files that are no whole version."""
    beside: frozenset[str] = frozenset()
    """Other files that are in the directory, and stay."""
    batches_kept: int | None = None
    """How many acknowledged batches the retention surely keeps; None for all."""
    raced: str | None = None
    """Somebody writes this store's file when the store has looked at it, and before it is
    replaced."""
    raced_at: int = 1
    """Before which of its replacements."""

    def begin(self, directory: Path) -> list[Note]:
        """Build the beginning; return the notes of those who built it."""
        notes: list[Note] = []
        directory.mkdir(parents=True)
        self.build(directory, notes.append)
        return notes

    def carry_out(
        self,
        directory: Path,
        say: Say,
        fs: TracedFileSystem | None,
        prefix: str,
        clock: Clock = utc_now,
    ) -> Caller:
        """Carry out the act; the store is still open."""
        if self.raced and fs is not None:
            _race(fs, directory / FILES[self.raced], self.raced, self.raced_at, say)
        caller = Caller(
            directory, prefix, say, fs=fs, options=self.options, polls=self.polls, clock=clock
        )
        self.act(caller)
        return caller

    def refusal(self, point: Point) -> Fault | None:
        """What the scenario itself lets go wrong at a point."""
        moves_there = point.call == "rename" and point.subject.endswith(f" to {self.disk_refuses}")
        if moves_there or (point.call == "create" and point.subject == self.disk_refuses):
            return FileFault(errno.ENOSPC)
        return None


def _race(fs: TracedFileSystem, path: Path, store: str, time: int, say: Say) -> None:
    """Have somebody write a file as soon as a new version of it is begun, or it is about to be
    removed, for that time."""
    create, content = fs.create, stages.edited(store, "in between")
    rename = fs.rename
    begun: list[Path] = []

    def be_overtaken() -> None:
        begun.append(path)
        if len(begun) == time:
            fs.overtake(path, content)
            say(Foreign(FILES[store], content))

    def create_and_be_overtaken(target: Path, mode: int) -> int:
        descriptor = create(target, mode)
        if target == temporary_path(path):
            be_overtaken()
        return descriptor

    def be_overtaken_and_rename(source: Path, target: Path) -> None:
        if (source, target) == (path, temporary_path(path)):  # it is removed
            be_overtaken()
        rename(source, target)

    setattr(fs, "create", create_and_be_overtaken)  # noqa: B010 - it hides the method
    setattr(fs, "rename", be_overtaken_and_rename)  # noqa: B010


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("make", stages.nowhere, stages.open_it, opens=True),
        Scenario("write_new", stages.empty, stages.write_new),
        Scenario("write_over", stages.written, stages.write_over),
        Scenario("write_mixed", stages.changed_by_hand, stages.write_three),
        Scenario(
            "write_raced",
            stages.written,
            stages.write_over,
            options=Options(alone=False),
            raced=LAUNCH_STATE,
        ),
        Scenario(
            "write_flushed",
            stages.written,
            stages.write_over,
            options=Options(durability=Durability.FILES),
        ),
        Scenario(
            "write_refused",
            stages.changed_by_hand,
            stages.write_three,
            disk_refuses=stages.NEW_LEASES,
        ),
        Scenario(
            "update",
            stages.with_history,
            stages.update,
            options=stages.SHORT_HISTORY,
            batches_kept=1,
        ),
        Scenario("update_several", stages.written, stages.update_several),
        Scenario("prune", stages.with_too_much_history, stages.prune, batches_kept=1),
        Scenario(
            "write_many",
            stages.written,
            stages.write_many,
            options=stages.FEW_BATCHES,
            batches_kept=3,
        ),
        Scenario(
            "write_many_together",
            stages.written,
            stages.write_many_together,
            options=stages.FEW_BATCHES,
            batches_kept=3,
        ),
        Scenario("write_together", stages.written, stages.write_together),
        Scenario("write_together_mixed", stages.changed_by_hand, stages.write_together),
        Scenario(
            "write_together_refused",
            stages.written,
            stages.write_together,
            disk_refuses=stages.NEW_LEASES,
        ),
        Scenario("open_crashed", stages.killed_between_renames, stages.open_it, opens=True),
        Scenario("open_failed", stages.killed_in_undoing, stages.open_it, opens=True),
        Scenario("open_torn", stages.torn, stages.open_it, opens=True, torn_before=True),
        Scenario("recover", stages.damaged, stages.recover, recover_first=True),
        Scenario(
            "import",
            stages.of_the_legacy_format,
            stages.open_it,
            options=Options(takes_over=True),
            opens=True,
            beside=frozenset({"manifest.json", "opencode-runtime-receipts.json"}),
        ),
        Scenario(
            "new_raced",
            stages.empty,
            stages.write_new,
            options=Options(alone=False),
            raced=LAUNCH_STATE,
        ),
        Scenario(
            "refused_raced",
            stages.written,
            stages.write_three,
            options=Options(alone=False),
            disk_refuses=stages.NEW_LEASES,
            raced=LAUNCH_STATE,
            raced_at=2,
        ),
        Scenario(
            "torn_raced",
            stages.torn,
            stages.open_it,
            options=Options(alone=False),
            opens=True,
            torn_before=True,
            raced=SESSION_STORE,
        ),
        Scenario(
            "recover_raced",
            stages.damaged,
            stages.recover,
            options=Options(alone=False),
            recover_first=True,
            raced=LAUNCH_STATE,
        ),
        Scenario(
            "upgrade_data",
            stages.written,
            stages.open_it,
            options=Options(lane_version=2),
            opens=True,
        ),
        Scenario(
            "shrink",
            stages.with_much_history,
            stages.write_one,
            options=stages.SHORT_HISTORY,
            batches_kept=1,
        ),
        Scenario("revert", stages.with_versions, stages.revert),
        Scenario("rebuild", stages.lost, stages.recover, polls=True),
        Scenario("adopt", stages.changed_by_hand, stages.adopt),
        Scenario(
            "restore_quarantined",
            stages.quarantined,
            stages.restore_quarantined,
            recover_first=True,
        ),
        Scenario("begin_run", stages.written, stages.begin_run),
        Scenario("end_run", stages.written, stages.end_run),
        Scenario("zombie", stages.superseded, stages.write_as_a_zombie),
        Scenario("write_again", stages.kept_unflushed, stages.write_three, unflushed="quarantine"),
        Scenario("delete", stages.written, stages.delete),
        Scenario("delete_alone", stages.written, stages.delete_alone),
        Scenario("delete_together", stages.written, stages.delete_together),
        Scenario("delete_again", stages.written, stages.delete_again),
        Scenario("delete_mixed", stages.changed_by_hand, stages.delete_mixed),
        Scenario(
            "delete_flushed",
            stages.written,
            stages.delete,
            options=Options(durability=Durability.FILES),
        ),
        Scenario(
            "delete_raced",
            stages.written,
            stages.delete,
            options=Options(alone=False),
            raced=LANE,
        ),
        Scenario(
            "delete_refused",
            stages.written,
            stages.delete_two,
            disk_refuses=stages.NEW_LEASES,
        ),
        Scenario(
            "delete_many",
            stages.with_history,
            stages.delete_many,
            options=stages.SHORT_HISTORY,
            batches_kept=1,
        ),
        Scenario("delete_begin", stages.written, stages.delete_and_begin),
        Scenario("open_deleting", stages.killed_in_deleting, stages.open_it, opens=True),
        Scenario(
            "delete_imported",
            stages.of_the_legacy_format,
            stages.delete_imported,
            options=Options(takes_over=True),
            opens=True,
            beside=frozenset({"manifest.json", "opencode-runtime-receipts.json"}),
        ),
    )
}
