"""The events of a store, one class a kind: what `on_event` is called with.

`rtstore guide events` has a table of them. `Event` is any of them.
"""

from rtstore.model.events import (
    BatchCommitted,
    BatchFailed,
    BatchUnfinished,
    Event,
    EventKind,
    FileQuarantined,
    NotReady,
    StoreEvent,
    StoreRecovered,
)

__all__ = [
    "BatchCommitted",
    "BatchFailed",
    "BatchUnfinished",
    "Event",
    "EventKind",
    "FileQuarantined",
    "NotReady",
    "StoreEvent",
    "StoreRecovered",
]
