"""What an export writes is what the legacy runtime wrote, and an import finds all of it again."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    KEEP_EVERYTHING,
    KNOWN_DESCRIPTORS,
    BatchUnfinishedError,
    Descriptor,
    InvalidRequestError,
    LegacyImportError,
    Retention,
    RuntimeStore,
    StorageError,
    import_directory,
)
from tests.cli.commands import run
from tests.legacy.build import (
    DUSK,
    HARBOUR,
    LANE,
    MANIFEST,
    OTHER_MANIFEST,
    RECEIPTS,
    TOMBSTONES,
    Case,
    all_cases,
    all_rows,
    copy,
    edit_manifest,
    opened,
    take,
)
from tests.support import (
    CHECKPOINT,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    SESSIONS,
    TEAM,
    Crash,
    WatchedFileSystem,
    agree,
    at,
    at_call,
    digest,
    files_picture,
    new_directory,
    open_store,
    plain_descriptor,
    write,
)
from tests.upgrade.freeze import unpack

LOST = {"recovery_runs", "recovery_actions", "quarantined_files", "database_upgrades"}
"""Tables that the legacy runtime's files have no place for."""


def document(path: Path) -> Any:
    """The data of a control file, in an envelope or not."""
    found = json.loads(path.read_bytes())
    return found.get("data", found) if isinstance(found, dict) else found


def without_ours(value: Any) -> Any:
    """A document without the keys that an export adds."""
    if isinstance(value, list):
        return [without_ours(item) for item in value]
    if isinstance(value, dict):
        return {
            key: without_ours(item)
            for key, item in value.items()
            if key != "mtimeNs" and not (key == "highWatermark" and "batchId" in value)
        }
    return value


def content_rows(directory: Path) -> dict[str, Any]:
    """What a database says, but for what an import must say otherwise: numbers of rows, the mark of
    the import, the history of contents, and the tables that cannot be told."""
    rows = all_rows(directory)
    order = {row[0]: place for place, row in enumerate(sorted(rows["write_batches"]))}
    current = {(row[0], row[-3]) for row in rows["manifest_entries"]}
    return {
        "manifest": [row[:-2] for row in rows["runtime_manifest"]],
        "batches": [(order[row[0]], *row[1:-1]) for row in rows["write_batches"]],
        "writes": sorted((order[row[0]], *row[1:]) for row in rows["batch_writes"]),
        "entries": sorted(
            (*entry, order[number]) for *entry, number, _, _ in rows["manifest_entries"]
        ),
        "contents": sorted(
            (row[0], order[row[1]], row[2])
            for row in rows["store_contents"]
            if (row[0], row[1]) in current
        ),
    }


def accepted_by_the_legacy_runtime(directory: Path) -> bool:
    """Whether the legacy runtime would call the directory healthy, by its rules, from its files."""
    manifest = document(directory / MANIFEST)
    batches = document(directory / RECEIPTS)
    receipts = {item["receiptId"]: item for batch in batches for item in batch["receipts"]}
    return (
        all(batch["state"] == "committed" for batch in batches)
        and manifest["lastPreparingBatchId"] is None
        and all(
            entry["state"] == "healthy"
            and digest((directory / entry["relativePath"]).read_bytes()) == entry["contentHash"]
            and receipts[entry["lastWriteReceiptId"]]["contentHash"] == entry["contentHash"]
            for entry in manifest["entries"]
        )
    )


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", all_cases())
def test_an_export_says_what_the_legacy_runtime_said(case: Case, tmp_path: Path) -> None:
    """Imported and exported, manifest and receipts hold what they held, word for word, but for the
    batches that failed: those are set aside, where they block nothing. The stores stay as they
    are, and what the control files said before is kept."""
    directory = case.copy(tmp_path)
    name = MANIFEST if (directory / MANIFEST).exists() else OTHER_MANIFEST
    before = {each: document(directory / each) for each in (name, RECEIPTS)}
    stores = files_picture(directory)
    take(directory)
    with opened(directory) as store:
        report = store.export()
    after = {each: document(directory / each) for each in (name, RECEIPTS)}
    ours = json.loads((directory / RECEIPTS).read_bytes()).get("rtstore", {"failedBatches": []})
    failed = [item["batch"] for item in ours["failedBatches"]]
    assert without_ours(after[name]) == {
        **before[name],
        "entries": sorted(before[name]["entries"], key=lambda entry: entry["schemaName"]),
    }
    assert without_ours(after[RECEIPTS]) == [
        batch for batch in before[RECEIPTS] if batch["state"] != "failed"
    ]
    assert without_ours(failed) == [
        batch for batch in before[RECEIPTS] if batch["state"] == "failed"
    ]
    assert len(report.replaced) == 2
    left = {
        each: facts
        for each, facts in files_picture(directory).items()
        if each not in (name, RECEIPTS) and not each.startswith("quarantine/")
    }
    assert left == {each: facts for each, facts in stores.items() if each not in (name, RECEIPTS)}


