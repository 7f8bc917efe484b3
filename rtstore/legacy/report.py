"""The reports of an import, as records."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from rtstore.model.records import BatchState, Record, RunIdentity, Suggestion
from rtstore.model.times import Timestamp


class StoreOutcome(StrEnum):
    """The outcome for one store. Its manifest entry, if any, is imported in every case."""

    CONTENT_TAKEN = "content taken"
    """The file matches its entry; its bytes are in the database now."""
    HASH_DIFFERS = "hash differs"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NOT_A_STORE_FILE = "not a store file"
    """The file matches its entry, but has no envelope; its bytes stay in the file only."""
    NO_MANIFEST_ENTRY = "no manifest entry"
    """There is a file, but nothing was ever committed for it; its bytes stay in the file only."""


class ImportedStore(Record):
    """One store of the imported directory."""

    schema_name: str
    relative_path: str
    outcome: StoreOutcome
    registered: bool = True
    """False when the manifest has an entry, but no descriptor of that name is known. Entry and
    content are imported; a runtime that registers the descriptor can read and write the store."""
    detail: str | None = None


class OtherKind(StrEnum):
    """The kind of a file next to the stores."""

    LANE = "lane"
    """A runtime directory of its own, which has its own import."""
    LANE_INDEX = "lane index"
    RUN_TOMBSTONES = "run tombstones"
    LOCK = "lock"
    TEMPORARY_FILE = "temporary file"
    OTHER = "other"


class OtherFile(Record):
    """A file or directory that is neither control file nor store; it was not changed."""

    path: str
    """Relative to the runtime directory."""
    kind: OtherKind


class NewerBatches(Record):
    """The batches that the control files of a directory know, and its database does not."""

    batch_ids: tuple[str, ...]
    """Oldest first."""
    high_watermark: int
    """That of the control files."""
    not_in_files: tuple[str, ...]
    """The stores of which the files do not hold what the control files say: an import would not
    find these contents."""
    take_over: Suggestion
    give_up: Suggestion

    @property
    def said(self) -> str:
        """What there is, in words."""
        number, last = len(self.batch_ids), self.batch_ids[-1]
        what = f"batch {last}" if number == 1 else f"{number} batches (the last is {last})"
        return (
            f"the control files of the legacy format know {what}, high watermark "
            f"{self.high_watermark}, and the database does not: a program of the old kind has "
            "committed since"
        )


class ImportReport(Record):
    """The report of one call of `import_directory`."""

    directory: Path
    team_name: str
    changed: bool
    """False when the directory was imported before, and this call changed nothing."""
    dry_run: bool = False
    """True when this is what would be imported; nothing was changed."""
    imported_at: Timestamp
    high_watermark: int
    """The high watermark now; the store may have been written to since an earlier import."""
    active_identity: RunIdentity | None
    batches: dict[BatchState, int]
    """The number of imported batches in the database, by state."""
    receipts: int
    """The number of receipts of the committed ones."""
    stores: tuple[ImportedStore, ...] = ()
    """Every store with an entry or a file. Empty when nothing was changed."""
    control_files: tuple[str, ...] = ()
    """The names of the files that the rows were made from. Empty when nothing was changed."""
    ended_runs: int = 0
    """The number of runs that ended, by the tombstones. 0 when nothing was changed."""
    other_files: tuple[OtherFile, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences for the user: what was missing, and what does not match."""
    newer_batches: NewerBatches | None = None
    """What the control files know besides, of a directory that was imported before."""


class SkippedFile(Record):
    """A file that was found and not imported; it was not changed."""

    path: str
    """Relative to the team's runtime directory."""
    why: str


class LaneOutcome(StrEnum):
    """What became of one lane."""

    IMPORTED = "imported"
    IMPORTED_BEFORE = "imported before"
    NOT_IMPORTED = "not imported"
    """`problem` says why."""
    NO_CONTROL_FILES = "no control files"
    """There is a directory, and nothing was ever committed in it, or it has a store of its own."""
    NO_DIRECTORY = "no directory"
    """Only the list of lanes knows it."""


class LaneImport(Record):
    """The outcome for one lane."""

    lane_id: str
    """The id that the runtime uses; the directory's name is this, percent-encoded."""
    path: str
    """Relative to the team's runtime directory."""
    outcome: LaneOutcome
    state: str | None
    """What the runtime's list of lanes calls it: `active`, `stopped` or `degraded`. None when the
    list does not know it, or there is none."""
    report: ImportReport | None
    """None when the lane was not imported."""
    problem: str | None = None
    """Why not. What is repaired is taken over by importing again."""
    damaged: bool = False
    """A control file of it is damaged, or its database cannot be used as it is."""
    retry: bool = False
    """Importing again may take it over as it is: it was locked, or there was no room."""


class TeamImportReport(ImportReport):
    """The report of one call of `import_team`: the team's own directory, and its lanes."""

    lanes_only: bool
    """Whether the directory has no control files of its own. Then it has no store, and what is
    said of batches, receipts and stores is said of none; `changed` is of the lanes."""
    problem: str | None = None
    """Why the directory itself was not imported, although it has receipts or store files."""
    lanes: tuple[LaneImport, ...]
    found: int
    """The number of files in the directory and its lanes, except the store's own."""
    imported: int
    """The number of those whose contents are in the database now: control files and stores."""
    skipped: tuple[SkippedFile, ...]
    """The other files, each with the reason."""
