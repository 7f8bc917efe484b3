"""A runtime directory beside a folder that is nobody's business, and calls that are watched."""

from __future__ import annotations

import faulthandler
import functools
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import Connection

from rtstore import RuntimeStore, RuntimeStoreError
from rtstore.errors import BatchUnfinishedError, DatabaseFailedError
from tests.support import CONTROL, Picture, digest, options_of, picture

LIMIT_S = 60.0
"""A call that takes longer hangs. Far above what any of them takes, for slow machines."""

TRIED: Counter[str] = Counter()
UNEXPECTED: list[str] = []


Steps = Mapping[str, Callable[[RuntimeStore], Any]]
"""Calls to make with a store, each with its name."""

Token = tuple[int, int, int, int]
"""What changes when somebody touches a file: inode, size, times."""


class Hang(BaseException):
    """A call did not come back in time."""


@contextmanager
def limit(seconds: float = LIMIT_S) -> Iterator[None]:
    """End the block with `Hang` after some seconds, whatever it waits for."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    # A call that hangs in C never comes to the handler: then the whole run ends, and says where.
    faulthandler.dump_traceback_later(2 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Scene:
    """A folder with a runtime directory in it, and beside it files that must not change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "secret.json").write_text('{"mine": true}\n')
        (self.outside / "folder").mkdir()
        (self.outside / "folder" / "deep.json").write_text("[]\n")
        self.directory = folder / "runtime"
        self.what = "nothing"
        self._beside = self._look_beside()
        self._quarantined: dict[str, tuple[Token, str]] = {}

    def _look_beside(self) -> Picture:
        found = picture(self.outside)
        # A hard link's count and the time of a folder that was only listed are not looked at.
        names = sorted(path.name for path in self.folder.iterdir() if path != self.directory)
        return {**found, "": (" ".join(names), 0, "")}

    def begin(self, kind: str, what: str) -> None:
        """Another input is about to be tried."""
        TRIED[kind] += 1
        self.what = f"{kind}: {what}"

    def call(
        self, name: str, function: Callable[[], Any], about: Sequence[object] = ()
    ) -> RuntimeStoreError | None:
        """Make a call; it must come back, with a result or with an error of ours that names one of
        the things it may be about."""
        TRIED["calls"] += 1
        try:
            with limit():
                function()
        except RuntimeStoreError as error:
            self._check_message(name, error, about)
            return error
        except (Exception, Hang) as error:
            self.unexpected(name, f"{type(error).__name__}: {error}")
        return None

    def _check_message(self, name: str, error: RuntimeStoreError, about: Sequence[object]) -> None:
        text = str(error)
        known = isinstance(error, BatchUnfinishedError | DatabaseFailedError)
        if len(text) < 20 or not (known or any(str(thing) in text for thing in about)):
            self.unexpected(name, f"a message that helps nobody: {error!r}")

    def unexpected(self, name: str, problem: str) -> None:
        """Note an outcome that must not be."""
        UNEXPECTED.append(f"{self.what}: {name}: {' '.join(problem.split())[:300]}")

    def session(self, steps: Steps, about: Sequence[object], **options: Any) -> bool:
        """Open the store and make some calls with it; return whether it could be opened."""
        opened: list[RuntimeStore] = []
        how = ", ".join(f"{key}={value}" for key, value in options.items())
        self.call(
            f"open({how})",
            lambda: opened.append(RuntimeStore.open(self.directory, **options_of(**options))),
            about,
        )
        for store in opened:
            for name, step in steps.items():
                self.call(name, functools.partial(step, store), about)
            self.call("close", store.close, about)
        return bool(opened)

    def forget(self) -> None:
        """What is outside was changed by the test itself."""
        self._beside = self._look_beside()

    def remove(self) -> None:
        """Remove the runtime directory, for the next input."""
        shutil.rmtree(self.directory)
        self._quarantined = {}

    def check(self) -> None:
        """Nothing outside has changed, and no quarantined file that was there has."""
        if self._look_beside() != self._beside:
            self.unexpected("outside", "a byte outside the runtime directory changed")
            self._beside = self._look_beside()
        found = self._look_at_quarantined()
        for name, (_, known) in self._quarantined.items():
            if name not in found or found[name][1] != known:
                self.unexpected("quarantine", f"it was changed or lost: {name}")
        self._quarantined = found

    def _look_at_quarantined(self) -> dict[str, tuple[Token, str]]:
        """Hashes of what is in quarantine; what was not touched since is not read again."""
        quarantine = self.directory / "quarantine"
        if quarantine.is_symlink() or not quarantine.is_dir():
            return {}
        found = {}
        for item in os.scandir(quarantine):
            if item.is_file(follow_symlinks=False):
                stat = item.stat(follow_symlinks=False)
                token = stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
                known = self._quarantined.get(item.name)
                if known is None or known[0] != token:
                    known = token, digest(Path(item.path).read_bytes())
                found[item.name] = known
        return found

    def is_kept(self, store: RuntimeStore, name: str, content: bytes) -> bool:
        """Whether bytes that were in a store's file are still to be had: in quarantine, or in the
        database, as what a batch wrote or as its beginning. (Zeros at the end are what a loss of
        power leaves of a file.)"""
        wanted, torn = digest(content), content.rstrip(b"\0")
        if any(wanted == known for _, known in self._quarantined.values()):
            return True
        whole = "SELECT 1 FROM batch_writes WHERE schema_name = ? AND content_hash = ?"
        beginning = (
            "SELECT 1 FROM store_contents WHERE schema_name = ?"
            " AND substr(CAST(content AS BLOB), 1, ?) = ?"
        )

        def find(connection: Connection) -> bool:
            rows = (
                connection.exec_driver_sql(whole, (name, wanted)),
                connection.exec_driver_sql(beginning, (name, len(torn), torn)),
            )
            return any(found.fetchone() is not None for found in rows)

        return store.database.read(find)

    def whole(self) -> Picture:
        """Everything in the runtime directory; only while no process has the database open."""
        return picture(self.directory)

    def files(self) -> Picture:
        """Everything in the runtime directory but the store's own files."""
        return picture(self.directory, without=CONTROL)
