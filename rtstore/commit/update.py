"""Update stores: read what is committed, change it, write what changed, under the writer lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy import Connection

from rtstore.commit.adopt import refuse_newer
from rtstore.commit.draft import Draft, validate
from rtstore.commit.preconditions import CommittedView
from rtstore.commit.publisher import Publisher
from rtstore.control import contents, manifest
from rtstore.control.sqlite.engine import Database
from rtstore.errors import ContentMissingError, InvalidRequestError, shown
from rtstore.foreign import fails_again
from rtstore.model.data_upgrade import current_data
from rtstore.model.descriptors import Descriptor, StoreKey, store_name
from rtstore.model.differences import is_same_json
from rtstore.model.envelope import decode_own, encode
from rtstore.model.objects import Picture, are_equal, are_same
from rtstore.model.records import DELETED, RunIdentity
from rtstore.model.request import BatchRequest, store_write
from rtstore.model.typed import StoreData, check_kind, data_for

_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""Data is encoded with it to be compared."""

Change = Callable[[Any], Any]
"""The function of an update: it is given committed data, and returns new data, or `DELETED`."""


class Update(NamedTuple):
    """An update before the writer lock is taken."""

    stores: tuple[StoreKey, ...]
    """Its stores as they were given: by name for plain JSON, by descriptor for objects."""
    descriptors: tuple[Descriptor, ...]
    """The same stores, in the order in which their files are published."""
    change: Change
    """Given the data of its one store, or the `StoreData` of several."""
    is_of_one: bool
    """Whether it is of one store, which it writes in any case."""
    team_name: str
    identity: RunIdentity
    reason: str
    batch_id: str | None
    """The id that the caller chose, who may repeat the call."""

    @property
    def names(self) -> list[str]:
        """The names of its stores."""
        return [item.schema_name for item in self.descriptors]

    def request(self, data: Mapping[str, Any]) -> BatchRequest:
        """Return the request to write data into some of its stores."""
        return BatchRequest(
            team_name=self.team_name,
            identity=self.identity,
            reason=self.reason,
            writes=tuple(
                store_write(item, data[item.schema_name])
                for item in self.descriptors
                if item.schema_name in data
            ),
        )


class _Committed(NamedTuple):
    """A store of an update, and what is committed for it."""

    store: StoreKey
    descriptor: Descriptor
    content: bytes | None

    @property
    def name(self) -> str:
        return self.descriptor.schema_name

    def data(self) -> Any:
        """Return the data anew, as plain JSON; None where nothing is committed."""
        return None if self.content is None else current_data(self.descriptor, self.content)

    def data_to_give(self) -> Any:
        """Return the data anew, as the caller asked for the store; None where nothing is
        committed, and by name for JSON null. A model may make another object of it each time."""
        if self.content is None:
            return None
        return data_for(self.store, self.data(), self.descriptor.schema_version)


class _Given(NamedTuple):
    """A store of an update, and the data that the function was given for it."""

    committed: _Committed
    data: Any
    picture: Picture | None
    """Of an object as it was given: the function may change it, and its model may make another one
    of what is committed. None for plain JSON, which is the same each time."""

    @classmethod
    def of(cls, committed: _Committed) -> _Given:
        """Return what the function is to be given for a store."""
        data = committed.data_to_give()
        return cls(committed, data, Picture(data) if isinstance(data, BaseModel) else None)

    def is_same(self, data: Any) -> bool:
        """Return whether data is what the function was given, or would be stored as what is
        committed. Raises `InvalidRequestError` for other data that may not be written."""
        if self._is_as_given(data):
            return True
        item = self.committed.descriptor
        encoded = encode(
            schema_version=item.schema_version,
            data=data,
            store=item.schema_name,
            payload=item.payload,
        )
        if self.committed.content is None:
            return False
        return is_same_json(decode_own(encoded.at(_ANY_TIME)).data, self.committed.data())

    def _is_as_given(self, data: Any) -> bool:
        if self.picture is not None:
            return self.picture.is_still_true() and are_same(self.data, data)
        before, as_json = self.committed.data(), partial(to_json, data)
        try:
            return are_equal(before, data) and as_json() == to_json(before)
        except ValueError:  # equal, and no JSON: encoding it names the place
            if not fails_again(as_json):
                raise
            return False


