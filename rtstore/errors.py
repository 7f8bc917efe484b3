"""Every error that rtstore raises, sorted by what the caller can do about it.

* `CallError`: fix the call; nothing was written.
* `RetryableError`: the same call may succeed later; nothing is committed.
* `RecoveryNeededError`: look at the state on disk (`rtstore plan`) or recover first.
* `StopError`: this process cannot go on with this database; the message says what can.

Each message says what happened, to which object, and what to run; attributes hold the same facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from rtstore.shell import rtstore_at


class RuntimeStoreError(Exception):
    """Base class of every error that this library raises on purpose. Picklable."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    cls: type[RuntimeStoreError], args: tuple[Any, ...], fields: dict[str, Any]
) -> RuntimeStoreError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


def shown(value: object, length: int = 80) -> str:
    """Return a value in words for a message: not longer than that. Never raises."""
    try:
        text = repr(value[: length + 1] if isinstance(value, (str, bytes)) else value)
    except Exception:  # noqa: BLE001 - it is an argument, of any kind
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}..."


# --- fix the call -------------------------------------------------------------------------------


class CallError(RuntimeStoreError):
    """The call is wrong and cannot succeed as it is. Nothing was written."""


class InvalidRequestError(CallError):
    """An argument is wrong. `field` names it (`writes[0].data.members[2].name`)."""

    def __init__(self, field: str, problem: str, *, store: str | None = None) -> None:
        self.field = field
        self.problem = problem
        self.store = store
        where = field if store is None else f"{field} ({store})"
        super().__init__(f"{where}: {problem}")


class OtherContentsError(InvalidRequestError):
    """A batch of this id was written before, with other contents. Nothing was written now."""

    def __init__(
        self,
        batch_id: str,
        differing: Mapping[str, tuple[str, ...] | None],
        others: tuple[str, ...] = (),
        *,
        is_committed: bool = True,
    ) -> None:
        self.batch_id = batch_id
        self.differing = dict(differing)
        """By store whose data differs, the first places, as JSON Pointers (RFC 6901) into the data.
        None of them where only the form differs: the order of keys, or the schema version. None in
        their place where the content that the batch wrote has left the history."""
        self.others = others
        """The stores that only one of the two writes, or deletes."""
        self.is_committed = is_committed
        """Whether that batch is committed; otherwise it is in the log, and will be completed."""
        words = [f"{store} {_places(places)}" for store, places in self.differing.items()]
        words += [f"{store} (in only one of the two)" for store in others]
        more = f" and {len(words) - 5} more" if len(words) > 5 else ""
        way = "Take a new id"
        if not others:
            way = (
                f"If this is the same batch, it is {'committed' if is_committed else 'in the log'} "
                f"already: do not write it again; batch({batch_id!r}) returns it. (Contents differ "
                "so where a model generates or computes values anew: make its object once, and "
                "repeat the call with that, or ask batch first.) For another batch take a new id"
            )
        super().__init__(
            "batch_id",
            f"batch {batch_id} was written before with other contents: {', '.join(words[:5])}"
            f"{more}. {way}",
        )


def _places(places: tuple[str, ...] | None) -> str:
    if places is None:
        return "(where, the history does not say any more)"
    if not places:
        return "(in the order of keys, or in the schema version)"
    names = [shown(place, 60).strip("'") or "its whole data" for place in places]
    return f"at {', '.join(names)}"


class UnknownStoreError(CallError):
    """No descriptor of that name is registered."""

    def __init__(self, store: str, known: tuple[str, ...], *, has_history: bool = False) -> None:
        self.store = store
        self.known = known
        self.has_history = has_history
        """Whether it is known that a store of that name has a history here: the directory was
        opened without its descriptor since."""
        more = f" and {len(known) - 20} more" if len(known) > 20 else ""
        names = f"Known: {', '.join(known[:20])}{more}" if known else "None is registered at all"
        super().__init__(
            f"unknown store {shown(store)}: no descriptor of that name is registered. "
            f"{names}. Pass descriptors=[...] to RuntimeStore.open to add one"
            f"{', and to read the history that it has' if has_history else ''}."
        )


class UnsafePathError(CallError):
    """A store's path is not a plain file inside the runtime directory."""

    def __init__(self, path: str, problem: str, *, store: str | None = None) -> None:
        self.path = path
        self.problem = problem
        self.store = store
        of_store = f" of store {store}" if store else ""
        super().__init__(f"path {shown(path, 400)}{of_store} {problem}")


