"""Says in words how a run stands: its state, how it ended, whether its process lives, and which
stores are another run's."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from rtstore.cli.output import Cell, ago
from rtstore.control.run_processes import is_stopped
from rtstore.model.records import StaleStore
from rtstore.model.runs import RunRecord, RunState

_PARTS = {
    "run_id": "run",
    "capability_snapshot_id": "capability snapshot",
    "behavior_fingerprint": "behavior fingerprint",
}


def state_cell(run: RunRecord) -> Cell:
    """Return the state of a run in its colour."""
    return Cell(run.state, "good" if run.state is RunState.ACTIVE else "")


def life_cell(run: RunRecord, *, alive: bool | None) -> Cell:
    """Return whether the process of a run lives, in one word. A process that outlives its run is
    bad, and so is a run that outlives its process, or whose process is stopped by a signal."""
    if alive is None:
        return Cell("not known", "dim")
    if alive and is_halted(run):
        return Cell("stopped", "warn")
    return Cell("alive" if alive else "gone", "warn" if alive is run.is_over else "good")


def process_of(run: RunRecord) -> str | None:
    """Return the process of a run, with its host if that is another one; None when it was not
    recorded."""
    if run.process is None:
        return None
    elsewhere = run.process.host != socket.gethostname()
    return f"process {run.process.pid}" + (f" on {run.process.host}" if elsewhere else "")


def end_of(run: RunRecord) -> str:
    """Return how a run ended and why, or what superseded it; `-` when it did not."""
    if run.state is RunState.SUPERSEDED:
        return f"by {run.superseded_by}"
    if run.ending is None:
        return "-"
    return f"{run.ending}: {run.why}" if run.why else run.ending


def in_a_line(run: RunRecord, now: datetime, *, alive: bool | None) -> Cell:
    """Return everything that counts at a start, in one line."""
    state = run.state.value
    if run.is_over:
        since = "" if run.ended_at is None else f" {ago(run.ended_at, now)}"
        state = f"{state}{since} ({end_of(run)})"
    process = process_of(run)
    life = "whether its process lives is not known"
    if alive is not None and process is not None:
        life = f"its {process} is {_life(run, alive=alive)}"
    elif process is not None:
        life = f"whether its {process} lives is not known"
    text = f"{run.run_id}, {state}" + (f"; {life}" if not run.is_over or alive else "")
    return Cell(text, life_cell(run, alive=alive).tone if alive is not None else "")


def _life(run: RunRecord, *, alive: bool) -> str:
    """Return what is true of the process of a run, for somebody who wants to start another one."""
    if not alive:
        return "gone"
    state = "stopped by a signal, and not dead" if is_halted(run) else "alive"
    return state if run.is_over else f"{state}: no other run begins meanwhile"


def is_halted(run: RunRecord) -> bool:
    """Return whether the process of a run is stopped by a signal. Ask it of one that is alive."""
    return run.process is not None and is_stopped(run.process)


class Difference(NamedTuple):
    """A part of the identity in which stores are not what is expected."""

    part: str
    found: str
    """Such as `run run-1`."""
    expected: str
    names: list[str]


def differences(stores: Iterable[StaleStore]) -> list[Difference]:
    """Return each difference with the stores that have it: of which run they are, and which is
    expected."""
    found: dict[tuple[str, str | None, str | None], Difference] = {}
    for store in stores:
        words = _PARTS[store.part]
        difference = Difference(
            store.part,
            f"{words} {store.found or 'none'}",
            f"{words} {store.expected or 'none'}",
            [],
        )
        key = (store.part, store.found, store.expected)
        found.setdefault(key, difference).names.append(store.schema_name)
    return list(found.values())
