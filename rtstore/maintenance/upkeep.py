"""What looks after a whole runtime directory: a part of `RuntimeStore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rtstore.commit.writer import BatchWriter
from rtstore.control import upgrade_log
from rtstore.control.contents import Retention
from rtstore.control.lock import WriterLock
from rtstore.control.sqlite.engine import Database
from rtstore.files.system import FileSystem
from rtstore.forks import no_fork
from rtstore.history.prune import PruneProgress, PruneReport, prune_history
from rtstore.model import arguments
from rtstore.model.records import DatabaseUpgrade
from rtstore.model.times import Clock

if TYPE_CHECKING:
    from rtstore.legacy import ExportReport
    from rtstore.maintenance.backup import Backup
    from rtstore.maintenance.backup.record import Progress

# Back-ups and exports are imported where they are made: most programs that open a store make none,
# and the records of both would take a tenth of the time that importing `RuntimeStore` takes.


class Upkeep:
    """Upgrades on record, back-ups, the end of history, and the way out."""

    directory: Path
    retention: Retention
    database: Database
    lock: WriterLock
    _clock: Clock
    _fs: FileSystem
    _writer: BatchWriter

    def upgrades(self) -> list[DatabaseUpgrade]:
        """The upgrades of the control database, oldest first."""
        return self.database.read(upgrade_log.list_upgrades)

    def back_up(self, destination: str | Path, *, progress: Progress | None = None) -> Backup:
        """Copy one consistent state of database and store files into a new directory, verified.

        Takes no lock, and no writer waits for it. `progress` is called with the step, how much of
        it is done, and how much there is to do. See `rtstore.maintenance.backup.back_up` for the errors.
        """
        with no_fork():
            from rtstore.maintenance.backup import back_up

        return back_up(
            self.directory,
            self.database,
            arguments.path(destination, "destination"),
            clock=self._clock,
            fs=self._fs,
            progress=arguments.optional_function(progress, "progress"),
        )

    def prune(
        self,
        retention: Retention | None = None,
        *,
        dry_run: bool = False,
        progress: PruneProgress | None = None,
    ) -> PruneReport:
        """Drop the history beyond a retention now, and return the space to the file system.

        Every batch drops some of it; this is for what a smaller retention leaves, or a bound by age
        where nothing is written any more. Current contents, open batches and the newest batch stay,
        whatever the retention; so do quarantined files and the records of recoveries.

        Args:
            retention: how much is kept, this once; default: `store.retention`.
            dry_run: only say what would be dropped; takes no lock.
            progress: called with the step, how much of it is done, and how much there is.

        Takes the writer lock for a fraction of a second at a time, so writers go on meanwhile. What
        was dropped when it is interrupted or raises is dropped, the rest is as before; make it
        again. Flushed when it returns. Raises `LockTimeoutError`, `PruneStoppedError` where the
        disk is full, and what a failing database raises.
        """
        return prune_history(
            self._writer.publisher,
            self.lock,
            arguments.optional(Retention, retention, "retention") or self.retention,
            self._clock,
            dry_run=dry_run,
            progress=arguments.optional_function(progress, "progress"),
        )

    def export(self, destination: str | Path | None = None) -> ExportReport:
        """Write the manifest and the receipts of the file-only ancestor, whose readers then accept
        the directory: here, under the writer lock, or with the stores in a new directory.

        Flushed when it returns. See `rtstore.legacy.exporting` for what is in it and the errors.
        """
        with no_fork():
            from rtstore.legacy import export_here, export_to

        if destination is not None:
            target = arguments.path(destination, "destination")
            return export_to(self.directory, self.database, target, self._fs)
        return export_here(self.directory, self.database, self.lock, self._clock, self._fs)
