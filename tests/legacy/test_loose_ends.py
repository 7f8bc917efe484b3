"""Control files that are sound and do not fit together, and what is derived from them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtstore import (
    BatchReason,
    BatchState,
    InvalidRequestError,
)
from rtstore.legacy.format import AncestorEntry
from tests.legacy.build import (
    DUSK,
    EBB,
    FERRY,
    HARBOUR,
    IMPORTED_AT,
    MANIFEST,
    OWN,
    RECEIPTS,
    TOMBSTONES,
    copy,
    edit_manifest,
    edit_receipts,
    opened,
    take,
)
from tests.support import LAUNCH, LEDGER, SESSIONS

# --- what does not fit together -------------------------------------------------------------------


def test_receipts_may_be_absent(tmp_path: Path) -> None:
    """Without receipts, entries and contents are imported all the same: one batch stands for those
    that wrote them, the high watermark goes on from the manifest's, and the report says so."""
    directory = copy(HARBOUR, tmp_path)
    (directory / RECEIPTS).unlink()
    report = take(directory, batch_id_factory=lambda: "stand-in")
    assert report.control_files == (MANIFEST, TOMBSTONES)
    assert report.batches == {BatchState.COMMITTED: 1}
    assert report.notes[0] == f"there is no {RECEIPTS}: the history of batches was not imported"
    assert "batch stand-in" in report.notes[1]
    with opened(directory) as store:
        (batch,) = store.batches()
        assert (batch.batch_id, batch.reason, batch.high_watermark) == (
            "stand-in",
            BatchReason.MIGRATION,
            None,
        )
        assert (batch.run_id, batch.completed_at) == (None, IMPORTED_AT)
        assert store.check_readiness(expected=DUSK).ok
        content = store.read(SESSIONS)
        entry = store.manifest().entry(SESSIONS)
        assert entry is not None
        assert (content.run_id, content.high_watermark) == ("run-dusk", None)
        assert content.updated_at.timestamp() == int(Fraction(entry.mtime_ns, 10**6)) / 1000
        written = store.write_batch(
            identity=DUSK, reason=BatchReason.LAUNCH_CHECKPOINT, writes={LEDGER: []}
        )
        assert written.high_watermark == 8


def test_one_lost_receipt(tmp_path: Path) -> None:
    """An entry whose receipt is lost belongs to the batch that stands for it; its receipt id stays,
    and all other entries belong to the batches that wrote them."""
    directory = copy(HARBOUR, tmp_path)

    def lose(batches: list[dict[str, list[object]]]) -> None:
        del batches[5]["receipts"][1]

    edit_receipts(directory, lose)
    report = take(directory, batch_id_factory=lambda: "stand-in")
    (note,) = report.notes
    assert note == (
        f"no receipt was found for {SESSIONS}: batch stand-in, of reason migration and not counted "
        "in the high watermark, stands for the batches that wrote them"
    )
    with opened(directory) as store:
        batches = store.batches()
        assert [batch.high_watermark for batch in batches] == [1, 2, None, 3, 4, 5, 6, 7, None]
        (receipt,) = batches[-1].receipts
        assert (receipt.receipt_id, receipt.schema_name) == ("harbour-receipt-6-2", SESSIONS)
        assert store.check_readiness(expected=DUSK).ok


def test_an_id_for_the_lost_receipts_must_be_new(tmp_path: Path) -> None:
    """A factory that makes an id which an imported batch has is refused; nothing is imported."""
    directory = copy(HARBOUR, tmp_path)
    edit_receipts(directory, lambda batches: batches[5]["receipts"].clear())
    with pytest.raises(InvalidRequestError, match=r"batch_id_factory: it made 'harbour-batch-2'"):
        take(directory, batch_id_factory=lambda: "harbour-batch-2")
    assert not (directory / "runtime-store.sqlite3").exists()


