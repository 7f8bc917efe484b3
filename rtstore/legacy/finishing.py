"""Finishes the batches whose receipts call them committed while the manifest does not count them.

A legacy writer writes the files, then the receipts, then the manifest. Whoever reads the receipts
of one that died before the manifest is told that the batch is committed; and a manifest from a
back-up is older than receipts and files. Where the files hold what the receipts name, the import
finishes such batches, in their order. Those that it does not finish become failed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rtstore.legacy.control_files import ControlFiles
from rtstore.legacy.format import LegacyBatch, LegacyReceipt, entry_of
from rtstore.legacy.rows import high_watermarks
from rtstore.model.descriptors import Registry
from rtstore.model.records import BatchState, Record

HashOf = Callable[[str, str], str | None]
"""Returns the hash of a store's file, given the store's name and path; None where there is none."""

_ERROR = (
    "its receipts call it committed, but the manifest did not count it, and not every file holds "
    "what the receipts name: the import did not finish it"
)
_UNKNOWN = 2**63
"""The place of a batch that the receipts do not know: it counts as a later one."""


class Finished(Record):
    """Control files as they are when the manifest counts every batch that the files hold."""

    files: ControlFiles
    counted: tuple[str, ...] = ()
    """The ids of the finished batches that come after the last one that the manifest counts. They
    are counted now."""
    not_counted: tuple[str, ...] = ()
    """The ids of the finished batches that come before it. They have no high watermark, because the
    manifest numbers the batches without them."""
    failed: tuple[str, ...] = ()
    """The ids of the batches that were not finished."""


def finished(files: ControlFiles, registry: Registry, hash_of: HashOf) -> Finished:
    """Finish every batch that only the receipts call committed, where the files hold it.

    The last batch that the manifest counts keeps the manifest's high watermark; those after it go
    on from there.
    """
    history = _History(files)
    if not history.uncounted:
        return Finished(files=files)
    done = _held(history, registry, hash_of)
    numbers = high_watermarks(_without_numbers(files, history.uncounted))
    high_watermark = files.manifest.high_watermark
    counted, not_counted, failed, found = [], [], [], []
    for index, batch in enumerate(files.batches):
        update: dict[str, Any] = {"high_watermark": numbers[index]}
        if index in done and index > history.last:
            high_watermark += 1
            update["high_watermark"] = high_watermark
            counted.append(batch)
        elif index in done:
            not_counted.append(batch)
        elif index in history.uncounted:
            failed.append(batch)
            update |= {"state": BatchState.FAILED, "last_error": batch.last_error or _ERROR}
        found.append(batch.model_copy(update=update))
    entries = {entry.schema_name: entry for entry in files.manifest.entries}
    for index in sorted(done):
        receipts = files.batches[index].receipts
        entries |= {
            item.schema_name: entry_of(item)
            for item in receipts
            if history.place_of(item.schema_name) < index
        }
    update = {"entries": tuple(entries.values()), "high_watermark": high_watermark}
    update |= _head(files, counted, [*counted, *not_counted, *failed])
    return Finished(
        files=files.model_copy(
            update={
                "manifest": files.manifest.model_copy(update=update),
                "batches": tuple(found),
            }
        ),
        counted=_ids(counted),
        not_counted=_ids(not_counted),
        failed=_ids(failed),
    )


class _History:
    """The batches of control files by their place, and those that the manifest does not count."""

    def __init__(self, files: ControlFiles) -> None:
        self._files = files
        self.batches = files.batches
        """The batches, oldest first."""
        self.entries = {entry.schema_name: entry for entry in files.manifest.entries}
        """The entries of the manifest by store."""
        self._place_of_receipt = {
            receipt.receipt_id: index
            for index, batch in enumerate(files.batches)
            for receipt in batch.receipts
        }
        self.last = self._last()
        """The place of the last batch that the manifest counts; -1 when it counts none."""
        self.uncounted = frozenset(
            index for index, batch in enumerate(files.batches) if self._is_uncounted(index, batch)
        )

    def place_of(self, schema_name: str) -> int:
        """Return the place of the batch that the manifest says wrote a store; -1 when it has no
        entry."""
        entry = self.entries.get(schema_name)
        if entry is None:
            return -1
        known = _UNKNOWN if self.last == len(self._files.batches) else self.last
        return self._place_of_receipt.get(entry.receipt_id, known)

    def _last(self) -> int:
        """Return the place of the last counted batch. Where the receipts do not know it, only the
        batch that was being written comes after it."""
        manifest, batches = self._files.manifest, self._files.batches
        ids = [batch.batch_id for batch in batches]
        if manifest.last_committed_batch_id in ids:
            return ids.index(manifest.last_committed_batch_id)
        if manifest.last_committed_batch_id is None:
            return -1
        if manifest.last_preparing_batch_id in ids:
            return ids.index(manifest.last_preparing_batch_id) - 1
        return len(ids)

    def _is_uncounted(self, index: int, batch: LegacyBatch) -> bool:
        """Return whether the manifest was written without a committed batch: it has an older entry,
        or none, for a store that the batch wrote."""
        if batch.state is not BatchState.COMMITTED or index == self.last:
            return False
        names = [receipt.schema_name for receipt in batch.receipts]
        if not names:
            return index > self.last
        number = batch.high_watermark
        if number is not None and number <= self._files.manifest.high_watermark:
            return False  # an export says that it was counted
        ids = {receipt.receipt_id for receipt in batch.receipts}
        if any(entry.receipt_id in ids for entry in self.entries.values()):
            return False
        return any(self.place_of(name) < index for name in names)


def _held(history: _History, registry: Registry, hash_of: HashOf) -> set[int]:
    """Return the places of the uncounted batches whose files hold what their receipts name. What a
    later batch wrote over counts as held."""
    batches = history.batches
    written = {name: history.place_of(name) for name in history.entries}
    owners = {entry.relative_path.casefold(): name for name, entry in history.entries.items()}
    owners |= {item.relative_path.casefold(): item.schema_name for item in registry}
    done: set[int] = set()
    for index in sorted(history.uncounted, reverse=True):
        receipts = batches[index].receipts
        if all(
            _fits(item, owners, registry)
            and (
                written.get(item.schema_name, -1) > index
                or hash_of(item.schema_name, item.relative_path) == item.content_hash
            )
            for item in receipts
        ):
            done.add(index)
            for item in receipts:
                written[item.schema_name] = max(index, written.get(item.schema_name, -1))
                owners[item.relative_path.casefold()] = item.schema_name
    return done


def _fits(receipt: LegacyReceipt, owners: dict[str, str], registry: Registry) -> bool:
    """Return whether no other store has the file of a receipt."""
    name, path = receipt.schema_name, receipt.relative_path
    if name in registry and registry.get(name).relative_path != path:
        return False
    return owners.get(path.casefold(), name) == name


def _without_numbers(files: ControlFiles, places: Iterable[int]) -> ControlFiles:
    """Return control files whose numbers are counted without some batches."""
    batches = list(files.batches)
    for index in places:
        batches[index] = batches[index].model_copy(update={"high_watermark": None})
    return files.model_copy(update={"batches": tuple(batches)})


def _head(
    files: ControlFiles, counted: list[LegacyBatch], known: list[LegacyBatch]
) -> Iterator[tuple[str, Any]]:
    """Yield what the manifest says besides, when it counts the batches.

    The active identity is that of the last one, unless the manifest was changed after it: a legacy
    runtime sets the active run without a batch too.
    """
    if files.manifest.last_preparing_batch_id in [batch.batch_id for batch in known]:
        yield "last_preparing_batch_id", None
    if not counted:
        return
    last = counted[-1]
    assert last.completed_at is not None  # noqa: S101 - checked when the receipts were read
    yield "last_committed_batch_id", last.batch_id
    if files.manifest.updated_at <= last.completed_at:
        yield "active_run_id", last.run_id
        yield "active_capability_snapshot_id", last.capability_snapshot_id
        yield "active_behavior_fingerprint", last.behavior_fingerprint
        yield "updated_at", last.completed_at


def _ids(batches: Iterable[LegacyBatch]) -> tuple[str, ...]:
    return tuple(batch.batch_id for batch in batches)
