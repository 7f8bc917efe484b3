"""Hostile control files of the legacy format."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore import DATABASE_NAME
from rtstore.legacy import import_directory
from tests.hostile import contents
from tests.hostile.odd import ODD
from tests.hostile.scene import Scene
from tests.hostile.sessions import LOOK, RECOVER
from tests.support import CHECKOUT, breadth, picture

HARBOUR = CHECKOUT / "tests" / "fixtures" / "legacy" / "harbour"
MANIFEST, RECEIPTS = "manifest.json", "opencode-runtime-receipts.json"

VALUES: list[Any] = [
    None, True, -1, 0, 10**30, 1.5, "", "x", "null", [], {}, [[]], {"a": []}, "\ud800", "a\0b",
    "../outside/secret.json", "/etc/rtstore-must-not-write-here", "quarantine/x", DATABASE_NAME,
    "2026-13-99T99:99:99.999Z", "sha256:", "opencode.launchState", "x" * 100_000, float("nan"),
]  # fmt: skip
"""What may stand at any place of a control file."""


def _try_import(scene: Scene, what: str) -> None:
    """Import the directory as it is: all of it, or an error of ours and nothing written."""
    scene.begin("legacy control files", what)
    about = [scene.directory, "batch_id_factory"]
    before = picture(scene.directory)
    error = scene.call("import", lambda: import_directory(scene.directory), about)
    after = picture(scene.directory, without=(".sqlite3", ".lock"))
    if {name: facts for name, facts in before.items() if name in after} != after:
        scene.unexpected("import", "a file of the legacy format was changed")
    database = scene.directory / DATABASE_NAME
    if error is not None and database.exists():
        scene.unexpected("import", "there is a database in spite of the error")
    if error is None and database.exists():
        scene.session(LOOK, [scene.directory, "opencode", "own.notes"])
        scene.session(RECOVER, [scene.directory, "opencode"])
    scene.check()
    scene.remove()


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, (*place, index))


def _put(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


@pytest.mark.parametrize("part", breadth.params(range(4), normal=range(1)))
@pytest.mark.parametrize("name", [MANIFEST, RECEIPTS])
def test_changed_places(scene: Scene, name: str, part: int) -> None:
    """Any value at any place is imported for what it is, or refused with the file and the place;
    nothing is written outside, whatever path it names."""
    document = json.loads((HARBOUR / name).read_bytes())
    places = list(_places(document))
    dice = random.Random(f"{name} {part}")
    for number in range(breadth.drawn(30)):
        place, value = dice.choice(places), dice.choice(VALUES)
        shutil.copytree(HARBOUR, scene.directory)
        changed = _put(document, place, value)
        (scene.directory / name).write_text(json.dumps(changed), encoding="utf-8")
        _try_import(scene, f"{number}: {name} with {ascii(value)[:40]} at {place}")


@pytest.mark.parametrize("name", breadth.params([MANIFEST, RECEIPTS], normal=[RECEIPTS]))
def test_spoiled_bytes(scene: Scene, name: str) -> None:
    """A control file that is cut short, spoiled or in another encoding is refused by name."""
    real = (HARBOUR / name).read_bytes()
    dice = random.Random(name)
    inputs = [(f"cut at {at}", real[:at]) for at in range(0, len(real), len(real) // 25)]
    inputs += list(contents.encodings()) + list(contents.deep())[:6]
    inputs += [
        (f"{encoding}", real.decode().encode(encoding)) for encoding in ("utf-16", "utf-8-sig")
    ]
    for number in range(breadth.drawn(20)):
        changed = bytearray(real)
        for _ in range(dice.choice([1, 1, 5])):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        inputs.append((f"changed bytes {number}", bytes(changed)))
    for what, content in inputs:
        shutil.copytree(HARBOUR, scene.directory)
        (scene.directory / name).write_bytes(content)
        _try_import(scene, f"{name}: {what}")


@pytest.mark.thorough
def test_odd_things(scene: Scene) -> None:
    """What is no file in the place of a control file or a store's file is told, never waited for or
    followed."""
    targets = [MANIFEST, RECEIPTS, "launch-state.json", "lanes", "quarantine", "runtime-store.lock"]
    for name in targets:
        for kind, make in ODD.items():
            shutil.copytree(HARBOUR, scene.directory)
            _clear(scene.directory / name)
            make(scene.directory / name, scene.outside)
            if "hard link" not in kind or not name.endswith(".lock"):
                _try_import(scene, f"{kind} for {name}")
            else:
                scene.remove()


def _clear(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
