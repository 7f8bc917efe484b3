"""A store that is committed, and whose content the database has lost: everybody says so."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from rtstore import (
    ActionKind,
    ContentMissingError,
    Criticality,
    Descriptor,
    RecoveryNeededError,
    RuntimeStore,
    StoreFileChangedError,
    WriterLock,
)
from tests.cli.commands import run
from tests.cli.walks import delete_contents
from tests.support import (
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    agree,
    new_directory,
    open_store,
    plain_descriptor,
    write,
)

NOTE = plain_descriptor("own.note", "note.json").model_copy(
    update={"criticality": Criticality.DIAGNOSTIC_ONLY}
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two stores whose contents somebody deleted by hand; one is diagnostic only."""
    directory = tmp_path / "runtime"
    with open_store(directory, descriptors=[NOTE, plain_descriptor("own.b", "b.json")]) as store:
        write(store, "own.note", "a")
        write(store, "own.b", "b")
    delete_contents(directory)
    return directory


def test_everybody_says_so(directory: Path) -> None:
    """Plan, readiness, status, doctor; and reading does not take it for a store never written."""
    with open_store(directory, recover=False) as store:
        plan = store.plan_recovery()
        assert [(item.kind, item.reason) for item in plan.actions] == [
            (ActionKind.RESTORE_COMMITTED, "content_missing")
        ] * 2
        assert "Runtime store content is not in the database: own.note" in plan.diagnostics
        assert not store.check_readiness().ok
        with pytest.raises(ContentMissingError, match="not in the database") as caught:
            store.read("own.note")
        assert isinstance(caught.value, RecoveryNeededError)
        assert (caught.value.store, caught.value.directory) == ("own.note", directory)
        snapshot = store.snapshot()
        assert snapshot.lost == {"own.note": 1, "own.b": 2}
        with pytest.raises(ContentMissingError):
            snapshot.data("own.b")
        with pytest.raises(ContentMissingError):
            store.update("own.b", lambda _: "begun anew", identity=IDENTITY, reason="recovery")
        assert store.batches()[-1].high_watermark == 2
    for command in ("status", "plan"):
        result = run(command, directory)
        assert result.code == 1, result
        assert "content is not in the database: own.note" in result.out
    assert f"rtstore recover {directory}" in run("doctor", directory).out


def test_one_diagnostic_store_is_enough(tmp_path: Path) -> None:
    """`read` cannot answer, so it is not ready, though the store is diagnostic only."""
    with open_store(tmp_path / "a", descriptors=[NOTE]) as store:
        write(store, "own.note", "a")
    delete_contents(tmp_path / "a")
    assert "degraded" in run("status", tmp_path / "a").out


def test_the_file_gives_it_back(directory: Path) -> None:
    """Where its hash is what is committed; opening does it, as it puts back a file."""
    with open_store(directory) as store:
        assert store.last_recovery is not None
        assert [step.detail for step in store.last_recovery.steps] == [
            "its content was taken from the file into the database"
        ] * 2
        assert store.read("own.note").data == "a"
        assert store.check_readiness().ok
        assert agree(store)
        assert store.batches()[-1].high_watermark == 2


def test_a_file_that_is_not_what_was_committed_does_not(directory: Path) -> None:
    """Its bytes are nobody's proof: it waits for a person."""
    (directory / "b.json").write_text('{"schemaVersion": 1, "data": "edited"}')
    with RuntimeStore.open(directory) as store:
        assert store.read("own.note").data == "a"
        with pytest.raises(ContentMissingError):
            store.read("own.b")
        store.adopt("own.b")
        assert store.read("own.b").data == "edited"


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_file_that_somebody_changed_as_well(directory: Path, *, is_removed: bool) -> None:
    """Whoever needs what was committed is told that it is lost, and not to read that; where it is
    there, reading it is a way, which works."""
    path = directory / "b.json"
    path.write_text('{"schemaVersion": 1, "data": "edited"}')
    if is_removed:
        path.unlink()

    def refusal() -> StoreFileChangedError:
        with pytest.raises(StoreFileChangedError) as caught:
            store.update("own.b", lambda data: data, identity=IDENTITY, reason="recovery")
        return caught.value

    with RuntimeStore.open(directory, recover=False) as store:
        lost = refusal()
        assert "What was committed is not in the database either. Run: rtstore plan" in str(lost)
        assert (lost.content_lost, "verify=False" in str(lost)) == (True, False)
        write(store, "own.b", "again")
        path.write_text('{"schemaVersion": 1, "data": "edited"}')
        assert "read with verify=False uses the committed content" in str(refusal())
        assert store.read("own.b", verify=False).data == "again"