class MissedBatchesError(CallError):
    """Batches that were waited for are not on record: history was pruned beyond them, or an import
    did not know them. What they wrote last is committed all the same."""

    def __init__(self, after: int, first: int | None, high_watermark: int) -> None:
        self.after = after
        """The high watermark above which batches were wanted."""
        self.first = first
        """That of the first batch above it which is on record, or None."""
        self.high_watermark = high_watermark
        """That of the newest batch."""
        last = high_watermark if first is None else first - 1
        which = f"batch {last} is" if last == after + 1 else f"batches {after + 1} to {last} are"
        super().__init__(
            f"{which} not on record (by high watermark), so what came after {after} cannot be told "
            "batch by batch: history goes back as far as `retention` keeps it. Take a snapshot(), "
            "which has what is committed now, and go on after its high_watermark."
        )


class WrongTeamError(CallError):
    """The runtime directory belongs to another team."""

    def __init__(self, directory: Path, expected: str, found: str) -> None:
        self.directory = directory
        self.expected = expected
        self.found = found
        super().__init__(
            f"{directory} holds the runtime store of team {found!r}, not of {shown(expected)}. "
            f"Open it as that team, or give {shown(expected)} a directory of its own."
        )


class Hint(StrEnum):
    """What the command does that `NotARuntimeDirectoryError` names."""

    CREATE = "create"
    """It makes a new store."""
    IMPORT = "import"
    """It takes a directory of the legacy format over."""
    EXAMINE = "examine"
    """It finds out what is wrong with a store whose database is gone."""
    LOOK = "look"
    """It shows a store that is in another directory."""


class NotARuntimeDirectoryError(CallError):
    """The directory has no control database, or none yet."""

    def __init__(self, directory: Path, problem: str, run: str, hint: Hint) -> None:
        self.directory = directory
        self.problem = problem
        self.run = run
        self.hint = hint
        super().__init__(f"{directory}: {problem}. Run: {run}")


class ReadOnlyStoreError(CallError):
    """The store was opened with `read_only=True`: it can be read, and not written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__(
            f"the runtime store of {directory} was opened read-only. Nothing was written: "
            "open it without read_only=True."
        )


class UpgradeProblem(StrEnum):
    """Why store data was not upgraded."""

    NO_STEP = "no_step"
    """The descriptor has no function for a step."""
    STEP_FAILED = "step_failed"
    """A function raised, or gave nothing, or something that may not be written."""
    NOT_OPENED_FOR_IT = "not_opened_for_it"
    """Older data was not upgraded when the store was opened, or is there since."""
    NEWER = "newer"
    """The data is of a newer version: no function leads back."""
    UNREADABLE = "unreadable"
    """It is no envelope, so its version is unknown."""


class DataUpgradeError(CallError):
    """Store data has another schema version and cannot be upgraded. Nothing was changed."""

    def __init__(
        self,
        store: str,
        found: int,
        wanted: int,
        problem: str,
        *,
        kind: UpgradeProblem,
        step: int | None = None,
        is_history: bool = False,
    ) -> None:
        self.store = store
        self.found_version = found
        self.wanted_version = wanted
        self.problem = problem
        self.kind = kind
        self.step = step
        """The version from which the step leads that is missing or failed; None for no step."""
        self.is_history = is_history
        """Whether it is an earlier version of the store, and was to be written again."""
        super().__init__(
            f"the data of store {store} cannot be brought from schema version {found} to {wanted}: "
            f"{problem}. Nothing was changed{self._way()}."
        )

    def _way(self) -> str:
        opened = (
            "" if self.is_history else "; opened without descriptors, the store has it as it is"
        )
        match self.kind:
            case UpgradeProblem.NO_STEP:
                return f": it takes a descriptor with upgrades={{{self.step}: ...}}{opened}"
            case UpgradeProblem.STEP_FAILED:
                return f": mend the functions in upgrades of the descriptor{opened}"
            case UpgradeProblem.NOT_OPENED_FOR_IT:
                return ": open it again for writing, without upgrade=False or recover=False"
            case UpgradeProblem.NEWER:
                return ": the newer program can write it again"
            case UpgradeProblem.UNREADABLE:
                return ""


class LegacyImportError(CallError):
    """The directory of the legacy format cannot be imported as it is. Nothing was written."""

    def __init__(self, path: Path, problem: str, *, damaged: bool = False) -> None:
        self.path = path
        self.problem = problem
        self.damaged = damaged
        """`path` is a control file that is damaged: no other call helps."""
        way = (
            ". Nothing was touched. The ways out: the control file from a back-up, or what is "
            f"said by: {rtstore_at('doctor', path.parent)}"
        )
        super().__init__(f"cannot import {path}: {problem}{way if damaged else ''}")


# --- retry --------------------------------------------------------------------------------------


class RetryableError(RuntimeStoreError):
    """The same call may succeed later. Nothing that it asked for is committed."""


class LockTimeoutError(RetryableError):
    """Another writer held the writer lock for longer than the time-out."""

    def __init__(
        self,
        path: Path,
        timeout_s: float,
        holder: str | None,
        *,
        is_own_process: bool = False,
        stopped_process: int | None = None,
    ) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.holder = holder
        """Who holds it, in words, as far as the system says; None where nobody is seen to now."""
        self.is_own_process = is_own_process
        """Whether this process holds it, in another thread or through another object."""
        self.stopped_process = stopped_process
        """The process that holds it, where it is known to be stopped by a signal."""
        if stopped_process is not None:
            advice = (
                "That process is stopped by a signal, and waiting does not end that: it goes on "
                f"with kill -CONT {stopped_process}, or ends with kill -KILL {stopped_process}. "
                "What it had acknowledged stays."
            )
        elif is_own_process:
            advice = (
                "That is this very process: a write of it is under way, of another object or "
                "thread; or the program itself has a lock there, or was started with one, as "
                "flock(1) does it. Try again when that has ended; inside of it, waiting would "
                "never end."
            )
        elif holder is None:
            advice = "Try again: it was released just then, or this process was about to fork."
        else:
            advice = (
                "Try again, or wait longer (lock_timeout_s, or --lock-timeout of a command); the "
                "lock is freed when its holder releases it, or ends."
            )
        super().__init__(
            f"the writer lock {path} was not free within {timeout_s:g} s: "
            + ("nobody is seen to hold it now" if holder is None else f"held by {holder}")
            + f". {advice}"
        )


class BatchUnderWayError(RetryableError):
    """Whether a batch will be on record is not known yet: a call that may write it has not ended.
    That call goes on."""

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"it is not known yet whether batch {batch_id} is committed: a call of this store that "
            "may write it has not ended. Ask again later; inside of a write, only after that write."
        )


class LockLostError(RetryableError):
    """The lock file was removed or replaced while this process held the writer lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"the writer lock {path} was removed or replaced while it was held. Nothing was "
            "written: try again. Nobody needs to remove it: it is freed when its holder ends."
        )