@pytest.mark.parametrize("case", all_cases())
def test_a_round_trip_loses_nothing(case: Case, tmp_path: Path) -> None:
    """Imported, exported into a new directory and imported there, all rows are the same: ids,
    times to the nanosecond, states, order, numbers, contents."""
    directory = case.copy(tmp_path)
    take(directory)
    with opened(directory, recover=False) as store:
        report = store.export(tmp_path / "out")
    assert not (tmp_path / "out" / "runtime-store.sqlite3").exists()
    take(tmp_path / "out")
    found, expected = content_rows(tmp_path / "out"), content_rows(directory)
    assert found == expected
    assert report.left_out == tuple(
        sorted(
            {entry[0] for entry in expected["entries"]} - {row[0] for row in expected["contents"]}
        )
    )


def test_a_round_trip_of_our_own(tmp_path: Path) -> None:
    """A directory that was written by this library, failed batch and own store included, is
    accepted by the legacy runtime, and comes back as it was."""
    directory = unpack("0001_control_database", tmp_path)
    with RuntimeStore.open(directory) as store:
        descriptors = list(store.descriptors)
        report = store.export(tmp_path / "out")
    assert report.left_out == ()
    assert {state.value: number for state, number in report.batches.items()} == {
        "committed": 8, "failed": 1,
    }  # fmt: skip
    assert accepted_by_the_legacy_runtime(tmp_path / "out")
    take(tmp_path / "out", descriptors=descriptors)
    assert content_rows(tmp_path / "out") == content_rows(directory)
    with opened(tmp_path / "out") as back:
        assert back.last_recovery is None
        assert agree(back)


def test_an_export_in_place(tmp_path: Path) -> None:
    """Beside a living store's files the export is accepted too; a second one with nothing
    new replaces nothing, and one after a batch keeps what it replaces."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, {"n": 1})
        assert store.export().replaced == ()
        assert accepted_by_the_legacy_runtime(directory)
        assert store.export().replaced == ()
        write(store, SESSIONS, {"sessions": []})
        replaced = store.export().replaced
        assert len(replaced) == 2
        assert {file.reason for file in store.quarantined_files()} == {"replaced by an export"}
    assert all((directory / name).is_file() for name in replaced)
    assert accepted_by_the_legacy_runtime(directory)


def test_a_control_file_that_an_export_replaced_is_not_called_damage(tmp_path: Path) -> None:
    """It is in quarantine, and is of no store, so it is not put back as one: the refusal says why,
    changes nothing, and names the command that has it back."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, {"n": 1})
        store.export()
        before = {name: (directory / name).read_bytes() for name in (MANIFEST, RECEIPTS)}
        write(store, LEASES, {"n": 2})
        store.export()
        replaced = store.quarantined_files()
        assert {kept.relative_path for kept in replaced} == {MANIFEST, RECEIPTS}
        for kept in replaced:
            now = files_picture(directory)
            with pytest.raises(InvalidRequestError, match="an export writes it") as caught:
                store.restore_quarantined(kept.quarantine_number)
            assert files_picture(directory) == now
            command = str(caught.value).partition("until then: ")[2]
            subprocess.run(shlex.split(command), check=True)
            assert (directory / kept.relative_path).read_bytes() == before[kept.relative_path]