# --- what is committed, and not accepted ----------------------------------------------------------


class Strict(BaseModel):
    """A model that the runtime tightened."""

    model_config = ConfigDict(extra="forbid")
    count: int


def test_data_that_its_model_no_longer_accepts(tmp_path: Path) -> None:
    """Putting back what is committed would change nothing, so no recovery is advised again and
    again: the runtime must write the store, and can, by a rebuilder of its own."""
    plain = plain_descriptor("own.b", "b.json")
    strict = Descriptor.model_validate({**plain.model_dump(), "payload": Strict})
    with open_store(tmp_path / "a", descriptors=[plain]) as store:
        write(store, "own.b", {"anything": 1})
    with RuntimeStore.open(tmp_path / "a", descriptors=[strict]) as store:
        assert store.last_recovery is None
        plan = store.plan_recovery()
        (action,) = plan.actions
        assert (action.kind, action.reason) == (ActionKind.BLOCK_READINESS, "quarantined")
        assert store.recover(plan).remaining.actions == plan.actions
        assert store.quarantined_files() == []
        write(store, "own.b", {"count": 1})
        assert store.check_readiness().ok


def test_a_known_store_is_rebuilt_instead(tmp_path: Path) -> None:
    """Where a strategy makes it anew, that is the action."""
    with open_store(tmp_path / "a") as store:
        write(store, LEASES, {"n": 1})
        write(store, LEDGER, {"n": 1})
        strict = [
            Descriptor.model_validate({**item.model_dump(), "payload": Strict})
            for item in store.descriptors
            if item.schema_name in (LEASES, LEDGER)
        ]
    with RuntimeStore.open(tmp_path / "a", descriptors=strict) as store:
        plan = store.plan_recovery()
        assert {item.kind for item in plan.actions} == {
            ActionKind.REBUILD_FROM_PROVIDER,
            ActionKind.REBUILD_FROM_CANONICAL_DESTINATION,
        }
        rebuilders = {item.rebuild_strategy: lambda _: {"count": 2} for item in strict}
        assert store.recover(plan, rebuilders=rebuilders).remaining.manifest_healthy
        assert store.read(LEASES).data == {"count": 2}


# --- in its own words ---------------------------------------------------------------------------


def test_what_others_wrote_steers_no_terminal(tmp_path: Path) -> None:
    """The line of a lock's holder, a file name, a path: escaped wherever they are printed."""
    directory = new_directory(tmp_path, "evil\x1b[31mname")
    (directory / "x\x1b]0;title\x07.json").write_text("{}")
    with WriterLock(directory).hold():
        (directory / "runtime-store.lock").write_text("process 1\x1b[2J since never")
        for words in (["doctor"], ["status"], ["prune", "--lock-timeout", "0"]):
            result = run(words[0], directory, *words[1:])
            assert "\x1b" not in result.out + result.err, result
            assert "evil" in result.out + result.err
    (directory / "runtime-store.sqlite3").unlink()
    for command in ("status", "doctor", "rebuild"):
        result = run(command, directory)
        assert "\x1b" not in result.out + result.err, result


def test_errors_name_the_directory(tmp_path: Path) -> None:
    """The command in the message of an error can be typed as it stands."""
    directory = new_directory(tmp_path, "a team's")
    with open_store(directory) as store:
        (directory / FILE_OF[LEASES]).write_text("{}")
        with pytest.raises(StoreFileChangedError, match="nothing is committed") as caught:
            store.read(LEASES)
        assert f"rtstore plan {shlex.quote(str(directory))}" in str(caught.value)
        write(store, LEASES, 1)
        (directory / FILE_OF[LEASES]).unlink()
        with pytest.raises(StoreFileChangedError, match="is missing") as caught:
            store.read(LEASES)
        assert f"rtstore plan {shlex.quote(str(directory))}" in str(caught.value)
