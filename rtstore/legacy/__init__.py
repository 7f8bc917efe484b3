"""Takes over the directories of the file-only ancestor, where the control data were JSON files, and
gives them back.

`control_files` reads and checks those files, `survey` holds the stores beside them against what
they say, `importing` writes the rows and
changes no JSON file. `exporting` goes the other way.
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
