"""What an import found and did, as records."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from rtstore.model.records import BatchState, Record, RunIdentity
from rtstore.model.times import Timestamp


class StoreOutcome(StrEnum):
    """What became of one store. Its manifest entry, where it has one, is imported in every case."""

    CONTENT_TAKEN = "content taken"
    """The file is what was committed; its bytes are in the database now."""
    HASH_DIFFERS = "hash differs"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NOT_A_STORE_FILE = "not a store file"
    """The bytes are what was committed, but they are no envelope, so they stay in the file only."""
    NO_MANIFEST_ENTRY = "no manifest entry"
    """There is a file, but nothing was ever committed for it; it stays in the file only."""


class ImportedStore(Record):
    """One store of the imported directory."""

    schema_name: str
    relative_path: str
    outcome: StoreOutcome
    registered: bool = True
    """False: the manifest has an entry, but no descriptor of that name is known. Entry and content
    are kept; a runtime that registers the descriptor can read and write the store."""
    detail: str | None = None


class OtherKind(StrEnum):
    """What a file beside the stores is."""

    LANE = "lane"
    """A runtime directory of its own; it is imported by itself."""
    LANE_INDEX = "lane index"
    RUN_TOMBSTONES = "run tombstones"
    LOCK = "lock"
    TEMPORARY_FILE = "temporary file"
    OTHER = "other"


class OtherFile(Record):
    """A file or directory that is neither control file nor store; it was left as it is."""

    path: str
    """Relative to the runtime directory."""
    kind: OtherKind


class ImportReport(Record):
    """What one call of `import_directory` found and did."""

    directory: Path
    team_name: str
    changed: bool
    """False: the directory was imported before, and this call left everything as it was."""
    dry_run: bool = False
    """True: this is what would be imported; everything is as it was."""
    imported_at: Timestamp
    high_watermark: int
    """As it is now; the store may have been written to since an earlier import."""
    active_identity: RunIdentity | None
    batches: dict[BatchState, int]
    """The imported batches that are in the database, by state."""
    receipts: int
    """The receipts of those that are committed."""
    stores: tuple[ImportedStore, ...] = ()
    """Every store with an entry or a file. Empty when nothing was changed."""
    control_files: tuple[str, ...] = ()
    """Names of the files that the rows were made from. Empty when nothing was changed."""
    other_files: tuple[OtherFile, ...] = ()
    notes: tuple[str, ...] = ()
    """What a person should know: what was missing, what does not fit together."""


class SkippedFile(Record):
    """A file that was found and not taken over; it is where it was."""

    path: str
    """Relative to the team's runtime directory."""
    why: str


class LaneImport(Record):
    """What became of one lane."""

    lane_id: str
    """As the runtime calls it; the name of its directory is this, percent-encoded."""
    path: str
    """Relative to the team's runtime directory."""
    report: ImportReport | None
    """None: it could not be imported."""
    problem: str | None = None
    """Why not. What is repaired is taken over by importing again."""
    damaged: bool = False
    """A control file of it is damaged."""


class TeamImportReport(ImportReport):
    """What one call of `import_team` found and did: the team's own directory, and its lanes."""

    lanes: tuple[LaneImport, ...]
    found: int
    """Files in the directory and its lanes, those of the store itself left out."""
    imported: int
    """Those of them whose contents are in the database now: control files and stores."""
    skipped: tuple[SkippedFile, ...]
    """The others."""
