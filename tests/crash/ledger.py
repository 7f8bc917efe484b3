"""What a caller asked for and what it was told: the side of the store that must never be betrayed.

Every caller in the suite says these notes while it works. Added up they are the ledger that the
directory is held against afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rtstore import Batch, RunIdentity
from tests.crash.probe import Point

IDENTITY = RunIdentity(run_id="run-1", capability_snapshot_id="cap-1", behavior_fingerprint="b-1")
"""Of every batch that names no other."""


class Outcome(StrEnum):
    """What an error promised about a batch."""

    FAILED = "failed"
    """Recorded as failed: it never comes back."""
    DECIDED = "decided"
    """In the log: it will happen."""
    UNDECIDED = "undecided"
    """Whole, or not at all."""
    NOTHING = "nothing"
    """Nothing of it is committed."""


@dataclass(frozen=True)
class Intent:
    """A batch is about to be asked for."""

    batch_id: str
    writes: dict[str, Any]
    """By store; None for one that it deletes."""
    id_given: bool = False
    """The caller chose the id, and may repeat the call."""
    identity: RunIdentity = IDENTITY
    """The run that it is of, or that it begins."""
    may_leave_out: bool = False
    """Whether a store that cannot be looked at is left out, and its caller told so."""


@dataclass(frozen=True)
class Told:
    """A batch was acknowledged."""

    batch: Batch


@dataclass(frozen=True)
class Refused:
    """A batch ended in an error of the store's own."""

    batch_id: str
    outcome: Outcome
    error: str


@dataclass(frozen=True)
class Ending:
    """A run is about to be ended."""

    run_id: str


@dataclass(frozen=True)
class EndTold:
    """The end of a run was acknowledged."""

    run_id: str


@dataclass(frozen=True)
class Foreign:
    """Somebody else left these bytes in a store's file, or moved something else to its name."""

    relative_path: str
    content: bytes


@dataclass(frozen=True)
class Opened:
    """A store was opened, so there is one."""


@dataclass(frozen=True)
class Recovered:
    """A recovery came to its end."""

    impact: str


@dataclass(frozen=True)
class Broken:
    """The caller saw a promise broken with its own eyes."""

    problem: str


@dataclass(frozen=True)
class Escaped:
    """An error came out that is not the store's own."""

    error: str


@dataclass(frozen=True)
class Reached:
    """The handshake: the process stands before this point."""

    point: Point


@dataclass(frozen=True)
class Finished:
    """The process came to the end of its work."""


@dataclass(frozen=True)
class Found:
    """What a process was sent out to find."""

    value: object


Note = (
    Found
    | Intent
    | Told
    | Refused
    | Ending
    | EndTold
    | Foreign
    | Opened
    | Recovered
    | Broken
    | Escaped
    | Reached
    | Finished
)


@dataclass
class Ledger:
    """All notes added up."""

    intents: dict[str, Intent] = field(default_factory=dict)
    told: dict[str, Batch] = field(default_factory=dict)
    refused: dict[str, Refused] = field(default_factory=dict)
    ending: set[str] = field(default_factory=set)
    """The runs that somebody was about to end."""
    ended: set[str] = field(default_factory=set)
    """The runs whose end was acknowledged."""
    foreign: list[Foreign] = field(default_factory=list)
    opened: bool = False
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, *sources: Iterable[Note]) -> Ledger:
        """The ledger of some notes, oldest first."""
        ledger = cls()
        for notes in sources:
            for note in notes:
                ledger.add(note)
        return ledger

    def add(self, note: Note) -> None:
        """Take one more note into account."""
        match note:
            case Intent():
                self.intents[note.batch_id] = note
            case Told():
                self.told[note.batch.batch_id] = note.batch
            case Refused():
                self.refused[note.batch_id] = note
            case Ending():
                self.ending.add(note.run_id)
            case EndTold():
                self.ended.add(note.run_id)
            case Foreign():
                self.foreign.append(note)
            case Opened():
                self.opened = True
            case Broken():
                self.problems.append(note.problem)
            case Escaped():
                self.problems.append(f"an error that is not the store's own: {note.error}")
            case _:
                pass

    def sure(self) -> list[str]:
        """The batches that must have happened: acknowledged, or refused as decided."""
        decided = {
            refused.batch_id
            for refused in self.refused.values()
            if refused.outcome is Outcome.DECIDED
        }
        return [batch_id for batch_id in self.intents if batch_id in decided | self.told.keys()]

    def identity_of(self, batch_id: str | None) -> RunIdentity:
        """The run that a batch was asked for."""
        intent = self.intents.get(batch_id or "")
        return IDENTITY if intent is None else intent.identity

    def foreign_at(self, relative_path: str) -> set[bytes]:
        """What somebody else left in a store's file."""
        return {item.content for item in self.foreign if item.relative_path == relative_path}

    def data_of(self, store: str) -> list[Any]:
        """All data that any batch was to write into a store."""
        found = [intent.writes.get(store) for intent in self.intents.values()]
        return [data for data in found if data is not None]
