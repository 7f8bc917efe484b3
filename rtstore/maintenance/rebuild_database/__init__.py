"""Makes a new control database from the store files, when the old one is beyond repair."""

from rtstore.maintenance.rebuild_database.broken import (
    Salvage,
    knows_batch,
    problem_of,
    what_is_left,
)
from rtstore.maintenance.rebuild_database.making import BROKEN_PREFIX, rebuild_database
from rtstore.maintenance.rebuild_database.report import RebuildReport, RebuiltStore, StoreOutcome

__all__ = [
    "BROKEN_PREFIX",
    "RebuildReport",
    "RebuiltStore",
    "Salvage",
    "StoreOutcome",
    "knows_batch",
    "problem_of",
    "rebuild_database",
    "what_is_left",
]
