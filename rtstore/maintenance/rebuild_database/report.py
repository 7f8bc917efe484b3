"""What a rebuild found, kept and lost."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from rtstore.model.records import Record, RunIdentity


class StoreOutcome(StrEnum):
    """What became of one store."""

    FROM_FILE = "from_file"
    """Its file passed what a write must pass, and is what is committed now."""
    FROM_DATABASE = "from_database"
    """Its file did not, but its committed content could still be read in the damaged database, and
    has the hash that it should have; opening the store writes the file."""
    LEFT_OUT = "left_out"
    """There is a file that cannot be taken; it stays as it is, for `rtstore plan`."""
    MISSING = "missing"
    """There is no file, and no content in the database."""


class RebuiltStore(Record):
    """One store."""

    schema_name: str
    relative_path: str
    outcome: StoreOutcome
    detail: str | None = None
    """Why its file was not taken, or what is odd about it."""


class RebuildReport(Record):
    """What one call of `rebuild_database` found and did."""

    directory: Path
    team_name: str
    problem: str
    """What was wrong with the database."""
    kept_aside: Path | None
    """The folder that the damaged database was moved to; None where there was none at all."""
    batch_id: str | None
    """The batch of reason `recovery` that stands for all stores; None when none could be taken."""
    high_watermark: int
    """It goes on from that of the damaged database, where that could be read."""
    active_identity: RunIdentity | None
    stores: tuple[RebuiltStore, ...]
    lost: tuple[str, ...]
    """What the new database does not have, a sentence each."""
    notes: tuple[str, ...] = ()
