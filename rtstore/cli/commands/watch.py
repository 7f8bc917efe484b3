"""`rtstore watch`: shows batches and readiness as they change, until it is interrupted.

Reads the directory repeatedly, each time as `rtstore status` does: it takes no lock that a writer
would wait for, and changes nothing. A directory that cannot be opened for a while (it is being
rebuilt, or upgraded) is an event too, and the watch goes on.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol

import typer

from rtstore.cli.advice import NextStep
from rtstore.cli.batches import LoggedLine, show_batches, state_cell
from rtstore.cli.exits import ExitCode, exit_code_of
from rtstore.cli.options import Directory, Wide
from rtstore.cli.output import (
    Cell,
    LivePage,
    Page,
    age_of,
    ago,
    console_for,
    count,
    page_for,
    print_json_line,
)
from rtstore.cli.readiness import readiness_cell, show_next
from rtstore.cli.snapshot import Look, OpenBatch, Verdict, look_at, open_to_look
from rtstore.cli.views import stores_of_batches
from rtstore.cli.width import reader_width
from rtstore.errors import RuntimeStoreError
from rtstore.model.records import OPEN_STATES, Batch, ReadinessCheck, Record, RunIdentity
from rtstore.model.times import Timestamp, format_time, utc_now
from rtstore.store import RuntimeStore

_BATCHES_SHOWN = 12
_FIRST_LIMIT = 50


class Kind(StrEnum):
    """The kinds of events."""

    STATE = "state"
    BATCH = "batch"
    ERROR = "error"


class Event(Record):
    """Something that was not so the last time."""

    event: Kind
    at: Timestamp
    """Of a batch, when it was committed, or else begun; otherwise when it was seen."""


class StateEvent(Event):
    """The readiness: the first event, and whenever it is another."""

    directory: str
    team_name: str
    verdict: Verdict
    readiness: ReadinessCheck
    high_watermark: int
    active_identity: RunIdentity | None
    open_batches: tuple[OpenBatch, ...]
    next: tuple[NextStep, ...]


class BatchEvent(Event):
    """A batch that is new, or has come to its end."""

    batch: Batch
    stores: tuple[str, ...]


class Problem(Record):
    """Why a directory could not be looked at, in the shape of every error."""

    type: str
    message: str
    exit_code: int


class ErrorEvent(Event):
    """The directory cannot be looked at; the next state says that it can again."""

    error: Problem


def run(
    directory: Directory,
    *,
    interval_s: Annotated[
        float,
        typer.Option(
            "--interval", metavar="SECONDS", min=0.05, max=86_400, help="How often to look."
        ),
    ] = 1.0,
    for_s: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=0, help="End after this time."),
    ] = None,
    changes: Annotated[
        int | None,
        typer.Option("-n", "--number", metavar="N", min=0, help="End after so many changes."),
    ] = None,
    wide: Wide = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document a line, for programs.")
    ] = False,
) -> ExitCode:
    """Show batches and readiness as they change, until Ctrl-C. Changes nothing, and no writer waits
    for it.

    Ended by Ctrl-C the exit code is 130; ended by --for or --number, that of "status" at the end.

    \b
    JSON, a document a line, each with event and at (of a batch, when it was committed, or else
    begun; otherwise when it was seen):
      event "state" (the first line, and when the readiness changes): directory, teamName,
        verdict, readiness, highWatermark, activeIdentity, openBatches[], next[] (as in "status")
      event "batch" (one that is new, or has ended): batch (as in "log"), stores[]
      event "error" (it cannot be looked at meanwhile): error {type, message, exitCode}
    """
    with open_to_look(directory):
        pass  # what cannot be watched at all is an error like any other
    watcher = _Watcher(directory)
    view = _view(as_json=as_json, wide=wide)
    deadline = None if for_s is None else time.monotonic() + for_s
    left = None if changes is None else changes + 1  # the first event is how it is, no change
    try:
        while True:
            for event in watcher.look():
                if left != 0:
                    view.tell(event)
                    left = None if left is None else left - 1
            view.refresh(watcher.seen)
            pause = interval_s if deadline is None else min(interval_s, deadline - time.monotonic())
            if left == 0 or pause <= 0:
                return watcher.exit_code
            time.sleep(pause)
    finally:
        view.close()


class _Watcher:
    """What was seen so far, and what is new."""

    def __init__(self, directory: Path) -> None:
        self.seen: Look | None = None
        """The last look that could be had."""
        self.exit_code = ExitCode.READY
        self._directory = directory
        self._last_number: int | None = None
        self._open: dict[int, Batch] = {}
        self._shown: tuple[object, ...] | None = None

    def look(self) -> Iterator[Event]:
        """Yield what is new since the last time: batches in their order, then the readiness."""
        try:
            with open_to_look(self._directory) as store:
                look = look_at(store)
                batches = self._new_batches(store)
                stores = stores_of_batches(store, len(batches) + 100) if batches else {}
        except (RuntimeStoreError, OSError) as error:
            yield from self._failed(error)
            return
        self.seen = look
        self.exit_code = ExitCode.READY if look.check.ok else ExitCode.NOT_READY
        state = _state_of(look)
        if self._shown is None:
            yield state
        for batch in batches:
            yield BatchEvent(
                event=Kind.BATCH,
                at=batch.completed_at or batch.started_at,
                batch=batch,
                stores=stores.get(batch.batch_id, ()),
            )
        shown = (look.verdict, look.check)
        if self._shown is not None and self._shown != shown:
            yield state
        self._shown = shown

    def _failed(self, error: RuntimeStoreError | OSError) -> Iterator[Event]:
        self.exit_code = exit_code_of(error)
        shown = (type(error), str(error))
        if self._shown != shown:
            self._shown = shown
            problem = Problem(
                type=type(error).__name__, message=str(error), exit_code=self.exit_code
            )
            yield ErrorEvent(event=Kind.ERROR, at=utc_now(), error=problem)

    def _new_batches(self, store: RuntimeStore) -> list[Batch]:
        """Return the batches above the last number seen, and those seen open that have ended."""
        newest = _newest(store, self._last_number)
        last = newest[-1].batch_number if newest else 0
        if self._last_number is None or last < self._last_number:
            new = []  # the first look; or another database, made by a rebuild
        else:
            first = self._last_number
            new = [batch for batch in newest if batch.batch_number > first]
        ended = []
        for number, before in list(self._open.items()):
            batch = store.batch(before.batch_id)
            if batch is None or batch.state is not before.state:
                del self._open[number]
                ended += [batch] if batch is not None else []
        candidates = newest if self._last_number is None else new
        self._open |= {
            batch.batch_number: batch for batch in candidates if batch.state in OPEN_STATES
        }
        self._last_number = last
        return [*ended, *new]


def _newest(store: RuntimeStore, seen: int | None) -> list[Batch]:
    """Return the newest batches, oldest first, back to the one that was seen last."""
    limit = _FIRST_LIMIT
    while True:
        found = store.batches(limit=limit)
        reaches_back = seen is None or not found or found[0].batch_number <= seen
        if reaches_back or len(found) < limit:
            return found
        limit *= 4


def _state_of(look: Look) -> StateEvent:
    return StateEvent(
        event=Kind.STATE,
        at=look.now,
        directory=str(look.directory),
        team_name=look.team_name,
        verdict=look.verdict,
        readiness=look.check,
        high_watermark=look.manifest.high_watermark,
        active_identity=look.manifest.active_identity,
        open_batches=look.open_batches,
        next=look.next,
    )


class _View(Protocol):
    def tell(self, event: Event) -> None: ...

    def refresh(self, look: Look | None) -> None: ...

    def close(self) -> None: ...


def _view(*, as_json: bool, wide: bool) -> _View:
    if as_json:
        return _JsonLines()
    console = console_for(sys.stdout)
    return _Lines(wide=wide) if console is None else _Screen(wide=wide)


class _JsonLines:
    """One object a line."""

    def tell(self, event: Event) -> None:
        print_json_line(event)

    def refresh(self, look: Look | None) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    """One line for each event."""

    def __init__(self, *, wide: bool) -> None:
        self._page = page_for(wide=wide)

    def tell(self, event: Event) -> None:
        self._page.line(f"{format_time(event.at)}  ", *_words(event))
        if isinstance(event, StateEvent):
            for step in event.next:
                what = Cell(step.command, "command") if step.command else step.why
                self._page.line(what, indent=26)
        sys.stdout.flush()

    def refresh(self, look: Look | None) -> None:
        pass

    def close(self) -> None:
        pass


class _Screen:
    """A page that is drawn anew: how it is, and the newest batches."""

    def __init__(self, *, wide: bool) -> None:
        from rich.live import Live

        console = console_for(sys.stdout)
        assert console is not None  # noqa: S101 - it is made for a terminal only
        self._console = console
        self._wide = wide
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()
        self._batches: deque[LoggedLine] = deque(maxlen=_BATCHES_SHOWN)
        self._error: Problem | None = None

    def tell(self, event: Event) -> None:
        if isinstance(event, BatchEvent):
            self._keep(event)
        self._error = event.error if isinstance(event, ErrorEvent) else None

    def _keep(self, event: BatchEvent) -> None:
        number = event.batch.batch_number
        for line in list(self._batches):
            if line.batch.batch_number == number:
                self._batches.remove(line)
        line = LoggedLine(
            batch=event.batch,
            stores=event.stores,
            age_seconds=age_of(event.batch.started_at, utc_now()),
        )
        self._batches.appendleft(line)

    def refresh(self, look: Look | None) -> None:
        page = LivePage(self._console, None if self._wide else reader_width(sys.stdout))
        if look is not None:
            _show(page, look, utc_now())
        if self._error is not None:
            page.title("It cannot be looked at now")
            page.line(Cell(self._error.message, "bad"), indent=2)
        page.gap()
        if self._batches:
            show_batches(page, tuple(self._batches), utc_now())
        else:
            page.line(Cell("no batch since this watch began", "dim"))
        self._live.update(page.whole(), refresh=True)

    def close(self) -> None:
        self._live.stop()


def _show(page: Page, look: Look, now: datetime) -> None:
    identity = look.manifest.active_identity
    page.facts(
        [
            ("Runtime directory", str(look.directory)),
            ("Team", look.team_name),
            ("Readiness", readiness_cell(look)),
            ("High watermark", f"{count(look.manifest.high_watermark, 'batch')} committed"),
            ("Active run", identity.run_id if identity else "none yet"),
            ("Seen", f"{format_time(look.now)} ({ago(look.now, now)}); Ctrl-C ends"),
        ]
    )
    for text in look.check.diagnostics:
        page.line(text, indent=2)
    show_next(page, look.next)


def _words(event: Event) -> list[str | Cell]:
    if isinstance(event, BatchEvent):
        batch = event.batch
        error = f": {batch.last_error}" if batch.last_error else ""
        at = "" if batch.high_watermark is None else f"{batch.high_watermark} "
        return [
            f"batch {at}",
            state_cell(batch),
            f" ({batch.reason}, run {batch.run_id}): {', '.join(event.stores) or '-'}{error}; ",
            batch.batch_id,
        ]
    if isinstance(event, ErrorEvent):
        return [Cell("cannot be looked at", "bad"), f": {event.error.message}"]
    assert isinstance(event, StateEvent)  # noqa: S101 - there is no other kind
    why = "".join(f"; {text}" for text in event.readiness.diagnostics)
    tone = {Verdict.READY: "good", Verdict.DEGRADED: "warn", Verdict.BLOCKED: "bad"}
    return [
        Cell(event.verdict, tone[event.verdict]),
        f" ({event.readiness.reason}), {count(event.high_watermark, 'batch')} committed{why}",
    ]
