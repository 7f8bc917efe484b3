"""The report of a rebuild: what it found, set aside and lost."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from rtstore.model.records import Record, RunIdentity


class StoreOutcome(StrEnum):
    """The outcome for one store."""

    FROM_FILE = "from_file"
    """Its file passed the checks of a write, and is committed now."""
    FROM_DATABASE = "from_database"
    """Its file is missing, did not pass, or holds an earlier version of ours, and its committed
    content could be read from the damaged database, with the right hash. Opening the store writes
    the file."""
    DELETED = "deleted"
    """A batch deleted the store, and its former file is there. Opening the store removes it."""
    LEFT_OUT = "left_out"
    """Its file cannot be committed; it is not changed, and `rtstore plan` shows it."""
    MISSING = "missing"
    """There is no file, and no content could be read from the database."""


class RebuiltStore(Record):
    """One store of a rebuilt directory."""

    schema_name: str
    relative_path: str
    outcome: StoreOutcome
    detail: str | None = None
    """Why its file was not committed, or what is unusual about it."""


class RebuildReport(Record):
    """The report of one call of `rebuild_database`."""

    directory: Path
    team_name: str
    problem: str
    """The reason why the database was rebuilt."""
    kept_aside: Path | None
    """The folder that the old database was moved to; None when there was none."""
    batch_id: str | None
    """The batch of reason `recovery` that commits all stores; None when none could be taken."""
    high_watermark: int
    """It continues from that of the damaged database, when that could be read."""
    active_identity: RunIdentity | None
    stores: tuple[RebuiltStore, ...]
    lost: tuple[str, ...]
    """What was lost with the old database, a sentence each."""
    notes: tuple[str, ...] = ()
