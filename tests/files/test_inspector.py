"""Every row of the inspection table, and everything that may stand under the name of a file."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, model_validator

from rtstore import FileInspector
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, Descriptor
from rtstore.model.envelope import content_hash
from rtstore.model.records import Inspection, InspectionFault, InspectionState, ManifestEntry
from tests.support import LAUNCH, LEASES, launch_state, plain_descriptor

PLAIN = plain_descriptor("test.store", "store.json", version=2)
KNOWN = {item.schema_name: item for item in KNOWN_DESCRIPTORS}
STATES = InspectionState
FAULTS = InspectionFault

no_links = pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")


def entry_for(content: bytes, descriptor: Descriptor = PLAIN) -> ManifestEntry:
    """A manifest entry that says the content is committed."""
    return ManifestEntry(
        schema_name=descriptor.schema_name,
        schema_version=descriptor.schema_version,
        relative_path=descriptor.relative_path,
        content_hash=content_hash(content),
        file_size=len(content),
        mtime_ns=0,
        run_id=None,
        capability_snapshot_id=None,
        behavior_fingerprint=None,
        last_write_receipt_id="receipt-1",
        batch_number=1,
    )


def enveloped(data: Any, version: int = 1) -> bytes:
    """A store file as any program may write it."""
    return json.dumps({"schemaVersion": version, "updatedAt": None, "data": data}).encode()


def inspect(
    directory: Path,
    content: bytes | None,
    entry: ManifestEntry | None = None,
    descriptor: Descriptor = PLAIN,
) -> Inspection:
    """Look at a file with that content."""
    path = directory / descriptor.relative_path
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    return FileInspector(directory).inspect(descriptor, entry)


# --- the rows -----------------------------------------------------------------------------------


def test_no_file_is_missing(tmp_path: Path) -> None:
    """Nothing under the name, entry or not."""
    found = inspect(tmp_path, None, entry_for(b"{}"))

    assert (found.state, found.fault) == (STATES.MISSING, None)
    assert found.message == "Runtime store missing: test.store"
    assert (found.content_hash, found.file_size, found.mtime_ns) == (None, None, None)


def test_no_folder_is_missing_too(tmp_path: Path) -> None:
    """Neither a folder on the way nor the runtime directory itself has to be there."""
    nested = plain_descriptor("test.nested", "a/b/store.json")

    assert FileInspector(tmp_path).inspect(nested, None).state is STATES.MISSING
    assert FileInspector(tmp_path / "gone").inspect(PLAIN, None).state is STATES.MISSING


def test_a_file_on_the_way_is_unreadable_or_missing(tmp_path: Path) -> None:
    """A file where a folder should be does not raise."""
    (tmp_path / "a").write_text("not a folder")
    nested = plain_descriptor("test.nested", "a/b/store.json")

    assert FileInspector(tmp_path).inspect(nested, None).state is STATES.QUARANTINED


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("kept")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # the name of a socket is short
        listener.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)
        listener.close()


def _link(path: Path) -> None:
    target = path.with_name("elsewhere.json")
    target.write_bytes(enveloped({}))
    path.symlink_to(target)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _loop(path: Path) -> None:
    path.symlink_to(path)


@no_links
@pytest.mark.parametrize("make", [_directory, _fifo, _socket, _link, _dangling, _loop])
def test_what_is_no_regular_file_is_unreadable(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """A directory, a pipe that nobody writes to, a link wherever it points: judged at once."""
    make(tmp_path / PLAIN.relative_path)

    found = inspect(tmp_path, None, entry_for(b"{}"))

    assert (found.state, found.fault) == (STATES.QUARANTINED, FAULTS.UNREADABLE)
    assert found.message == "Runtime store test.store failed inspection: unreadable"
    assert found.detail
    assert found.content_hash is None


@no_links
def test_a_link_on_the_way_is_unreadable(tmp_path: Path) -> None:
    """A file outside of the directory is never read, though a folder links to it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "store.json").write_bytes(enveloped({}))
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    (runtime / "a").symlink_to(outside)

    found = FileInspector(runtime).inspect(plain_descriptor("test.nested", "a/store.json"), None)

    assert (found.state, found.fault) == (STATES.QUARANTINED, FAULTS.UNREADABLE)


