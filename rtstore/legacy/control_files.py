"""Reads and checks the manifest, the receipts and the tombstones of the legacy format.

Each is a JSON file, with or without the envelope of a store file. Any fault in one of them raises
`LegacyImportError`, which names the file and the place. So nothing is written before everything is
understood. Reads only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pydantic_core
from pydantic import TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from rtstore.errors import LegacyImportError
from rtstore.files.system import FileSystem
from rtstore.legacy.format import (
    Extension,
    LegacyBatch,
    LegacyEntry,
    LegacyManifest,
    LegacyRecord,
    ManifestExtension,
    ReceiptSetAside,
    Tombstone,
)
from rtstore.model.descriptors import RUN_TOMBSTONES
from rtstore.model.envelope import content_hash, refuse_key_twice
from rtstore.model.records import OPEN_STATES, BatchState, Record

UNAMBIGUOUS_MANIFEST = "opencode-runtime-manifest.json"
MANIFEST_NAMES = ("manifest.json", UNAMBIGUOUS_MANIFEST)
RECEIPTS_NAME = "opencode-runtime-receipts.json"
TOMBSTONES_NAME = RUN_TOMBSTONES
"""The list of runs that are dead. A runtime of the old kind still uses it after an import."""
OUR_KEY = "rtstore"
"""The key in the envelope of the receipts for what an export adds."""
SCHEMA_VERSION = 1
"""The schema version of the manifest, of the receipts, and of their envelopes."""

_MARKS = {"teamName", "highWatermark", "entries"}
"""The keys by which a legacy manifest is recognised."""
RUNTIME_DIRECTORY = ".opencode-runtime"
"""The name of the runtime directory in a team's directory."""
_Value = TypeVar("_Value")


class ControlFiles(Record):
    """The control files, parsed and checked."""

    manifest_path: Path
    manifest_place: str
    """The place of the manifest in its file: `data` when it is in an envelope, else empty."""
    manifest: LegacyManifest
    batches: tuple[LegacyBatch, ...]
    """Oldest first; empty when there is no receipts file."""
    tombstones: tuple[Tombstone, ...]
    """The runs that are dead; empty when there is no list of them."""
    names: tuple[str, ...]
    """The names of the files that were read."""
    content_hash: str
    """The hash over the bytes of manifest and receipts."""
    tombstones_content: bytes | None
    """The bytes of the list of tombstones; None when it was not read."""

    def bad_manifest(self, place: str, problem: str) -> LegacyImportError:
        """Return the error for a place in the manifest, such as `entries[3].relativePath`."""
        return LegacyImportError(
            self.manifest_path, f"{_joined(self.manifest_place, place)}: {problem}"
        )

    @property
    def entries(self) -> list[LegacyEntry]:
        """The entries that say which content is committed."""
        return [entry for entry in self.manifest.entries if entry.content_hash is not None]

    @property
    def entries_without_receipt(self) -> list[LegacyEntry]:
        """Those of the entries whose receipt is not in the receipts file."""
        known = {item.receipt_id for batch in self.batches for item in batch.receipts}
        return [entry for entry in self.entries if entry.receipt_id not in known]

    def unknown_keys(self) -> list[str]:
        """Return the keys that these records do not know, such as `manifest.entries[].note`."""
        records: list[tuple[str, Iterable[LegacyRecord]]] = [
            ("manifest", [self.manifest]),
            ("manifest.entries[]", self.manifest.entries),
            ("receipts[]", self.batches),
            ("receipts[].receipts[]", [item for batch in self.batches for item in batch.receipts]),
            ("receipts[].deletions[]", [i for batch in self.batches for i in batch.deletions]),
        ]
        return sorted(
            {
                f"{place}.{key}"
                for place, items in records
                for item in items
                for key in item.model_extra or ()
            }
        )


# --- looking ------------------------------------------------------------------------------------


