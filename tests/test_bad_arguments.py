"""Arguments of the wrong kind: each its own clear error, before anything is made or written."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from rtstore import InvalidRequestError, RuntimeStore
from tests.support import CHECKPOINT, IDENTITY, TEAM


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"team_name": "\ud800"}, "team_name"),
        ({"team_name": TEAM, "clock": lambda: datetime(2026, 4, 21)}, "clock"),  # noqa: DTZ001
        ({"team_name": TEAM, "clock": lambda: "noon"}, "clock"),
        ({"team_name": TEAM, "durability": "always"}, "durability"),
    ],
)
def test_a_store_is_not_begun_with_wrong_arguments(
    tmp_path: Path, arguments: dict[str, Any], field: str
) -> None:
    """A clock without a zone, a name that is no text: the field is named, and no directory made."""
    with pytest.raises(InvalidRequestError) as raised:
        RuntimeStore.open(tmp_path / "new", **arguments)
    assert raised.value.field == field
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writes", [None, 7, ["store"], [("one", "two", "three")]])
def test_writes_of_the_wrong_kind_are_named(tmp_path: Path, writes: Any) -> None:
    """What is neither a mapping nor pairs is refused by name, and nothing is written."""
    with RuntimeStore.open(tmp_path / "dir", team_name=TEAM) as store:
        with pytest.raises(InvalidRequestError) as raised:
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)
        assert raised.value.field == "writes"
        assert store.batches() == []
