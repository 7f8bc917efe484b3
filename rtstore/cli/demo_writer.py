"""The process that the demo kills: writes one batch, and stops where it is told to.

    python -m rtstore.cli.demo_writer DIR POINT BATCH_ID

It is an ordinary `BatchWriter` on a database and a file system that say on standard output when
they have come to the point, and then wait to be killed. Should nobody do it (standard input is
closed, for its parent is gone), it ends by itself at that very point.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from rtstore.cli.demo_data import IDENTITY, TEAM, fatal_checkpoint
from rtstore.database.batches import ReceiptStore
from rtstore.database.engine import DATABASE_NAME, Database
from rtstore.database.manifest import ManifestStore
from rtstore.descriptors import KNOWN_DESCRIPTORS
from rtstore.draft import BatchRequest, StoreWrite
from rtstore.files.system import FileSystem
from rtstore.writer import BatchWriter


class Death:
    """Waits at one point of the protocol to be killed."""

    def __init__(self, point: str) -> None:
        self._point = point

    def pass_by(self, point: str) -> None:
        """Say where we are, if this is the point, and never come back."""
        if point != self._point:
            return
        os.write(sys.stdout.fileno(), f"{point}\n".encode())
        while os.read(sys.stdin.fileno(), 1):
            pass
        os._exit(1)


class MortalDatabase(Database):
    """Its first write transaction is the log of the batch, its second one the seal."""

    def __init__(self, path: Path, death: Death) -> None:
        super().__init__(path)
        self._death = death
        self._names = iter(("log", "seal"))

    @contextmanager
    def write(self, *, flush: bool) -> Iterator[Connection]:
        """As always, with a point before, inside and after."""
        name = next(self._names, "later")
        self._death.pass_by(f"before-{name}")
        with super().write(flush=flush) as connection:
            yield connection
            self._death.pass_by(f"in-{name}")
        self._death.pass_by(f"after-{name}")


class MortalFileSystem(FileSystem):
    """Writes every file in two halves, with a point between them and one after each rename."""

    def __init__(self, death: Death) -> None:
        self._death = death
        self._files = 0
        self._halved = False

    def create(self, path: Path, mode: int) -> int:
        """As always; counts."""
        self._files += 1
        self._halved = False
        return super().create(path, mode)

    def write(self, descriptor: int, content: memoryview) -> int:
        """Half of it first: a write may be short."""
        if self._halved:
            return super().write(descriptor, content)
        self._halved = True
        written = super().write(descriptor, content[: len(content) // 2])
        self._death.pass_by(f"in-file-{self._files}")
        return written

    def rename(self, source: Path, target: Path) -> None:
        """As always."""
        super().rename(source, target)
        self._death.pass_by(f"after-rename-{self._files}")


def main(directory: Path, point: str, batch_id: str) -> None:
    """Write the fatal batch, up to the point."""
    death = Death(point)
    database = MortalDatabase(directory / DATABASE_NAME, death)
    writer = BatchWriter(
        directory,
        ManifestStore(database, team_name=TEAM),
        ReceiptStore(database),
        fs=MortalFileSystem(death),
    )
    checkpoint = fatal_checkpoint()
    known = {descriptor.schema_name: descriptor for descriptor in KNOWN_DESCRIPTORS}
    request = BatchRequest(
        team_name=TEAM,
        identity=IDENTITY,
        reason=checkpoint.reason,
        writes=tuple(
            StoreWrite(descriptor=known[name], data=data)
            for name, data in checkpoint.writes.items()
        ),
    )
    writer.write_batch(request, batch_id=batch_id)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
