"""What a worker does once, so that its children find everything loaded."""

from __future__ import annotations

from tests.crash.scenarios import SCENARIOS
from tests.crash.workers import workshop


def up() -> None:
    """Go through a scenario once; modules are loaded and caches filled."""
    with workshop() as workplace:
        scenario = SCENARIOS["write_mixed"]
        scenario.begin(workplace / "warm")
        scenario.carry_out(workplace / "warm", lambda _: None, None, "act").close()
