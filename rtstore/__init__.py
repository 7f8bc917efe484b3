"""rtstore: a SQLite-backed transactional store for the state of an agent runtime.

Start with `RuntimeStore.open`. Its parts (manifest store, receipt store, batch writer, file
inspector, recovery planner) are public too, and can be composed.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from rtstore.forks import no_fork

# Type checkers take a name that is imported "as" itself for a public one.
# isort: off
if TYPE_CHECKING:
    from rtstore.aio.store import AsyncRun as AsyncRun, AsyncRuntimeStore as AsyncRuntimeStore
    from rtstore.commit.publisher import Durability as Durability
    from rtstore.commit.writer import BatchWriter as BatchWriter
    from rtstore.control.batches import ReceiptStore as ReceiptStore
    from rtstore.control.contents import KEEP_EVERYTHING as KEEP_EVERYTHING, Retention as Retention
    from rtstore.control.history import StoreVersion as StoreVersion
    from rtstore.control.lock import WriterLock as WriterLock
    from rtstore.control.manifest import (
        ManifestStore as ManifestStore,
        default_manifest as default_manifest,
    )
    from rtstore.control.revisions import migrations_path as migrations_path
    from rtstore.control.sqlite.engine import DATABASE_NAME as DATABASE_NAME, Database as Database
    from rtstore.errors import (
        BackupDamagedError as BackupDamagedError,
        BatchFailedError as BatchFailedError,
        BatchUnfinishedError as BatchUnfinishedError,
        CallError as CallError,
        ConflictError as ConflictError,
        ContentMissingError as ContentMissingError,
        CorruptDatabaseError as CorruptDatabaseError,
        DatabaseFailedError as DatabaseFailedError,
        DatabaseLockedError as DatabaseLockedError,
        DatabaseLostError as DatabaseLostError,
        DatabaseMissingError as DatabaseMissingError,
        DataRefusedError as DataRefusedError,
        DataUpgradeError as DataUpgradeError,
        ForeignDatabaseError as ForeignDatabaseError,
        InvalidRequestError as InvalidRequestError,
        LegacyImportError as LegacyImportError,
        LockLostError as LockLostError,
        LockTimeoutError as LockTimeoutError,
        MissedBatchesError as MissedBatchesError,
        NewerDatabaseError as NewerDatabaseError,
        NewerStoreFileError as NewerStoreFileError,
        NotARuntimeDirectoryError as NotARuntimeDirectoryError,
        OlderDatabaseError as OlderDatabaseError,
        OpenBatchError as OpenBatchError,
        PruneStoppedError as PruneStoppedError,
        ReadOnlyStoreError as ReadOnlyStoreError,
        RecoveryFailedError as RecoveryFailedError,
        RecoveryNeededError as RecoveryNeededError,
        RetryableError as RetryableError,
        RunAliveError as RunAliveError,
        RuntimeStoreError as RuntimeStoreError,
        StaleRunError as StaleRunError,
        StopError as StopError,
        StorageError as StorageError,
        StoreClosedError as StoreClosedError,
        StoreFileChangedError as StoreFileChangedError,
        StoreForkedError as StoreForkedError,
        UnknownStoreError as UnknownStoreError,
        UnsafePathError as UnsafePathError,
        UnusableEngineError as UnusableEngineError,
        UpgradeFailedError as UpgradeFailedError,
        WrongTeamError as WrongTeamError,
    )
    from rtstore.files.inspector import FileInspector as FileInspector
    from rtstore.files.system import FileSystem as FileSystem
    from rtstore.history.prune import PruneReport as PruneReport
    from rtstore.history.reader import Snapshot as Snapshot, StoreContent as StoreContent
    from rtstore.history.versions import StoreDifferences as StoreDifferences
    from rtstore.legacy import (
        ExportReport as ExportReport,
        ImportReport as ImportReport,
        TeamImportReport as TeamImportReport,
        import_directory as import_directory,
        import_team as import_team,
    )
    from rtstore.maintenance.backup import (
        Backup as Backup,
        restore_backup as restore_backup,
        verify_backup as verify_backup,
    )
    from rtstore.maintenance.rebuild_database import (
        RebuildReport as RebuildReport,
        rebuild_database as rebuild_database,
    )
    from rtstore.maintenance.upgrade import (
        UpgradeReport as UpgradeReport,
        upgrade_directory as upgrade_directory,
    )
    from rtstore.model.decide import build_plan as build_plan, build_readiness as build_readiness
    from rtstore.model.descriptors import (
        KNOWN_DESCRIPTORS as KNOWN_DESCRIPTORS,
        Descriptor as Descriptor,
        Registry as Registry,
    )
    from rtstore.model.differences import Difference as Difference, DifferenceKind as DifferenceKind
    from rtstore.model.edits import ForeignEdits as ForeignEdits
    from rtstore.model.events import (
        BatchCommitted as BatchCommitted,
        BatchFailed as BatchFailed,
        BatchUnfinished as BatchUnfinished,
        Event as Event,
        EventKind as EventKind,
        FileQuarantined as FileQuarantined,
        NotReady as NotReady,
        StoreEvent as StoreEvent,
        StoreRecovered as StoreRecovered,
    )
    from rtstore.model.invariants import validate_invariants as validate_invariants
    from rtstore.model.records import (
        ActionKind as ActionKind,
        ActionOutcome as ActionOutcome,
        Batch as Batch,
        BatchReason as BatchReason,
        BatchState as BatchState,
        Criticality as Criticality,
        DatabaseUpgrade as DatabaseUpgrade,
        Inspection as Inspection,
        InspectionState as InspectionState,
        Manifest as Manifest,
        ManifestEntry as ManifestEntry,
        Owner as Owner,
        QuarantinedFile as QuarantinedFile,
        ReadinessCheck as ReadinessCheck,
        ReadinessImpact as ReadinessImpact,
        ReadinessReason as ReadinessReason,
        RebuildStrategy as RebuildStrategy,
        Receipt as Receipt,
        RecoveryAction as RecoveryAction,
        RecoveryPlan as RecoveryPlan,
        RecoveryReport as RecoveryReport,
        RecoveryStep as RecoveryStep,
        RecoveryTrigger as RecoveryTrigger,
        RunIdentity as RunIdentity,
        StaleStore as StaleStore,
    )
    from rtstore.model.request import BatchRequest as BatchRequest, StoreWrite as StoreWrite
    from rtstore.model.runs import (
        RunEnding as RunEnding,
        RunProcess as RunProcess,
        RunRecord as RunRecord,
        RunState as RunState,
        StartKind as StartKind,
        StartState as StartState,
    )
    from rtstore.model.typed import StoreData as StoreData
    from rtstore.recovery.gather import RecoveryPlanner as RecoveryPlanner
    from rtstore.recovery.rebuilders import (
        Rebuilder as Rebuilder,
        Rebuilders as Rebuilders,
        RebuildRequest as RebuildRequest,
    )
    from rtstore.store import Run as Run, RuntimeStore as RuntimeStore

    __version__: str
# isort: on

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
        "DataRefusedError",
        "ForeignDatabaseError",
        "InvalidRequestError",
        "LegacyImportError",
        "LockLostError",
        "LockTimeoutError",
        "MissedBatchesError",
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
    "rtstore.model.edits": ("ForeignEdits",),
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
    "rtstore.model.typed": ("StoreData",),
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
_NAMES = (*sorted(_HOME_OF), "__version__")
if not TYPE_CHECKING:
    __all__ = list(_NAMES)

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
    return sorted({*globals(), *_NAMES})


def _version() -> str:
    with no_fork():
        from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rtstore")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
