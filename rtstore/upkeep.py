"""What looks after a whole runtime directory: a part of `RuntimeStore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rtstore.database import upgrade_log
from rtstore.database.engine import Database
from rtstore.files.system import FileSystem
from rtstore.lock import WriterLock
from rtstore.records import DatabaseUpgrade
from rtstore.times import Clock

if TYPE_CHECKING:
    from rtstore.backups import Backup
    from rtstore.backups.record import Progress
    from rtstore.legacy import ExportReport

# Back-ups and exports are imported where they are made: most programs that open a store make none,
# and the records of both would take a tenth of the time that importing `RuntimeStore` takes.


class Upkeep:
    """Upgrades on record, back-ups, and the way out."""

    directory: Path
    database: Database
    lock: WriterLock
    _clock: Clock
    _fs: FileSystem

    def upgrades(self) -> list[DatabaseUpgrade]:
        """The upgrades of the control database, oldest first."""
        return self.database.read(upgrade_log.list_upgrades)

    def back_up(self, destination: str | Path, *, progress: Progress | None = None) -> Backup:
        """Copy one consistent state of database and store files into a new directory, verified.

        Takes no lock, and no writer waits for it. `progress` is called with the step, how much of
        it is done, and how much there is to do. See `rtstore.backups.back_up` for the errors.
        """
        from rtstore.backups import back_up

        return back_up(
            self.directory,
            self.database,
            destination,
            clock=self._clock,
            fs=self._fs,
            progress=progress,
        )

    def export(self, destination: str | Path | None = None) -> ExportReport:
        """Write the manifest and the receipts of the file-only ancestor, whose readers then accept
        the directory: here, under the writer lock, or with the stores in a new directory.

        Flushed when it returns. See `rtstore.legacy.exporting` for what is in it and the errors.
        """
        from rtstore.legacy import export_here, export_to

        if destination is not None:
            return export_to(self.directory, self.database, Path(destination), self._fs)
        return export_here(self.directory, self.database, self.lock, self._clock, self._fs)
