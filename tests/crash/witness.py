"""Sees that nothing changes between two points, from within the process that is then killed.

A kill before a call that only looks leaves what a kill before the next call leaves, if the
directory is the same at both points, byte by byte, and the caller was told nothing in between. Then
one kill is enough for both. The witness looks in the very run that is killed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rtstore import DATABASE_NAME
from tests.crash.probe import Point

SHM = f"{DATABASE_NAME}-shm"
"""Made anew by the first who opens the database when nobody else has it open."""
_PIECE = 1 << 20


class Moment(NamedTuple):
    """What there was before a point."""

    call: tuple[str, str, str]
    """The point's kind, call and subject."""
    digest: str
    """Of the directory."""
    said: int
    """How many notes the caller had made."""


class Witness:
    """Looks at a directory before each point since the last one that changed something."""

    def __init__(self, directory: Path, target: Point) -> None:
        self.moments: list[Moment] = []
        self.said = 0
        self._directory = directory
        self._target = target
        self._descriptors: dict[tuple[int, int], int] = {}

    def look(self, point: Point) -> None:
        """Look, where the point may be as good as the one at which the process is killed."""
        if point.changes_before == self._target.changes_before:
            digest = hashlib.sha256()
            if os.path.lexists(self._directory):
                self._take_in(self._directory, digest)
            self.moments.append(Moment(_call(point), digest.hexdigest(), self.said))

    def _take_in(self, path: Path, digest: hashlib._Hash) -> None:
        there = path.lstat()
        told = (str(path), there.st_mode, there.st_size, there.st_mtime_ns, there.st_ino)
        digest.update(repr(told).encode())
        if path.is_symlink():
            digest.update(os.readlink(path).encode())
        elif path.is_dir():
            for name in sorted(os.listdir(path)):
                if name != SHM:
                    self._take_in(path / name, digest)
        else:
            digest.update(self._read(path, (there.st_dev, there.st_ino), there.st_size))

    def _read(self, path: Path, identity: tuple[int, int], size: int) -> bytes:
        # Closing a descriptor of the database would drop the locks that this process has on it.
        descriptor = self._descriptors.get(identity)
        if descriptor is None:
            descriptor = self._descriptors[identity] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = bytearray()
        while piece := os.pread(descriptor, _PIECE, len(found)):
            found += piece
        return bytes(found)


def _call(point: Point) -> tuple[str, str, str]:
    return point.kind, point.call, point.subject


def as_good(points: Sequence[Point], target: Point, moments: Sequence[Moment]) -> list[Point]:
    """Of the points of another run, those right before the target at which a kill would have left
    the same. Both runs are gone through backwards, as long as they made the same calls."""
    found: list[Point] = []
    before = [point for point in points if point.number < target.number]
    for point, moment in zip(reversed(before), reversed(moments[:-1]), strict=False):
        same = moment == moments[-1]._replace(call=_call(point))
        if point.changes or not same:
            break
        found.append(point)
    return found