class ConflictError(RetryableError):
    """A batch was committed in between: the high watermark, or the version of a store, is not the
    expected one."""

    def __init__(
        self,
        subject: str,
        expected: int | str | None,
        found: int | str | None,
        *,
        store: str | None = None,
        deleted_by: str | None = None,
    ) -> None:
        self.subject = subject
        self.store = store
        """The store whose version was compared. None: the high watermark was compared."""
        self.expected = expected
        self.found = found
        """With a store: its version, as the expected one was given (None: nothing is committed)."""
        self.deleted_by = deleted_by
        """The batch that deleted the store, where nothing is committed for it since."""
        known = f"as of batch {expected}" if expected else "with nothing committed"
        if store is None:
            what = f"high watermark {expected}, the store is at {found}"
        elif not found:
            gone = f"it was deleted by batch {deleted_by}" if deleted_by else "nothing is committed"
            what = f"{store} {known}, and {gone}"
        else:
            what = f"{store} {known}, and it is as of batch {found}"
        super().__init__(
            f"{subject} was made for {what}. "
            "Nothing was written: read again, decide again, then repeat the call."
        )

    @property
    def expected_high_watermark(self) -> int | None:
        """The expected high watermark; None where the version of a store was compared."""
        return self.expected if self.store is None and isinstance(self.expected, int) else None

    @property
    def high_watermark(self) -> int | None:
        """The high watermark that was found; None where the version of a store was compared."""
        return self.found if self.store is None and isinstance(self.found, int) else None


class RunAliveError(RetryableError):
    """The process of the active run is alive, so no other run may begin. Nothing was written."""

    def __init__(
        self, run_id: str, active_run_id: str, host: str, pid: int, directory: Path
    ) -> None:
        self.run_id = run_id
        self.active_run_id = active_run_id
        """The run that is active; its process is `pid` on `host`, this one."""
        self.host = host
        self.pid = pid
        self.directory = directory
        super().__init__(
            f"run {run_id} cannot begin: run {active_run_id} is active, and its process {pid} on "
            f"{host} is alive. Nothing was written: stop that process and try again. If it hangs, "
            f"end its run ({rtstore_at('end-run', directory)} --why TEXT), or begin with "
            "supersede=True: then every further write of it is refused."
        )