def test_a_file_that_may_not_be_read_is_unreadable(tmp_path: Path) -> None:
    """Broken permissions are a finding."""
    path = tmp_path / PLAIN.relative_path
    path.write_bytes(enveloped({}))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads every file, whatever its permissions")

    assert FileInspector(tmp_path).inspect(PLAIN, None).fault is FAULTS.UNREADABLE


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{bad", id="not JSON"),
        pytest.param(enveloped({})[:-3], id="cut short"),
        pytest.param(b"\0" * 64, id="zeros"),
        pytest.param(b"\xef\xbb\xbf" + enveloped({}), id="byte order mark"),
        pytest.param(enveloped({}).decode().encode("utf-16"), id="UTF-16"),
        pytest.param(enveloped("\xe9").replace(b"\\u00e9", b"\xe9"), id="Latin-1"),
        pytest.param(b'{"schemaVersion": 1, "data": NaN}', id="NaN"),
        pytest.param(b'{"schemaVersion": 1, "data": {"a": 1, "a": 2}}', id="a key twice"),
        pytest.param(b'{"schemaVersion": ' + b"1" * 5000 + b"}", id="5000 digits"),
        pytest.param(b'{"schemaVersion": 1, "data": ' + b"[" * 100_000, id="100,000 brackets"),
        pytest.param(b'{"schemaVersion": 1, "data": ' + b'{"a":' * 100_000, id="100,000 braces"),
    ],
)
def test_what_is_not_json_is_invalid_json(tmp_path: Path, content: bytes) -> None:
    """It is judged by its bytes, committed or not, and its hash is kept for the quarantine."""
    found = inspect(tmp_path, content, entry_for(content))

    assert (found.state, found.fault) == (STATES.QUARANTINED, FAULTS.INVALID_JSON)
    assert found.message == "Runtime store test.store failed inspection: invalid_json"
    assert (found.content_hash, found.file_size) == (content_hash(content), len(content))


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'"text"',
        b"{}",
        b'{"schemaVersion": true}',
        b'{"schemaVersion": null}',
        b'{"schemaVersion": "1"}',
        b'{"schemaVersion": 1.5}',
        b'{"schemaVersion": 1e999}',
    ],
)
def test_what_is_no_envelope_is_invalid_envelope(tmp_path: Path, content: bytes) -> None:
    """An object with an integer as its schemaVersion, or none."""
    found = inspect(tmp_path, content, entry_for(content))

    assert (found.state, found.fault) == (STATES.QUARANTINED, FAULTS.INVALID_ENVELOPE)
    assert found.message == "Runtime store test.store failed inspection: invalid_envelope"


@pytest.mark.parametrize("version", [3, 99, 10**4000])
def test_a_newer_schema_version_is_future_schema(tmp_path: Path, version: int) -> None:
    """Above the descriptor's version nothing else is looked at."""
    content = enveloped({"unknown": "shape"}, version)

    found = inspect(tmp_path, content, entry_for(content))

    assert (found.state, found.fault) == (STATES.FUTURE_SCHEMA, FAULTS.FUTURE_SCHEMA)
    assert found.message == "Runtime store test.store failed inspection: future_schema"
    assert found.schema_version == version


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="no object"),
        pytest.param({"teamName": "team-a"}, id="without run"),
        pytest.param({**launch_state(), "runId": 7}, id="number as run"),
        pytest.param({**launch_state(), "members": [{"launchState": "x"}]}, id="nameless member"),
    ],
)
def test_data_that_the_payload_model_refuses_is_invalid_data(tmp_path: Path, data: Any) -> None:
    """The payload model has its say before the entry is looked at."""
    content = enveloped(data)

    found = inspect(tmp_path, content, None, KNOWN[LAUNCH])

    assert (found.state, found.fault) == (STATES.QUARANTINED, FAULTS.INVALID_DATA)
    assert found.message == f"Runtime store {LAUNCH} failed inspection: invalid_data"
    assert str(found.detail).startswith("data")


def test_an_envelope_without_data_is_null_data(tmp_path: Path) -> None:
    """Missing data is refused where a payload model asks for some, and nowhere else."""
    content = b'{"schemaVersion": 1}'

    assert inspect(tmp_path, content, None, KNOWN[LAUNCH]).fault is FAULTS.INVALID_DATA
    assert inspect(tmp_path, content, None, KNOWN[LEASES]).state is STATES.UNCOMMITTED_WRITE


