"""Odd things in the place of files and folders: directories, pipes, devices, links."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.hostile.odd import ODD
from tests.hostile.scene import Scene
from tests.hostile.sessions import ABOUT, LOOK, NOTES_FILE, RECOVER, WRITE
from tests.hostile.template import DATABASE, template
from tests.support import TEAM, breadth

PLACES = {
    "a store's file": "opencode-host-leases.json",
    "the file of a store that was never written": "opencode-prompt-delivery-ledger.json",
    "a file in a folder": NOTES_FILE,
    "the folder of a file": "members/alice",
    "the folder of a folder": "members",
    "the quarantine": "quarantine",
    "the writer lock": "runtime-store.lock",
    "the database": DATABASE,
    "the database's WAL": f"{DATABASE}-wal",
    "the database's shared memory": f"{DATABASE}-shm",
    "the database's rollback journal": f"{DATABASE}-journal",
    "a temporary file": ".opencode-host-leases.json.rtstore-tmp",
    "a temporary file in a folder": "members/alice/.notes.json.rtstore-tmp",
    "an unfinished database": f".{DATABASE}.new",
}


KEPT = list(PLACES)[:6]
"""What is here may be somebody's; the other places are the store's own. Those are written in place,
so a hard link there is a file of two directories, and not tried."""


QUICK = ("a store's file",)
"""A place that is tried with every change."""


@pytest.mark.parametrize("place", breadth.params(PLACES, normal=QUICK))
def test_odd_things(scene: Scene, place: str) -> None:
    """Whatever is in the place of a file or a folder, every call answers, nothing outside is
    touched, and what was there is still there, at its place or in quarantine."""
    about = [*ABOUT, scene.directory]
    for kind, make in ODD.items():
        if "hard link" in kind and place not in KEPT:
            continue
        shutil.copytree(template(crashed=not place.startswith("the database")), scene.directory)
        target = scene.directory / PLACES[place]
        _clear(target)
        make(target, scene.outside)
        there = target.lstat()
        scene.begin("odd things", f"{kind} for {place}")
        scene.session(LOOK, about, read_only=True)
        scene.session(LOOK, about, recover=False)
        scene.check()
        scene.session(WRITE, about)
        scene.session(RECOVER, about)
        scene.check()
        if place in KEPT and not _is_there(scene, there):
            scene.unexpected("all calls", "what was there is gone")
        scene.remove()


def _clear(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def _is_there(scene: Scene, there: os.stat_result) -> bool:
    """Whether a thing is still somewhere in the runtime directory, or a copy of the file is."""
    for path in scene.directory.rglob("*"):
        if path.lstat().st_ino == there.st_ino:
            return True
        is_file = stat.S_ISREG(there.st_mode) and path.is_file() and not path.is_symlink()
        copies = (b"a file", (scene.outside / "secret.json").read_bytes())
        if is_file and path.read_bytes() in copies:
            return True
    return False


def test_runtime_directory(scene: Scene) -> None:
    """A runtime directory that is none is refused, whatever it is; one behind a link is used."""
    for kind, make in ODD.items():
        make(scene.directory, scene.folder if "folder outside" in kind else scene.outside)
        scene.begin("odd things", f"{kind} for the runtime directory")
        before = scene.directory.lstat()
        for options in ({"read_only": True}, {}, {"team_name": TEAM}):
            scene.session(LOOK, [*ABOUT, scene.directory], **options)
        assert scene.directory.lstat().st_ino == before.st_ino
        _clear_runtime(scene.directory)


def _clear_runtime(directory: Path) -> None:
    if directory.is_symlink() or not directory.is_dir():
        directory.unlink()
    else:
        shutil.rmtree(directory)
