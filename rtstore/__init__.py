"""rtstore: a SQLite-backed transactional store for the state of an agent runtime.

Start with `RuntimeStore.open`. The parts behind it (manifest store, receipt store, batch writer,
file inspector, recovery planner) are public and composable the same way.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from rtstore.forks import no_fork

if TYPE_CHECKING:
    from rtstore.aio import AsyncRuntimeStore
    from rtstore.backups import Backup, restore_backup, verify_backup
    from rtstore.database.batches import ReceiptStore
    from rtstore.database.contents import KEEP_EVERYTHING, Retention
    from rtstore.database.engine import DATABASE_NAME, Database
    from rtstore.database.history import StoreVersion
    from rtstore.database.manifest import ManifestStore, default_manifest
    from rtstore.database.upgrade import migrations_path
    from rtstore.descriptors import KNOWN_DESCRIPTORS, Descriptor, Registry
    from rtstore.differences import Difference, DifferenceKind
    from rtstore.draft import BatchRequest, StoreWrite
    from rtstore.errors import (
        BackupDamagedError,
        BatchFailedError,
        BatchUnfinishedError,
        CallError,
        ConflictError,
        ContentMissingError,
        CorruptDatabaseError,
        DatabaseFailedError,
        DatabaseLockedError,
        DatabaseLostError,
        DatabaseMissingError,
        DataUpgradeError,
        ForeignDatabaseError,
        InvalidRequestError,
        LegacyImportError,
        LockLostError,
        LockTimeoutError,
        NewerDatabaseError,
        NewerStoreFileError,
        NotARuntimeDirectoryError,
        OlderDatabaseError,
        OpenBatchError,
        PruneStoppedError,
        ReadOnlyStoreError,
        RecoveryFailedError,
        RecoveryNeededError,
        RetryableError,
        RuntimeStoreError,
        StopError,
        StorageError,
        StoreClosedError,
        StoreFileChangedError,
        StoreForkedError,
        UnknownStoreError,
        UnsafePathError,
        UnusableEngineError,
        UpgradeFailedError,
        WrongTeamError,
    )
    from rtstore.events import (
        BatchCommitted,
        BatchFailed,
        BatchUnfinished,
        Event,
        EventKind,
        FileQuarantined,
        NotReady,
        StoreEvent,
        StoreRecovered,
    )
    from rtstore.files.inspector import FileInspector
    from rtstore.files.system import FileSystem
    from rtstore.invariants import validate_invariants
    from rtstore.legacy import (
        ExportReport,
        ImportReport,
        TeamImportReport,
        import_directory,
        import_team,
    )
    from rtstore.lock import WriterLock
    from rtstore.planner import RecoveryPlanner
    from rtstore.planning import build_plan
    from rtstore.pruning import PruneReport
    from rtstore.reader import Snapshot, StoreContent
    from rtstore.readiness import build_readiness
    from rtstore.rebuilding import Rebuilder, Rebuilders, RebuildRequest
    from rtstore.records import (
        ActionKind,
        ActionOutcome,
        Batch,
        BatchReason,
        BatchState,
        Criticality,
        DatabaseUpgrade,
        Inspection,
        InspectionState,
        Manifest,
        ManifestEntry,
        Owner,
        QuarantinedFile,
        ReadinessCheck,
        ReadinessImpact,
        ReadinessReason,
        RebuildStrategy,
        Receipt,
        RecoveryAction,
        RecoveryPlan,
        RecoveryReport,
        RecoveryStep,
        RecoveryTrigger,
        RunIdentity,
    )
    from rtstore.salvage import RebuildReport, rebuild_database
    from rtstore.store import RuntimeStore
    from rtstore.time_travel import StoreDifferences
    from rtstore.upgrading import UpgradeReport, upgrade_directory
    from rtstore.writer import BatchWriter
    from rtstore.writing.publication import Durability

_HOMES = {
    "rtstore.aio": ("AsyncRuntimeStore",),
    "rtstore.backups": ("Backup", "restore_backup", "verify_backup"),
    "rtstore.database.batches": ("ReceiptStore",),
    "rtstore.database.contents": ("KEEP_EVERYTHING", "Retention"),
    "rtstore.database.engine": ("DATABASE_NAME", "Database"),
    "rtstore.database.history": ("StoreVersion",),
    "rtstore.database.manifest": ("ManifestStore", "default_manifest"),
    "rtstore.database.upgrade": ("migrations_path",),
    "rtstore.descriptors": ("Descriptor", "KNOWN_DESCRIPTORS", "Registry"),
    "rtstore.differences": ("Difference", "DifferenceKind"),
    "rtstore.draft": ("BatchRequest", "StoreWrite"),
    "rtstore.errors": (
        "BackupDamagedError",
        "BatchFailedError",
        "BatchUnfinishedError",
        "CallError",
        "ConflictError",
        "ContentMissingError",
        "CorruptDatabaseError",
        "DataUpgradeError",
        "DatabaseFailedError",
        "DatabaseMissingError",
        "DatabaseLockedError",
        "DatabaseLostError",
        "ForeignDatabaseError",
        "InvalidRequestError",
        "LegacyImportError",
        "LockLostError",
        "LockTimeoutError",
        "NewerDatabaseError",
        "NewerStoreFileError",
        "OpenBatchError",
        "NotARuntimeDirectoryError",
        "OlderDatabaseError",
        "PruneStoppedError",
        "ReadOnlyStoreError",
        "RecoveryFailedError",
        "RecoveryNeededError",
        "RetryableError",
        "RuntimeStoreError",
        "StopError",
        "StorageError",
        "StoreClosedError",
        "StoreFileChangedError",
        "StoreForkedError",
        "UnknownStoreError",
        "UnsafePathError",
        "UnusableEngineError",
        "UpgradeFailedError",
        "WrongTeamError",
    ),
    "rtstore.events": (
        "BatchCommitted",
        "BatchFailed",
        "BatchUnfinished",
        "Event",
        "EventKind",
        "FileQuarantined",
        "NotReady",
        "StoreEvent",
        "StoreRecovered",
    ),
    "rtstore.files.inspector": ("FileInspector",),
    "rtstore.files.system": ("FileSystem",),
    "rtstore.invariants": ("validate_invariants",),
    "rtstore.legacy": (
        "ExportReport",
        "ImportReport",
        "TeamImportReport",
        "import_directory",
        "import_team",
    ),
    "rtstore.lock": ("WriterLock",),
    "rtstore.planner": ("RecoveryPlanner",),
    "rtstore.planning": ("build_plan",),
    "rtstore.pruning": ("PruneReport",),
    "rtstore.writing.publication": ("Durability",),
    "rtstore.reader": ("Snapshot", "StoreContent"),
    "rtstore.readiness": ("build_readiness",),
    "rtstore.rebuilding": ("RebuildRequest", "Rebuilder", "Rebuilders"),
    "rtstore.records": (
        "ActionKind",
        "ActionOutcome",
        "Batch",
        "BatchReason",
        "BatchState",
        "Criticality",
        "DatabaseUpgrade",
        "Inspection",
        "InspectionState",
        "Manifest",
        "ManifestEntry",
        "Owner",
        "QuarantinedFile",
        "ReadinessCheck",
        "ReadinessImpact",
        "ReadinessReason",
        "RebuildStrategy",
        "Receipt",
        "RecoveryAction",
        "RecoveryPlan",
        "RecoveryReport",
        "RecoveryStep",
        "RecoveryTrigger",
        "RunIdentity",
    ),
    "rtstore.salvage": ("RebuildReport", "rebuild_database"),
    "rtstore.store": ("RuntimeStore",),
    "rtstore.time_travel": ("StoreDifferences",),
    "rtstore.upgrading": ("UpgradeReport", "upgrade_directory"),
    "rtstore.writer": ("BatchWriter",),
}
"""The modules behind the front door, each with its names here. A module is imported when one of its
names is first used, so that a program that needs little of the package (`rtstore --help`) does not
wait for all of it."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

