"""A command drops no history: how much is kept is for the runtime to say, and for `prune`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtstore import KEEP_EVERYTHING, RunIdentity, RuntimeStore
from rtstore.cli.exits import ExitCode
from tests.cli.commands import run

LEASES = "opencode.hostLeases"
VERSIONS = 60
"""More contents than are kept by default."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory whose runtime keeps everything, with a file that was changed by hand."""
    directory = tmp_path / "team"
    with RuntimeStore.open(directory, team_name="team", retention=KEEP_EVERYTHING) as store:
        for number in range(VERSIONS):
            store.write_batch(
                identity=RunIdentity(run_id="run-1"),
                reason="host_lease_update",
                writes={LEASES: {"number": number}},
            )
        path = directory / store.descriptors.get(LEASES).relative_path
    path.write_text(json.dumps({"schemaVersion": 1, "updatedAt": None, "data": {"by": "hand"}}))
    return directory


@pytest.mark.parametrize(
    "words",
    [
        ("adopt", "DIR", LEASES),
        ("recover", "DIR"),
        ("prune", "DIR", "--batches", "1000"),
    ],
    ids=lambda words: str(words[0]),
)
def test_no_command_drops_what_a_runtime_keeps(directory: Path, words: tuple[str, ...]) -> None:
    """Every content is still there after it, and after the next one."""
    for again in (words, ("recover", "DIR"), ("revert", "DIR", LEASES, "--to", "2")):
        result = run(*(str(directory) if word == "DIR" else word for word in again))
        assert result.code == ExitCode.READY or again[0] == "recover", result.err

    with RuntimeStore.open(directory, read_only=True) as store:
        kept = [version for version in store.history(LEASES) if version.has_content]
    assert len(kept) >= VERSIONS
    assert {version.high_watermark for version in kept} >= set(range(1, VERSIONS + 1))
