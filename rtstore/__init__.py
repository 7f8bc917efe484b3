"""rtstore: a SQLite-backed transactional store for the state of an agent runtime.

Start with `RuntimeStore.open`, or with `AsyncRuntimeStore.open` for asyncio. This module has the
names that a runtime needs. The other public names are in modules by topic:

    rtstore.errors         every error; this module has those that a caller tells apart
    rtstore.events         the kinds of events
    rtstore.records        what calls return, as types
    rtstore.directories    import, upgrade, back up and rebuild a directory that is not open
    rtstore.parts          the parts behind `RuntimeStore`, to be composed
    rtstore.testing        crash points and fakes for the tests of a runtime
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from rtstore.forks import no_fork

# Type checkers take a name that is imported "as" itself, or with "*", for a public one.
# isort: off
if TYPE_CHECKING:
    from rtstore.aio.store import (
        AsyncRun as AsyncRun,
        AsyncRuntimeStore as AsyncRuntimeStore,
    )
    from rtstore.commit.publisher import Durability as Durability
    from rtstore.control.contents import (
        KEEP_EVERYTHING as KEEP_EVERYTHING,
        Retention as Retention,
    )
    from rtstore.errors import (
        CallError as CallError,
        ConflictError as ConflictError,
        RecoveryNeededError as RecoveryNeededError,
        RetryableError as RetryableError,
        RunAliveError as RunAliveError,
        RuntimeStoreError as RuntimeStoreError,
        StaleRunError as StaleRunError,
        StopError as StopError,
        StoreFileChangedError as StoreFileChangedError,
    )
    from rtstore.history.reader import (
        Snapshot as Snapshot,
        StoreContent as StoreContent,
    )
    from rtstore.model.descriptors import (
        Descriptor as Descriptor,
        KNOWN_DESCRIPTORS as KNOWN_DESCRIPTORS,
    )
    from rtstore.model.edits import ForeignEdits as ForeignEdits
    from rtstore.model.events import Event as Event
    from rtstore.model.records import (
        Batch as Batch,
        BatchReason as BatchReason,
        Criticality as Criticality,
        DELETED as DELETED,
        Manifest as Manifest,
        Owner as Owner,
        ReadinessCheck as ReadinessCheck,
        RebuildStrategy as RebuildStrategy,
        RecoveryPlan as RecoveryPlan,
        RecoveryReport as RecoveryReport,
        RunIdentity as RunIdentity,
    )
    from rtstore.model.runs import (
        RunEnding as RunEnding,
        RunRecord as RunRecord,
        StartKind as StartKind,
        StartState as StartState,
    )
    from rtstore.model.typed import StoreData as StoreData
    from rtstore.recovery.rebuilders import (
        RebuildRequest as RebuildRequest,
        Rebuilder as Rebuilder,
        Rebuilders as Rebuilders,
    )
    from rtstore.store import (
        Run as Run,
        RuntimeStore as RuntimeStore,
    )

    # The names of _EARLIER.
    from rtstore.directories import *  # noqa: F403
    from rtstore.errors import *  # noqa: F403
    from rtstore.events import *  # noqa: F403
    from rtstore.parts import *  # noqa: F403
    from rtstore.records import *  # noqa: F403

    __version__: str
# isort: on

_HOMES = {
    "rtstore.aio.store": (
        "AsyncRun",
        "AsyncRuntimeStore",
    ),
    "rtstore.commit.publisher": ("Durability",),
    "rtstore.control.contents": (
        "KEEP_EVERYTHING",
        "Retention",
    ),
    "rtstore.errors": (
        "CallError",
        "ConflictError",
        "RecoveryNeededError",
        "RetryableError",
        "RunAliveError",
        "RuntimeStoreError",
        "StaleRunError",
        "StopError",
        "StoreFileChangedError",
    ),
    "rtstore.history.reader": (
        "Snapshot",
        "StoreContent",
    ),
    "rtstore.model.descriptors": (
        "Descriptor",
        "KNOWN_DESCRIPTORS",
    ),
    "rtstore.model.edits": ("ForeignEdits",),
    "rtstore.model.events": ("Event",),
    "rtstore.model.records": (
        "Batch",
        "BatchReason",
        "Criticality",
        "DELETED",
        "Manifest",
        "Owner",
        "ReadinessCheck",
        "RebuildStrategy",
        "RecoveryPlan",
        "RecoveryReport",
        "RunIdentity",
    ),
    "rtstore.model.runs": (
        "RunEnding",
        "RunRecord",
        "StartKind",
        "StartState",
    ),
    "rtstore.model.typed": ("StoreData",),
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

_EARLIER = {
    "rtstore.directories": (
        "Backup",
        "DATABASE_NAME",
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
    ),
    "rtstore.errors": (
        "BackupDamagedError",
        "BatchFailedError",
        "BatchUnfinishedError",
        "ContentMissingError",
        "CorruptDatabaseError",
        "DataRefusedError",
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
        "MissedBatchesError",
        "NewerDatabaseError",
        "NewerStoreFileError",
        "NotARuntimeDirectoryError",
        "OlderDatabaseError",
        "OpenBatchError",
        "PruneStoppedError",
        "ReadOnlyStoreError",
        "RecoveryFailedError",
        "StatementRefusedError",
        "StorageError",
        "StoreClosedError",
        "StoreForkedError",
        "UnknownStoreError",
        "UnsafePathError",
        "UnusableEngineError",
        "UpgradeFailedError",
        "WalNotSavedError",
        "WrongTeamError",
    ),
    "rtstore.events": (
        "BatchCommitted",
        "BatchFailed",
        "BatchUnfinished",
        "EventKind",
        "FileQuarantined",
        "NotReady",
        "StoreEvent",
        "StoreRecovered",
    ),
    "rtstore.parts": (
        "BatchRequest",
        "BatchWriter",
        "Database",
        "FileInspector",
        "FileSystem",
        "ManifestStore",
        "ReceiptStore",
        "RecoveryPlanner",
        "Registry",
        "StoreWrite",
        "WriterLock",
        "build_plan",
        "build_readiness",
        "default_manifest",
        "validate_invariants",
    ),
    "rtstore.records": (
        "ActionKind",
        "ActionOutcome",
        "BatchState",
        "DatabaseUpgrade",
        "Difference",
        "DifferenceKind",
        "Inspection",
        "InspectionState",
        "ManifestEntry",
        "PruneReport",
        "QuarantinedFile",
        "ReadinessImpact",
        "ReadinessReason",
        "Receipt",
        "RecoveryAction",
        "RecoveryStep",
        "RecoveryTrigger",
        "RunProcess",
        "RunState",
        "StaleStore",
        "StoreDifferences",
        "StoreVersion",
    ),
}
"""Names that earlier versions offered here, by the module that offers them now. They are not listed
any more, but import as before, and without a warning: a program that takes warnings for errors must
go on running."""

_MODULE_OF = {
    name: module
    for table in (_HOMES, _EARLIER)
    for module, names in table.items()
    for name in names
}
_NAMES = (*sorted(name for names in _HOMES.values() for name in names), "__version__")

logging.getLogger("rtstore").addHandler(logging.NullHandler())


if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __all__ = list(_NAMES)

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value: object = _version()
        elif name in _MODULE_OF:
            with no_fork():
                module = import_module(_MODULE_OF[name])
            value = getattr(module, name)
        else:
            raise AttributeError(f"module 'rtstore' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(_NAMES)


def _version() -> str:
    with no_fork():
        from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rtstore")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
