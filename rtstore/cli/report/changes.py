"""Finds what each version of a store changed, within limits, so that a browser opens the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rtstore.cli.report.facts import Change, ChangedValue, ShownValue
from rtstore.control import contents
from rtstore.control.history import StoreVersion
from rtstore.model.differences import Difference, DifferenceKind, differences
from rtstore.model.envelope import EnvelopeError, content_hash, decode_own
from rtstore.store import RuntimeStore

VALUES_MAX = 100
"""The values of one version that are listed."""
TEXT_MAX = 400
"""The characters of one value."""
DOCUMENT_BYTES_MAX = 4 << 20
"""A larger document is not compared."""
_DEPTH_MAX = 8
_ITEMS_MAX = 20


class Budget:
    """How much a page may still read and list, all stores and directories together."""

    def __init__(self) -> None:
        self._bytes_left = 256 << 20
        self._characters_left = 8 << 20

    def may_read(self, size: int) -> bool:
        """Return whether a document may be read, and count it."""
        self._bytes_left -= size
        return self._bytes_left >= 0

    def may_list(self, value: ChangedValue) -> bool:
        """Return whether a value may be listed, and count it."""
        for shown in (value.before, value.after):
            self._characters_left -= 0 if shown is None else len(shown.text) + len(shown.outline)
        return self._characters_left >= 0


def changes_of(store: RuntimeStore, name: str, limit: int, budget: Budget) -> tuple[Change, ...]:
    """Return the newest versions of a store, newest first, each with what it changed."""
    versions = store.history(name, limit=limit + 1)
    found: list[Change] = []
    before: StoreVersion | None = None
    old: Any = None
    for version in versions if limit else ():
        new = _load(store, name, version, budget)
        if before is not None or len(versions) <= limit:
            found.append(_change(version, before, _compared(before, old, new), budget))
        before, old = version, new
    return tuple(reversed(found))


class _Unknown:
    """Stands for data that was not read, or differences that were not found, and says why."""

    def __init__(self, why: str) -> None:
        self.why = why


def _load(store: RuntimeStore, name: str, version: StoreVersion, budget: Budget) -> Any:
    """Return the data of a version, or why it was not read."""
    if version.is_deletion:
        return _DELETED
    if not version.has_content:
        return _GONE
    if version.file_size > DOCUMENT_BYTES_MAX:
        return _Unknown("the document is too large to be compared in a page")
    if not budget.may_read(version.file_size):
        return _Unknown("the page is too large already to compare more")
    content = store.database.read(
        lambda connection: contents.load_content(connection, version.batch_number, name)
    )
    if content is None:
        return _GONE
    if content_hash(content) != version.content_hash:
        return _Unknown("its content, or that of the version before, was changed in the database")
    try:
        return decode_own(content).data
    except EnvelopeError:
        return _Unknown("its content cannot be read")


_DELETED = _Unknown("the store was deleted")
_GONE = _Unknown("its content, or that of the version before, is not kept any more")


def _compared(before: StoreVersion | None, old: Any, new: Any) -> tuple[Difference, ...] | _Unknown:
    if isinstance(new, _Unknown):
        return new
    if isinstance(old, _Unknown) and old is not _DELETED:
        return old
    if before is None or old is _DELETED:
        return (Difference(kind=DifferenceKind.ADDED, path="", after=new),)
    try:
        return differences(old, new)
    except RecursionError:
        return _Unknown("the document is nested too deeply to be compared")


def _change(
    version: StoreVersion,
    before: StoreVersion | None,
    found: tuple[Difference, ...] | _Unknown,
    budget: Budget,
) -> Change:
    why = found.why if isinstance(found, _Unknown) else None
    known = () if isinstance(found, _Unknown) else found
    return Change(
        batch_number=version.batch_number,
        batch_id=version.batch_id,
        watermark=version.high_watermark,
        at=version.written_at,
        reason=version.reason,
        run_id=version.run_id,
        size=version.file_size,
        size_before=None if before is None else before.file_size,
        content_hash=version.content_hash,
        found=len(known),
        values=tuple(_listed(known, budget)),
        not_compared=why,
    )


def _listed(found: tuple[Difference, ...], budget: Budget) -> Iterator[ChangedValue]:
    for difference in found[:VALUES_MAX]:
        kind = difference.kind
        value = ChangedValue(
            kind=kind,
            path=difference.path,
            before=None if kind is DifferenceKind.ADDED else shown_value(difference.before),
            after=None if kind is DifferenceKind.REMOVED else shown_value(difference.after),
        )
        if not budget.may_list(value):
            return
        yield value


def shown_value(value: Any) -> ShownValue:
    """Return a value as it is shown: its JSON, and its outline."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "(nested too deeply)"
    return ShownValue(text=_cut(text), outline=_cut(outline(value)))


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}... ({len(text):,} characters)"


def outline(value: Any, depth: int = 0) -> str:
    """Return the shape of a value: keys, types and sizes, and nothing of what they have."""
    if isinstance(value, str):
        return f"string of {len(value):,}"
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    if not isinstance(value, dict | list):
        return "number"
    if not value or depth >= _DEPTH_MAX:
        return f"{'object' if isinstance(value, dict) else 'array'} of {len(value):,}"
    if isinstance(value, dict):
        pairs = [
            f"{json.dumps(key, ensure_ascii=False)}: {outline(item, depth + 1)}"
            for key, item in list(value.items())[:_ITEMS_MAX]
        ]
        return f"{{{', '.join([*pairs, *_more(value)])}}}"
    items = [outline(item, depth + 1) for item in value[:_ITEMS_MAX]]
    return f"[{', '.join([*items, *_more(value)])}]"


def _more(value: dict[str, Any] | list[Any]) -> list[str]:
    left = len(value) - _ITEMS_MAX
    return [f"... {left:,} more"] if left > 0 else []
