"""What happens in one life: everything that is drawn from its seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Any

from rtstore import Retention

DISTURBANCES = {
    "fork": "a worker forks; the child ends, uses the store it inherited, or opens its own",
    "copy": "a worker copies its own runtime directory",
    "peek": "a worker reads the files of the database with plain calls",
    "close": "a store object is closed beside calls of other threads, and another one is opened",
    "drop": "a store object is dropped without being closed",
    "signal": "a signal raises an exception in the main thread, in the middle of a call",
    "deep": "a call is made so deep in the stack that it runs out of it somewhere",
    "slow": "the function of an update takes long",
    "big": "some documents have megabytes",
    "cancel": "a task is cancelled while it waits for a call",
    "stop": "a worker is stopped for a while (SIGSTOP)",
    "kill": "a worker is killed (SIGKILL), and another one takes its place",
    "shell": "another program holds a write transaction on the database",
    "reader": "another program holds a read transaction on the database",
    "unlock": "the lock file is removed",
    "wal": "the WAL is removed, once",
}

_SELDOM = {"wal": 0.06, "big": 0.1, "unlock": 0.15, "shell": 0.2}
_OFTEN = 0.3

WITH_STOP_ERRORS = {"fork", "copy", "peek", "unlock", "wal"}
"""Where a process may be told that it cannot go on with this database."""


@dataclass(frozen=True)
class Mix:
    """One life."""

    seed: int
    seconds: float
    processes: int
    threads: int
    loop: bool
    """Whether each process has a loop with an `AsyncRuntimeStore` too."""
    group: int
    """The largest number of writes that are submitted at once."""
    batches: int | None
    contents: int | None
    lock_timeout_s: float
    objects: int
    """Store objects in each process."""
    disturbances: tuple[str, ...]

    @property
    def retention(self) -> Retention:
        """How much history is kept in this life."""
        return Retention(batches=self.batches, contents_per_store=self.contents)

    def has(self, *names: str) -> bool:
        """Whether one of these disturbances is in it."""
        return any(name in self.disturbances for name in names)

    def __str__(self) -> str:
        fields = " ".join(f"{name}={value}" for name, value in asdict(self).items()
                          if name != "disturbances")  # fmt: skip
        return f"{fields} disturbances={','.join(self.disturbances) or 'none'}"


def draw(
    seed: int,
    *,
    fixed: Mapping[str, Any] = MappingProxyType({}),
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> Mix:
    """The life of a seed. With `only` exactly these disturbances are in it; `without` takes some
    away, and `fixed` fields are as they say. The rest of what is drawn stays the same."""
    random = Random(seed)
    length = random.choice((1.0, 2.0, 4.0))
    batches, contents = random.choice(
        ((None, None), (None, None), (1_000, 50), (1_000, 50), (random.randint(2, 5), 1),
         (random.randint(2, 5), random.randint(1, 3)), (1_000, random.randint(1, 3)))
    )  # fmt: skip
    drawn = {name: random.random() for name in DISTURBANCES}
    chosen = {name for name, value in drawn.items() if value < _SELDOM.get(name, _OFTEN)}
    mix = Mix(
        seed=seed,
        processes=random.choice((1, 2, 3, 4)),
        threads=random.choice((1, 2, 3, 6)),
        loop=random.random() < 0.5,
        group=random.choice((4, 20, 100)),
        batches=batches,
        contents=contents,
        lock_timeout_s=random.choice((0.01, 0.03, 0.3, 3.0, 10.0)),
        objects=random.choice((1, 1, 2, 3)),
        seconds=length,
        disturbances=tuple(
            name
            for name in DISTURBANCES
            if name in (chosen if only is None else only) and name not in without
        ),
    )
    return replace(mix, **fixed)
