"""The stores of the model: what is written to them, and what their files are worth, judged anew.

Nothing here uses the library's own encoding, decoding or hashing: the model must not be wrong
together with what it checks.
"""

from __future__ import annotations

import atexit
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rtstore import KNOWN_DESCRIPTORS, Descriptor, RebuildStrategy, RuntimeStore
from rtstore.recovery.rebuilders import Rebuilders, RebuildRequest
from rtstore.testing import Seams
from tests.support import DIAGNOSTICS, LAUNCH, LEDGER, NOON, SESSIONS, TEAM, launch_state
from tests.support import plain_descriptor as plain

COMPATIBILITY, REVISION = "opencode.compatibilitySnapshot", "opencode.runtimeRevision"
NOTES = "own.notes"

_KNOWN = {item.schema_name: item for item in KNOWN_DESCRIPTORS}
DESCRIPTORS: Mapping[str, Descriptor] = {
    **{
        name: _KNOWN[name]
        for name in (LAUNCH, SESSIONS, LEDGER, COMPATIBILITY, REVISION, DIAGNOSTICS)
    },
    NOTES: plain(NOTES, "members/alice/notes.json", version=2),
}
"""One store of every rebuild strategy, with and without a payload model, and one of the runtime's
own in a folder below."""
STORES = tuple(DESCRIPTORS)

REBUILDABLE = frozenset({SESSIONS, LEDGER, COMPATIBILITY, REVISION})
"""The stores for which a runtime can register a rebuilder."""
LEFT_WHEN_DAMAGED = frozenset({SESSIONS, LEDGER})
"""Damaged and never committed, these wait for their rebuilder; the others are moved aside."""


class Worth(StrEnum):
    """What the bytes of a store file are worth."""

    VALID = "valid"
    OLDER = "older"
    NEWER = "newer"
    DAMAGED = "damaged"


def judge(name: str, content: bytes) -> Worth:
    """What the bytes of a store's file are worth, the manifest apart."""
    descriptor = DESCRIPTORS[name]
    try:
        document = json.loads(content.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return Worth.DAMAGED
    version = document.get("schemaVersion") if isinstance(document, dict) else None
    if type(version) is not int:
        return Worth.DAMAGED
    if version > descriptor.schema_version:
        return Worth.NEWER
    if descriptor.payload is not None:
        try:
            descriptor.payload.model_validate(document.get("data"), by_alias=True, by_name=False)
        except ValidationError:
            return Worth.DAMAGED
    return Worth.VALID if version == descriptor.schema_version else Worth.OLDER


_HEAD = (b"{", b'"schemaVersion"', b":", rb"\d+", b",", b'"updatedAt"', b":", b'"[^"]{0,40}"', b",")


def is_of_store(content: bytes) -> bool:
    """A file begins as a store's does, or is JSON with the same three keys."""
    if re.match(rb"\s*".join([b"", *_HEAD, b'"data"', b":"]), content):
        return True
    try:
        document = json.loads(content.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(document, dict)
        and type(document.get("schemaVersion")) is int
        and isinstance(document.get("updatedAt"), str)
        and "data" in document
    )


def _refuse(word: str) -> None:
    raise ValueError(word)


def data_of(content: bytes) -> Any:
    """The data in the bytes of a store file."""
    return json.loads(content)["data"] if b'"data"' in content else None


def data_for(name: str, number: int) -> Any:
    """Some data that a store accepts, different for different numbers."""
    if name == LAUNCH:
        return launch_state(step=number)
    if name == SESSIONS:
        return {"sessions": [{"memberName": f"member-{number}"}]}
    if name == COMPATIBILITY:
        return {"snapshotId": f"cap-{number}", "limits": {"open": [number, None, True]}}
    shapes: list[Callable[[], Any]] = [
        lambda: {"n": number, "empty": {}, "none": []},
        lambda: [number, "ä\u2028\N{PILE OF POO}", {"deep": [[number]]}],
        lambda: f"text {number}",
        lambda: number,
    ]
    return shapes[number % len(shapes)]()


def render(name: str, data: Any, moment: datetime) -> bytes:
    """The file of a store as it must be written at that moment, byte for byte."""
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    version = DESCRIPTORS[name].schema_version
    document = {"schemaVersion": version, "updatedAt": text, "data": data}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


class Rebuilding(StrEnum):
    """How the rebuilders of a recovery behave."""

    ABSENT = "absent"
    GOOD = "good"
    EMPTY = "empty"
    RAISING = "raising"
    INVALID = "invalid"


def rebuilt(name: str) -> Any:
    """What the good rebuilder of a store returns."""
    return data_for(name, 1_000)


def rebuilders(behaviour: Rebuilding) -> Rebuilders | None:
    """Functions for every strategy that has one."""

    def rebuild(request: RebuildRequest) -> Any:
        if behaviour is Rebuilding.RAISING:
            raise LookupError("the provider is away")
        if behaviour is Rebuilding.INVALID:
            return {"n": float("nan")}
        return rebuilt(request.descriptor.schema_name) if behaviour is Rebuilding.GOOD else None

    if behaviour is Rebuilding.ABSENT:
        return None
    without = (RebuildStrategy.NONE, RebuildStrategy.DROP_AFTER_QUARANTINE)
    return {strategy: rebuild for strategy in RebuildStrategy if strategy not in without}


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rtstore-model-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    directory = folder / "runtime"
    RuntimeStore.open(
        directory, team_name=TEAM, descriptors=DESCRIPTORS.values(), seams=Seams(clock=lambda: NOON)
    ).close()
    return directory


def new_runtime(folder: Path) -> Path:
    """A runtime directory with these stores, in which nothing was committed yet."""
    return Path(shutil.copytree(_template(), folder / "runtime"))
