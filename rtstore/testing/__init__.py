"""For the tests of a runtime: crash its batches at every point, and check how it starts again.

    with crash_at("after-rename-1"):
        checkpoint(directory)          # the runtime writes, and dies
    start(directory)                   # the test checks this start

`crash_at` simulates the crash in this process; `kill_at` kills a real process. `crash_points`
returns all points of a batch, for parametrised tests. `Seams` gives a store other times, ids and
files: `RuntimeStore.open(..., seams=Seams(clock=StepClock()))`. The fixtures are in
`rtstore.testing.plugin`; nothing else in this package needs pytest.
"""

from rtstore.files.seams import Seams
from rtstore.testing.crashes import Crash, PointNotReachedError, SimulatedCrash, crash_at
from rtstore.testing.kills import Kill, kill_at
from rtstore.testing.points import POINTS, CrashPoint, crash_points
from rtstore.testing.sources import Ids, StepClock

__all__ = [
    "POINTS",
    "Crash",
    "CrashPoint",
    "Ids",
    "Kill",
    "PointNotReachedError",
    "Seams",
    "SimulatedCrash",
    "StepClock",
    "crash_at",
    "crash_points",
    "kill_at",
]