class BatchFailedError(RetryableError):
    """A batch could not be published: a file of it could not be written, or removed. It is recorded
    as failed, and the files are as before it.

    When `undone` is false, restoring the files failed too: `rtstore recover` completes that.
    """

    def __init__(
        self,
        batch_id: str,
        store: str,
        path: Path,
        cause: str,
        *,
        undone: bool,
        directory: Path,
        deletes: bool = False,
    ) -> None:
        self.batch_id = batch_id
        self.store = store
        self.path = path
        self.cause = cause
        self.undone = undone
        self.deletes = deletes
        """Whether the batch deletes the store: then the file was to be removed."""
        outcome = (
            "It is recorded as failed and every file is as it was before."
            if undone
            else "It is recorded as failed; putting the files back failed too. "
            f"Run: {rtstore_at('recover', directory)} (or open the store again)."
        )
        what = f"write store {store} to {path}"
        if deletes:
            what = f"delete store {store}, whose file is {path}"
        super().__init__(f"batch {batch_id} could not {what}: {cause}. {outcome}")


class StorageError(RetryableError):
    """The operating system refused: disk full, no permission, or an input/output error."""

    def __init__(self, path: Path, problem: str, cause: str) -> None:
        self.path = path
        self.problem = problem
        self.cause = cause
        super().__init__(f"{path}: {problem} ({cause}). Nothing was committed.")


class WalNotSavedError(StorageError):
    """Somebody removed the write-ahead log (WAL) of the open database, and what is in it cannot be
    moved into the database now: the disk is full, say. This process still has all of it.

    `lost` says what was removed, `cause` why it cannot be saved. When `is_half` is true, the move
    had begun: the file is whole again once it has ended.
    """

    def __init__(self, path: Path, lost: str, cause: str, *, is_half: bool) -> None:
        super().__init__(path, lost, cause)
        self.lost = lost
        self.is_half = is_half
        file = (
            "The database file holds a part of it, and is not whole before it holds all"
            if is_half
            else "The database file is as it was"
        )
        where = (
            "This process alone has it, and loses it when it ends"
            if f"{path.name}-wal " in lost
            else "It is in the WAL, which is in place"
        )
        message = (
            f"{path}: {lost} while it was open here, and what was committed since the last "
            f"checkpoint cannot be moved into the database now ({cause}). {file}. {where}. "
            "Nothing was written by this call. Remove the cause, such as a full disk, then write "
            "or close the store again: that saves it."
        )
        self.args = (message,)


class PruneStoppedError(StorageError):
    """The disk is full, so pruning stopped. The history dropped before that is gone."""

    def __init__(self, path: Path, cause: str, *, batches: int, contents: int, room: int) -> None:
        super().__init__(path, "the disk is full", cause)
        self.batches = batches
        """How many batches were dropped before."""
        self.contents = contents
        """How many contents were dropped before, including those of the batches."""
        self.room = room
        """About how many bytes must be free on the file system to go on."""
        message = (
            f"{path}: the disk is full ({cause}). Dropped so far: {batches} batches and {contents} "
            "contents; all else is as before. What is dropped must be written down before its "
            f"space is returned: free about {-(-room >> 20)} MiB on this file system, then prune "
            "again."
        )
        self.args = (message,)


def cause_of(error: Exception) -> str:
    """Return the cause of an error, for the message of another error that states the outcome."""
    if isinstance(error, StorageError):
        return f"{error.path}: {error.problem} ({error.cause})"
    if isinstance(error, StatementRefusedError):
        return error.refusal
    return str(error).rstrip(".")


class DatabaseLockedError(RetryableError):
    """Another program holds an SQL lock on the control database, or has the only WAL of it.

    `cause` says what it is, `way` what to do about it.
    """

    def __init__(self, path: Path, cause: str, way: str | None = None) -> None:
        self.path = path
        self.cause = cause
        self.way = way or (
            "Close the sqlite3 shell or tool that has an open transaction on it, and try again."
        )
        how = "is locked by another program" if way is None else "cannot be read now"
        super().__init__(f"{path} {how} ({cause}). {self.way}")


# --- run recovery -------------------------------------------------------------------------------


class RecoveryNeededError(RuntimeStoreError):
    """The files and the database need a recovery, or a decision, before this can go on."""


class BatchUnfinishedError(RecoveryNeededError):
    """The batch is logged but was not completed here; opening the store completes it.

    `decided` is true when the log is known to be durable: the batch will happen. It is false when
    the flush of the log, or a write to it, failed, or that of the record that the batch failed: it
    happens whole or not at all. Open the store again, then look the batch up by its id.
    """

    def __init__(self, batch_id: str, cause: str, *, decided: bool, directory: Path) -> None:
        self.batch_id = batch_id
        self.cause = cause
        self.decided = decided
        self.directory = directory
        outcome = (
            "Its outcome is decided: it is in the log, and recovery will complete it"
            if decided
            else "Its outcome is not known: it happens whole or not at all"
        )
        super().__init__(
            f"batch {batch_id} was not finished: {cause}. {outcome}. "
            f"Open the store again (RuntimeStore.open or {rtstore_at('recover', directory)})."
        )

    def about(self, batch_id: str) -> BatchUnfinishedError:
        """Return this error for another batch, which was logged together with this one."""
        if batch_id == self.batch_id:
            return self
        other = BatchUnfinishedError(
            batch_id, self.cause, decided=self.decided, directory=self.directory
        )
        other.__cause__ = self.__cause__
        return other


