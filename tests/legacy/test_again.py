"""An import that is made again, is interrupted, or is not alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from os import stat_result
from pathlib import Path

import pytest
from sqlalchemy import Connection

from rtstore import (
    BatchReason,
    BatchState,
    FileSystem,
    ImportReport,
    LegacyImportError,
    LockTimeoutError,
    RuntimeStore,
    StorageError,
    WriterLock,
    import_directory,
)
from rtstore.legacy import StoreOutcome, over_again_command
from rtstore.legacy.rows import write_rows
from rtstore.testing import Seams
from tests.cli.commands import run, words_of
from tests.legacy.build import (
    DUSK,
    HARBOUR,
    IMPORTED_AT,
    LANE,
    MANIFEST,
    OWN,
    RECEIPTS,
    TOMBSTONES,
    all_rows,
    copy,
    edit_manifest,
    opened,
    outcomes,
    take,
    write_late,
)
from tests.legacy.test_team import pictured
from tests.support import LAUNCH, LEASES, LEDGER, Crash, WatchedFileSystem, at_call, picture

DATABASE = "runtime-store.sqlite3"

# --- again ----------------------------------------------------------------------------------------


def test_a_second_import_changes_nothing(tmp_path: Path) -> None:
    """Importing again says that there was nothing to do, with the same facts, and leaves every file
    byte for byte as it was, times of modification included."""
    directory = copy(HARBOUR, tmp_path)
    first = take(directory)
    before = picture(directory)
    again = import_directory(directory)
    assert picture(directory) == before
    assert not again.changed
    facts = {"directory", "team_name", "imported_at", "high_watermark", "active_identity"}
    facts |= {"batches", "receipts"}
    assert again.model_dump(include=facts) == first.model_dump(include=facts)
    assert again.notes == ("the directory was imported before: nothing was changed",)
    assert (again.stores, again.control_files, again.other_files) == ((), (), ())


def test_a_second_import_after_batches_changes_nothing(tmp_path: Path) -> None:
    """What was written since an import is neither undone nor overwritten by another one."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    with opened(directory) as store:
        store.write_batch(
            identity=DUSK, reason=BatchReason.DELIVERY_COMMIT, writes={LEDGER: {"records": []}}
        )
    before = picture(directory)
    again = take(directory)
    assert picture(directory) == before
    assert (again.changed, again.high_watermark) == (False, 8)
    assert again.batches == {BatchState.COMMITTED: 7, BatchState.FAILED: 1}


def _change_manifest(directory: Path) -> None:
    edit_manifest(directory, lambda manifest: manifest.update(highWatermark=99))


def _remove_control_files(directory: Path) -> None:
    (directory / MANIFEST).unlink()
    (directory / RECEIPTS).unlink()