def is_legacy_directory(directory: Path) -> bool:
    """Return whether the directory holds a legacy manifest, damaged or not. Never raises.

    Other programs use the name `manifest.json` too. It counts when it looks like a legacy manifest,
    or when it is damaged but its text or the receipts next to it still identify it.
    """
    try:
        if os.path.lexists(directory / UNAMBIGUOUS_MANIFEST):
            return True
        if not os.path.lexists(directory / MANIFEST_NAMES[0]):
            return False
        if os.path.lexists(directory / RECEIPTS_NAME):
            return True
        content, _ = FileSystem().read(directory / MANIFEST_NAMES[0])
    except (OSError, ValueError):
        return False
    try:
        document = pydantic_core.from_json(content)
    except ValueError:
        return all(f'"{mark}"'.encode() in content for mark in _MARKS)
    data = _manifest_in(document)
    return (
        isinstance(data.get("teamName"), str)
        and isinstance(data.get("highWatermark"), int)
        and isinstance(data.get("entries"), list)
    )


def lacks_manifest(directory: Path) -> bool:
    """Return whether the receipts of the legacy format lie in a directory, and no manifest. Never
    raises."""
    try:
        names = {name for name in MANIFEST_NAMES if os.path.lexists(directory / name)}
        return not names and os.path.lexists(directory / RECEIPTS_NAME)
    except (OSError, ValueError):
        return False


def team_name_in(directory: Path, fs: FileSystem) -> str | None:
    """Return the team that the manifest in a directory names, if that much of it can be read."""
    try:
        content = next(iter(_manifests(directory, fs).values()), b"")
        found = _manifest_in(pydantic_core.from_json(content)).get("teamName")
    except (LegacyImportError, ValueError):
        return None
    return found if isinstance(found, str) and found.strip() and found.isprintable() else None


def current_hash(directory: Path, fs: FileSystem) -> str | None:
    """Return `ControlFiles.content_hash` of the files as they are now, without parsing them; None
    when there is no manifest."""
    manifests = _manifests(directory, fs)
    if not manifests:
        return None
    return _hash_of_both(next(iter(manifests.values())), _read(directory / RECEIPTS_NAME, fs))


def are_unchanged(directory: Path, files: ControlFiles, fs: FileSystem) -> bool:
    """Return whether the control files are still those that were read."""
    if current_hash(directory, fs) != files.content_hash:
        return False
    return _tombstones_content(directory, files.manifest, fs) == files.tombstones_content


def read_control_files(directory: Path, fs: FileSystem) -> ControlFiles:
    """Read manifest, receipts and tombstones; all but the manifest may be absent.

    Raises `LegacyImportError` when the directory has no manifest, or two that differ, and when a
    file is unreadable or damaged.
    """
    if not fs.is_directory(directory):
        problem = "it is not a directory" if directory.exists() else "there is no such directory"
        raise LegacyImportError(directory, problem)
    found = _manifests(directory, fs)
    if not found:
        raise _no_manifest(directory)
    if len(set(found.values())) > 1:
        raise LegacyImportError(
            directory,
            f"it holds both {' and '.join(found)}, and they differ. "
            "Move the one that is not current out of the directory",
        )
    name, manifest_bytes = next(iter(found.items()))
    receipts_bytes = _read(directory / RECEIPTS_NAME, fs)
    path = directory / name
    _refuse_other_manifest(path, manifest_bytes)
    manifest, place = _parse(path, manifest_bytes, TypeAdapter(LegacyManifest))
    manifest = _with_entries_set_aside(path, manifest_bytes, manifest)
    batches: tuple[LegacyBatch, ...] = ()
    if receipts_bytes is not None:
        receipts_path = directory / RECEIPTS_NAME
        batches, receipts_place = _parse(
            receipts_path, receipts_bytes, TypeAdapter(tuple[LegacyBatch, ...])
        )
        batches = _with_set_aside(receipts_path, receipts_bytes, batches)
        _check(receipts_path, receipts_place, _problems_of_batches(batches))
    tombstones_content = _tombstones_content(directory, manifest, fs)
    tombstones = _tombstones(directory, tombstones_content)
    read = {RECEIPTS_NAME: receipts_bytes, TOMBSTONES_NAME: tombstones_content}
    files = ControlFiles(
        manifest_path=path,
        manifest_place=place,
        manifest=manifest,
        batches=batches,
        tombstones=tombstones,
        names=(*found, *(name for name, content in read.items() if content is not None)),
        content_hash=_hash_of_both(manifest_bytes, receipts_bytes),
        tombstones_content=tombstones_content,
    )
    _check(path, place, _problems_of_entries(files))
    return files