class OpenBatchError(RecoveryNeededError):
    """An earlier open batch must be completed first, and could not be. Nothing of this call was
    written."""

    def __init__(self, batch_id: str, cause: str, directory: Path) -> None:
        self.batch_id = batch_id
        """The batch that is open; this call did not write it."""
        self.cause = cause
        self.directory = directory
        super().__init__(
            f"nothing of this call was written: batch {batch_id}, which was left open, must be "
            f"finished first, and could not be: {cause}. That batch is in the log: its outcome is "
            "decided. Remove the cause, then try again; what is in the way: "
            f"{rtstore_at('status', directory)}"
        )


class StoreFileChangedError(RecoveryNeededError):
    """A store file is not what is committed: somebody else changed or removed it, it holds bytes of
    a batch that is not the current one (`of_batch`), or the store has another file by now
    (`moved_to`)."""

    def __init__(
        self,
        store: str,
        path: Path,
        expected: str | None,
        found: str | None,
        *,
        directory: Path,
        not_adopted: str | None = None,
        of_batch: bool = False,
        content_lost: bool = False,
        moved_to: str | None = None,
        registered: bool = True,
    ) -> None:
        self.store = store
        self.path = path
        self.expected_hash = expected
        """None when nothing is committed for the store."""
        self.found_hash = found
        self.directory = directory
        self.not_adopted = not_adopted
        """Why the file was not adopted, where foreign edits are; else None."""
        self.of_batch = of_batch
        """Whether the file holds only bytes that a batch wrote, and not what is committed: the
        store was written again or deleted since, the batch failed, the end is missing, or another
        store had the file. It is no edit."""
        self.content_lost = content_lost
        """Whether what is committed for the store is not in the database."""
        self.moved_to = moved_to
        """The file that the store has in the database, so that `path` is not its file; else
        None."""
        self.registered = registered
        """Whether the directory remembers a descriptor of the store, so that a plan has it."""
        if moved_to is not None:
            what = f"is not the file of store {store}: the database says {moved_to}"
        elif of_batch and expected is not None:
            what = (
                f"holds bytes that a batch wrote (an earlier one, one that failed, one of another "
                f"store that had the file, or a part of one): store {store} was committed as "
                f"{expected}, the file is {found}"
            )
        elif of_batch:
            what = f"is there, as a batch wrote it, and nothing is committed for store {store} now"
        elif expected is None:
            what = f"is there, and nothing is committed for store {store}: somebody else wrote it"
        elif found is None:
            what = f"is missing: store {store} was committed as {expected}"
        else:
            what = (
                f"was changed by somebody else: store {store} was committed as {expected}, "
                f"the file is {found}"
            )
        why = "" if not_adopted is None else f". It cannot be adopted: {not_adopted}"
        if content_lost:
            why += ". What was committed is not in the database either"
        hint = " (in Python, read with verify=False uses the committed content)"
        if content_lost or expected is None:
            hint = ""
        end = "" if moved_to is None else "."
        super().__init__(f"{path} {what}{why}. {self._way()}{hint}{end}")

    def _way(self) -> str:
        if self.moved_to is not None:
            return (
                "Open the directory again, with the descriptor for that file or without descriptors"
            )
        if not self.registered:
            return (
                "No plan looks after it, for the directory remembers no descriptor of it: open the "
                "directory with that, too (RuntimeStore.open with descriptors, and with "
                "foreign_edits to decide about the file)"
            )
        return f"Run: {rtstore_at('plan', self.directory)}"


class ContentMissingError(RecoveryNeededError):
    """A batch wrote a store, but its content or its entry is missing from the database."""

    def __init__(
        self, store: str, directory: Path, batch_number: int, *, entry_missing: bool = False
    ) -> None:
        self.store = store
        self.directory = directory
        self.batch_number = batch_number
        self.entry_missing = entry_missing
        """True when its entry is missing from the manifest; else its content is missing."""
        if entry_missing:
            what = (
                f"store {store} has no entry in the manifest of {directory}, though a batch on "
                f"record wrote it (batch number {batch_number}) and none on record deleted it: "
                "rows were deleted"
            )
            help_ = "makes the entry again; if a batch deleted the store, do not"
        else:
            what = (
                f"store {store} is committed (batch number {batch_number}), but its content is not "
                f"in the database of {directory}: rows were deleted, or it was imported without"
            )
            help_ = (
                "takes it from the file, where that is what was committed; else a back-up may have "
                "it, and the runtime may write it anew"
            )
        super().__init__(f"{what}. Run: {rtstore_at('recover', directory)} ({help_})")


