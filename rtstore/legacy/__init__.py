"""Imports directories of the legacy format, whose control data are JSON files, and exports to it.

`control_files` reads and checks those files. `survey` compares the store files with them.
`importing` writes the rows, and changes no JSON file. `exporting` goes the other way.
"""

from rtstore.legacy.control_files import RUNTIME_DIRECTORY, is_legacy_directory
from rtstore.legacy.exporting import ExportReport, export_here, export_to
from rtstore.legacy.importing import import_directory, why_refused
from rtstore.legacy.report import (
    ImportedStore,
    ImportReport,
    LaneImport,
    OtherFile,
    OtherKind,
    SkippedFile,
    StoreOutcome,
    TeamImportReport,
)
from rtstore.legacy.team import import_team

__all__ = [
    "RUNTIME_DIRECTORY",
    "ExportReport",
    "ImportReport",
    "ImportedStore",
    "LaneImport",
    "OtherFile",
    "OtherKind",
    "SkippedFile",
    "StoreOutcome",
    "TeamImportReport",
    "export_here",
    "export_to",
    "import_directory",
    "import_team",
    "is_legacy_directory",
    "why_refused",
]
