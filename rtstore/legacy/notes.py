"""Says in an import's report what was missing in the control files, and what does not match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rtstore.legacy.control_files import RECEIPTS_NAME, ControlFiles
from rtstore.legacy.survey import FoundStore
from rtstore.model.records import BatchState


def notes(
    found: ControlFiles,
    files: ControlFiles,
    stores: Sequence[FoundStore],
    stand_in_id: str | None,
) -> Iterator[str]:
    """Yield notes about control files that are sound, but do not match each other. `files` are the
    `found` ones, with the batch that was finished."""
    yield from _of_batches(found, files)
    yield from _of_entries(files, stand_in_id)
    unknown = files.unknown_keys()
    if unknown:
        yield f"keys that are not known stay in the files only: {', '.join(unknown)}"
    unregistered = [item.store.schema_name for item in stores if not item.store.registered]
    if unregistered:
        yield (
            f"no descriptor is known of {', '.join(unregistered)}: imported, but neither planned "
            "for nor readable until a runtime opens the store with descriptors=[...] that has them"
        )


def _of_batches(found: ControlFiles, files: ControlFiles) -> Iterator[str]:
    state_of = {batch.batch_id: batch.state for batch in files.batches}
    if RECEIPTS_NAME not in files.names:
        yield f"there is no {RECEIPTS_NAME}: the history of batches was not imported"
    preparing = files.manifest.last_preparing_batch_id
    if files is not found:
        yield (
            f"batch {files.manifest.last_committed_batch_id} had its receipts, and the manifest "
            "did not count it: its writer died in between. The files hold what the receipts name, "
            "so the batch was finished"
        )
    elif preparing is not None and preparing not in state_of:
        yield f"the manifest says that batch {preparing} was being written; no receipts know of it"
    elif preparing is not None and state_of[preparing] is BatchState.COMMITTED:
        yield (
            f"batch {preparing} has its receipts, but the manifest does not count it: its writer "
            "died in between. Not every file holds what the receipts name, so the batch was not "
            "finished: what it wrote differs from the entries"
        )
    committed = files.manifest.last_committed_batch_id
    if files.batches and committed is not None and committed not in state_of:
        yield (
            f"the receipts do not know batch {committed}, which the manifest says was committed "
            "last: the batches have no high watermarks"
        )


def _of_entries(files: ControlFiles, stand_in_id: str | None) -> Iterator[str]:
    if stand_in_id is not None:
        names = ", ".join(entry.schema_name for entry in files.entries_without_receipt)
        yield (
            f"no receipt was found for {names}: batch {stand_in_id}, of reason migration and not "
            "counted in the high watermark, stands for the batches that wrote them"
        )
    without = [item.schema_name for item in files.manifest.entries if item.content_hash is None]
    if without:
        yield (
            f"the entry of {', '.join(without)} has no hash: it says of no content that it is "
            "committed, and was not imported"
        )
    for entry in files.entries:
        if entry.state.ours.value != entry.state.value:
            yield (
                f"the entry of {entry.schema_name} says {entry.state}: every plan finds out anew "
                "whether that is so"
            )
