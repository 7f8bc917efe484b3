"""A store whose committed content somebody altered in the database: nobody calls that ready, and
its file gives it back."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import DATABASE_NAME, ActionKind, CorruptDatabaseError, RuntimeStore, StartKind
from tests.cli.commands import run
from tests.support import IDENTITY, agree, open_store, plain_descriptor, write

NAME, OTHER = "own.a", "own.b"
SMALL, LARGE = "small", "x" * 100_000
CHANGES = {
    "another size": "'{'",
    "the same size": "replace(content, 'updatedAt', 'updatedAu')",
}


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Two stores; the first is the one that is altered."""
    stores = [plain_descriptor(NAME, "a.json"), plain_descriptor(OTHER, "b.json")]
    with open_store(tmp_path / "t", descriptors=stores) as store:
        write(store, NAME, request.param)
        write(store, OTHER, "b")
    return tmp_path / "t"


def alter(directory: Path, change: str) -> None:
    """By the hand of somebody with a shell of SQLite."""
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute(f"UPDATE store_contents SET content = {change} WHERE schema_name = ?", (NAME,))


def is_cheap(directory: Path, change: str) -> bool:
    """Whether everybody finds it, not only who reads contents whole."""
    return change == CHANGES["another size"] or (directory / "a.json").stat().st_size < 1000


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_everybody_says_so(directory: Path, change: str) -> None:
    """Status, plan and doctor, of every content. Readiness and a start, which are asked often, of
    each that is small, or has another size; a read, of every one."""
    with open_store(directory) as living:
        assert living.check_readiness(expected=IDENTITY).ok
        alter(directory, change)
        assert living.check_readiness(expected=IDENTITY).ok is not is_cheap(directory, change)
        start = living.start_state(IDENTITY.run_id)
        assert (start.kind is StartKind.REPAIR) is is_cheap(directory, change)
        with pytest.raises(CorruptDatabaseError, match="was changed"):
            living.read(NAME)
        (action,) = (item for item in living.plan_recovery().actions if item.reason)
        assert (action.kind, action.reason) == (ActionKind.RESTORE_COMMITTED, "content_missing")
    for command in ("status", "plan"):
        result = run(command, directory)
        assert result.code == 1, result
        assert f"content is not in the database: {NAME}" in result.out


@pytest.mark.one_in(3)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("command", ["status", "doctor"])
def test_the_advice_heals_it_from_the_file(directory: Path, change: str, command: str) -> None:
    """Without a new database: the history stays."""
    alter(directory, change)
    found = json.loads(run(command, directory, "--json").out)
    findings = found.get("findings", [])
    ways = [way for item in findings if item["level"] == "red" for way in item["ways"]]
    (way,) = {item["command"] for item in (ways or found["next"])}
    assert way == f"rtstore recover {directory}"
    assert run(*shlex.split(way)[1:]).code == 0
    for asked in ("status", "plan", "doctor"):
        assert run(asked, directory).code == 0
    with RuntimeStore.open(directory) as store:
        assert store.read(NAME).data in (SMALL, LARGE)
        assert agree(store)
        assert store.batches()[-1].high_watermark == 2


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_opening_heals_what_it_finds(directory: Path, change: str) -> None:
    """As it does where the content is gone."""
    alter(directory, change)
    with RuntimeStore.open(directory) as store:
        if not is_cheap(directory, change):
            store.recover(store.plan_recovery())
        assert store.read(NAME).data in (SMALL, LARGE)
        assert store.check_readiness(expected=IDENTITY).ok


@pytest.mark.parametrize("file", ["gone", "edited"])
def test_without_its_file_it_is_lost(directory: Path, file: str) -> None:
    """No advice puts back what nobody has: the file is what there is, or a write."""
    alter(directory, CHANGES["another size"])
    path = directory / "a.json"
    if file == "gone":
        path.unlink()
    else:
        path.write_text('{"schemaVersion": 1, "data": "edited"}')
    steps = json.loads(run("status", directory, "--json").out)["next"]
    advice = {item["command"] for item in steps}
    recover = f"rtstore recover {directory}"
    wanted = {recover, f"rtstore adopt {directory} {NAME}"} if file == "edited" else {None}
    assert advice == wanted
    aside = directory.with_name("aside")
    shutil.copytree(directory, aside)
    assert run("recover", aside).code == 1  # it is quarantined, or there is nothing to do
    with RuntimeStore.open(directory) as store:
        if file == "edited":
            store.adopt(NAME)
        else:
            write(store, NAME, "edited")
        assert store.read(NAME).data == "edited"
        assert store.check_readiness(expected=IDENTITY).ok