def test_a_good_file_without_an_entry_is_an_uncommitted_write(tmp_path: Path) -> None:
    """Nobody committed it, however well it reads."""
    found = inspect(tmp_path, enveloped({}), None)

    assert (found.state, found.fault) == (STATES.UNCOMMITTED_WRITE, None)
    assert found.message == "Runtime store has no manifest entry: test.store"


def test_other_bytes_than_committed_are_a_hash_mismatch(tmp_path: Path) -> None:
    """One byte is enough, also where the document means the same."""
    found = inspect(tmp_path, enveloped({}) + b"\n", entry_for(enveloped({})))

    assert (found.state, found.fault) == (STATES.HASH_MISMATCH, None)
    assert found.message == "Runtime store hash mismatch: test.store"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(enveloped({"a": 1}), id="plain"),
        pytest.param(enveloped({}, version=-7), id="negative version"),
        pytest.param(enveloped({}, version=2), id="the version known"),
        pytest.param(b'{"schemaVersion": 1, "data": 1e999}', id="number beyond all bounds"),
        pytest.param(b'{"schemaVersion": 1, "updatedAt": "\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"schemaVersion": 1, "more": [1, 2]}', id="unknown keys"),
    ],
)
def test_committed_bytes_are_healthy(tmp_path: Path, content: bytes) -> None:
    """Hash and envelope agree: nothing to say."""
    found = inspect(tmp_path, content, entry_for(content))

    assert (found.state, found.fault, found.message) == (STATES.HEALTHY, None, None)
    assert found.mtime_ns == (tmp_path / "store.json").stat().st_mtime_ns


# --- never raises -------------------------------------------------------------------------------


class Fussy(BaseModel):
    """A payload model of a runtime that does not expect what it may get."""

    model_config = ConfigDict(extra="allow")
    counts: dict[str, int] = {}

    @model_validator(mode="before")
    @classmethod
    def _look(cls, data: Any) -> Any:
        return {**data, "first": data["first"].upper()}


@pytest.mark.parametrize("data", [None, [1], {}, {"first": 5}, "text"])
def test_a_payload_model_that_raises_is_a_finding(tmp_path: Path, data: Any) -> None:
    """Whatever a runtime's own model raises on a file, the file is what is wrong."""
    descriptor = plain_descriptor("test.fussy", "fussy.json").model_copy(update={"payload": Fussy})

    found = inspect(tmp_path, enveloped(data), None, descriptor)

    assert (found.state, found.fault) == (STATES.QUARANTINED, FAULTS.INVALID_DATA)


def test_a_finding_can_be_printed_whatever_the_file_says(tmp_path: Path) -> None:
    """Lone surrogates in the file do not keep the finding from being written down."""
    descriptor = plain_descriptor("test.fussy", "fussy.json").model_copy(update={"payload": Fussy})
    content = enveloped({"first": "a", "counts": {"\ud800": "x\udfff"}})

    found = inspect(tmp_path, content, None, descriptor)

    assert found.fault is FAULTS.INVALID_DATA
    assert json.loads(found.model_dump_json())["detail"]


hostile = st.one_of(
    st.binary(max_size=120),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["schemaVersion", "data", "members", "name", "runId", "\ud800"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda document: json.dumps(document).encode()),
    st.dictionaries(
        st.sampled_from(["teamName", "runId", "members", "aggregateState", "x"]),
        st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=2),
    ).map(enveloped),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=hostile, cut=st.integers(0, 200), committed=st.booleans())
def test_no_bytes_make_an_inspection_raise(
    tmp_path: Path, content: bytes, cut: int, *, committed: bool
) -> None:
    """Random bytes, odd documents and documents cut short all get a finding that can be dumped."""
    for found in (content, content[:cut]):
        for descriptor in (PLAIN, KNOWN[LAUNCH]):
            entry = entry_for(content, descriptor) if committed else None
            inspection = inspect(tmp_path, found, entry, descriptor)
            assert (inspection.state is STATES.HEALTHY) == (inspection.message is None)
            inspection.model_dump_json()
