"""A process that may open few files more: an opening works, or says that too many files are open.
Nothing is called damaged, and the same opening works later."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtstore import RuntimeStore, StorageError
from tests.support import plain_descriptor

DESCRIPTORS = [plain_descriptor("test.a", "a.json")]


@contextlib.contextmanager
def free(number: int) -> Iterator[None]:
    """Leave so many descriptors to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(number):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


@pytest.mark.parametrize("is_new", [True, False])
def test_an_opening_says_what_it_lacks(tmp_path: Path, is_new: bool) -> None:
    """However far it comes: also where the revisions are run, and alembic sees none of them."""

    def open_one(name: str) -> None:
        RuntimeStore.open(tmp_path / name, team_name="a", descriptors=DESCRIPTORS).close()

    open_one("old")  # what is imported late is there by now
    refused = 0
    for number in range(10):
        name = f"new-{number}" if is_new else "old"
        with free(number):
            try:
                open_one(name)
            except StorageError as error:
                assert "oo many" in str(error), number
                refused += 1
        open_one(name)
    assert refused > 3
