"""The words of an older database: they stay, and a runtime may use its own from then on."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtstore import BatchReason, RuntimeStore
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.support import LEASES
from tests.upgrade.freeze import facts_of, rows_of, unpack
from tests.upgrade.life import NOTES, OWN, SECOND


@pytest.mark.parametrize("frozen", [REVISIONS[0], REVISIONS[-2], REVISIONS[-1]])
def test_older_words_stay_and_own_ones_come(frozen: str, tmp_path: Path) -> None:
    """Descriptors and batches say what they said; then a batch and a store get words of their
    own, which the database takes and gives back."""
    directory = unpack(frozen, tmp_path)
    with RuntimeStore.open(directory, recover=False) as store:
        found = rows_of(directory / DATABASE_NAME)
        for table in ("store_descriptors", "write_batches"):
            assert found[table] == facts_of(frozen)["rows"][table]
        descriptors = [item for item in store.descriptors if item.schema_name != NOTES]
    with RuntimeStore.open(directory, descriptors=[*descriptors, OWN]) as store:
        assert isinstance(store.batches()[0].reason, BatchReason)
        batch = store.write_batch(identity=SECOND, reason="tidied_up", writes={LEASES: 1, NOTES: 2})
        assert (batch.reason, store.batches()[-1].reason) == ("tidied_up", "tidied_up")
    with RuntimeStore.open(directory) as store:
        assert store.descriptors.get(NOTES).owner == "scribe"
        assert store.descriptors.get(NOTES).own_strategy == "ask_the_scribe"