class DataRefusedError(RecoveryNeededError):
    """Committed data does not pass the payload model of the descriptor that it was asked for with:
    it was written under another model, without one, or is of another schema version."""

    def __init__(
        self,
        store: str,
        model: str,
        problem: str,
        *,
        found_version: int,
        wanted_version: int,
        earlier_batch_id: str | None = None,
    ) -> None:
        self.store = store
        self.model = model
        self.problem = problem
        self.found_version = found_version
        """The schema version of the data."""
        self.wanted_version = wanted_version
        """That of the descriptor."""
        self.earlier_batch_id = earlier_batch_id
        """The batch that wrote the data, where it is not what is committed now; else None."""
        what = "the committed data"
        if earlier_batch_id is not None:
            what = f"what batch {earlier_batch_id} wrote"
        super().__init__(
            f"store {store}: {what} does not pass {model}: {problem}. Nothing was changed. "
            f"By its name, {store!r}, it can be read {self._way()}."
        )

    def _way(self) -> str:
        found, wanted, model = self.found_version, self.wanted_version, self.model
        functions = f"if the descriptor has the functions (upgrades={{{found}: ...}})"
        if self.earlier_batch_id is not None:
            if found >= wanted:
                return "as plain JSON"
            return f"as plain JSON; revert brings it to version {wanted}, {functions}"
        if found > wanted:
            return "as plain JSON; only a program that knows its version can change it"
        if found < wanted:
            return (
                f"as plain JSON. Opening the directory for writing, without upgrade=False and "
                f"recover=False, brings it to version {wanted}, {functions}"
            )
        return (
            f"and updated as plain JSON; what passes {model} can be written over it, unless a "
            "newer program wrote the file"
        )


class RecoveryFailedError(RecoveryNeededError):
    """A step of a recovery failed. The steps before it stay done; run the recovery again."""

    def __init__(self, step: str, path: Path, cause: str) -> None:
        self.step = step
        self.path = path
        self.cause = cause
        super().__init__(
            f"recovery stopped at {step} of {path}: {cause}. Nothing is lost: remove the cause "
            f"and open the store again (to look first: {rtstore_at('plan', path)})."
        )


# --- stop ---------------------------------------------------------------------------------------


class StopError(RuntimeStoreError):
    """This process cannot go on with this database."""


class StaleRunError(StopError):
    """The run ended, or another one superseded it: this process must not write any more. Nothing
    was written."""

    def __init__(
        self,
        run_id: str,
        state: str,
        since: datetime | None,
        by: str | None,
        active_run_id: str | None,
    ) -> None:
        self.run_id = run_id
        self.state = state
        """`ended` or `superseded`."""
        self.since = since
        self.by = by
        """The run that superseded it, or why it ended."""
        self.active_run_id = active_run_id
        """The run that is active now, or None."""
        when = "" if since is None else f" at {since:%Y-%m-%d %H:%M:%S} UTC"
        what = f"was superseded by run {by}{when}"
        if state == "ended":
            what = f"ended{when}" + (f" ({by})" if by else "")
        now = "no run is active" if active_run_id is None else f"run {active_run_id} is active"
        super().__init__(
            f"run {run_id} {what}; {now}. Nothing was written, and this process must not write "
            "any more. A new start begins a run with a new id: an id is never used again"
        )


class NewerStoreFileError(StopError):
    """A store file was written, or the store was committed, by a newer program. It is never
    overwritten."""

    def __init__(
        self, store: str, path: Path, found: int, supported: int, *, is_committed: bool = False
    ) -> None:
        self.store = store
        self.path = path
        self.found_version = found
        self.supported_version = supported
        self.is_committed = is_committed
        """Whether it is what is committed that is newer: whatever becomes of the file."""
        if is_committed:
            message = (
                f"what is committed of store {store} has schema version {found}, this program "
                f"knows {supported}. It is never replaced by an older version: use the newer "
                "program, or restore a back-up that was made before (rtstore guide backups)."
            )
        else:
            message = (
                f"{path} (store {store}) has schema version {found}, this program knows "
                f"{supported}. It is left as it is: use the newer program (with "
                "foreign_edits='adopt' of RuntimeStore.open it commits the file), or move the file "
                "away."
            )
        super().__init__(message)


class NewerDatabaseError(StopError):
    """The control database has a revision of a newer rtstore. Nothing was touched."""

    def __init__(self, path: Path, found: str, supported: str) -> None:
        self.path = path
        self.found_revision = found
        self.supported_revision = supported
        super().__init__(
            f"{path} is at revision {found}, this rtstore knows up to {supported}. "
            "Nothing was touched: open it with a newer rtstore"
        )