def test_pruned_history_comes_through(tmp_path: Path) -> None:
    """Where batches were dropped by the retention, those that are left keep their numbers."""
    directory = new_directory(tmp_path)
    with open_store(directory, retention=Retention(batches=3)) as store:
        write(store, LEDGER, {"n": 0})
        for number in range(8):
            write(store, LEASES, {"n": number})
        store.export(tmp_path / "out")
        kept = [batch.high_watermark for batch in store.batches()]
    assert len(kept) < 9
    take(tmp_path / "out")
    with opened(tmp_path / "out", retention=KEEP_EVERYTHING) as back:
        assert [batch.high_watermark for batch in back.batches()] == kept


NOTES = plain_descriptor("my.notes", "notes.json")


def test_stores_of_ones_own_are_set_aside(tmp_path: Path) -> None:
    """A legacy program refuses a manifest with a name that it does not know, whole. Entries and
    receipts of such stores are in the envelopes, the report names them, and an import finds them
    again."""
    directory = new_directory(tmp_path)
    descriptors = [*KNOWN_DESCRIPTORS, NOTES]
    with open_store(directory, descriptors=descriptors) as store:
        write(store, LEASES, {"n": 1})
        store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={NOTES.schema_name: {"n": 2}, LEDGER: []}
        )
        report = store.export(tmp_path / "out")
        assert report.set_aside == store.export().set_aside == (NOTES.schema_name,)
    for each in (directory, tmp_path / "out"):
        names = {entry["schemaName"] for entry in document(each / MANIFEST)["entries"]}
        assert names == {LEASES, LEDGER}
        receipts = [item for batch in document(each / RECEIPTS) for item in batch["receipts"]]
        assert {item["schemaName"] for item in receipts} == names
        assert accepted_by_the_legacy_runtime(each)
    assert json.loads((tmp_path / "out" / NOTES.relative_path).read_bytes())["data"] == {"n": 2}
    take(tmp_path / "out", descriptors=descriptors)
    assert content_rows(tmp_path / "out") == content_rows(directory)


def test_reasons_of_ones_own_are_renamed(tmp_path: Path) -> None:
    """A legacy program refuses receipts with a reason that it does not know: it gets another, the
    report says so, and an import finds the word again."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        store.write_batch(identity=IDENTITY, reason="notes_were_taken", writes={LEASES: 1})
        write(store, LEDGER, 2)
        report = store.export(tmp_path / "out")
        assert report.own_reasons == store.export().own_reasons == ("notes_were_taken",)
        reasons = [batch.reason for batch in store.batches()]
    written = document(directory / RECEIPTS)
    assert [(item["reason"], item.get("ownReason")) for item in written] == [
        ("launch_checkpoint", "notes_were_taken"),
        (CHECKPOINT, None),
    ]
    assert accepted_by_the_legacy_runtime(directory)
    take(tmp_path / "out")
    with opened(tmp_path / "out") as store:
        assert [batch.reason for batch in store.batches()] == reasons


def test_an_entry_that_a_runtime_wrote_since(tmp_path: Path) -> None:
    """A store that was set aside and has an entry by now is what the manifest says."""
    directory = new_directory(tmp_path)
    with open_store(directory, descriptors=[*KNOWN_DESCRIPTORS, NOTES]) as store:
        write(store, NOTES.schema_name, {"n": 1})
        store.export(tmp_path / "out")

    def change(manifest: dict[str, Any]) -> None:
        (aside,) = json.loads((tmp_path / "out" / MANIFEST).read_bytes())["rtstore"]["entries"]
        manifest["entries"] = [{**aside, "runId": "run-later"}]

    edit_manifest(tmp_path / "out", change)
    take(tmp_path / "out", descriptors=[*KNOWN_DESCRIPTORS, NOTES])
    with opened(tmp_path / "out") as back:
        entry = back.manifest().entry(NOTES.schema_name)
        assert entry is not None
        assert entry.run_id == "run-later"


def test_ended_runs_have_tombstones(tmp_path: Path) -> None:
    """A run that has ended gets a tombstone, which an import reads as what it was; the records that
    are there stay, and a list that knows all is not written again."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    there = document(directory / TOMBSTONES)
    with opened(directory) as store:
        assert TOMBSTONES not in store.export().control_files
        with store.begin_run(DUSK) as run:
            run.end("the evening", failed=True)
        assert TOMBSTONES in store.export().control_files
        assert TOMBSTONES not in store.export().control_files
        store.export(tmp_path / "out")
        ended = {run.run_id: (run.state, run.ending, run.why, run.ended_at) for run in store.runs()}
    for each in (directory, tmp_path / "out"):
        old, new = document(each / TOMBSTONES)
        assert [old] == there
        assert (new["runId"], new["teamName"], new["diagnostic"]) == (
            "run-dusk",
            "harbour",
            "the evening",
        )
    take(tmp_path / "out")
    with opened(tmp_path / "out") as back:
        found = {run.run_id: (run.state, run.ending, run.why, run.ended_at) for run in back.runs()}
        assert found == ended


