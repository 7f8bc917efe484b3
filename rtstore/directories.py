"""Operations on a directory that is not open: import, upgrade, back-ups, a new database.

Each is a plain function, which takes the writer lock where it changes something. `rtstore import`,
`upgrade`, `backup` and `rebuild` are the same from the command line.
"""

from rtstore.control.revisions import migrations_path
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.legacy import (
    ExportReport,
    ImportReport,
    TeamImportReport,
    import_directory,
    import_team,
)
from rtstore.maintenance.backup import Backup, restore_backup, verify_backup
from rtstore.maintenance.rebuild_database import RebuildReport, rebuild_database
from rtstore.maintenance.upgrade import UpgradeReport, upgrade_directory

__all__ = [
    "DATABASE_NAME",
    "Backup",
    "ExportReport",
    "ImportReport",
    "RebuildReport",
    "TeamImportReport",
    "UpgradeReport",
    "import_directory",
    "import_team",
    "migrations_path",
    "rebuild_database",
    "restore_backup",
    "upgrade_directory",
    "verify_backup",
]
