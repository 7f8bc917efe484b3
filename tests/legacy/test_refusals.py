"""Directories that cannot be imported: an error that names file and place, and nothing written."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    KNOWN_DESCRIPTORS,
    BatchReason,
    CorruptDatabaseError,
    ForeignDatabaseError,
    InvalidRequestError,
    LegacyImportError,
    NewerDatabaseError,
    RunState,
    RuntimeStore,
    RuntimeStoreError,
    rebuild_database,
)
from tests.cli.walks import walk
from tests.legacy.build import (
    DUSK,
    HARBOUR,
    MANIFEST,
    OTHER_MANIFEST,
    OWN,
    RECEIPTS,
    TOMBSTONES,
    copy,
    edit,
    edit_manifest,
    edit_receipts,
    take,
)
from tests.support import LAUNCH, launch_state, picture, plain_descriptor

Damage = Callable[[Path], None]


def refused(directory: Path, match: str, kind: type[RuntimeStoreError] = LegacyImportError) -> str:
    """Import the directory, which must be refused and left byte for byte as it was; the message."""
    before = picture(directory)
    with pytest.raises(kind, match=match) as caught:
        take(directory)
    assert picture(directory) == before
    return str(caught.value)


# --- damages --------------------------------------------------------------------------------------


def _manifest(**values: Any) -> Damage:
    """Set keys of the manifest; `...` removes one."""

    def change(manifest: dict[str, Any]) -> None:
        _set(manifest, values)

    return lambda directory: edit_manifest(directory, change)


def _entry(index: int, **values: Any) -> Damage:
    def change(manifest: dict[str, Any]) -> None:
        _set(manifest["entries"][index], values)

    return lambda directory: edit_manifest(directory, change)


def _batch(index: int, **values: Any) -> Damage:
    def change(batches: list[dict[str, Any]]) -> None:
        _set(batches[index], values)

    return lambda directory: edit_receipts(directory, change)


def _receipt(index: int, number: int, **values: Any) -> Damage:
    def change(batches: list[dict[str, Any]]) -> None:
        _set(batches[index]["receipts"][number], values)

    return lambda directory: edit_receipts(directory, change)


def _set(record: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if value is ...:
            del record[key]
        else:
            record[key] = value


def _tombstone(**values: Any) -> Damage:
    return lambda directory: edit(
        directory / TOMBSTONES, lambda document: _set(document["data"][0], values)
    )


def _envelope(name: str, **values: Any) -> Damage:
    return lambda directory: edit(directory / name, lambda document: _set(document, values))


def _content(name: str, content: bytes) -> Damage:
    def damage(directory: Path) -> None:
        (directory / name).write_bytes(content)

    return damage


def _twice(name: str, key: str) -> Damage:
    def damage(directory: Path) -> None:
        content = (directory / name).read_text()
        (directory / name).write_text(content.replace(f'"{key}":', f'"{key}": 1, "{key}":', 1))

    return damage


def _cut(name: str, share: float) -> Damage:
    def damage(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: int(len(content) * share)])

    return damage


HASH = "sha256:" + "0" * 64
DAMAGES: list[tuple[str, Damage, str]] = [
    # not JSON
    ("truncated manifest", _cut(MANIFEST, 0.7), r"manifest\.json: it is damaged: not JSON \(EOF"),
    ("truncated receipts", _cut(RECEIPTS, 0.4), r"receipts\.json: it is damaged: not JSON"),
    ("empty manifest", _content(MANIFEST, b""), r"manifest\.json: it is damaged"),
    ("zeroed receipts", _content(RECEIPTS, b"\0" * 4096), r"receipts\.json: it is damaged"),
    ("no UTF-8", _content(MANIFEST, b'{"teamName": "\xff"}'), r"manifest\.json: it is damaged"),
    ("NaN", _content(MANIFEST, b'{"highWatermark": NaN}'), r"manifest\.json: it is damaged"),
    ("a lone surrogate", _content(MANIFEST, b'{"teamName": "\\ud800"}'), r"it is damaged"),
    ("nested deeply", _content(MANIFEST, b"[" * 100_000), r"manifest\.json: it is damaged"),
    (
        "a key twice in the manifest",
        _twice(MANIFEST, "highWatermark"),
        r"key 'highWatermark' twice",
    ),
    ("a key twice in the receipts", _twice(RECEIPTS, "state"), r"not JSON \(an object has the key"),
    # not what it should be
    ("a list", _content(MANIFEST, b"[]"), r"manifest\.json: the whole file: "),
    ("a number in the envelope", _envelope(MANIFEST, data=7), r"manifest\.json: data: "),
    (
        "nothing of ours",
        _content(MANIFEST, b'{"name": "web app"}'),
        r"not the manifest of a runtime",
    ),
    ("receipts that are no list", _envelope(RECEIPTS, data={}), r"receipts\.json: data: "),
    ("an envelope without version", _envelope(MANIFEST, schemaVersion=...), r"schemaVersion: miss"),
    # versions
    (
        "a newer envelope",
        _envelope(MANIFEST, schemaVersion=2),
        r"schemaVersion: found 2.*newer rtstore",
    ),
    ("newer receipts", _envelope(RECEIPTS, schemaVersion=3), r"receipts\.json: schemaVersion: f"),
    ("a newer manifest", _manifest(schemaVersion=2), r"data\.schemaVersion: found 2.* knows 1"),
    ("an older manifest", _manifest(schemaVersion=0), r"data\.schemaVersion: found 0"),
    ("a version that is true", _manifest(schemaVersion=True), r"data\.schemaVersion: found True"),
    ("a version in quotes", _manifest(schemaVersion="1"), r"data\.schemaVersion: found '1'"),
    ("no version", _manifest(schemaVersion=...), r"data\.schemaVersion: Field required"),
    # the manifest
    ("no team", _manifest(teamName=...), r"data\.teamName: Field required"),
    ("a blank team", _manifest(teamName=" "), r"data\.teamName: .*blank, found ' '"),
    ("a team that is a number", _manifest(teamName=7), r"data\.teamName: .*string.*, found 7"),
    ("a watermark in quotes", _manifest(highWatermark="7"), r"data\.highWatermark: .*found '7'"),
    ("a watermark below 0", _manifest(highWatermark=-1), r"data\.highWatermark: .*found -1"),
    ("a watermark beyond 64 bits", _manifest(highWatermark=2**63), r"data\.highWatermark: "),
    (
        "a watermark that nothing counts to",
        _manifest(highWatermark=2**53 + 1),
        r"data\.highWatermark: .*found 9007199254740993",
    ),
    (
        "such a watermark of a batch",
        _batch(0, highWatermark=2**53 + 1),
        r"data\[0\]\.highWatermark: .*found 9007199254740993",
    ),
    ("an empty run", _manifest(activeRunId=""), r"data\.activeRunId: "),
    ("no time", _manifest(updatedAt="yesterday"), r"data\.updatedAt: .*not a time.*'yesterday'"),
    ("a time without zone", _manifest(updatedAt="2026-06-01T10:00:00"), r"data\.updatedAt: .*zone"),
    ("a time out of range", _manifest(updatedAt="0001-01-01T00:00:00+14:00"), r"data\.updatedAt: "),
    ("entries that are no list", _manifest(entries={}), r"data\.entries: "),
    # entries
    ("an unknown state", _entry(2, state="lost"), r"data\.entries\[2\]\.state: .*'lost'"),
    (
        "a path outside",
        _entry(1, relativePath="../x.json"),
        r"entries\[1\]\.relativePath: .*leaves",
    ),
    (
        "an absolute path",
        _entry(1, relativePath="/x.json"),
        r"entries\[1\]\.relativePath: .*not re",
    ),
    (
        "a reserved path",
        _entry(1, relativePath=MANIFEST),
        r"entries\[1\]\.relativePath: .*reserved",
    ),
    ("another path", _entry(3, relativePath="other.json"), r"entries\[3\]\.relativePath: 'other"),
    (
        "a name that is none",
        _entry(0, schemaName="no name"),
        r"entries\[0\]\.schemaName: .*pattern",
    ),
    ("a short hash", _entry(0, contentHash="sha256:12"), r"entries\[0\]\.contentHash: .*pattern"),
    ("a blank receipt id", _entry(0, lastWriteReceiptId=""), r"entries\[0\]\.lastWriteReceiptId: "),
    ("a size below 0", _entry(0, fileSize=-1), r"entries\[0\]\.fileSize: .*found -1"),
    ("a size with a fraction", _entry(0, fileSize=1.5), r"entries\[0\]\.fileSize: "),
    ("a time below 0", _entry(0, mtimeMs=-1.0), r"entries\[0\]\.mtimeMs: "),
    ("a time beyond 64 bits", _entry(0, mtimeMs=1e300), r"entries\[0\]\.mtimeMs: "),
    (
        "a store twice",
        _entry(1, schemaName="opencode.compatibilitySnapshot"),
        r"data\.entries\[1\]\.schemaName: 'opencode\.compatibilitySnapshot' is at entries\[0\]",
    ),
    (
        "a path twice",
        _entry(1, relativePath="OpenCode-Compatibility.json"),
        r"data\.entries\[1\]\.relativePath: .* is at entries\[0\]\.relativePath already",
    ),
    (
        "a receipt twice",
        _entry(1, lastWriteReceiptId="harbour-receipt-5-1"),
        r"data\.entries\[1\]\.lastWriteReceiptId: 'harbour-receipt-5-1' is at entries\[0\]",
    ),
    (
        "a hash that is not its receipt's",
        _entry(0, contentHash=HASH),
        r"data\.entries\[0\]\.contentHash: .* in receipt harbour-receipt-5-1",
    ),
    *(
        (
            f"an entry of a batch that is {state}",
            _batch(7, state=state, completedAt=completed_at),
            (
                r"manifest\.json: data\.entries\[1\]\.lastWriteReceiptId: "
                r"opencode\.deliveryJournal .* receipt harbour-receipt-8-1 .* "
                rf"batch harbour-batch-8 is {state} in opencode-runtime-receipts\.json"
            ),
        )
        for state, completed_at in (
            ("preparing", None),
            ("committing", None),
            ("failed", "2026-06-01T12:00:00.000Z"),
        )
    ),
    (
        "a receipt of another store",
        _entry(0, lastWriteReceiptId="harbour-receipt-1-9", schemaName="my.store"),
        (
            r"data\.entries\[0\]\.relativePath: .* is the file of opencode\.compatibilitySnapshot"
            r".* correct the entry in it, .*rtstore import .* --descriptors MODULE:NAME"
        ),
    ),
    # batches
    (
        "an unknown batch state",
        _batch(0, state="done"),
        r"receipts\.json: data\[0\]\.state: .*'done'",
    ),
    ("an unknown reason", _batch(1, reason="mood"), r"data\[1\]\.reason: .*'mood'"),
    ("no start", _batch(1, startedAt=None), r"data\[1\]\.startedAt: .*a time is a string"),
    ("committed without end", _batch(1, completedAt=None), r"data\[1\]\.completedAt: missing in a"),
    ("preparing with end", _batch(1, state="preparing"), r"data\[1\]\.completedAt: set in a batch"),
    ("an empty batch id", _batch(0, batchId=""), r"data\[0\]\.batchId: .*blank"),
    ("no receipts", _batch(0, receipts=...), r"data\[0\]\.receipts: Field required"),
    (
        "a batch twice",
        _batch(2, batchId="harbour-batch-2"),
        r"data\[2\]\.batchId: 'harbour-batch-2' is at \[1\]\.batchId already",
    ),
    # receipts
    (
        "a receipt of another batch",
        _receipt(1, 0, batchId="harbour-batch-1"),
        r"data\[1\]\.receipts\[0\]\.batchId: 'harbour-batch-1' here, 'harbour-batch-2' in",
    ),
    (
        "a receipt of another run",
        _receipt(1, 1, runId="run-noon"),
        r"data\[1\]\.receipts\[1\]\.runId: 'run-noon' here, 'run-dawn' in its batch",
    ),
    (
        "a receipt id twice",
        _receipt(1, 1, receiptId="harbour-receipt-1-1"),
        r"data\[1\]\.receipts\[1\]\.receiptId: .* is at \[0\]\.receipts\[0\]\.receiptId already",
    ),
    (
        "a store twice in a batch",
        _receipt(1, 1, schemaName=LAUNCH),
        r"data\[1\]\.receipts\[1\]\.schemaName: .* is at \[1\]\.receipts\[0\]\.schemaName already",
    ),
    (
        "a receipt's path outside",
        _receipt(0, 0, relativePath="a/../../b"),
        r"data\[0\]\.receipts\[0\]\.relativePath: .*leaves",
    ),
    (
        "a receipt's time",
        _receipt(0, 0, writtenAt=17),
        r"data\[0\]\.receipts\[0\]\.writtenAt: ",
    ),
    # tombstones
    ("truncated tombstones", _cut(TOMBSTONES, 0.5), r"tombstones\.json: it is damaged: not JSON"),
    ("tombstones that are no list", _envelope(TOMBSTONES, data={}), r"tombstones\.json: data: "),
    (
        "newer tombstones",
        _envelope(TOMBSTONES, schemaVersion=2),
        r"tombstones\.json: schemaV",
    ),
    ("a tombstone of no run", _tombstone(runId=...), r"data\[0\]\.runId: Field required"),
    ("a tombstone of a blank run", _tombstone(runId=" "), r"data\[0\]\.runId: .*blank"),
    ("a tombstone's time", _tombstone(stoppedAt="noon"), r"data\[0\]\.stoppedAt: .*'noon'"),
    ("a tombstone's reason", _tombstone(reason=7), r"data\[0\]\.reason: .*found 7"),
]


@pytest.mark.parametrize(
    ("damage", "match"), [pytest.param(*case[1:], id=case[0]) for case in DAMAGES]
)
def test_a_damaged_control_file(tmp_path: Path, damage: Damage, match: str) -> None:
    """Whatever is wrong in a control file: the error names the file and the place in it, and the
    directory is byte for byte as before, without so much as a lock file."""
    directory = copy(HARBOUR, tmp_path)
    damage(directory)
    message = refused(directory, match)
    assert message.startswith("cannot import ")
    assert any(name in message for name in (MANIFEST, RECEIPTS, TOMBSTONES))


@pytest.mark.parametrize("name", [MANIFEST, RECEIPTS, TOMBSTONES])
def test_the_way_out_of_a_damaged_control_file(tmp_path: Path, name: str) -> None:
    """What the doctor prints runs as printed and leads to a store that can be used. The list of
    ended runs asks for no descriptor, and is taken whenever it is sound."""
    directory = copy(HARBOUR, tmp_path)
    (directory / name).write_bytes((directory / name).read_bytes()[:100])
    (first, *_) = walk(directory)
    assert "rtstore import" in first.advice or name == MANIFEST
    with RuntimeStore.open(directory, read_only=True) as store:
        (dawn,) = [run for run in store.runs() if run.run_id == "run-dawn"]
        assert dawn.state is RunState.ENDED  # if only by its last batch


def test_the_way_out_of_an_entry_of_a_batch_that_failed(tmp_path: Path) -> None:
    """What the doctor prints runs as printed and leads to a store that can be used."""
    directory = copy(HARBOUR, tmp_path)
    _batch(7, state="failed")(directory)
    refused(directory, "batch harbour-batch-8 is failed")
    walk(directory)


def test_the_way_out_of_a_linked_control_file(tmp_path: Path) -> None:
    """What a link leads to is put in its place: nothing is lost for a link."""
    directory = copy(HARBOUR, tmp_path)
    (directory / MANIFEST).rename(tmp_path / "elsewhere.json")
    (directory / MANIFEST).symlink_to(tmp_path / "elsewhere.json")
    refused(directory, "it is a symbolic link, which is never followed")
    walk(directory)
    with RuntimeStore.open(directory, read_only=True) as store:
        assert store.manifest().high_watermark == 7


def test_a_rebuild_with_a_damaged_list_of_ended_runs(tmp_path: Path) -> None:
    """The stores are taken all the same, and the list that was not is named."""
    directory = copy(HARBOUR, tmp_path)
    (directory / MANIFEST).unlink()
    (directory / TOMBSTONES).write_bytes(b"{")
    (note,) = rebuild_database(directory, team_name="harbour").notes
    assert note.startswith("the list of ended runs was not taken: it is damaged")


def test_the_damages_are_what_is_refused(tmp_path: Path) -> None:
    """The same edits with the values that are there already are accepted: it is not the editing."""
    directory = copy(HARBOUR, tmp_path)
    _manifest(teamName="harbour")(directory)
    _entry(0, state="healthy")(directory)
    _batch(0, state="committed")(directory)
    _envelope(RECEIPTS, schemaVersion=1)(directory)
    assert take(directory).changed


def test_snake_case_keys_are_not_legacy(tmp_path: Path) -> None:
    """The files are camelCase; a key of another spelling is a missing key."""
    directory = copy(HARBOUR, tmp_path)
    _manifest(teamName=..., team_name="harbour")(directory)
    refused(directory, r"data\.teamName: Field required")


# --- not such a directory -------------------------------------------------------------------------


def test_a_directory_without_manifest(tmp_path: Path) -> None:
    """A directory that is no legacy one is said to be none, with the names that were looked
    for; receipts alone make no directory."""
    shutil.copy(OWN / HARBOUR / RECEIPTS, tmp_path / RECEIPTS)
    refused(tmp_path, r"not a runtime directory .* no manifest\.json or opencode-runtime-manifest")


def test_the_folder_above(tmp_path: Path) -> None:
    """Who names the team's folder is told which folder inside it is meant."""
    shutil.copytree(OWN / HARBOUR, tmp_path / ".opencode-runtime")
    refused(tmp_path, r"Did you mean .*\.opencode-runtime\?")


