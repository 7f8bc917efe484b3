"""Has a control been caught? Carried out in a process of its own, for it breaks the package."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.crash.children import Child, Say
from tests.crash.controls import CONTROLS
from tests.crash.ledger import Found
from tests.crash.workers import Share, Tally


@dataclass(frozen=True)
class Verdict:
    """What came of a control."""

    name: str
    caught_by: str | None
    tally: Tally = field(default_factory=Tally)

    def __str__(self) -> str:
        return f"{self.name}: {self.caught_by or f'NOT CAUGHT in {self.tally}'}"


LIMIT_S = 600


def try_control(name: str, full: bool) -> Verdict:
    """Break the package as the control says, and go through its enumerations until it is caught."""

    def work(say: Say) -> None:
        say(Found(_try_here(name, full=full)))

    ended = Child(work, limit_s=LIMIT_S).wait()
    for note in ended.notes:
        if isinstance(note, Found) and isinstance(note.value, Verdict):
            return note.value
    raise AssertionError(str(ended))


def _try_here(name: str, *, full: bool) -> Verdict:
    control, tally = CONTROLS[name], Tally()
    control.break_it()
    share = Share(full=full, stop_at_first=True, calls=() if full else control.calls)
    for job, scenario in control.tries:
        tally.add(job(scenario, share))
        if tally.failures:
            return Verdict(name, tally.failures[0], tally)
    return Verdict(name, None, tally)