@pytest.mark.parametrize(
    ("high_watermark", "last_committed", "numbers"),
    [
        (7, "harbour-batch-8", [1, 2, None, 3, 4, 5, 6, 7]),
        (70, "harbour-batch-8", [64, 65, None, 66, 67, 68, 69, 70]),
        (3, "harbour-batch-8", [None, None, None, None, None, 1, 2, 3]),
        (6, "harbour-batch-7", [1, 2, None, 3, 4, 5, 6, None]),
        (7, "harbour-batch-3", [None] * 8),
        (7, "gone", [None] * 8),
        (0, None, [None] * 8),
    ],
)
def test_high_watermarks_are_counted_back_from_the_manifests(
    tmp_path: Path, high_watermark: int, last_committed: str | None, numbers: list[int | None]
) -> None:
    """The batch that the manifest names has its high watermark, those before it one less each; a
    number below 1, a batch that the manifest does not count and a batch that is not there give
    none."""
    directory = copy(HARBOUR, tmp_path)

    def change(manifest: dict[str, object]) -> None:
        manifest.update(highWatermark=high_watermark, lastCommittedBatchId=last_committed)

    edit_manifest(directory, change)
    report = take(directory)
    assert any("gone" in note for note in report.notes) == (last_committed == "gone")
    with opened(directory) as store:
        assert [batch.high_watermark for batch in store.batches()] == numbers
        assert store.manifest().high_watermark == high_watermark


def test_a_writer_that_died_between_receipts_and_manifest(tmp_path: Path) -> None:
    """The ancestor wrote the receipts before the manifest. A batch that only they call committed is
    imported as such, is not counted, and is pointed out; its files differ from the entries."""
    directory = copy(FERRY, tmp_path)

    def finish(batches: list[dict[str, object]]) -> None:
        batches[2].update(state="committed", completedAt="2026-06-01T09:00:20.000Z")

    edit_receipts(directory, finish)
    report = take(directory)
    (note,) = report.notes
    assert note.startswith("batch ferry-batch-3 has its receipts, but the manifest does not count")
    with opened(directory) as store:
        assert [batch.high_watermark for batch in store.batches()] == [1, 2, None]
        assert store.plan_recovery(expected=EBB).diagnostics == (
            f"Runtime store hash mismatch: {LAUNCH}",
        )


def test_a_batch_that_only_the_manifest_knows(tmp_path: Path) -> None:
    """A batch that was being written, and of which no receipts know, is pointed out."""
    directory = copy(FERRY, tmp_path)
    edit_receipts(directory, lambda batches: batches.pop())
    report = take(directory)
    assert report.notes == (
        "the manifest says that batch ferry-batch-3 was being written; no receipts know of it",
    )
    with opened(directory) as store:
        assert store.manifest().last_preparing_batch_id == "ferry-batch-3"


def test_a_committing_batch_of_the_ancestor_can_be_closed(tmp_path: Path) -> None:
    """`committing` there says no more than `preparing`: the batch is imported so, and recovery
    closes it like any other crashed batch."""
    directory = copy(FERRY, tmp_path)
    edit_receipts(directory, lambda batches: batches[2].update(state="committing"))
    assert take(directory).batches[BatchState.PREPARING] == 1
    with opened(directory) as store:
        store.recover(store.plan_recovery(expected=EBB))
        crashed = store.batch("ferry-batch-3")
        assert crashed is not None
        assert crashed.state is BatchState.FAILED


def test_keys_that_nobody_knows_are_pointed_out(tmp_path: Path) -> None:
    """What an import does not understand is said, so that nothing is lost silently."""
    directory = copy(HARBOUR, tmp_path)
    edit_manifest(directory, lambda manifest: manifest.update(region="north"))
    edit_manifest(directory, lambda manifest: manifest["entries"][3].update(note="x"))
    edit_receipts(directory, lambda batches: batches[0]["receipts"][0].update(signed=True))
    (note,) = take(directory).notes
    assert note == (
        "keys that are not known stay in the files only: manifest.entries[].note, "
        "manifest.region, receipts[].receipts[].signed"
    )


# --- times ----------------------------------------------------------------------------------------


@given(st.floats(min_value=1e10, max_value=9.0e12))
def test_milliseconds_survive_as_nanoseconds(mtime_ms: float) -> None:
    """The float that the ancestor wrote comes out again, bit for bit, for every time since 1970."""
    manifest = json.loads((OWN / HARBOUR / MANIFEST).read_bytes())["data"]
    text = json.dumps({**manifest["entries"][0], "mtimeMs": mtime_ms})
    entry = AncestorEntry.model_validate_json(text)
    assert entry.mtime_ns / 1_000_000 == mtime_ms
    assert entry.mtime_ns < 2**63