def test_a_list_of_ended_runs_that_makes_no_sense(tmp_path: Path) -> None:
    """It is kept in quarantine when a run must be added; else it is left."""
    directory = new_directory(tmp_path)
    (directory / TOMBSTONES).write_text("{")
    with open_store(directory) as store:
        write(store, LEASES, {"n": 1})
        assert store.export().replaced == ()
        store.end_run(IDENTITY.run_id)
        (kept,) = [path for path in store.export().replaced if TOMBSTONES in path]
    assert (directory / kept).read_text() == "{"
    (record,) = document(directory / TOMBSTONES)
    assert record["rtstore"]["ending"] == "stopped"


def test_what_nobody_committed_is_named(tmp_path: Path) -> None:
    """A new directory has what is committed. A store file without an entry is not in it, and is
    said to be left."""
    directory = copy(LANE, tmp_path)
    content = json.dumps({"schemaVersion": 1, "updatedAt": "x", "data": []})
    (directory / FILE_OF[LEASES]).write_text(content)
    take(directory)
    with opened(directory) as store:
        assert store.export(tmp_path / "out").not_committed == (LEDGER, LEASES)


OLD_FILE = {
    "as it was": lambda path: None,
    "tidied away": Path.unlink,
    "edited": lambda path: path.write_text("an edit of the old file"),
}


@pytest.mark.parametrize("old", OLD_FILE.values(), ids=OLD_FILE)
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "into a new directory"])
def test_a_store_that_moved_and_was_not_written_since(
    tmp_path: Path, old: Callable[[Path], object], in_place: bool
) -> None:
    """It is exported in the file that it has now, with that file: the manifest is true for the
    runtime that reads it, the printed way back works, and the runtime finds what was committed."""
    leases = next(item for item in KNOWN_DESCRIPTORS if item.schema_name == LEASES)
    before = [
        leases.model_copy(update={"relative_path": "leases.json"}),
        plain_descriptor("own.b", "b.json"),
    ]
    now = [leases, plain_descriptor("own.b", "in/b.json")]
    directory = new_directory(tmp_path)
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=before) as store:
        write(store, LEASES, {"leases": []})
        write(store, "own.b", "of b")
    RuntimeStore.open(directory, descriptors=now).close()
    for path in ("leases.json", "b.json"):
        old(directory / path)
    exported = directory if in_place else tmp_path / "out"
    to = () if in_place else ("--to", exported)
    made = run("export", directory, *to, "--json").json()
    assert (made["leftOut"], made["changed"]) == ([], [])
    named = json.loads((exported / MANIFEST).read_bytes())
    entries = [*document(exported / MANIFEST)["entries"], *named["rtstore"]["entries"]]
    assert {entry["schemaName"]: entry["relativePath"] for entry in entries} == {
        item.schema_name: item.relative_path for item in now
    }
    assert accepted_by_the_legacy_runtime(exported)
    if in_place:
        aside = tmp_path / "aside"
        aside.mkdir()
        for each in directory.glob(f"{DATABASE_NAME}*"):
            each.rename(aside / each.name)
    assert run("import", exported).code == 0
    with RuntimeStore.open(exported, descriptors=now) as store:
        assert store.last_recovery is None
        assert (store.read(LEASES).data, store.read("own.b").data) == ({"leases": []}, "of b")
        assert agree(store)
    assert run("doctor", exported).code == 0, run("doctor", exported).out


