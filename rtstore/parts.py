"""The parts behind `RuntimeStore`, for programs that put a store together themselves.

They are the manifest store, the receipt store, the batch writer, the file inspector and the
recovery planner, and what these take and need.
"""

from rtstore.commit.writer import BatchWriter
from rtstore.control.batches import ReceiptStore
from rtstore.control.lock import WriterLock
from rtstore.control.manifest import ManifestStore, default_manifest
from rtstore.control.sqlite.engine import Database
from rtstore.files.inspector import FileInspector
from rtstore.files.system import FileSystem
from rtstore.model.decide import build_plan, build_readiness
from rtstore.model.descriptors import Registry
from rtstore.model.invariants import validate_invariants
from rtstore.model.request import BatchRequest, StoreWrite
from rtstore.recovery.gather import RecoveryPlanner

__all__ = [
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
]
