"""How the package is built, in figures: its rooms and their imports, and what a call goes through.

    python -m tests.house.figures

Prints JSON, of the `rtstore` that is imported. A room is a module or a folder directly in it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import rtstore
from rtstore import RunIdentity, RuntimeStore
from tests.support.layers import Module, Package, circles, layer_of, upward_imports

PACKAGE = Path(rtstore.__file__).parent
STORE = "opencode.hostLeases"
REASON = "host_lease_update"
IDENTITY = RunIdentity(run_id="run-1", capability_snapshot_id="capabilities-1")


def room_of(name: str) -> str:
    """The room that a module is in."""
    return ".".join(name.split(".")[:2])


def of_imports(root: Path) -> dict[str, int]:
    """Count the rooms and modules of a package, the arrows between them, and the lines."""
    package = Package(root)
    arrows = {
        (module.name, name)
        for module in package.modules.values()
        for name, _ in package.needs(module)
        if name != module.name
    }
    between = {(room_of(one), room_of(other)) for one, other in arrows}
    between = {(one, other) for one, other in between if one != other}
    rooms = {room_of(name) for name in package.modules}
    has_layers = all(layer_of(name) is not None for name in package.modules)
    return {
        "rooms": len(rooms),
        "floors": _floors(rooms, between),
        "arrowsBetweenRooms": len(between),
        "modules": len(package.modules),
        "arrowsBetweenModules": len(arrows),
        "circles": len(list(circles(package))),
        **({"upwardImports": len(list(upward_imports(package)))} if has_layers else {}),
        "lines": sum(_lines(root, module) for module in package.modules.values()),
    }


def _lines(root: Path, module: Module) -> int:
    return len((root / module.path).read_text(encoding="utf-8").splitlines())


def _floors(rooms: set[str], arrows: set[tuple[str, str]]) -> int:
    """How many rooms are above one another, at most; those of a circle are on one floor."""
    reach = {room: {other for one, other in arrows if one == room} for room in rooms}
    for middle in rooms:
        for room in rooms:
            if middle in reach[room]:
                reach[room] |= reach[middle]

    @cache
    def height(room: str) -> int:
        return 1 + max(
            (height(other) for other in reach[room] if room not in reach[other]), default=0
        )

    return max(map(height, rooms))


class Crossings:
    """Counts the calls of functions of the package in this thread, and those that come from another
    module or from another room."""

    def __init__(self) -> None:
        self.calls = 0
        self.between_modules = 0
        self.between_rooms = 0
        self.modules: set[str] = set()

    def count(self, call: Callable[[], object]) -> dict[str, int]:
        """Count what a call goes through."""
        sys.setprofile(self._profile)
        try:
            call()
        finally:
            sys.setprofile(None)
        return {
            "calls": self.calls,
            "modules": len(self.modules),
            "rooms": len({room_of(name) for name in self.modules}),
            "betweenModules": self.between_modules,
            "betweenRooms": self.between_rooms,
        }

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        module = self._module(frame)
        if event != "call" or module is None or frame.f_code.co_name.startswith("<"):
            return
        self.calls += 1
        self.modules.add(module)
        caller = frame.f_back
        while caller is not None and self._module(caller) is None:
            caller = caller.f_back
        before = caller and self._module(caller)
        if before and before != module:
            self.between_modules += 1
            self.between_rooms += room_of(before) != room_of(module)

    def _module(self, frame: FrameType) -> str | None:
        name = str(frame.f_globals.get("__name__"))
        return name if name.split(".")[0] == "rtstore" else None


def of_calls(folder: Path) -> dict[str, dict[str, int]]:
    """Count what opening, writing, updating and recovering go through, each when it is warm."""
    directory, found = folder / "runtime", {}

    def measure(name: str, call: Callable[[], object]) -> None:
        found[name] = Crossings().count(call)

    opened: list[RuntimeStore] = []
    writes: dict[str, Any] = {STORE: {"leases": []}}

    def open_it() -> None:
        opened.append(RuntimeStore.open(directory, team_name="team-a"))

    for _ in range(2):
        measure("open", open_it)
        with closing(opened.pop()) as store:
            measure(
                "write_batch",
                lambda: store.write_batch(identity=IDENTITY, reason=REASON, writes=writes),
            )
            measure(
                "update",
                lambda: store.update(STORE, lambda old: old, identity=IDENTITY, reason=REASON),
            )
            (directory / store.descriptors.get(STORE).relative_path).unlink()
            measure("recover", lambda: store.recover(store.plan_recovery()))
    return found


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        imports, calls = of_imports(PACKAGE.parent), of_calls(Path(folder))
    print(json.dumps({"package": str(PACKAGE), "imports": imports, "calls": calls}, indent=2))


if __name__ == "__main__":
    main()