logging.getLogger("rtstore").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = _version()
    elif name in _HOME_OF:
        with no_fork():
            module = import_module(_HOME_OF[name])
        value = getattr(module, name)
    else:
        raise AttributeError(f"module 'rtstore' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    with no_fork():
        from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rtstore")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


__all__ = [
    "DATABASE_NAME",
    "KEEP_EVERYTHING",
    "KNOWN_DESCRIPTORS",
    "ActionKind",
    "ActionOutcome",
    "AsyncRuntimeStore",
    "Backup",
    "BackupDamagedError",
    "Batch",
    "BatchCommitted",
    "BatchFailed",
    "BatchFailedError",
    "BatchReason",
    "BatchRequest",
    "BatchState",
    "BatchUnfinished",
    "BatchUnfinishedError",
    "BatchWriter",
    "CallError",
    "ConflictError",
    "ContentMissingError",
    "CorruptDatabaseError",
    "Criticality",
    "DataUpgradeError",
    "Database",
    "DatabaseFailedError",
    "DatabaseLockedError",
    "DatabaseLostError",
    "DatabaseMissingError",
    "DatabaseUpgrade",
    "Descriptor",
    "Difference",
    "DifferenceKind",
    "Durability",
    "Event",
    "EventKind",
    "ExportReport",
    "FileInspector",
    "FileQuarantined",
    "FileSystem",
    "ForeignDatabaseError",
    "ImportReport",
    "Inspection",
    "InspectionState",
    "InvalidRequestError",
    "LegacyImportError",
    "LockLostError",
    "LockTimeoutError",
    "Manifest",
    "ManifestEntry",
    "ManifestStore",
    "NewerDatabaseError",
    "NewerStoreFileError",
    "NotARuntimeDirectoryError",
    "NotReady",
    "OlderDatabaseError",
    "OpenBatchError",
    "Owner",
    "PruneReport",
    "PruneStoppedError",
    "QuarantinedFile",
    "ReadOnlyStoreError",
    "ReadinessCheck",
    "ReadinessImpact",
    "ReadinessReason",
    "RebuildReport",
    "RebuildRequest",
    "RebuildStrategy",
    "Rebuilder",
    "Rebuilders",
    "Receipt",
    "ReceiptStore",
    "RecoveryAction",
    "RecoveryFailedError",
    "RecoveryNeededError",
    "RecoveryPlan",
    "RecoveryPlanner",
    "RecoveryReport",
    "RecoveryStep",
    "RecoveryTrigger",
    "Registry",
    "Retention",
    "RetryableError",
    "RunIdentity",
    "RuntimeStore",
    "RuntimeStoreError",
    "Snapshot",
    "StopError",
    "StorageError",
    "StoreClosedError",
    "StoreContent",
    "StoreDifferences",
    "StoreEvent",
    "StoreFileChangedError",
    "StoreForkedError",
    "StoreRecovered",
    "StoreVersion",
    "StoreWrite",
    "TeamImportReport",
    "UnknownStoreError",
    "UnsafePathError",
    "UnusableEngineError",
    "UpgradeFailedError",
    "UpgradeReport",
    "WriterLock",
    "WrongTeamError",
    "__version__",
    "build_plan",
    "build_readiness",
    "default_manifest",
    "import_directory",
    "import_team",
    "migrations_path",
    "rebuild_database",
    "restore_backup",
    "upgrade_directory",
    "validate_invariants",
    "verify_backup",
]
