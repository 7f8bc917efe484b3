"""rtstore: a SQLite-backed transactional store for the state of an agent runtime.

Start with `RuntimeStore.open`. The parts behind it (manifest store, receipt store, batch writer,
file inspector, recovery planner) are public and composable the same way.
"""

import logging
from importlib.metadata import PackageNotFoundError, version

from rtstore.database.batches import ReceiptStore
from rtstore.database.contents import KEEP_EVERYTHING, Retention
from rtstore.database.engine import DATABASE_NAME, Database
from rtstore.database.manifest import ManifestStore, default_manifest
from rtstore.database.upgrade import migrations_path
from rtstore.descriptors import KNOWN_DESCRIPTORS, Descriptor, Registry
from rtstore.draft import BatchRequest, StoreWrite
from rtstore.errors import (
    BatchFailedError,
    BatchUnfinishedError,
    CallError,
    ConflictError,
    CorruptDatabaseError,
    DatabaseFailedError,
    DatabaseLockedError,
    ForeignDatabaseError,
    InvalidRequestError,
    LegacyImportError,
    LockTimeoutError,
    NewerDatabaseError,
    NewerStoreFileError,
    NotARuntimeDirectoryError,
    RecoveryFailedError,
    RecoveryNeededError,
    RetryableError,
    RuntimeStoreError,
    StopError,
    StorageError,
    StoreClosedError,
    StoreFileChangedError,
    UnknownStoreError,
    UnsafePathError,
    UnusableEngineError,
    WrongTeamError,
)
from rtstore.files.inspector import FileInspector
from rtstore.files.system import FileSystem
from rtstore.invariants import validate_invariants
from rtstore.legacy import ImportReport, import_directory
from rtstore.lock import WriterLock
from rtstore.planner import RecoveryPlanner
from rtstore.planning import build_plan
from rtstore.publication import Durability
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
    RunIdentity,
)
from rtstore.store import RuntimeStore
from rtstore.writer import BatchWriter

try:
    __version__ = version("rtstore")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

logging.getLogger("rtstore").addHandler(logging.NullHandler())

__all__ = [
    "DATABASE_NAME",
    "KEEP_EVERYTHING",
    "KNOWN_DESCRIPTORS",
    "ActionKind",
    "ActionOutcome",
    "Batch",
    "BatchFailedError",
    "BatchReason",
    "BatchRequest",
    "BatchState",
    "BatchUnfinishedError",
    "BatchWriter",
    "CallError",
    "ConflictError",
    "CorruptDatabaseError",
    "Criticality",
    "Database",
    "DatabaseFailedError",
    "DatabaseLockedError",
    "Descriptor",
    "Durability",
    "FileInspector",
    "FileSystem",
    "ForeignDatabaseError",
    "ImportReport",
    "Inspection",
    "InspectionState",
    "InvalidRequestError",
    "LegacyImportError",
    "LockTimeoutError",
    "Manifest",
    "ManifestEntry",
    "ManifestStore",
    "NewerDatabaseError",
    "NewerStoreFileError",
    "NotARuntimeDirectoryError",
    "Owner",
    "QuarantinedFile",
    "ReadinessCheck",
    "ReadinessImpact",
    "ReadinessReason",
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
    "StoreFileChangedError",
    "StoreWrite",
    "UnknownStoreError",
    "UnsafePathError",
    "UnusableEngineError",
    "WriterLock",
    "WrongTeamError",
    "__version__",
    "build_plan",
    "build_readiness",
    "default_manifest",
    "import_directory",
    "migrations_path",
    "validate_invariants",
]