def _manifests(directory: Path, fs: FileSystem) -> dict[str, bytes]:
    found = {name: _read(directory / name, fs) for name in MANIFEST_NAMES}
    return {name: content for name, content in found.items() if content is not None}


def _tombstones_content(directory: Path, manifest: LegacyManifest, fs: FileSystem) -> bytes | None:
    """Return the bytes of the list of tombstones; None when there is none, or a store has the
    name."""
    if any(entry.relative_path == TOMBSTONES_NAME for entry in manifest.entries):
        return None
    return _read(directory / TOMBSTONES_NAME, fs)


def read_tombstones(directory: Path, fs: FileSystem) -> tuple[Tombstone, ...]:
    """Return the runs that are dead, as the list of tombstones of a directory says, if it has one.

    Raises `LegacyImportError` when it is unreadable or damaged.
    """
    return _tombstones(directory, _read(directory / TOMBSTONES_NAME, fs))


def _tombstones(directory: Path, content: bytes | None) -> tuple[Tombstone, ...]:
    if content is None:
        return ()
    path, adapter = directory / TOMBSTONES_NAME, TypeAdapter(tuple[Tombstone, ...])
    return _parse(path, content, adapter)[0]


def _no_manifest(directory: Path) -> LegacyImportError:
    below = directory / RUNTIME_DIRECTORY
    hint = f". Did you mean {below}?" if is_legacy_directory(below) else ""
    return LegacyImportError(
        directory,
        "it is not a runtime directory of the legacy format: there is no "
        f"{' or '.join(MANIFEST_NAMES)}{hint}",
    )


def _refuse_other_manifest(path: Path, content: bytes) -> None:
    """Raise for the `manifest.json` of another program, which has none of the legacy keys. Listing
    its missing keys would not help."""
    try:
        document = pydantic_core.from_json(content)
    except ValueError:
        return
    if isinstance(document, dict) and not {*_MARKS, "data"} & document.keys():
        raise LegacyImportError(
            path,
            "it is not the manifest of a runtime directory: it has none of "
            f"{', '.join(sorted(_MARKS))}",
        )


def _manifest_in(document: object) -> dict[str, Any]:
    """Return the manifest in a JSON document, in an envelope or not; empty when there is none."""
    data = document.get("data", document) if isinstance(document, dict) else None
    return data if isinstance(data, dict) else {}


def _read(path: Path, fs: FileSystem) -> bytes | None:
    try:
        return fs.read(path)[0]
    except FileNotFoundError:
        if not os.path.lexists(path):
            return None
        problem = "it cannot be read: it is a symbolic link that leads nowhere"
        raise LegacyImportError(path, problem, damaged=True) from None
    except OSError as error:
        damaged = not isinstance(error, PermissionError)
        problem = f"it cannot be read ({error})"
        if os.path.islink(path):
            problem = "it cannot be read: it is a symbolic link, which is never followed"
        raise LegacyImportError(path, problem, damaged=damaged) from error


def _hash_of_both(manifest: bytes, receipts: bytes | None) -> str:
    # The length comes first, so no byte of one file can be taken for a byte of the other.
    return content_hash(b"%d\n%b%b" % (len(manifest), manifest, receipts or b""))


# --- parsing ------------------------------------------------------------------------------------


