"""A command keeps what the runtime keeps: no less, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtstore import KEEP_EVERYTHING, Retention, RunIdentity, RuntimeStore
from rtstore.cli.exits import ExitCode
from tests.cli.commands import run

LEASES = "opencode.hostLeases"
VERSIONS = 60
"""More contents than are kept by default."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory whose runtime keeps everything, with a file that was changed by hand."""
    return with_history(tmp_path, KEEP_EVERYTHING)


def with_history(parent: Path, retention: Retention) -> Path:
    """A runtime directory whose runtime keeps so much, with a file that was changed by hand."""
    directory = parent / "team"
    with RuntimeStore.open(directory, team_name="team", retention=retention) as store:
        for number in range(VERSIONS):
            store.write_batch(
                identity=RunIdentity(run_id="run-1"),
                reason="host_lease_update",
                writes={LEASES: {"number": number}},
            )
        path = directory / store.descriptors.get(LEASES).relative_path
    path.write_text(json.dumps({"schemaVersion": 1, "updatedAt": None, "data": {"by": "hand"}}))
    return directory


COMMANDS = pytest.mark.parametrize(
    "words",
    [
        ("adopt", "DIR", LEASES),
        ("recover", "DIR"),
        ("prune", "DIR", "--batches", "1000"),
        ("prune", "DIR"),
    ],
    ids=" ".join,
)


def kept_after(directory: Path, words: tuple[str, ...]) -> set[int | None]:
    """The versions that are there after a command, and after the next ones."""
    for again in (words, ("recover", "DIR"), ("revert", "DIR", LEASES, "--to", str(VERSIONS - 3))):
        result = run(*(str(directory) if word == "DIR" else word for word in again))
        assert result.code == ExitCode.READY or again[0] == "recover", result.err
    with RuntimeStore.open(directory, read_only=True) as store:
        return {version.high_watermark for version in store.history(LEASES) if version.has_content}


@COMMANDS
def test_no_command_drops_what_a_runtime_keeps(directory: Path, words: tuple[str, ...]) -> None:
    """Every content is still there after it, and after the next one."""
    assert kept_after(directory, words) >= set(range(1, VERSIONS + 1))


@COMMANDS
def test_no_command_keeps_what_a_runtime_drops(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Where the runtime keeps little, batches of commands leave it at that."""
    directory = with_history(tmp_path, Retention(contents_per_store=8))
    assert len(kept_after(directory, words)) <= 9
