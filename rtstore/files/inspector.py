"""Compare store files with their manifest entries."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from rtstore.errors import UnsafePathError
from rtstore.files.owners import explained
from rtstore.files.paths import check_target, store_path
from rtstore.files.stamp import read_hashed
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.model.data_upgrade import data_problem
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import EnvelopeError, content_hash, decode
from rtstore.model.records import Inspection, InspectionFault, InspectionState, ManifestEntry


class FileInspector:
    """Inspects the store files of one runtime directory. Reads only; takes no lock."""

    def __init__(self, directory: Path, fs: FileSystem | None = None) -> None:
        self.directory = directory
        self._fs = fs or FileSystem()
        # Bytes that passed the whole inspection once pass it again with the same descriptor. So a
        # file that did not change is only hashed.
        self._passed: dict[str, tuple[Descriptor, Inspection]] = {}

    def inspect(self, descriptor: Descriptor, entry: ManifestEntry | None) -> Inspection:
        """Compare a store's file with its entry. Return the first finding that fits.

        Never raises because of the file, whatever has its name or is in it.
        """
        path = store_path(self.directory, descriptor.relative_path)
        try:
            check_target(self.directory, descriptor.relative_path, descriptor.schema_name, self._fs)
            content, found_hash, there = read_hashed(path, self._fs)
        except (FileNotFoundError, NotADirectoryError):
            return _finding(
                descriptor,
                InspectionState.MISSING,
                message=f"Runtime store missing: {descriptor.schema_name}",
            )
        except system_error() as error:
            return _failed(descriptor, InspectionFault.UNREADABLE, explained(error, path))
        except UnsafePathError as error:
            return _failed(descriptor, InspectionFault.UNREADABLE, str(error))
        name = descriptor.schema_name
        known = self._passed.get(name)
        if known is not None and entry is not None:
            known_descriptor, passed = known
            same = passed.content_hash == found_hash == entry.content_hash
            if same and known_descriptor is descriptor and passed.mtime_ns == there.st_mtime_ns:
                return passed
        inspection = _judge(descriptor, entry, content, found_hash, there)
        if inspection.state is InspectionState.HEALTHY:
            self._passed[name] = (descriptor, inspection)
        return inspection

    def read(self, inspection: Inspection) -> bytes | None:
        """Return the bytes that an inspection read, or None when the file has changed since."""
        try:
            content, _ = self._fs.read(store_path(self.directory, inspection.relative_path))
        except system_error():
            return None
        return content if content_hash(content) == inspection.content_hash else None

    def is_behind_a_link(self, inspection: Inspection) -> bool:
        """Return whether an unreadable file is a symbolic link, or behind one."""
        if inspection.fault is not InspectionFault.UNREADABLE:
            return False
        path = self.directory
        for part in inspection.relative_path.split("/"):
            path = path / part
            try:
                if stat.S_ISLNK(self._fs.lstat(path).st_mode):
                    return True
            except system_error():
                return False
        return False

    def is_closed(self, inspection: Inspection) -> bool:
        """Return whether the bytes of a file cannot be had, so that nobody knows whether it is what
        is committed. What is there and no regular file is not: it is none of ours."""
        if inspection.fault is not InspectionFault.UNREADABLE:
            return False
        try:
            path = store_path(self.directory, inspection.relative_path)
            is_regular = stat.S_ISREG(self._fs.lstat(path).st_mode)
        except system_error():
            is_regular = True  # its folder is closed
        return is_regular and not self.is_behind_a_link(inspection)


def _judge(
    descriptor: Descriptor,
    entry: ManifestEntry | None,
    content: bytes,
    found_hash: str,
    there: os.stat_result,
) -> Inspection:
    found: dict[str, Any] = {
        "content_hash": found_hash,
        "file_size": len(content),
        "mtime_ns": there.st_mtime_ns,
    }
    name = descriptor.schema_name
    try:
        envelope = decode(content)
    except EnvelopeError as error:
        return _failed(descriptor, error.fault, error.detail, **found)
    found["schema_version"] = envelope.schema_version
    if envelope.schema_version > descriptor.schema_version:
        detail = (
            f"version {envelope.schema_version}, the descriptor here has "
            f"{descriptor.schema_version}"
        )
        return _failed(descriptor, InspectionFault.FUTURE_SCHEMA, detail, **found)
    problem = data_problem(descriptor, envelope.schema_version, envelope.data)
    if problem is not None:
        return _failed(descriptor, InspectionFault.INVALID_DATA, problem, **found)
    if entry is None:
        message = f"Runtime store has no manifest entry: {name}"
        return _finding(descriptor, InspectionState.UNCOMMITTED_WRITE, message=message, **found)
    if entry.content_hash != found["content_hash"]:
        message = f"Runtime store hash mismatch: {name}"
        return _finding(descriptor, InspectionState.HASH_MISMATCH, message=message, **found)
    return _finding(descriptor, InspectionState.HEALTHY, **found)


def _failed(
    descriptor: Descriptor, fault: InspectionFault, detail: str, **found: Any
) -> Inspection:
    state = (
        InspectionState.FUTURE_SCHEMA
        if fault is InspectionFault.FUTURE_SCHEMA
        else InspectionState.QUARANTINED
    )
    message = f"Runtime store {descriptor.schema_name} failed inspection: {fault.value}"
    return _finding(descriptor, state, fault=fault, message=message, detail=detail, **found)


def _finding(descriptor: Descriptor, state: InspectionState, **facts: Any) -> Inspection:
    return Inspection.model_validate(
        {
            "schema_name": descriptor.schema_name,
            "relative_path": descriptor.relative_path,
            "state": state,
            **facts,
        }
    )
