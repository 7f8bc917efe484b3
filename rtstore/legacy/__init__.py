"""Imports directories of the legacy format, whose control data are JSON files, and exports to it.

`control_files` reads and checks those files. `survey` compares the store files with them.
`importing` writes the rows, and changes no JSON file. `exporting` goes the other way.
"""

from rtstore.legacy.control_files import (
    RUNTIME_DIRECTORY,
    is_legacy_directory,
    read_tombstones,
)
from rtstore.legacy.documents import STANDS_FOR_OWN
from rtstore.legacy.ended_runs import with_tombstones
from rtstore.legacy.exporting import (
    ExportReport,
    Place,
    export_here,
    export_team_to,
    export_to,
)
from rtstore.legacy.format import Tombstone
from rtstore.legacy.importing import import_directory, why_refused
from rtstore.legacy.lanes import (
    LaneIndex,
    has_lanes,
    has_lanes_to_import,
    is_lane,
    lane_names,
    lost_its_manifest,
    name_of,
    read_lane_index,
)
from rtstore.legacy.lost_database import is_to_import, newer_than_control_files
from rtstore.legacy.over_again import changed_since_import, over_again_command
from rtstore.legacy.report import (
    ImportedStore,
    ImportReport,
    LaneImport,
    LaneOutcome,
    NewerBatches,
    OtherFile,
    OtherKind,
    SkippedFile,
    StoreOutcome,
    TeamImportReport,
)
from rtstore.legacy.since import newer_batches
from rtstore.legacy.team import import_team, runtime_directory_of, why_lost

__all__ = [
    "RUNTIME_DIRECTORY",
    "STANDS_FOR_OWN",
    "ExportReport",
    "ImportReport",
    "ImportedStore",
    "LaneImport",
    "LaneIndex",
    "LaneOutcome",
    "NewerBatches",
    "OtherFile",
    "OtherKind",
    "Place",
    "SkippedFile",
    "StoreOutcome",
    "TeamImportReport",
    "Tombstone",
    "changed_since_import",
    "export_here",
    "export_team_to",
    "export_to",
    "has_lanes",
    "has_lanes_to_import",
    "import_directory",
    "import_team",
    "is_lane",
    "is_legacy_directory",
    "is_to_import",
    "lane_names",
    "lost_its_manifest",
    "name_of",
    "newer_batches",
    "newer_than_control_files",
    "over_again_command",
    "read_lane_index",
    "read_tombstones",
    "runtime_directory_of",
    "why_lost",
    "why_refused",
    "with_tombstones",
]