def test_a_file_that_somebody_changed_is_named(tmp_path: Path) -> None:
    """In place the manifest names what is committed and the file stays as it is; a new directory
    has what is committed. Either way the store is named, and no other one is."""
    directory = new_directory(tmp_path)
    stores = [plain_descriptor(name, f"{name}.json") for name in "ab"]
    with open_store(directory, descriptors=stores) as store:
        write(store, "a", "first")
        write(store, "b", "first")
        first = (directory / "a.json").read_bytes()
        write(store, "a", "second")
        assert store.export().changed == store.export(tmp_path / "none").changed == ()
        second = (directory / "a.json").read_bytes()
        (directory / "a.json").write_bytes(first)  # it is in the database, and no edit
        assert (store.export().changed, store.export(tmp_path / "older").changed) == (("a",), ())
        (directory / "a.json").write_bytes(second.replace(b"second", b"an edit"))
        assert store.export().changed == store.export(tmp_path / "edited").changed == ("a",)
        assert (tmp_path / "edited" / "a.json").read_bytes() == second
    in_place = run("export", directory)
    assert in_place.code == 0
    said = " ".join(in_place.out.split())
    assert "changed: a: its file is not what the manifest says" in said
    assert f"rtstore status {directory}" in said
    assert (
        "changed: a: its file was changed" in run("export", directory, "--to", tmp_path / "x").out
    )
    assert b"an edit" in (directory / "a.json").read_bytes()


# --- what goes wrong ------------------------------------------------------------------------------


def test_an_open_batch_is_finished_first(tmp_path: Path) -> None:
    """While a dead writer's batch is open an export in place is refused: it would not be true."""
    directory = new_directory(tmp_path)
    fs = WatchedFileSystem(at("rename", directory / "opencode-host-leases.json", Crash()))
    store = open_store(directory, fs=fs)
    with pytest.raises(Crash):
        write(store, LEASES, {"n": 1})
    with store.lock.hold():
        store.database.close()
    with (
        open_store(directory, recover=False) as found,
        pytest.raises(BatchUnfinishedError, match="Open the store again"),
    ):
        found.export()
    assert not (directory / MANIFEST).exists()


@pytest.mark.thorough
def test_every_failing_file_operation(tmp_path: Path) -> None:
    """When any file operation fails, each control file is the old one or the new one, whole; the
    next export goes on."""
    original = copy(HARBOUR, tmp_path)
    take(original)
    watched = WatchedFileSystem()
    with opened(original, fs=watched) as store:
        store.export(tmp_path / "whole")
        begin = len(watched.calls)
        watched.calls.clear()
        store.export()
    assert begin > 10
    assert len(watched.calls) > 10
    for number in range(len(watched.calls)):
        directory = copy(HARBOUR, tmp_path / str(number))
        take(directory)
        fs = WatchedFileSystem()
        with opened(directory, fs=fs) as store:
            fs.calls.clear()
            fs.judge = at_call(number, OSError(28, "No space left on device"))
            with pytest.raises(StorageError, match="No space left"):
                store.export()
            fs.judge = None
            for name in (MANIFEST, RECEIPTS):
                assert without_ours(document(directory / name))
            store.export()
        assert document(directory / MANIFEST) == document(original / MANIFEST)
        assert document(directory / RECEIPTS) == document(original / RECEIPTS)


def test_a_directory_in_use_is_no_target(tmp_path: Path) -> None:
    """An export never writes into a directory that has something in it."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store, pytest.raises(InvalidRequestError, match="not empty"):
        store.export(directory)


def test_a_store_that_was_renamed_since_the_export(tmp_path: Path) -> None:
    """The import refuses the descriptor of now. With that of then, as the error says, the store is
    imported, and an opening gives it its new file."""
    then, now = (
        Descriptor("own.one", relative_path=f"{name}.json", rebuild_strategy="own_source")
        for name in ("then", "now")
    )
    directory, exported = new_directory(tmp_path), tmp_path / "exported"
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=[then]) as store:
        write(store, then.schema_name, "kept")
        store.export(exported)
    with pytest.raises(LegacyImportError, match=r"had it there once, .* with those of now then"):
        import_directory(exported, descriptors=[now])
    import_directory(exported, descriptors=[then])
    with RuntimeStore.open(exported, descriptors=[now]) as store:
        assert store.read(now.schema_name).data == "kept"
    assert (exported / "now.json").exists()
