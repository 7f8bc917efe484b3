"""For the tests of a runtime: crash its batches at every point, and see how it starts again.

    with crash_at("after-rename-1"):
        checkpoint(directory)          # the runtime writes, and dies
    start(directory)                   # what it does next is what is tested

`crash_at` simulates the crash in this process, `kill_at` kills a real one. `crash_points` gives all
points of a batch, to parametrise over. The fixtures are in `rtstore.testing.plugin`; nothing else
here needs pytest.
"""

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
    "SimulatedCrash",
    "StepClock",
    "crash_at",
    "crash_points",
    "kill_at",
]