def _make_unreadable(directory: Path) -> None:
    (directory / MANIFEST).unlink()
    (directory / MANIFEST).mkdir()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_change_manifest, "the control files were changed after the import"),
        (_remove_control_files, "the manifest of the legacy format is gone"),
        (_make_unreadable, "a legacy control file cannot be read any more"),
    ],
)
def test_a_second_import_says_what_became_of_the_control_files(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    """When a runtime of the old kind has written since, or the old files are gone, a second import
    changes nothing and says so."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    change(directory)
    before = picture(directory)
    again = take(directory)
    assert picture(directory) == before
    assert not again.changed
    assert again.high_watermark == 7
    assert again.notes[1].startswith(said)


def test_what_an_old_runtime_wrote_after_the_import_is_taken_over(tmp_path: Path) -> None:
    """Back to the file-only runtime, in place, and forward again: the export alone is no change;
    what that runtime writes then is pointed out before any recovery, and the command that is
    printed takes it over. The database is kept aside."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    printed = over_again_command(directory)
    exported = run("export", directory)
    assert f"\n  {printed}\n" in exported.out
    assert len(take(directory).notes) == 1
    write_late(directory, 1, LEASES, counted=True)
    assert f"\n  {printed}\n" in run("import", directory).out
    first, *_ = run("status", directory, "--json").json()["next"]
    assert first["command"] == printed
    before, _, ours = printed.partition(" && rtstore ")
    subprocess.run(["bash", "-c", before], check=True)
    assert run(*words_of(f"rtstore {ours}")).code == 0
    with RuntimeStore.open(directory, read_only=True) as store:
        assert (store.manifest().high_watermark, store.read(LEASES).batch_id) == (8, "late-1")
        assert store.check_readiness(expected=DUSK).ok
    assert (directory / "runtime-store.before-001" / DATABASE).exists()


def test_an_export_is_not_taken_for_another_program(tmp_path: Path) -> None:
    """After our own export in place, control files are others than the imported ones; but nobody
    else has written, and nothing is advised."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    run("export", directory)
    again = take(directory)
    assert (again.newer_batches, len(again.notes)) == (None, 1)
    assert run("status", directory, "--json").json()["next"] == []


@pytest.mark.parametrize("exported", [True, False], ids=["exported", "imported"])
def test_a_legacy_program_that_wrote_on(tmp_path: Path, *, exported: bool) -> None:
    """What it committed after an import, or an export in place, is told by every command before a
    recovery is, with the command that takes it over; run as printed, that does."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    if exported:
        run("export", directory)
    for number in (1, 2):
        write_late(directory, number, LEASES, counted=True)
    newer = take(directory).newer_batches
    assert newer is not None
    assert (newer.batch_ids, newer.high_watermark) == (("late-1", "late-2"), 9)
    assert newer.not_in_files == ()
    command = str(newer.take_over.command)
    for words in (["status"], ["plan"], ["recover", "--dry-run"]):
        first, *others = run(*words, directory, "--json").json()["next"]
        assert (first["command"], "late-2" in first["why"]) == (command, True)
        assert "puts what was committed before over it" in others[-1]["why"]
    for words in (["doctor"], ["import"]):
        assert command in run(*words, directory).out
    before = pictured(directory)
    move, imported = command.rsplit(" && ", 1)
    subprocess.run(move, shell=True, check=True)
    assert run(*words_of(imported)).code == 0
    assert pictured(directory) == before
    status = run("status", directory, "--json")
    assert (status.code, status.json()["highWatermark"], status.json()["next"]) == (0, 9, [])


def test_what_a_legacy_program_wrote_may_be_given_up(tmp_path: Path) -> None:
    """After a recovery its contents are in quarantine only: then no import is advised, but an
    export, and after that nothing."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    write_late(directory, 1, LEASES, counted=True)
    (step,) = run("recover", directory, "--json").json()["next"]
    assert step["command"] == f"rtstore export {directory}"
    assert LEASES in step["why"]
    assert "batch late-1" in run("doctor", directory).out
    run("export", directory)
    assert run("status", directory, "--json").json()["next"] == []
    assert take(directory).newer_batches is None


def test_a_legacy_program_that_wrote_where_nothing_was_imported(tmp_path: Path) -> None:
    """An import of a directory whose store is of our own is refused; where a legacy program went on
    after an export, it names the way."""
    directory = tmp_path / "ours"
    before = IMPORTED_AT - timedelta(days=5)
    with RuntimeStore.open(
        directory, team_name="harbour", seams=Seams(clock=lambda: before)
    ) as store:
        writes = {LAUNCH: {"teamName": "harbour", "runId": "run-dusk"}, LEASES: {}}
        store.write_batch(identity=DUSK, reason=BatchReason.LAUNCH_CHECKPOINT, writes=writes)
    run("export", directory)
    assert "batches of its own" in run("import", directory).err
    write_late(directory, 1, LEASES, counted=True)
    refused = run("import", directory)
    assert (refused.code, "runtime-store.before-001 && rtstore import" in refused.err) == (2, True)


# --- interrupted ----------------------------------------------------------------------------------


def _import_uninterrupted(parent: Path) -> Path:
    directory = copy(HARBOUR, parent)
    take(directory)
    return directory


def _write_and_die(connection: Connection, *arguments: object, **options: object) -> None:
    write_rows(connection, *arguments, **options)  # type: ignore[arg-type]
    raise Crash


def test_an_error_while_the_rows_are_written_leaves_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the import dies after the last row and before the database has its name, there is none,
    the JSON files are as before, and the next import is whole."""
    directory = copy(HARBOUR, tmp_path / "one")
    before = picture(directory)

    monkeypatch.setattr("rtstore.legacy.importing.write_rows", _write_and_die)
    with pytest.raises(Crash):
        take(directory)
    assert picture(directory, without=("runtime-store.lock",)) == before
    monkeypatch.undo()
    assert take(directory).changed
    assert all_rows(directory) == all_rows(_import_uninterrupted(tmp_path / "two"))


def test_an_error_while_an_empty_store_is_filled_leaves_it_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import into an empty store is one transaction: it dies whole, and can be made again."""
    directory = tmp_path / "runtime"
    RuntimeStore.open(directory, team_name="harbour").close()
    shutil.copytree(OWN / HARBOUR, directory, dirs_exist_ok=True)
    before = all_rows(directory)

    monkeypatch.setattr("rtstore.legacy.importing.write_rows", _write_and_die)
    with pytest.raises(Crash):
        take(directory)
    assert all_rows(directory) == before
    monkeypatch.undo()
    assert take(directory).changed


def _changing_calls(directory: Path) -> int:
    watched = WatchedFileSystem()
    take(directory, fs=watched)
    return len(watched.calls)


@pytest.mark.thorough
@pytest.mark.parametrize("error", [Crash(), OSError(5, "Input/output error")], ids=["crash", "eio"])
def test_a_failure_at_every_file_operation(tmp_path: Path, error: BaseException) -> None:
    """Whichever file operation of an import dies or fails: there is no database or a complete one,
    no JSON file is touched, and importing again gives what an uninterrupted import gives."""
    whole = all_rows(_import_uninterrupted(tmp_path / "whole"))
    calls = _changing_calls(copy(HARBOUR, tmp_path / "count"))
    assert calls >= 5
    for number in range(calls):
        directory = copy(HARBOUR, tmp_path / f"at-{number}")
        before = picture(directory)
        watched = WatchedFileSystem(at_call(number, error))
        with suppress(Crash, StorageError, OSError):
            take(directory, fs=watched)
        after = picture(directory)
        assert {name: after[name] for name in before} == before
        interrupted = (directory / DATABASE).exists()
        if interrupted:
            assert all_rows(directory) == whole
        assert take(directory).changed is not interrupted
        assert all_rows(directory) == whole
        left = {path.name for path in directory.glob("*runtime-store*")}
        assert left == {DATABASE, "runtime-store.lock"}


# --- not alone ------------------------------------------------------------------------------------


def test_an_import_waits_for_the_writer_lock(tmp_path: Path) -> None:
    """While somebody holds the writer lock nothing is imported; the error says who holds it."""
    directory = copy(LANE, tmp_path)
    with WriterLock(directory).hold(), pytest.raises(LockTimeoutError, match="held by process"):
        take(directory, lock_timeout_s=0.05)
    assert not (directory / DATABASE).exists()
    assert take(directory).changed


class _Meddler(FileSystem):
    """Lets somebody change a file right after another one was read for the n-th time."""

    def __init__(self, after: str, target: Path, content: bytes, count: int = 1) -> None:
        self._after, self._target, self._content = after, target, content
        self._count = count

    def read(self, path: Path) -> tuple[bytes, stat_result]:
        found = super().read(path)
        if path.name == self._after:
            self._count -= 1
            if self._count == 0:
                self._target.write_bytes(self._content)
        return found


def test_control_files_that_change_meanwhile_refuse_the_import(tmp_path: Path) -> None:
    """When a runtime of the old kind writes during the import, nothing is imported, and importing
    again takes what it wrote."""
    directory = copy(HARBOUR, tmp_path)
    manifest = directory / MANIFEST
    newer = manifest.read_bytes().replace(b'"highWatermark": 7', b'"highWatermark": 8')
    meddler = _Meddler("launch-state.json", manifest, newer)
    with pytest.raises(LegacyImportError, match="control files changed while they were imported"):
        take(directory, fs=meddler)
    assert not list(directory.glob("*runtime-store.sqlite3*"))
    assert take(directory).high_watermark == 8


def test_tombstones_that_come_meanwhile_refuse_the_import(tmp_path: Path) -> None:
    """A run that is declared dead during the import is not forgotten: importing again takes it."""
    directory = copy(HARBOUR, tmp_path)
    newer = json.dumps([{"runId": "run-dawn"}, {"runId": "run-noon"}]).encode()
    meddler = _Meddler("launch-state.json", directory / TOMBSTONES, newer)
    with pytest.raises(LegacyImportError, match="control files changed while they were imported"):
        take(directory, fs=meddler)
    assert take(directory).ended_runs == 2


def test_a_store_file_that_changes_meanwhile_does_no_harm(tmp_path: Path) -> None:
    """The bytes that were hashed are the bytes that are taken; the plan shows what came after."""
    directory = copy(HARBOUR, tmp_path)
    target = directory / "launch-state.json"
    meddler = _Meddler("launch-state.json", target, b"{}")
    report = take(directory, fs=meddler)
    assert outcomes(report)[LAUNCH] is StoreOutcome.CONTENT_TAKEN
    with opened(directory, recover=False) as store:
        assert store.read(LAUNCH, verify=False).data["runId"] == "run-dusk"
        assert f"Runtime store {LAUNCH} failed inspection: invalid_envelope" in (
            store.plan_recovery().diagnostics
        )


def test_of_two_imports_at_once_one_does_it(tmp_path: Path) -> None:
    """Several threads import the same directory: one changes it, the others find it done."""
    directory = copy(HARBOUR, tmp_path)
    reports: list[ImportReport] = []
    start = threading.Barrier(4)

    def run() -> None:
        start.wait()
        reports.append(import_directory(directory))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.changed for report in reports) == [False, False, False, True]
    assert {report.batches[BatchState.COMMITTED] for report in reports} == {7}
