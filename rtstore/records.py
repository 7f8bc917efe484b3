"""What the calls of a store return, as types: for annotations, and to compare a state or a kind.

All are frozen. Those that most programs name are in `rtstore`, too.
"""

from rtstore.control.history import StoreVersion
from rtstore.history.prune import PruneReport
from rtstore.history.reader import Snapshot, StoreContent
from rtstore.history.versions import StoreDifferences
from rtstore.maintenance.upgrade_data import DataUpgradeReport
from rtstore.model.differences import Difference, DifferenceKind
from rtstore.model.records import (
    ActionKind,
    ActionOutcome,
    Batch,
    BatchState,
    DatabaseUpgrade,
    Deletion,
    Hindrance,
    Inspection,
    InspectionState,
    Manifest,
    ManifestEntry,
    QuarantinedFile,
    ReadinessCheck,
    ReadinessImpact,
    ReadinessReason,
    Receipt,
    RecoveryAction,
    RecoveryPlan,
    RecoveryReport,
    RecoveryStep,
    RecoveryTrigger,
    RunIdentity,
    StaleStore,
)
from rtstore.model.runs import RunEnding, RunProcess, RunRecord, RunState, StartKind, StartState

__all__ = [
    "ActionKind",
    "ActionOutcome",
    "Batch",
    "BatchState",
    "DataUpgradeReport",
    "DatabaseUpgrade",
    "Deletion",
    "Difference",
    "DifferenceKind",
    "Hindrance",
    "Inspection",
    "InspectionState",
    "Manifest",
    "ManifestEntry",
    "PruneReport",
    "QuarantinedFile",
    "ReadinessCheck",
    "ReadinessImpact",
    "ReadinessReason",
    "Receipt",
    "RecoveryAction",
    "RecoveryPlan",
    "RecoveryReport",
    "RecoveryStep",
    "RecoveryTrigger",
    "RunEnding",
    "RunIdentity",
    "RunProcess",
    "RunRecord",
    "RunState",
    "Snapshot",
    "StaleStore",
    "StartKind",
    "StartState",
    "StoreContent",
    "StoreDifferences",
    "StoreVersion",
]
