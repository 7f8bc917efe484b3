"""Runs: the lives of a runtime. One is active, or none; the others ended or were superseded."""

from __future__ import annotations

from enum import StrEnum

from rtstore.model.records import ReadinessCheck, Record, RecoveryPlan
from rtstore.model.times import Timestamp


class RunState(StrEnum):
    """The state of a run. `ended` and `superseded` are final."""

    BEGINNING = "beginning"
    """Its first batch is logged, and not completed yet."""
    ACTIVE = "active"
    ENDED = "ended"
    SUPERSEDED = "superseded"
    """Another run began while it was active."""


class RunEnding(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    """The runtime ended it."""
    FAILED = "failed"
    """The runtime ended it because of an error."""
    STOPPED = "stopped"
    """An operator ended it, or a batch of reason `stop_tombstone` did."""


class RunProcess(Record):
    """The process of a run: that began or resumed it, or wrote for it once that one was gone."""

    host: str
    pid: int
    start: str | None = None
    """On Linux, distinguishes the process from a later one with this pid, and its directory from a
    copy; elsewhere None."""


class RunRecord(Record):
    """One run, as the database knows it."""

    run_id: str
    state: RunState
    began_at: Timestamp
    begun_by_batch: str | None = None
    """The id of its first batch; None when it is not known."""
    process: RunProcess | None = None
    """The process that began or resumed it, or wrote for it once that was gone; None when it is not
    known, as in an older database."""
    ended_at: Timestamp | None = None
    ending: RunEnding | None = None
    """How it ended; None unless its state is `ended`."""
    why: str | None = None
    superseded_by: str | None = None
    """The id of the run that superseded it; None unless its state is `superseded`."""

    @property
    def is_over(self) -> bool:
        """Whether it ended or was superseded, so that its id is not used again."""
        return self.state in (RunState.ENDED, RunState.SUPERSEDED)


class StartKind(StrEnum):
    """What a runtime has to do at its start."""

    NEW = "new"
    """Nothing was ever committed: write the first contents."""
    RESUME = "resume"
    """The active run is this one: go on."""
    TAKE_OVER = "take_over"
    """The state is another run's: begin a run, and say what is kept."""
    REPAIR = "repair"
    """A file is damaged, missing or changed: recover first."""
    REFUSE = "refuse"
    """This program must not go on here; `why` says why."""


class StartState(Record):
    """Where a runtime stands at its start, in one answer."""

    kind: StartKind
    why: str
    """The answer in a sentence for a person."""
    run: RunRecord | None
    """The active run, or the last one; None before the first."""
    process_alive: bool | None
    """Whether the process of the active run is alive; None when that is not known, or no run is
    active: the process of a run that ended is in nobody's way."""
    unwritten: tuple[str, ...]
    """The stores for which nothing is committed, and which the run must write: never written, or
    deleted. A file that is there without a batch of it goes to quarantine then."""
    plan: RecoveryPlan
    readiness: ReadinessCheck
