"""rtstore: a SQLite-backed transactional store for the state of an agent runtime.

Start with `RuntimeStore.open`. Its parts (manifest store, receipt store, batch writer, file
inspector, recovery planner) are public too, and can be composed.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from rtstore.forks import no_fork

if TYPE_CHECKING:
    from rtstore.aio.store import AsyncRun, AsyncRuntimeStore
    from rtstore.commit.publisher import Durability
    from rtstore.commit.writer import BatchWriter
    from rtstore.control.batches import ReceiptStore
    from rtstore.control.contents import KEEP_EVERYTHING, Retention
    from rtstore.control.history import StoreVersion
    from rtstore.control.lock import WriterLock
    from rtstore.control.manifest import ManifestStore, default_manifest
    from rtstore.control.revisions import migrations_path
    from rtstore.control.sqlite.engine import DATABASE_NAME, Database
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
        RunAliveError,
        RuntimeStoreError,
        StaleRunError,
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
    from rtstore.files.inspector import FileInspector
    from rtstore.files.system import FileSystem
    from rtstore.history.prune import PruneReport
    from rtstore.history.reader import Snapshot, StoreContent
    from rtstore.history.versions import StoreDifferences
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
    from rtstore.model.decide import build_plan, build_readiness
    from rtstore.model.descriptors import KNOWN_DESCRIPTORS, Descriptor, Registry
    from rtstore.model.differences import Difference, DifferenceKind
    from rtstore.model.events import (
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
    from rtstore.model.invariants import validate_invariants
    from rtstore.model.records import (
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
        StaleStore,
    )
    from rtstore.model.request import BatchRequest, StoreWrite
    from rtstore.model.runs import RunEnding, RunProcess, RunRecord, RunState, StartKind, StartState
    from rtstore.recovery.gather import RecoveryPlanner
    from rtstore.recovery.rebuilders import Rebuilder, Rebuilders, RebuildRequest
    from rtstore.store import Run, RuntimeStore

_HOMES = {
    "rtstore.aio.store": (
        "AsyncRun",
        "AsyncRuntimeStore",
    ),
    "rtstore.commit.publisher": ("Durability",),
    "rtstore.commit.writer": ("BatchWriter",),
    "rtstore.control.batches": ("ReceiptStore",),
    "rtstore.control.contents": (
        "KEEP_EVERYTHING",
        "Retention",
    ),
    "rtstore.control.history": ("StoreVersion",),
    "rtstore.control.lock": ("WriterLock",),
    "rtstore.control.manifest": (
        "ManifestStore",
        "default_manifest",
    ),
    "rtstore.control.revisions": ("migrations_path",),
    "rtstore.control.sqlite.engine": (
        "DATABASE_NAME",
        "Database",
    ),
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
        "DatabaseLockedError",
        "DatabaseLostError",
        "DatabaseMissingError",
        "ForeignDatabaseError",
        "InvalidRequestError",
        "LegacyImportError",
        "LockLostError",
        "LockTimeoutError",
        "NewerDatabaseError",
        "NewerStoreFileError",
        "NotARuntimeDirectoryError",
        "OlderDatabaseError",
        "OpenBatchError",
        "PruneStoppedError",
        "ReadOnlyStoreError",
        "RecoveryFailedError",
        "RecoveryNeededError",
        "RetryableError",
        "RunAliveError",
        "RuntimeStoreError",
        "StaleRunError",
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
    "rtstore.files.inspector": ("FileInspector",),
    "rtstore.files.system": ("FileSystem",),
    "rtstore.history.prune": ("PruneReport",),
    "rtstore.history.reader": (
        "Snapshot",
        "StoreContent",
    ),
    "rtstore.history.versions": ("StoreDifferences",),
    "rtstore.legacy": (
        "ExportReport",
        "ImportReport",
        "TeamImportReport",
        "import_directory",
        "import_team",
    ),
    "rtstore.maintenance.backup": (
        "Backup",
        "restore_backup",
        "verify_backup",
    ),
    "rtstore.maintenance.rebuild_database": (
        "RebuildReport",
        "rebuild_database",
    ),
    "rtstore.maintenance.upgrade": (
        "UpgradeReport",
        "upgrade_directory",
    ),
    "rtstore.model.decide": (
        "build_plan",
        "build_readiness",
    ),
    "rtstore.model.descriptors": (
        "Descriptor",
        "KNOWN_DESCRIPTORS",
        "Registry",
    ),
    "rtstore.model.differences": (
        "Difference",
        "DifferenceKind",
    ),
    "rtstore.model.events": (
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
    "rtstore.model.invariants": ("validate_invariants",),
    "rtstore.model.records": (
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
        "StaleStore",
    ),
    "rtstore.model.request": (
        "BatchRequest",
        "StoreWrite",
    ),
    "rtstore.model.runs": (
        "RunEnding",
        "RunProcess",
        "RunRecord",
        "RunState",
        "StartKind",
        "StartState",
    ),
    "rtstore.recovery.gather": ("RecoveryPlanner",),
    "rtstore.recovery.rebuilders": (
        "RebuildRequest",
        "Rebuilder",
        "Rebuilders",
    ),
    "rtstore.store": (
        "Run",
        "RuntimeStore",
    ),
}
"""The modules that define the public names, each with its names. A module is imported when one of
its names is first used, so that a program that needs little of the package (`rtstore --help`) does
not wait for all of it."""

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
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


__all__ = [
    "DATABASE_NAME",
    "KEEP_EVERYTHING",
    "KNOWN_DESCRIPTORS",
    "ActionKind",
    "ActionOutcome",
    "AsyncRun",
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
    "Run",
    "RunAliveError",
    "RunEnding",
    "RunIdentity",
    "RunProcess",
    "RunRecord",
    "RunState",
    "RuntimeStore",
    "RuntimeStoreError",
    "Snapshot",
    "StaleRunError",
    "StaleStore",
    "StartKind",
    "StartState",
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
