"""A new control database made from the store files, when the old one is beyond help."""

from rtstore.salvage.making import rebuild_database
from rtstore.salvage.report import RebuildReport, RebuiltStore, StoreOutcome

__all__ = ["RebuildReport", "RebuiltStore", "StoreOutcome", "rebuild_database"]
