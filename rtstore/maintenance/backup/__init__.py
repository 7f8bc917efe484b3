"""Back-ups of a runtime directory: one consistent state of database and store files.

A back-up is itself a runtime directory, which opens as a ready store, with a record of its contents
(`runtime-store.backup.json`). It is made while writers go on, without the writer lock: the database
is copied as of one moment, and the store files are written from the contents committed then.
"""

from rtstore.history.materialize import BackupFile
from rtstore.maintenance.backup.making import back_up
from rtstore.maintenance.backup.record import RECORD_NAME, Backup, ChangedFile, Step
from rtstore.maintenance.backup.restoring import restore_backup
from rtstore.maintenance.backup.verifying import verify_backup

__all__ = [
    "RECORD_NAME",
    "Backup",
    "BackupFile",
    "ChangedFile",
    "Step",
    "back_up",
    "restore_backup",
    "verify_backup",
]