def _parse(path: Path, content: bytes, adapter: TypeAdapter[_Value]) -> tuple[_Value, str]:
    """Return the value of a control file, and its place in the file: `data` in an envelope."""
    try:
        document = pydantic_core.from_json(content, allow_inf_nan=False)
        refuse_key_twice(content)
    except ValueError as error:
        raise LegacyImportError(path, f"it is damaged: not JSON ({error})", damaged=True) from None
    _check_version(path, "", document)
    if not isinstance(document, dict) or "data" not in document:
        return _validate(path, "", document, adapter), ""
    if "schemaVersion" not in document:
        raise LegacyImportError(path, "schemaVersion: missing in the envelope", damaged=True)
    _check_version(path, "data", document["data"])
    return _validate(path, "data", document["data"], adapter), "data"


def _ours_in(path: Path, content: bytes, adapter: TypeAdapter[_Value]) -> _Value | None:
    """Return what an export added to the envelope of a control file, or None."""
    document = pydantic_core.from_json(content)
    if not isinstance(document, dict) or OUR_KEY not in document:
        return None
    return _validate(path, OUR_KEY, document[OUR_KEY], adapter)


def _with_set_aside(
    path: Path, content: bytes, batches: tuple[LegacyBatch, ...]
) -> tuple[LegacyBatch, ...]:
    """Return the batches, with those that an export set aside at their old positions, and with the
    receipts that it set aside at theirs."""
    ours = _ours_in(path, content, TypeAdapter(Extension))
    if ours is None:
        return batches
    found = list(batches)
    for item in ours.failed_batches:
        found.insert(item.position, item.batch)
    receipts_of: dict[str, list[ReceiptSetAside]] = {}
    for each in ours.receipts:
        receipts_of.setdefault(each.batch_id, []).append(each)
    return tuple(_with_receipts(batch, receipts_of.get(batch.batch_id, ())) for batch in found)


def _with_receipts(batch: LegacyBatch, aside: Iterable[ReceiptSetAside]) -> LegacyBatch:
    receipts = list(batch.receipts)
    for item in aside:
        receipts.insert(item.position, item.receipt)
    if len(receipts) == len(batch.receipts):
        return batch
    return batch.model_copy(update={"receipts": tuple(receipts)})


def _with_entries_set_aside(path: Path, content: bytes, manifest: LegacyManifest) -> LegacyManifest:
    """Return the manifest with the entries that an export set aside, but for those of a store that
    has one: a runtime has written it since."""
    ours = _ours_in(path, content, TypeAdapter(ManifestExtension))
    names = {entry.schema_name for entry in manifest.entries}
    aside = () if ours is None else ours.entries
    entries = (*manifest.entries, *(item for item in aside if item.schema_name not in names))
    return manifest.model_copy(update={"entries": entries})


def _validate(path: Path, place: str, value: object, adapter: TypeAdapter[_Value]) -> _Value:
    # Encoded as JSON again: only in JSON does `strict` accept a string for an enum, a list for a
    # tuple.
    try:
        return adapter.validate_json(pydantic_core.to_json(value), by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        inner = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
        )
        where = _joined(place, inner.removeprefix(".")) or "the whole file"
        found = first["input"]
        shown = f", found {found!r:.80}" if isinstance(found, str | int | float) else ""
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        problem = f"{where}: {first['msg']}{shown}{more}"
        raise LegacyImportError(path, problem, damaged=True) from None


def _check_version(path: Path, place: str, document: object) -> None:
    if not isinstance(document, dict) or "schemaVersion" not in document:
        return
    version = document["schemaVersion"]
    is_number = isinstance(version, int) and not isinstance(version, bool)
    if is_number and version == SCHEMA_VERSION:
        return
    problem = f"found {version!r:.80}, this rtstore knows {SCHEMA_VERSION}"
    is_newer = is_number and version > SCHEMA_VERSION
    if is_newer:
        problem += ". A newer program wrote it: import it with a newer rtstore"
    where = _joined(place, "schemaVersion")
    raise LegacyImportError(path, f"{where}: {problem}", damaged=not is_newer)