def draft_of_update(
    update: Update,
    found: CommittedView,
    publisher: Publisher,
    *,
    check_file: Callable[[Descriptor], None],
    now: datetime,
) -> Draft | None:
    """Call the function of an update. Return the draft of what it changed, or None when it changed
    nothing in several stores.

    Raises `StoreFileChangedError`, `DataUpgradeError`, `DataRefusedError`, `ContentMissingError`,
    what the function raises, and `InvalidRequestError` for what it returned; `NewerStoreFileError`
    where a newer program committed the store, unless it is one of several and plain JSON, which the
    function may leave as it is.
    """
    as_objects = {
        item.schema_name
        for item in update.stores
        if isinstance(item, Descriptor) and item.payload is not None
    }
    for descriptor in update.descriptors:
        committed = found.files.get(descriptor.schema_name)
        if update.is_of_one or descriptor.schema_name in as_objects:
            refuse_newer(descriptor, committed, publisher.directory)
        if not publisher.seems_unchanged(descriptor, committed):
            check_file(descriptor)
    content_of = _committed_contents(update, publisher.database)
    stores = [
        _Committed(store, descriptor, content_of.get(descriptor.schema_name))
        for store, descriptor in zip(update.stores, update.descriptors, strict=True)
    ]
    if update.is_of_one:
        data = _new_data(update, stores[0])
        return validate(update.request({stores[0].name: data}), update.batch_id, now)
    changed = _changed(update, stores)
    return validate(update.request(changed), update.batch_id, now) if changed else None


def _committed_contents(update: Update, database: Database) -> dict[str, bytes]:
    """Return the committed bytes of stores; omit one that was never written. Raises
    `ContentMissingError` for one whose content is lost: without it the function would start from
    nothing."""

    def query(connection: Connection) -> dict[str, bytes]:
        found = contents.current_contents(connection, update.names)
        lost = [name for name in update.names if name not in found]
        for entry in manifest.load_entries(connection, lost).values():
            raise ContentMissingError(entry.schema_name, database.path.parent, entry.batch_number)
        return found

    return database.read_on_writer(query)


def _new_data(update: Update, item: _Committed) -> Any:
    """Return what the function of one store returned. Given by a descriptor with a payload model,
    the store must have something committed: there is no object of the model otherwise."""
    is_typed = isinstance(item.store, Descriptor)
    if item.content is None and is_typed and item.descriptor.payload is not None:
        problem = "no committed content to change: write it in a batch first"
        raise InvalidRequestError("store", problem, store=item.name)
    data = update.change(item.data_to_give())
    if data is None:
        raise _returned_none(item.name)
    if is_typed and data is not DELETED:
        check_kind(item.descriptor, data, "change")
    return data


def _changed(update: Update, stores: Sequence[_Committed]) -> dict[str, Any]:
    """Return the data that the function of several stores returned and changed, by name. Raises
    `InvalidRequestError`, which names the store."""
    all_given = [_Given.of(item) for item in stores]
    to_change = StoreData({given.committed.store: given.data for given in all_given})
    returned = _by_name(update, update.change(to_change))
    changed: dict[str, Any] = {}
    for given in all_given:
        item = given.committed
        data = returned.get(item.name)
        if item.name not in returned:
            left = to_change.get(item.store) if item.store in to_change else given.data
            _refuse_change_in_place(given, left)
        elif data is DELETED:
            if item.content is not None:
                changed[item.name] = DELETED
        elif data is None:
            if given.data is not None:
                raise _returned_none(item.name)
        else:
            if isinstance(item.store, Descriptor):
                check_kind(item.descriptor, data, "change")
            if not given.is_same(data):
                changed[item.name] = data
    return changed


def _by_name(update: Update, returned: object) -> dict[str, Any]:
    """Return the mapping that the function returned, by the names of its stores."""
    if not isinstance(returned, Mapping):
        raise InvalidRequestError(
            "change",
            "the function must return a mapping of stores to their new data, "
            f"not {shown(returned)}",
        )
    found: dict[str, Any] = {}
    for store, data in returned.items():
        name = store_name(store)
        if name not in update.names:
            problem = f"the function returned data for {shown(name)}, which is none of its stores"
            raise InvalidRequestError("change", f"{problem}: {', '.join(update.names)}")
        if name in found:
            raise InvalidRequestError("change", "the function returned it twice", store=name)
        found[name] = data
    return found


def _refuse_change_in_place(given: _Given, now: Any) -> None:
    """Raise `InvalidRequestError` when the function changed the data that it was given for a store,
    and did not return the store: that change would be lost. `now` is the data that it left."""
    if not given.is_same(now):
        raise InvalidRequestError(
            "change",
            "the function changed its data in place and did not return it",
            store=given.committed.name,
        )


def _returned_none(name: str) -> InvalidRequestError:
    return InvalidRequestError(
        "change", "the function returned None: it must return the new data", store=name
    )