class OlderDatabaseError(StopError):
    """The control database has an older revision, and upgrading was not allowed. Nothing was
    touched."""

    def __init__(self, path: Path, found: str, supported: str) -> None:
        self.path = path
        self.found_revision = found
        self.supported_revision = supported
        super().__init__(
            f"{path} is at revision {found}, this rtstore needs {supported}. "
            f"Nothing was touched. Run: {rtstore_at('upgrade', path.parent)} "
            "(opening the store for writing does it too, unless with upgrade=False)"
        )


class UpgradeFailedError(StopError):
    """A revision could not be run. The database is as it was, unless `unsure` is true."""

    def __init__(
        self,
        path: Path,
        found: str,
        wanted: str,
        cause: str,
        *,
        unsure: bool = False,
        added: tuple[str, ...] = (),
        gone: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.found_revision = found
        self.wanted_revision = wanted
        self.cause = cause
        self.unsure = unsure
        """Whether the last flush failed. The database is then whole, at the old or new revision."""
        self.added = added
        """What somebody added to the database (`table notes`), some of which may be in the way."""
        self.gone = gone
        """What somebody dropped from it, which may be needed."""
        if unsure:
            outcome = (
                "Nobody knows which of the two it is at, whole; the back-up is next to it. "
                "Restart the process and open the store again."
            )
        else:
            outcome = f"It is at {found} as before"
            # Of one that lacks something nobody knows what an older rtstore does with it.
            older = "; an rtstore that knows no newer revision can open it"
            outcome += "." if gone else f"{older}."
        if gone:
            outcome += (
                f" Somebody dropped what is gone from it: {', '.join(gone)}. "
                f"The ways out: {rtstore_at('doctor', path.parent)}"
            )
        elif added:
            outcome += (
                f" In it, and not of rtstore: {', '.join(added)}. Whoever added what is in the way "
                "must remove or rename it, while no program uses the database. "
                f"Then run: {rtstore_at('upgrade', path.parent)}"
            )
        super().__init__(
            f"{path} could not be upgraded from {found} to {wanted}: {cause}. {outcome}"
        )


class ForeignDatabaseError(StopError):
    """The file under the control database's name is not a control database of rtstore; or the WAL
    beside it is of another database (`move`)."""

    def __init__(
        self, path: Path, problem: str, *, may_be_damage: bool = False, move: str | None = None
    ) -> None:
        self.path = path
        self.problem = problem
        self.may_be_damage = may_be_damage
        """It is no database at all: one of ours whose beginning was overwritten looks so."""
        self.move = move
        """Of a WAL that is not of the database beside it: the command that moves it aside."""
        doctor = rtstore_at("doctor", path.parent)
        advice = (
            "One of ours that was overwritten or emptied looks so, too; the ways out, a back-up or "
            f"a rebuild from the files: {doctor}"
            if may_be_damage
            else f"Move it away if it is not yours, or choose another directory (more: {doctor})."
        )
        if move is None:
            message = f"{path} is not a control database of rtstore: {problem}"
        else:
            message = f"{path} is not of the database beside it: {problem}"
            advice = (
                "SQLite would write it over the database. While no program uses the directory, "
                f"move it aside: {move} (more: {doctor})."
            )
        super().__init__(f"{message}. Nothing was touched. {advice}")


EMPTY = "the file is empty: it was truncated"


class CorruptDatabaseError(StopError):
    """The control database is damaged."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"{path} is damaged: {problem}. The JSON files are as they are. "
            "Keep the whole directory. The ways out, a back-up or a rebuild from the files: "
            f"{rtstore_at('doctor', path.parent)}"
        )


class DatabaseMissingError(StopError):
    """The control database is missing, but the directory is not new: it has store files, or other
    files of a control database. Nothing was created or changed."""

    def __init__(
        self,
        directory: Path,
        found: tuple[str, ...],
        problem: str,
        run: str,
        *,
        renamed: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.found = found
        """The names found there, relative to the directory."""
        self.renamed = renamed
        """The names of databases of rtstore there: one of them may be this one, renamed. `run`
        moves it back if there is only one."""
        self.problem = problem
        self.run = run
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        doctor = rtstore_at("doctor", directory)
        ways = "" if run == doctor else f" (all ways out: {doctor})"
        super().__init__(
            f"{directory}: {problem}, but this is not a new directory: there is "
            f"{', '.join(map(repr, found[:3]))}{more}. Nothing was made or changed. "
            f"Run: {run}{ways}"
        )


class BackupDamagedError(StopError):
    """A back-up was changed after it was made, was never finished, or is of a database that was
    damaged already. It was not touched."""

    def __init__(
        self, path: Path, problems: tuple[str, ...], way: str = "use another back-up"
    ) -> None:
        self.path = path
        self.problems = problems
        self.way = way
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        super().__init__(
            f"{path} is not a sound back-up: {'; '.join(problems[:3])}{more}. "
            f"Nothing was touched: {way}."
        )


class DatabaseFailedError(StopError):
    """A commit of the database failed earlier in this process, in a flush or in a write, so this
    process writes no more.

    After a failed flush the operating system may have dropped what was written, and its memory may
    hold what the medium does not. Only a new process can go on: it opens everything again, and
    moves all of the write-ahead log (WAL) into the database before it adds to it.
    """

    def __init__(self, path: Path, cause: str) -> None:
        self.path = path
        self.cause = cause
        super().__init__(
            f"{path}: an earlier commit failed: {cause}. So this process writes no more. "
            "Restart the process and open the store again."
        )


class DatabaseLostError(StopError):
    """The files of the open database were removed or replaced, and the content of its write-ahead
    log (WAL) could not be saved; or its directory was moved, removed or replaced while a batch was
    published. The store files hold what was published last.

    `lost` says what. When `committed` is false, this call wrote nothing. When it is true, something
    was committed into files that have lost their names: whether the batch, if it was one, is in the
    database under that name is not known. Where the directory was moved, it is in the log there.
    """

    def __init__(
        self, path: Path, lost: str, *, committed: bool = False, batch_id: str | None = None
    ) -> None:
        self.path = path
        self.lost = lost
        self.committed = committed
        self.batch_id = batch_id
        if not committed:
            outcome = "Nothing was written by this call, but the last batches before it may be gone"
        elif batch_id is None:
            outcome = "Whether the last change is in the database is not known"
        else:
            outcome = f"Whether batch {batch_id} is in the database is not known"
        super().__init__(
            f"{path}: {lost} while it was open here. {outcome}; the store files hold what was "
            f"published last. This store can only be closed. Run: "
            f"{rtstore_at('doctor', path.parent)}"
        )

    def about(self, batch_id: str) -> DatabaseLostError:
        """Return this error for a batch that was being logged or completed."""
        other = DatabaseLostError(self.path, self.lost, committed=self.committed, batch_id=batch_id)
        other.__cause__ = self.__cause__
        return other


class StatementRefusedError(StopError):
    """The control database refused a statement: a constraint does, or a trigger that somebody added
    to it. Nothing of the transaction was written."""

    def __init__(self, path: Path, cause: str, added: tuple[str, ...] = ()) -> None:
        self.path = path
        self.cause = cause
        self.added = added
        """What somebody added to the database that may have refused it (`trigger audit`)."""
        way = "What is in the way must be removed first" if added else "To look for the cause"
        super().__init__(
            f"{self.refusal}. So nothing of that transaction was written. {way}: "
            f"{rtstore_at('doctor', path.parent)}"
        )

    @property
    def refusal(self) -> str:
        """What was refused, by what, without the outcome."""
        added = f"; in it, and not of rtstore: {', '.join(self.added)}" if self.added else ""
        return f"{self.path}: the database refused a statement ({self.cause}){added}"


class StoreForkedError(StopError):
    """This process was forked in the middle of a transaction of its parent on the same database.

    SQLite in this process still has the parent's transaction in its memory. Using it would damage
    the parent's work.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__(
            f"the runtime store of {directory} cannot be opened in this process, which was forked "
            "in the middle of a transaction on it. Fork outside of reads and writes, or start a "
            'new process (multiprocessing.get_context("spawn")).'
        )


class UnusableEngineError(StopError):
    """SQLite or the file system lacks something that the guarantees of the store need."""

    def __init__(self, path: Path, problem: str, command: str | None = None) -> None:
        self.path = path
        self.problem = problem
        self.command = command
        """What a shell does about it; None where a person must find a way."""
        super().__init__(f"{path}: {problem}{'' if command is None else f' ({command})'}")


MOVED = "is not there any more: it was moved, renamed or removed while it was open"
ANOTHER = "has another database now: it was rebuilt, restored or replaced"
FORKED = "was opened before this process was forked from its parent"


class StoreClosedError(StopError):
    """The store was closed, or it was opened by another process, before a fork; or its database is
    gone (`is_gone`): its directory was moved or removed, or another database has its name."""

    def __init__(self, directory: Path, problem: str, *, is_gone: bool = False) -> None:
        self.directory = directory
        self.problem = problem
        self.is_gone = is_gone
        way = "Open it again"
        if problem.startswith(FORKED):
            way += "; to go on with the run of its parent, begin_run with its id"
        super().__init__(f"the runtime store of {directory} {problem}. {way}.")