def _joined(place: str, inner: str) -> str:
    return f"{place}.{inner}" if place and inner and not inner.startswith("[") else place + inner


# --- what a type cannot say ---------------------------------------------------------------------

_OF_BATCH = ("batch_id", "team_name", "run_id", "capability_snapshot_id", "behavior_fingerprint")
_OF_RECEIPT = ("schema_name", "relative_path", "content_hash", "file_size")


def _check(path: Path, place: str, problems: Iterator[str]) -> None:
    for problem in problems:
        raise LegacyImportError(path, _joined(place, problem), damaged=True)


def _problems_of_batches(batches: tuple[LegacyBatch, ...]) -> Iterator[str]:
    batch_ids: dict[str, str] = {}
    receipt_ids: dict[str, str] = {}
    for index, batch in enumerate(batches):
        place = f"[{index}]"
        yield from _taken(batch_ids, batch.batch_id, f"{place}.batchId")
        complete = batch.completed_at is not None
        if batch.state is BatchState.COMMITTED and not complete:
            yield f"{place}.completedAt: missing in a committed batch"
        if batch.state in OPEN_STATES and complete:
            yield f"{place}.completedAt: set in a batch that is still {batch.state.value}"
        stores: dict[str, str] = {}
        for number, receipt in enumerate(batch.receipts):
            inside = f"{place}.receipts[{number}]"
            yield from _taken(receipt_ids, receipt.receipt_id, f"{inside}.receiptId")
            yield from _taken(stores, receipt.schema_name, f"{inside}.schemaName")
            yield from _differing(receipt, batch, inside, "its batch", _OF_BATCH)
        for number, deletion in enumerate(batch.deletions):
            inside = f"{place}.deletions[{number}]"
            yield from _taken(receipt_ids, deletion.receipt_id, f"{inside}.receiptId")
            yield from _taken(stores, deletion.schema_name, f"{inside}.schemaName")


def _problems_of_entries(files: ControlFiles) -> Iterator[str]:
    receipts = {item.receipt_id: item for batch in files.batches for item in batch.receipts}
    state_of = {batch.batch_id: batch.state for batch in files.batches}
    names: dict[str, str] = {}
    paths: dict[str, str] = {}
    receipt_ids: dict[str, str] = {}
    for index, entry in enumerate(files.manifest.entries):
        place = f"entries[{index}]"
        yield from _taken(names, entry.schema_name, f"{place}.schemaName")
        yield from _taken(paths, entry.relative_path.casefold(), f"{place}.relativePath")
        yield from _taken(receipt_ids, entry.receipt_id, f"{place}.lastWriteReceiptId")
        receipt = receipts.get(entry.receipt_id)
        if receipt is not None:
            whose = f"receipt {receipt.receipt_id}"
            known = tuple(name for name in _OF_RECEIPT if getattr(entry, name) is not None)
            yield from _differing(entry, receipt, place, whose, known)
            state = state_of[receipt.batch_id]
            if entry.content_hash is not None and state is not BatchState.COMMITTED:
                yield (
                    f"{place}.lastWriteReceiptId: {entry.schema_name} is committed by {whose} "
                    f"here, and its batch {receipt.batch_id} is {state.value} in {RECEIPTS_NAME}: "
                    "one of the two files is an older one, or was edited"
                )


def _taken(seen: dict[str, str], value: str, place: str) -> Iterator[str]:
    if value in seen:
        yield f"{place}: {value!r} is at {seen[value]} already"
    seen[value] = place


def _differing(
    one: LegacyRecord, other: LegacyRecord, place: str, whose: str, fields: tuple[str, ...]
) -> Iterator[str]:
    for field in fields:
        mine: Any = getattr(one, field)
        theirs: Any = getattr(other, field)
        if mine != theirs:
            yield f"{place}.{to_camel(field)}: {mine!r} here, {theirs!r} in {whose}"
