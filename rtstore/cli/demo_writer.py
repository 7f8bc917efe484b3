"""The process that the demo kills: writes one batch, and stops at the given point.

    python -m rtstore.cli.demo_writer DIR POINT BATCH_ID

It is an ordinary writer. At the point it prints a line on standard output, and waits to be killed.
If its parent is gone (standard input is closed), it ends by itself at that point.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rtstore.cli.demo_data import IDENTITY, fatal_checkpoint
from rtstore.store import RuntimeStore
from rtstore.testing.dying import Watch, dying_at


def wait_for_death(watch: Watch) -> None:
    """Print the point, wait to be killed, and never return."""
    os.write(sys.stdout.fileno(), f"{watch.point}\n".encode())
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def main(directory: Path, point: str, batch_id: str) -> None:
    """Write the fatal batch, up to the point."""
    checkpoint = fatal_checkpoint()
    with (
        dying_at(Watch(point, 1, wait_for_death)),
        RuntimeStore.open(directory, recover=False) as store,
    ):
        store.write_batch(
            identity=IDENTITY,
            reason=checkpoint.reason,
            writes=checkpoint.writes,
            batch_id=batch_id,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
