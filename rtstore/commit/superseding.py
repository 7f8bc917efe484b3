"""Step 4 of the commit protocol for batches that were logged together: a store that several of
them write is published once, with the last."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import NamedTuple

from rtstore.commit.group import Submission
from rtstore.errors import BatchFailedError, BatchUnfinishedError
from rtstore.model.records import LoggedBatch, QuarantinedFile


class UnderWay(NamedTuple):
    """A batch between the log and the seal."""

    submission: Submission
    logged: LoggedBatch

    @property
    def number(self) -> int:
        """Its number, which is its place in the order."""
        return self.logged.batch.batch_number

    @property
    def content_of(self) -> Mapping[str, bytes]:
        """What it writes, by store."""
        return self.submission.draft.content_of


Publish = Callable[
    [LoggedBatch, Mapping[str, bytes], Container[str], Sequence[QuarantinedFile]], None
]
"""Publishes those stores of a batch that are due; raises when the batch has failed."""


def publish_together(under_way: Sequence[UnderWay], publish: Publish) -> list[UnderWay]:
    """Publish batches in their order; gives those whose files are in place, the others have their
    error. One that cannot be published fails, and what it had put on disk is undone; then a store
    that it shared gets the last version of those that are left."""
    going = list(under_way)
    evidence = [kept for item in going for kept in item.submission.draft.evidence]
    on_disk: dict[str, int] = {}
    while True:
        last = {name: item.number for item in going for name in item.content_of}
        for item in going:
            due = {
                name for name in item.content_of if last[name] == item.number != on_disk.get(name)
            }
            try:
                publish(item.logged, item.content_of, due, evidence)
            except BatchFailedError as error:
                item.submission.error = error
                going.remove(item)
                for name in item.content_of:
                    on_disk.pop(name, None)
                break
            except BatchUnfinishedError as error:
                # It stays in the log and goes forward, so those after it must not be sealed.
                for other in going:
                    other.submission.error = error.about(other.logged.batch.batch_id)
                return []
            on_disk.update(dict.fromkeys(due, item.number))
        else:
            return going
