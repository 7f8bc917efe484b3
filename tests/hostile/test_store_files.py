"""Hostile bytes in a store's file."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rtstore import RuntimeStore
from rtstore.errors import NewerStoreFileError
from tests.hostile import contents
from tests.hostile.contents import Input
from tests.hostile.scene import Scene
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LEDGER,
    SESSIONS,
    agree,
    breadth,
    file_of,
    new_directory,
)


class Files:
    """One hostile content after another in the files of two stores: one with a payload model, and
    one that accepts any JSON."""

    def __init__(
        self, scene: Scene, *, committed: bool, names: tuple[str, ...] = (SESSIONS, LEDGER)
    ) -> None:
        self.scene = scene
        self.names = names
        new_directory(scene.folder)
        self.committed = committed
        self.store = RuntimeStore.open(scene.directory)
        self.about: list[str | Path] = [*self.names, scene.directory]
        if committed:
            self.write()

    def put(self, content: bytes) -> None:
        """Write the hostile content to both files."""
        for name in self.names:
            file_of(self.store, name).write_bytes(content)

    def call(self, name: str, function: Callable[[], object]) -> Exception | None:
        """Make a call that is watched."""
        return self.scene.call(name, function, self.about)

    def check(self, call: str, content: bytes) -> None:
        """What was put there is there still, or it is kept."""
        self.scene.check()
        for name in self.names:
            path = file_of(self.store, name)
            there = path.is_file() and path.read_bytes() == content
            if not there and not self.scene.is_kept(self.store, name, content):
                self.scene.unexpected(call, f"the bytes of {name} are lost")

    def look(self, content: bytes) -> None:
        """Every call that only looks; none of them changes a file."""
        self.put(content)
        self.call("assess", self.store.assess)
        self.call("snapshot", self.store.snapshot)
        for name in self.names:
            self.call("read", functools.partial(self.store.read, name))
            self.call("update", functools.partial(self.update, name))
        self.call("read_only", functools.partial(look_only, self.scene.directory))
        if {file_of(self.store, name).read_bytes() for name in self.names} != {content}:
            self.scene.unexpected("look", "a file was changed")

    def update(self, name: str) -> None:
        """An update: refused, for the file is not what is committed."""
        self.store.update(name, lambda data: data, identity=IDENTITY, reason=CHECKPOINT)
        raise AssertionError("an edit by hand was overlooked")

    def repair(self, content: bytes) -> None:
        """Recovery puts back what is committed, whatever is there, and quarantines that."""
        self.call("recover", lambda: self.store.recover(self.store.plan_recovery()))
        self.check("recover", content)
        if self.committed and not agree(self.store):
            self.scene.unexpected("recover", "the committed content was not put back")

    def overwrite(self, content: bytes) -> None:
        """A batch goes over everything but a newer version, and quarantines that."""
        self.put(content)
        error = self.call("write_batch", self.write)
        self.check("write_batch", content)
        if error is None and not agree(self.store):
            self.scene.unexpected("write_batch", "the files are not what is committed")
        if not isinstance(error, NewerStoreFileError | None):
            self.scene.unexpected("write_batch", f"refused: {error!r}")

    def write(self) -> None:
        """A batch of both stores."""
        data = {"sessions": [{"memberName": "a"}]}
        self.store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes=dict.fromkeys(self.names, data)
        )

    def reopen(self, content: bytes) -> None:
        """Opening the store puts back what is damaged."""
        self.put(content)
        self.store.close()
        self.call("open", self._open)
        self.check("open", content)

    def _open(self) -> None:
        self.store = RuntimeStore.open(self.scene.directory)

    def adopt(self, content: bytes) -> None:
        """Adoption takes what is valid, and refuses the rest."""
        self.put(content)
        for name in self.names:
            self.call("adopt", functools.partial(self.store.adopt, name))
        self.check("adopt", content)

    def clear(self) -> None:
        """Make room for the next input."""
        for name in self.names:
            file_of(self.store, name).unlink(missing_ok=True)


def look_only(directory: Path) -> None:
    """Open read-only and look at everything."""
    with RuntimeStore.open(directory, read_only=True) as store:
        store.assess()
        store.snapshot()
        store.quarantined_files()


def run(scene: Scene, inputs: Iterator[Input], *, committed: bool) -> None:
    """Try every input through every way in, or where nothing was ever committed every fourth."""
    files = Files(scene, committed=committed)
    try:
        for what, content in itertools.islice(inputs, 0, None, 1 if committed else 4):
            scene.begin("store files", what)
            files.look(content)
            files.repair(content)
            if committed:
                files.overwrite(content)
            files.reopen(content)
            if committed:
                files.adopt(content)
            files.clear()
    finally:
        files.store.close()


SMALL = [contents.truncated, contents.noise, contents.encodings, contents.documents]


@pytest.mark.parametrize(
    ("inputs", "committed"),
    [
        pytest.param(
            inputs,
            committed,
            id=f"{'committed' if committed else 'never committed'}-{inputs.__name__}",
            marks=[] if not committed and inputs is contents.noise else [pytest.mark.thorough],
        )
        for committed in (True, False)
        for inputs in SMALL
    ],
)
def test_small_files(scene: Scene, inputs: Callable[[], Iterator[Input]], committed: bool) -> None:
    """Whatever a store's file holds, every call answers, and nothing of it is lost."""
    run(scene, inputs(), committed=committed)


@pytest.mark.parametrize(
    "committed", breadth.params([True, False], normal=[False]), ids=["committed", "never committed"]
)
def test_deep_files(scene: Scene, committed: bool) -> None:
    """JSON nested 100,000 deep exhausts nobody."""
    run(scene, contents.deep(), committed=committed)


@pytest.mark.thorough
def test_large_files(scene: Scene) -> None:
    """A file of 64 MB is judged and kept like any other."""
    files = Files(scene, committed=True, names=(LEDGER,))
    for what, content in contents.large():
        scene.begin("store files", what)
        files.look(content)
        files.repair(content)
        files.overwrite(content)
    files.store.close()
