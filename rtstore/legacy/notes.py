"""Says in an import's report what was missing in the control files, and what does not match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rtstore.legacy.control_files import RECEIPTS_NAME, ControlFiles
from rtstore.legacy.finishing import Finished
from rtstore.legacy.survey import FoundStore

NEW_ID = "a batch, whose id the import makes"


def notes(done: Finished, stores: Sequence[FoundStore], stand_in: str | None) -> Iterator[str]:
    """Yield notes about control files that are sound, but do not match each other. `stand_in` is
    the batch that stands for lost receipts, in words."""
    files = done.files
    yield from _of_finished(done)
    yield from _of_batches(files)
    yield from _of_entries(files, stand_in)
    unknown = files.unknown_keys()
    if unknown:
        yield f"keys that are not known stay in the files only: {', '.join(unknown)}"
    unregistered = [item.store.schema_name for item in stores if not item.store.registered]
    if unregistered:
        yield (
            f"no descriptor is known of {', '.join(unregistered)}: imported, but neither planned "
            "for nor readable until a runtime opens the store with descriptors=[...] that has them"
        )


def _of_finished(done: Finished) -> Iterator[str]:
    finished = (*done.not_counted, *done.counted)
    if finished:
        its, it = ("its", "it") if len(finished) == 1 else ("their", "them")
        yield (
            f"{_batches(finished)} had {its} receipts, and the manifest did not count {it}: {its} "
            "writer died in between, or the manifest is an older one. The files hold what the "
            f"receipts name, so the {_were(finished)} finished"
        )
    if done.not_counted:
        yield (
            f"the manifest counts a later batch, and not {_batches(done.not_counted)}: without a "
            "high watermark"
        )
    if done.failed:
        yield (
            f"{_batches(done.failed)}: the receipts say committed, but the manifest does not count "
            f"it. Not every file holds what the receipts name, so the {_were(done.failed)} not "
            "finished, and is not called committed: what was written differs from the entries"
        )


def _batches(ids: Sequence[str]) -> str:
    return f"batch{'es' if len(ids) > 1 else ''} {', '.join(ids)}"


def _were(ids: Sequence[str]) -> str:
    return "batch was" if len(ids) == 1 else "batches were"


def _of_batches(files: ControlFiles) -> Iterator[str]:
    state_of = {batch.batch_id: batch.state for batch in files.batches}
    if RECEIPTS_NAME not in files.names:
        yield f"there is no {RECEIPTS_NAME}: the history of batches was not imported"
    preparing = files.manifest.last_preparing_batch_id
    if preparing is not None and preparing not in state_of:
        yield f"the manifest says that batch {preparing} was being written; no receipts know of it"
    committed = files.manifest.last_committed_batch_id
    if files.batches and committed is not None and committed not in state_of:
        yield (
            f"the receipts do not know batch {committed}, which the manifest says was committed "
            "last: the batches have no high watermarks"
        )


def _of_entries(files: ControlFiles, stand_in: str | None) -> Iterator[str]:
    if stand_in is not None:
        names = ", ".join(entry.schema_name for entry in files.entries_without_receipt)
        yield (
            f"no receipt was found for {names}: {stand_in}, of reason migration and not "
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
