"""What a write needs and no import of the package loads, because it takes a while.

It is loaded when a store is opened for writing. An import in the middle of a batch can fail: while
the interpreter ends, none works.
"""

from __future__ import annotations

from functools import cache

from rtstore.commit.reporting import load_events
from rtstore.files.system import load_renameat2
from rtstore.model.records import Record


@cache
def load() -> None:
    """Load it, once in a process."""
    load_renameat2()
    load_events()
    Record().model_dump(mode="json")  # the first of a process imports something in pydantic
