"""`rtstore status FOLDER`: shows every runtime directory and lane below a folder, a line each.

Each is read on its own. One that cannot be opened has a line with the reason, and the others are
still shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from rtstore.cli.advice import NextStep
from rtstore.cli.discover import DEPTH_NEAR, LANE_INDEX, Place, Walk
from rtstore.cli.exits import ExitCode, exit_code_of
from rtstore.cli.output import Cell, Column, Page, age_of, ago, count, page_of, size
from rtstore.cli.progress import progress_bar
from rtstore.cli.snapshot import Look, Verdict, bytes_on_disk, look_at, open_to_look, shown
from rtstore.errors import (
    CorruptDatabaseError,
    DatabaseLockedError,
    DatabaseMissingError,
    ForeignDatabaseError,
    Hint,
    NewerDatabaseError,
    NotARuntimeDirectoryError,
    OlderDatabaseError,
    RuntimeStoreError,
    StorageError,
)
from rtstore.files.owners import closed_to_its_owner
from rtstore.files.system import FileSystem
from rtstore.model.records import Record
from rtstore.model.runs import RunState
from rtstore.model.times import Timestamp, utc_now
from rtstore.shell import is_utf8, rtstore_at, shell_word
from rtstore.store import RuntimeStore


class State(StrEnum):
    """What became of looking at a directory: its readiness, or why there is none."""

    READY = "ready"
    DEGRADED = "degraded"
    BLOCKED = "blocked"
    LOCKED = "locked"
    FORBIDDEN = "forbidden"
    OLDER = "older"
    NEWER = "newer"
    FOREIGN = "foreign"
    DAMAGED = "damaged"
    NO_DATABASE = "no_database"
    NOT_IMPORTED = "not_imported"
    """It is in the legacy format."""
    FAILED = "failed"


_TONES = {State.READY: "good", State.DEGRADED: "warn", State.NOT_IMPORTED: "warn"}
_STATES: tuple[tuple[type[Exception], State], ...] = (
    (OlderDatabaseError, State.OLDER),
    (NewerDatabaseError, State.NEWER),
    (ForeignDatabaseError, State.FOREIGN),
    (CorruptDatabaseError, State.DAMAGED),
    (DatabaseLockedError, State.LOCKED),
    (PermissionError, State.FORBIDDEN),
    (NotARuntimeDirectoryError, State.NO_DATABASE),
    (DatabaseMissingError, State.NO_DATABASE),
)


class Line(Record):
    """One directory. What could not be found out is None."""

    directory: str
    lane_id: str | None
    state: State
    why: str | None
    """The first diagnostic, or what is wrong with it; None when it is ready."""
    exit_code: ExitCode
    """That of `rtstore status` for this directory alone."""
    team_name: str | None = None
    high_watermark: int | None = None
    active_run_id: str | None = None
    run_id: str | None = None
    """The active run, or else the last one."""
    run_state: RunState | None = None
    last_batch_at: Timestamp | None = None
    age_seconds: float | None = None
    """Since the last batch was committed."""
    database_bytes: int | None = None
    """With the WAL."""
    lock_holder: str | None = None
    """Who holds the writer lock at this moment; None when it is free."""
    lock_process_id: int | None = None
    """The process that holds it, if the system shows one."""
    next: tuple[NextStep, ...] = ()


class IndexedLane(Record):
    """A line of a list of lanes."""

    lane_id: str
    state: str


class LaneIndexReport(Record):
    """What a list of lanes says, compared with the directories of lanes beside it."""

    path: str
    lanes: tuple[IndexedLane, ...]
    """Every lane of the list: `active`, `stopped`, `degraded`."""
    without_directory: tuple[str, ...]
    """The lanes of the list that have no directory."""
    not_listed: tuple[str, ...]
    """The lanes that have a directory, and no line in the list."""
    problem: str | None
    """Why the list, or a line of it, cannot be read."""


class FolderReport(Record):
    """What `rtstore status --json` prints of a folder that is no runtime directory itself."""

    folder: str
    exit_code: ExitCode
    """The highest of all lines."""
    directories: tuple[Line, ...]
    lane_indexes: tuple[LaneIndexReport, ...]
    """One for each list of lanes."""
    backups: tuple[str, ...]
    """Left out: each would open as a store."""
    was_cut_short: bool
    """There is more below than is walked."""


class Found(NamedTuple):
    """The lines of a folder, and the walk that found them."""

    lines: tuple[Line, ...]
    walk: Walk

    @property
    def lane_indexes(self) -> tuple[LaneIndexReport, ...]:
        """What the lists of lanes say. A file of that name without a lane is none of them."""
        found = map(_lane_index, self.walk.lane_indexes)
        return tuple(index for index in found if index.lanes or index.not_listed)


def look_below(folder: Path, *, quiet: bool) -> Found:
    """Read every runtime directory in and below a folder."""
    with progress_bar(quiet=quiet) as bar:
        walk = Walk(folder, tell=None if bar is None else lambda seen: bar("folders", seen, seen))
        lines = []
        for number, place in enumerate(walk.places, 1):
            lines.append(_line(place, walk))
            if bar is not None:
                bar("runtime directories", number, len(walk.places))
    return Found(tuple(lines), walk)


def look_near(directory: Path) -> Found:
    """Read the lanes of a runtime directory, and other runtime directories not far below it."""
    walk = Walk(directory, depth_max=DEPTH_NEAR)
    lines = (_line(place, walk) for place in walk.places if place.path != directory)
    return Found(tuple(lines), walk)


def worst(lines: Iterable[Line]) -> ExitCode:
    """Return the highest exit code of the lines."""
    return max((line.exit_code for line in lines), default=ExitCode.READY)


def report(folder: Path, found: Found, *, as_json: bool, wide: bool) -> ExitCode:
    """Print what was found below a folder; return the highest exit code."""
    whole = FolderReport(
        folder=str(folder),
        exit_code=worst(found.lines),
        directories=found.lines,
        lane_indexes=found.lane_indexes,
        backups=tuple(map(str, found.walk.backups)),
        was_cut_short=found.walk.was_cut_short,
    )
    _show(page_of(whole, as_json=as_json, wide=wide), whole)
    return whole.exit_code


# --- one directory --------------------------------------------------------------------------------


def _line(place: Place, walk: Walk) -> Line:
    lane_id, team = walk.lane_id(place), walk.team_of(place)
    try:
        if place.problem is not None:
            raise place.problem
        with open_to_look(place.path) as store:
            line = _looked_at(store, lane_id)
    except (RuntimeStoreError, OSError) as error:
        refused = _why_refused(place.path) if _is_to_import(error) else None
        line = Line(
            directory=str(shown(place.path)),
            lane_id=lane_id,
            state=_state_of(error),
            why=refused or _why(error),
            exit_code=exit_code_of(error),
            next=(_way_out(shown(place.path), error, team),),
        )
    there = shown(place.path)
    if is_utf8(there) or not any(step.command for step in line.next):
        return line
    why = "says what to run there: no command takes a path that is not UTF-8 text"
    step = NextStep(command=rtstore_at("status", there), why=why)
    return line.model_copy(update={"next": (step,)})


def _looked_at(store: RuntimeStore, lane_id: str | None) -> Line:
    look = look_at(store)
    last = look.last_batch
    last_at = None if last is None else last.completed_at or last.started_at
    run = look.run
    holder = store.lock.look()
    return Line(
        directory=str(look.directory),
        lane_id=lane_id,
        state=State(look.verdict),
        why=_why_not_ready(look),
        exit_code=ExitCode.READY if look.check.ok else ExitCode.NOT_READY,
        team_name=look.team_name,
        high_watermark=look.manifest.high_watermark,
        active_run_id=run.run_id if run and run.state is RunState.ACTIVE else None,
        run_id=run.run_id if run else None,
        run_state=run.state if run else None,
        last_batch_at=last_at,
        age_seconds=None if last_at is None else age_of(last_at, look.now),
        database_bytes=sum(bytes_on_disk(look.directory)),
        lock_holder=None if holder is None else holder.words,
        lock_process_id=holder.processes[0].pid if holder and holder.processes else None,
        next=look.next,
    )


def _why_not_ready(look: Look) -> str | None:
    if look.verdict is Verdict.READY:
        return None
    if look.manifest.high_watermark == 0:
        return "nothing is committed yet"
    more = len(look.check.diagnostics) - 1
    return f"{look.check.diagnostics[0]}{f' (and {more} more)' if more > 0 else ''}"


def _state_of(error: RuntimeStoreError | OSError) -> State:
    for kind, state in _STATES:
        if isinstance(error, kind):
            return State.NOT_IMPORTED if _is_to_import(error) else state
    return State.FAILED


def _is_to_import(error: RuntimeStoreError | OSError) -> bool:
    return isinstance(error, NotARuntimeDirectoryError) and error.hint is Hint.IMPORT


def _why_refused(directory: Path) -> str | None:
    """Return why a directory of the legacy format cannot be imported as it is, or None."""
    from rtstore import legacy  # few directories are in that format

    if not legacy.is_legacy_directory(directory):
        return None
    refused = legacy.why_refused(directory, FileSystem())
    return None if refused is None else f"{refused.path.name}: {refused.problem}"


def _why(error: RuntimeStoreError | OSError) -> str:
    if _is_to_import(error):
        return "it is in the legacy format"
    if isinstance(error, OlderDatabaseError | NewerDatabaseError):
        return f"revision {error.found_revision}, this rtstore has {error.supported_revision}"
    if isinstance(error, StorageError):
        return f"{error.problem} ({error.cause})"
    if isinstance(error, DatabaseLockedError):
        return error.cause
    if isinstance(error, DatabaseMissingError):
        return f"the store files are there, but {error.problem}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(getattr(error, "problem", error))


def _way_out(directory: Path, error: RuntimeStoreError | OSError, team: Path | None) -> NextStep:
    quoted = shell_word(directory)
    if isinstance(error, OlderDatabaseError):
        return NextStep(command=f"rtstore upgrade {quoted}", why="backs it up, and upgrades it")
    if isinstance(error, NewerDatabaseError):
        why = f"open {directory} with a newer rtstore, such as made it"
        return NextStep(command=None, why=why)
    if isinstance(error, DatabaseMissingError) and len(error.renamed) == 1:
        return NextStep(command=error.run, why="gives its database its name again")
    if _is_to_import(error):
        return _import(directory, directory if team is None else shown(team))
    if isinstance(error, PermissionError):
        closed = closed_to_its_owner(directory)
        return NextStep(command=None, why=closed or "look as the user that it belongs to")
    return NextStep(command=f"rtstore doctor {quoted}", why="says what is wrong, and the ways out")


def _import(directory: Path, team: Path) -> NextStep:
    """Return the import of a directory with its team, or what comes before it where that would be
    refused."""
    for place in (directory, team):
        if _why_refused(place) is not None:
            why = f"an import of {place} is refused as it is: this says the ways out"
            return NextStep(command=rtstore_at("doctor", place), why=why)
    why = "takes it over, with its lanes"
    return NextStep(command=rtstore_at("import", team), why=why)


# --- lists of lanes -------------------------------------------------------------------------------


def _lane_index(team: Path) -> LaneIndexReport:
    from rtstore import legacy  # few folders have lanes

    fs = FileSystem()
    index = legacy.read_lane_index(team, fs) or legacy.LaneIndex(states={})
    names = legacy.lane_names(team, fs)
    return LaneIndexReport(
        path=str(shown(team / LANE_INDEX)),
        lanes=tuple(IndexedLane(lane_id=key, state=state) for key, state in index.states.items()),
        without_directory=tuple(key for key in index.states if legacy.name_of(key) not in names),
        not_listed=tuple(unquote(name) for name in names if index.state_of(name) is None),
        problem=index.problem,
    )


def show_lane_indexes(page: Page, found: Sequence[LaneIndexReport]) -> None:
    """Print what the lists of lanes say, and what is missing in them or beside them."""
    for index in found:
        states: dict[str, list[str]] = {}
        for lane in index.lanes:
            states.setdefault(lane.state, []).append(lane.lane_id)
        page.gap()
        page.facts(
            [
                ("List of lanes", index.path),
                *((state.capitalize(), ", ".join(lanes)) for state, lanes in states.items()),
            ]
        )
        for lane_id in index.without_directory:
            page.line(Cell("no directory: ", "warn"), f"lane {lane_id}, which the list names")
        for lane_id in index.not_listed:
            page.line(Cell("not in the list: ", "warn"), f"lane {lane_id}, which has a directory")
        if index.problem is not None:
            page.line(Cell("note: ", "warn"), index.problem)


# --- for people ---------------------------------------------------------------------------------


def _show(page: Page, whole: FolderReport) -> None:
    states = Counter(line.state for line in whole.directories)
    counts = ", ".join(f"{states[state]} {_word(state)}" for state in State if states[state])
    found = Cell(counts, _tone(max(states, key=list(State).index)))
    number = count(len(whole.directories), "runtime directory")
    page.facts([("Folder", whole.folder), ("Found", number), ("Readiness", found)])
    page.gap()
    show_lines(page, whole.directories, utc_now())
    show_lane_indexes(page, whole.lane_indexes)
    if whole.backups:
        page.gap()
        page.line(Cell("left out: ", "dim"), f"{count(len(whole.backups), 'back-up')}")
    if whole.was_cut_short:
        page.gap()
        page.line(Cell("there is more below, too deep or too much to be walked", "warn"))
    show_next_of(page, whole.directories, "Next")


def show_lines(page: Page, lines: Sequence[Line], now: datetime) -> None:
    """Print the table of directories."""
    columns = [
        Column("directory"),
        Column("readiness"),
        Column("last batch", 2),
        Column("batches", 3),
        Column("run", 5),
        Column("team", 4),
        Column("size", 6),
        Column("writer lock", 7),
        Column("why", 1, room=20, below=True),
    ]
    page.table(columns, [_row(line, now) for line in lines])


def _row(line: Line, now: datetime) -> list[str | Cell]:
    return [
        line.directory,
        Cell(_word(line.state), _tone(line.state)),
        ago(line.last_batch_at, now) if line.last_batch_at else "-",
        "-" if line.high_watermark is None else str(line.high_watermark),
        _run(line),
        line.team_name or "-",
        "-" if line.database_bytes is None else size(line.database_bytes),
        _holder(line),
        line.why or "-",
    ]


def _run(line: Line) -> str:
    """Return the active run, or the last one with its state."""
    if line.run_id is None or line.run_state is RunState.ACTIVE:
        return line.run_id or "-"
    return f"{line.run_id} ({line.run_state})"


def _holder(line: Line) -> str:
    """Return the holder of the lock in short; the JSON has all of it."""
    if line.lock_holder is None:
        return "free" if line.team_name else "-"
    return f"process {line.lock_process_id}" if line.lock_process_id else "not known"


def show_next_of(page: Page, lines: Sequence[Line], title: str) -> None:
    """Print what to run next for each; nothing when all are ready."""
    steps = [(line, step) for line in lines for step in line.next]
    if not steps:
        return
    page.title(title)
    printed: set[str] = set()
    for line, step in steps:
        if step.command in printed:  # the lanes of a team are imported at once
            continue
        if step.command:
            printed.add(step.command)
            page.line(Cell(step.command, "command"), indent=2)
            page.line(step.why, indent=6)
        else:
            page.line(f"{line.directory}: {step.why}", indent=2)


def _word(state: State) -> str:
    return state.replace("_", " ")


def _tone(state: State) -> str:
    return _TONES.get(state, "bad")
