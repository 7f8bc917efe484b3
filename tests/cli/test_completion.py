"""What the shell completes: stores, versions and quarantine of the directory that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtstore import RuntimeStore
from rtstore.cli.demo.writer import IDENTITY
from tests.cli.commands import Result, ready_team, run, run_process
from tests.support import picture


def completed(line: str, *, on_its_own: bool = False) -> list[str]:
    """What bash is told for a command line that ends where the cursor is."""
    words = line.split(" ")
    environment = {
        "_RTSTORE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        result: Result = run_process() if on_its_own else run()
    assert result.err == ""
    return [line for line in result.out.split("\n") if line]


def test_commands() -> None:
    """The commands by their names, and below quarantine those of it."""
    assert completed("rtstore re", on_its_own=True) == [
        *("report", "recover", "revert", "rebuild", "restore"),
    ]
    assert completed("rtstore quarantine re") == ["restore"]


def test_topics() -> None:
    """The pages of the guide."""
    assert completed("rtstore guide up") == ["upgrades"]


def test_stores(tmp_path: Path) -> None:
    """The stores of the directory that is typed already, by name, or by file; nothing is changed
    by it, and a writer need not stop."""
    directory = ready_team(tmp_path)
    before = picture(directory)
    assert completed(f"rtstore show {directory} opencode.s") == ["opencode.sessionStore"]
    assert completed(f"rtstore adopt {directory} launch-") == ["launch-state.json"]
    assert picture(directory) == before


def test_versions(tmp_path: Path) -> None:
    """The batches that wrote the store, and no others."""
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory, read_only=True) as store:
        versions = [item.batch_id for item in store.history("opencode.permissionRequests")]
        assert len(versions) < len(store.batches())
    line = f"rtstore diff {directory} opencode-permissions.json batch-"
    assert completed(line) == versions[::-1]
    assert completed(line.replace("diff", "show").replace("batch-", "--at b")) == versions[::-1]
    assert completed(line.removesuffix("batch-")) == ["2", "1"]
    assert completed(f"rtstore log {directory} --run-id run-") == [IDENTITY.run_id]


def test_evidence(tmp_path: Path) -> None:
    """The numbers of the files in quarantine."""
    directory = ready_team(tmp_path)
    (directory / "opencode-sessions.json").write_text("no JSON")
    run("recover", directory)
    assert completed(f"rtstore quarantine show {directory} ") == ["1"]


@pytest.mark.parametrize("place", ["missing", "."])
def test_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Where there is no store nothing is completed, and nobody is told of errors while typing."""
    monkeypatch.chdir(tmp_path)
    assert completed(f"rtstore show {tmp_path / place} open") == []
    assert list(tmp_path.iterdir()) == []
