"""Takes over the directories of the file-only ancestor, where the control data were JSON files.

`control_files` reads and checks those files, `survey` holds the stores beside them against what
they say, `importing` writes the rows. Nothing here changes a JSON file.
"""

from rtstore.legacy.control_files import is_legacy_directory
from rtstore.legacy.importing import import_directory
from rtstore.legacy.report import ImportedStore, ImportReport, OtherFile, OtherKind, StoreOutcome

__all__ = [
    "ImportReport",
    "ImportedStore",
    "OtherFile",
    "OtherKind",
    "StoreOutcome",
    "import_directory",
    "is_legacy_directory",
]
