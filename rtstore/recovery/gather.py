"""Gather the input of a plan while others may be writing, and let `rtstore.model.decide` decide.

Planning takes no lock, so a living writer must not look like damage. Files and rows cannot be read
in one moment. So when a file disagrees with the rows, the rows are read again. If they changed, a
batch was written in between, and only the files that disagreed are inspected once more, and those
of the stores that were written. If not, the disagreement is real. An open batch whose lock is held
is in progress: its files may be the committed or the planned version, and both are right. A file
that this program refuses is not made good by that: the batch commits it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.control import batches, contents, manifest, runs
from rtstore.control.batches import ReceiptStore
from rtstore.control.contents import EntriesFound
from rtstore.control.lock import WriterLock
from rtstore.control.lost_entries import lost_entries, with_entries_right
from rtstore.control.manifest import ManifestStore
from rtstore.errors import ConflictError
from rtstore.files.inspector import FileInspector
from rtstore.model.arguments import check_new_id
from rtstore.model.decide import REFUSED, StoreFinding, build_plan, with_afterwards
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import written_at
from rtstore.model.ids import IdFactory, new_plan_id
from rtstore.model.records import (
    BatchState,
    Inspection,
    InspectionState,
    LoggedBatch,
    Manifest,
    ManifestEntry,
    RecoveryPlan,
    RunIdentity,
)
from rtstore.model.runs import RunRecord
from rtstore.model.times import Clock, utc_now

_ATTEMPTS = 200
_PAUSE_S = 0.001
_UNEXPLAINED = (InspectionState.HASH_MISMATCH, InspectionState.UNCOMMITTED_WRITE)

Planned = frozenset[tuple[str, str | None]]
"""What batches in progress write: each store, with the hash of its file; None for a deletion."""


class EntriesRight(NamedTuple):
    """The rows as a recovery leaves them that makes every lost entry again and puts every altered
    one right."""

    manifest: Manifest
    stores_with_content: frozenset[str]


class RowsSnapshot(NamedTuple):
    """The rows that a plan needs, as of one moment."""

    manifest: Manifest
    open_batches: tuple[LoggedBatch, ...]
    stores_with_content: frozenset[str]
    last_batch_number: int
    """Rises with every batch, failed ones included."""
    last_run: RunRecord | None = None
    """The active run, or else the one that began last; None before the first, and where it was not
    asked for."""
    lost_entries: tuple[str, ...] = ()
    """See `rtstore.control.lost_entries`."""
    altered_entries: tuple[str, ...] = ()
    """See `rtstore.control.contents`."""
    once_right: EntriesRight | None = None
    """None where no entry is lost or altered."""

    @property
    def is_of_one_moment(self) -> bool:
        """See `manifest.is_of_one_moment`."""
        last = self.last_batch_number
        return manifest.is_of_one_moment(self.manifest, last) and all(
            item.batch.batch_number <= last for item in self.open_batches
        )

    @property
    def token(self) -> tuple[int, int, tuple[tuple[int, BatchState], ...]]:
        """A value that is equal for two snapshots exactly when no batch changed in between."""
        return (
            self.manifest.high_watermark,
            self.last_batch_number,
            tuple((item.batch.batch_number, item.batch.state) for item in self.open_batches),
        )


Rows = Callable[[Connection], RowsSnapshot]


class PlanningInput(NamedTuple):
    """The input of a plan: rows, findings about files, and the batches whose writers are dead."""

    view: RowsSnapshot
    findings: dict[str, StoreFinding]
    crashed_batches: tuple[LoggedBatch, ...]
    once_right: Mapping[str, StoreFinding] = {}
    """The findings about the files of stores whose entry is lost or altered, held against the entry
    as it is once that is put right."""


class RecoveryPlanner:
    """Builds recovery plans for one runtime directory. Reads only.

    When others write without pause for seconds, it takes the writer lock once to read. With
    `may_lock` false it raises `ConflictError` instead.
    """

    def __init__(
        self,
        descriptors: Iterable[Descriptor],
        manifest_store: ManifestStore,
        receipt_store: ReceiptStore,
        inspector: FileInspector,
        *,
        plan_id_factory: IdFactory = new_plan_id,
        clock: Clock = utc_now,
        lock: WriterLock | None = None,
        may_lock: bool = True,
    ) -> None:
        self.descriptors = tuple(descriptors)
        self.inspector = inspector
        self._database = manifest_store.database
        self._receipt_store = receipt_store
        self._plan_id_factory = plan_id_factory
        self._clock = clock
        self._lock = lock or WriterLock(inspector.directory)
        self._may_lock = may_lock

    def build_plan(
        self, *, team_name: str, expected: RunIdentity | None, locked: bool = False
    ) -> RecoveryPlan:
        """Inspect every store and return what to do. Pass `locked` under the writer lock.

        Raises only for a database that cannot be read, never for the content of a file.
        """
        return self.plan_of(self.gather(locked=locked), team_name=team_name, expected=expected)

    def plan_of(
        self, gathered: PlanningInput, *, team_name: str, expected: RunIdentity | None
    ) -> RecoveryPlan:
        """Return the plan for an input gathered before."""
        plan = build_plan(
            plan_id=check_new_id("plan_id_factory", self._plan_id_factory()),
            created_at=self._clock(),
            team_name=team_name,
            expected=expected,
            manifest=gathered.view.manifest,
            descriptors=self.descriptors,
            findings=gathered.findings,
            open_batches=gathered.crashed_batches,
            lost_entries=gathered.view.lost_entries,
            altered_entries=gathered.view.altered_entries,
        )
        return with_afterwards(plan, self.descriptors, gathered.once_right)

    def gather(
        self, *, locked: bool = False, with_run: bool = False, verify: bool = False
    ) -> PlanningInput:
        """Read rows and files repeatedly until both describe the same moment; `with_run`, the last
        run as of that moment, too. With `verify`, as under the lock, every committed content is
        read whole: see `contents.stores_with_content`."""
        if locked:
            return self._survey_undisturbed(_rows_verified)
        rows = _rows_with_run if with_run else _rows_snapshot
        if verify:
            rows = _rows_with_run_verified if with_run else _rows_verified
        inspections: dict[str, Inspection] = {}
        settled: dict[str, ManifestEntry | None] = {}
        view = self._look(rows)
        first_watermark = view.manifest.high_watermark
        for attempt in range(_ATTEMPTS):
            view = view if attempt == 0 else self._look(rows)
            in_progress = self._in_progress(view)
            planned = _planned(in_progress)
            inspections.update(self._inspect_again(inspections, settled, view, planned))
            settled = {
                name: view.manifest.entry(name)
                for name, found in inspections.items()
                if found.state is InspectionState.HEALTHY
                or _is_refused(found, view.manifest.entry(name), planned)
            }
            crashed = _crashed(view, in_progress)
            if len(settled) == len(inspections) and not crashed:
                return self._survey(view, inspections, (), planned)
            if self._look(rows).token == view.token:
                return self._survey(view, inspections, crashed, planned)
            if attempt > 10:
                time.sleep(_PAUSE_S)
        if not self._may_lock:
            raise ConflictError("a plan", first_watermark, view.manifest.high_watermark)
        # Others write without pause. Read once between two batches, under the lock.
        with self._lock.hold():
            return self._survey_undisturbed(rows)

    def _survey_undisturbed(self, rows: Rows) -> PlanningInput:
        """Gather under the writer lock: every open batch is of a dead writer, nothing changes."""
        self._lock.assert_held()
        view = self._look(rows)
        inspections = self._inspect(self.descriptors, view, frozenset())
        return self._survey(view, inspections, view.open_batches)

    def _survey(
        self,
        view: RowsSnapshot,
        inspections: dict[str, Inspection],
        crashed: tuple[LoggedBatch, ...],
        planned: Planned = frozenset(),
    ) -> PlanningInput:
        findings = self._findings(view, inspections, planned)
        once_right: dict[str, StoreFinding] = {}
        if view.once_right is not None:
            wrong = {*view.lost_entries, *view.altered_entries}
            then = view._replace(
                **view.once_right._asdict(), lost_entries=(), altered_entries=(), once_right=None
            )
            concerned = [item for item in self.descriptors if item.schema_name in wrong]
            once_right = self._findings(then, self._inspect(concerned, then, planned), planned)
        return PlanningInput(view, findings, crashed, once_right)

    def _findings(
        self, view: RowsSnapshot, inspections: Mapping[str, Inspection], planned: Planned
    ) -> dict[str, StoreFinding]:
        findings = {}
        for name, inspection in inspections.items():
            entry = view.manifest.entry(name)
            has_content = name in view.stores_with_content
            is_ours = self._is_ours(inspection, entry, has_content=has_content)
            findings[name] = StoreFinding(
                inspection=inspection,
                content_in_database=has_content,
                content_missing=entry is not None and not has_content,
                entry_missing=name in view.lost_entries,
                entry_altered=name in view.altered_entries,
                committed_is_refused=_is_refused(inspection, entry, planned),
                is_newer=self._is_newer(inspection, view, is_ours=is_ours),
                is_link=self.inspector.is_behind_a_link(inspection),
                written_by_another_batch=is_ours,
            )
        return findings

    def _look(self, rows: Rows) -> RowsSnapshot:
        found = self._database.read_cached(rows)
        for _ in range(manifest.READS_MAX):
            if found.is_of_one_moment:
                break
            found = self._database.read(rows)
        return found

    def _in_progress(self, view: RowsSnapshot) -> tuple[LoggedBatch, ...]:
        """Return the open batches whose writer may be alive.

        A writer holds the lock from before its batch is logged until the batch is complete. So if a
        batch is open now and in the next snapshot, and the lock was free in between, its writer is
        dead.
        """
        if not view.open_batches or not self._lock.is_held():
            return ()
        return tuple(logged for logged in view.open_batches if logged.has_contents)

    def _inspect(
        self, pending: Sequence[Descriptor], view: RowsSnapshot, planned: Planned
    ) -> dict[str, Inspection]:
        inspections = {}
        for descriptor in pending:
            name = descriptor.schema_name
            entry = view.manifest.entry(name)
            inspection = self.inspector.inspect(descriptor, entry)
            explained = (name, inspection.content_hash) in planned
            if inspection.content_hash is None:  # only a deletion explains that there is no file
                explained = explained and inspection.state is InspectionState.MISSING
            elif entry is not None and inspection.state in REFUSED:
                explained = False
            if explained:
                inspection = inspection.model_copy(
                    update={"state": InspectionState.HEALTHY, "message": None, "fault": None}
                )
            inspections[name] = inspection
        return inspections

    def _inspect_again(
        self,
        inspections: Mapping[str, Inspection],
        settled: Mapping[str, ManifestEntry | None],
        view: RowsSnapshot,
        planned: Planned,
    ) -> dict[str, Inspection]:
        """Inspect the files that disagreed with the rows, and those of stores that were written
        since. A file that was healthy, and is not refused now, is left at that: if it disagrees,
        a living writer has written it once more."""
        found = {}
        for item in self.descriptors:
            name = item.schema_name
            if name in settled and settled[name] == view.manifest.entry(name):
                continue
            (inspection,) = self._inspect([item], view, planned).values()
            was_healthy = name in settled and inspections[name].state is InspectionState.HEALTHY
            if not was_healthy or inspection.state in REFUSED:
                found[name] = inspection
        return found

    def _is_newer(self, inspection: Inspection, view: RowsSnapshot, *, is_ours: bool) -> bool:
        """Return whether a file that nobody in the database wrote says that it was written after
        the last batch there."""
        name, found = inspection.schema_name, inspection.content_hash
        if is_ours or found is None or inspection.state is InspectionState.HEALTHY:
            return False
        entry = view.manifest.entry(name)
        if entry is not None and entry.content_hash == found:
            return False
        if (name, found) in _planned(view.open_batches):
            return False
        at = written_at(self.inspector.read(inspection))
        last = None if at is None else self._database.read(manifest.last_known_at)
        return at is not None and last is not None and at > last

    def _is_ours(
        self, inspection: Inspection, entry: ManifestEntry | None, *, has_content: bool
    ) -> bool:
        """Return whether a file that differs is what a failed or an earlier batch wrote, or a
        prefix of what a batch wrote.

        Without content to put back it is not. Without an entry the file would be removed, so the
        database must have every byte of it: the receipt of a batch is not enough. (It is for a
        store that was deleted: then the file was removed before, and is back; and for what another
        store left there: where the database has not the bytes, a copy is kept.) And where the last
        batch on record wrote the store, it is not the file that is wrong: its row is gone.
        """
        name, found = inspection.schema_name, inspection.content_hash
        if found is None or inspection.state not in (*_UNEXPLAINED, InspectionState.QUARANTINED):
            return False
        if entry is not None:
            if not has_content or inspection.state is InspectionState.QUARANTINED:
                return False  # a file that is not JSON is restored in any case
            return self._database.read(
                partial(
                    contents.is_of_batch,
                    schema_name=name,
                    found_hash=found,
                    read=partial(self.inspector.read, inspection),
                    current=entry.batch_number,
                    relative_path=inspection.relative_path,
                )
            )
        content = self.inspector.read(inspection)
        if content is None:
            return False
        path = inspection.relative_path

        def is_nobodys(connection: Connection) -> bool:
            return not batches.is_written(connection, name) and (
                contents.holds(connection, content, found, name)
                or batches.was_deleted(connection, name, found)
                or contents.left_by_another(connection, name, path, content, found)[0]
            )

        return self._database.read(is_nobodys)


def _rows_snapshot(connection: Connection, *, verify: bool = False) -> RowsSnapshot:
    found, last_number = manifest.load_with_last_number(connection)
    entries = contents.look_at_entries(connection, verify=verify)
    lost = lost_entries(connection)
    return RowsSnapshot(
        manifest=found,
        open_batches=batches.load_open(connection),
        stores_with_content=entries.stores_with_content,
        last_batch_number=last_number,
        lost_entries=tuple(lost),
        altered_entries=entries.altered,
        once_right=_once_right(connection, found, entries, lost),
    )


def _once_right(
    connection: Connection, found: Manifest, entries: EntriesFound, lost: Mapping[str, int]
) -> EntriesRight | None:
    if not lost and not entries.altered:
        return None
    right = with_entries_right(connection, found, lost, entries.altered)
    made = {
        entry.schema_name
        for entry in right.entries
        if entry.schema_name in lost and contents.has_content_of(connection, entry)
    }
    return EntriesRight(right, entries.stores_with_content.union(made, entries.altered))


def _rows_with_run(connection: Connection) -> RowsSnapshot:
    return _rows_snapshot(connection)._replace(last_run=runs.last(connection))


# Each is a function of the module, so that its result is kept until the next commit.
def _rows_verified(connection: Connection) -> RowsSnapshot:
    return _rows_snapshot(connection, verify=True)


def _rows_with_run_verified(connection: Connection) -> RowsSnapshot:
    return _rows_verified(connection)._replace(last_run=runs.last(connection))


def _is_refused(inspection: Inspection, entry: ManifestEntry | None, planned: Planned) -> bool:
    """Return whether a file that this program refuses is what is committed, or about to be."""
    found = inspection.content_hash
    if entry is None or found is None or inspection.state not in REFUSED:
        return False
    return found == entry.content_hash or (inspection.schema_name, found) in planned


def _planned(logged_batches: Iterable[LoggedBatch]) -> Planned:
    return frozenset(item for logged in logged_batches for item in logged.planned)


def _crashed(view: RowsSnapshot, in_progress: Sequence[LoggedBatch]) -> tuple[LoggedBatch, ...]:
    alive = {logged.batch.batch_id for logged in in_progress}
    return tuple(logged for logged in view.open_batches if logged.batch.batch_id not in alive)