def test_no_directory(tmp_path: Path) -> None:
    """A path where nothing is, or a file, is refused as such."""
    with pytest.raises(LegacyImportError, match="there is no such directory"):
        take(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(LegacyImportError, match="it is not a directory"):
        take(tmp_path / "file")


def test_two_manifests_that_differ(tmp_path: Path) -> None:
    """Which of two different manifests is current is for a person to say."""
    directory = copy(HARBOUR, tmp_path)
    shutil.copy(directory / MANIFEST, directory / OTHER_MANIFEST)
    _manifest(highWatermark=6)(directory)
    refused(directory, r"both manifest\.json and opencode-runtime-manifest\.json, and they differ")


@pytest.mark.parametrize("name", [MANIFEST, RECEIPTS, TOMBSTONES])
def test_a_control_file_that_is_none(tmp_path: Path, name: str) -> None:
    """A link, a directory or a pipe in place of a control file cannot be read; nothing waits."""
    directory = copy(HARBOUR, tmp_path)
    target = directory / name
    target.rename(directory / "elsewhere.json")
    target.symlink_to(directory / "elsewhere.json")
    refused(directory, rf"{name}: it cannot be read: it is a symbolic link, which is never")
    target.unlink()
    target.mkdir()
    refused(directory, rf"{name}: it cannot be read")
    target.rmdir()
    os.mkfifo(target)
    with pytest.raises(LegacyImportError, match=rf"{name}: it cannot be read"):
        take(directory)


# --- descriptors ----------------------------------------------------------------------------------


def test_a_descriptor_that_wants_the_file_of_an_unregistered_store(tmp_path: Path) -> None:
    """Two stores never share a file: an entry whose path belongs to another store is refused."""
    directory = copy(HARBOUR, tmp_path)
    before = picture(directory)
    mine = [
        plain_descriptor("my.state", "launch-state.json"),
        *[item for item in KNOWN_DESCRIPTORS if item.schema_name != LAUNCH],
    ]
    with pytest.raises(LegacyImportError, match=rf"is the file of my\.state, not of {LAUNCH}"):
        take(directory, descriptors=mine)
    assert picture(directory) == before


def test_descriptors_that_contradict_each_other(tmp_path: Path) -> None:
    """Descriptors are checked before anything is looked at."""
    directory = copy(HARBOUR, tmp_path)
    before = picture(directory)
    with pytest.raises(InvalidRequestError, match="registered twice"):
        take(directory, descriptors=[*KNOWN_DESCRIPTORS, KNOWN_DESCRIPTORS[0]])
    assert picture(directory) == before


# --- a database is there --------------------------------------------------------------------------


def _beside_a_store(parent: Path, *, team: str = "harbour", write: bool = False) -> Path:
    """The legacy runtime's files in a directory that has a store of its own."""
    directory = parent / "runtime"
    with RuntimeStore.open(directory, team_name=team) as store:
        if write:
            data = launch_state("run-1", teamName=team)
            store.write_batch(
                identity=DUSK, reason=BatchReason.LAUNCH_CHECKPOINT, writes={LAUNCH: data}
            )
    shutil.copytree(OWN / HARBOUR, directory, dirs_exist_ok=True)
    return directory


def test_a_store_with_batches_of_its_own(tmp_path: Path) -> None:
    """A history of one's own is never mixed with the legacy runtime's."""
    directory = _beside_a_store(tmp_path, write=True)
    refused(directory, r"already has a store with batches of its own .*high watermark 1")


def test_an_empty_store_of_another_team(tmp_path: Path) -> None:
    """An empty store of another team is not renamed in passing; both names are said."""
    directory = _beside_a_store(tmp_path, team="quay")
    refused(directory, r"data\.teamName: 'harbour', but the store .* made for team 'quay'")


def test_a_damaged_control_file_beside_an_empty_store(tmp_path: Path) -> None:
    """The store stays empty and as it was when the import into it is refused."""
    directory = _beside_a_store(tmp_path)
    _entry(0, state="fine")(directory)
    refused(directory, r"data\.entries\[0\]\.state")


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
        connection.execute("UPDATE alembic_version SET version_num = '0999_later'")
    connection.close()


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 7")
    connection.close()


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (_newer, NewerDatabaseError),
        (_foreign, ForeignDatabaseError),
        (lambda path: path.write_bytes(b""), CorruptDatabaseError),
        (lambda path: path.write_text("no database" * 500), ForeignDatabaseError),
    ],
)
def test_a_database_that_is_not_ours(
    tmp_path: Path, damage: Callable[[Path], None], kind: type[RuntimeStoreError]
) -> None:
    """A newer, foreign or damaged database in the directory is told apart and never touched."""
    directory = _beside_a_store(tmp_path)
    damage(directory / "runtime-store.sqlite3")
    refused(directory, "runtime-store.sqlite3", kind)
