"""Descriptors: what a store is, before any file is read; and the registry that holds them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field, field_validator

from rtstore.errors import InvalidRequestError, UnknownStoreError, shown
from rtstore.model.payloads import (
    CompatibilitySnapshotData,
    DeliveryJournalData,
    LaunchStateData,
    LaunchTransactionData,
    PermissionRequestsData,
    SessionStoreData,
)
from rtstore.model.records import (
    Argument,
    Criticality,
    Owner,
    OwnerName,
    RebuildStrategy,
    StrategyName,
)

LAUNCH_STATE = "opencode.launchState"
SESSION_STORE = "opencode.sessionStore"
LAUNCH_TRANSACTION = "opencode.launchTransaction"
DELIVERY_JOURNAL = "opencode.deliveryJournal"
PROMPT_DELIVERY_LEDGER = "opencode.promptDeliveryLedger"
PERMISSION_REQUESTS = "opencode.permissionRequests"
HOST_LEASES = "opencode.hostLeases"
COMPATIBILITY_SNAPSHOT = "opencode.compatibilitySnapshot"
RUNTIME_REVISION = "opencode.runtimeRevision"
RUNTIME_DIAGNOSTICS = "opencode.runtimeDiagnostics"

RESERVED_NAMES = frozenset(
    {
        "runtime-store.sqlite3",
        "runtime-store.sqlite3-wal",
        "runtime-store.sqlite3-shm",
        "runtime-store.sqlite3-journal",
        "runtime-store.lock",
        "manifest.json",
        "opencode-runtime-manifest.json",
        "opencode-runtime-receipts.json",
    }
)
"""Names in a runtime directory that no store may have, for its file or a directory above it."""
RUN_TOMBSTONES = "opencode-run-tombstones.json"
LANE_INDEX = "lanes.json"
NO_STORES = frozenset({RUN_TOMBSTONES, LANE_INDEX})
"""Files of a legacy runtime that look like those of stores, and are none unless a descriptor says
so: the list of its ended runs, and that of its lanes."""
_RESERVED_PREFIXES = ("runtime-store.", ".runtime-store.")
_RESERVED_SUFFIX = ".rtstore-tmp"
"""Suffix of databases that are being created or backed up, and of temporary files, which recovery
removes."""
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, lone surrogates, separators of lines and paragraphs."""


DataUpgrade = Callable[[Any], Any]
"""A function from the data of one schema version, which it may modify, to the data of the next. It
may be called more than once with the same data, so it must have no side effects."""


class Descriptor(Argument):
    """One kind of state kept in one JSON file, as known before any file is looked at.

    `relative_path` is below the runtime directory, with `/` between its parts. `payload` is the
    pydantic model that the data must satisfy; with None any JSON is accepted. `upgrades` has the
    functions that upgrade older data, step by step: `{1: from_1_to_2, 2: from_2_to_3}`. The
    database remembers a descriptor without its payload and functions: they live in the runtime.
    """

    schema_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$", max_length=200)
    schema_version: int = Field(default=1, ge=1)
    relative_path: str
    criticality: Criticality
    owner: OwnerName
    rebuild_strategy: StrategyName
    payload: type[BaseModel] | None = Field(default=None, exclude=True, repr=False)
    upgrades: Mapping[int, DataUpgrade] = Field(default_factory=dict, exclude=True, repr=False)

    def __hash__(self) -> int:
        return hash((self.schema_name, self.schema_version, self.relative_path))

    @property
    def own_strategy(self) -> str | None:
        """The rebuild strategy if it is a name of the runtime's own; otherwise None."""
        own = self.rebuild_strategy
        return None if isinstance(own, RebuildStrategy) else own

    @field_validator("relative_path")
    @classmethod
    def _plain_path(cls, path: str) -> str:
        problem = relative_path_problem(path)
        if problem is not None:
            raise ValueError(f"relative path {shown(path)} {problem}")
        return path


def relative_path_problem(path: str) -> str | None:
    """Return why a store cannot have a path, or None when it can. Checks only the text."""
    parts = path.split("/")
    if not path or path.startswith("/") or (len(path) > 1 and path[1] == ":"):
        return "is not relative to the runtime directory"
    if "\\" in path or any(unicodedata.category(char) in _UNPRINTABLE for char in path):
        return "has a backslash, a control character or a lone surrogate"
    if any(part in ("", ".", "..") for part in parts):
        return "leaves the runtime directory or has an empty part"
    if any(map(_is_reserved, parts)) or same_file_key(parts[0]) == "quarantine":
        return "is reserved for the store itself"
    if any(len(part.encode()) > 180 for part in parts):
        return "has a part of more than 180 bytes"
    return None


def _is_reserved(part: str) -> bool:
    key = same_file_key(part)
    return (
        key in RESERVED_NAMES
        or key.startswith(_RESERVED_PREFIXES)
        or key.endswith(_RESERVED_SUFFIX)
    )


def same_file_key(path: str) -> str:
    """Return a key that is equal for two paths which a common file system may treat as one: paths
    that differ in case, or in how an accented letter is composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


class Registry:
    """The descriptors of one runtime directory, by name, in the order they were registered.

    Raises `InvalidRequestError` for an item that is no descriptor, when two share a name or a path,
    or when the file of one would have to be a directory for the other.
    """

    def __init__(self, descriptors: Iterable[Descriptor]) -> None:
        self._by_name: dict[str, Descriptor] = {}
        owner_of: dict[str, str] = {}
        user_of: dict[str, str] = {}  # of a directory
        given: object = descriptors
        if isinstance(given, Descriptor) or not isinstance(given, Iterable):
            raise InvalidRequestError("descriptors", "must be several: a list of Descriptor")
        for descriptor in descriptors:
            one: object = descriptor
            if not isinstance(one, Descriptor):
                wrong = f"must be a list of Descriptor; one is {shown(one)}"
                raise InvalidRequestError("descriptors", wrong)
            name, path = descriptor.schema_name, same_file_key(descriptor.relative_path)
            if name in self._by_name:
                raise InvalidRequestError("descriptors", "registered twice", store=name)
            if path in owner_of:
                problem = f"has the same file as {owner_of[path]}"
                raise InvalidRequestError("descriptors", problem, store=name)
            needed = _directories(path)
            other = next(filter(None, map(owner_of.get, needed)), user_of.get(path))
            if other is not None:
                problem = f"needs as a directory what {other} has as its file, or the reverse"
                raise InvalidRequestError("descriptors", problem, store=name)
            self._by_name[name] = descriptor
            owner_of[path] = name
            user_of.update(dict.fromkeys(needed, name))

    def get(self, schema_name: str) -> Descriptor:
        """Return the descriptor of a store. Raises `UnknownStoreError`."""
        name: object = schema_name
        found = self._by_name.get(name) if isinstance(name, str) else None
        if found is None:
            raise UnknownStoreError(schema_name, self.names)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all stores, in the order they were registered."""
        return tuple(self._by_name)

    def __iter__(self) -> Iterator[Descriptor]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, schema_name: object) -> bool:
        return isinstance(schema_name, str) and schema_name in self._by_name


def _directories(path: str) -> list[str]:
    """Return the directories that a relative path needs."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _known() -> tuple[Descriptor, ...]:
    block, provider = Criticality.READINESS_BLOCKING, Criticality.REBUILDABLE_FROM_PROVIDER
    destination = Criticality.REBUILDABLE_FROM_CANONICAL_DESTINATION
    poll, verify = (
        RebuildStrategy.POLL_OPENCODE_PROVIDER,
        RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS,
    )
    rows: list[tuple[str, str, Criticality, Owner, RebuildStrategy, type[BaseModel] | None]] = [
        (LAUNCH_STATE, "launch-state.json", block, Owner.LAUNCH, RebuildStrategy.NONE,
         LaunchStateData),
        (SESSION_STORE, "opencode-sessions.json", provider, Owner.SESSION, poll,
         SessionStoreData),
        (LAUNCH_TRANSACTION, "opencode-launch-transaction.json", block, Owner.LAUNCH,
         RebuildStrategy.NONE, LaunchTransactionData),
        (DELIVERY_JOURNAL, "opencode-delivery-journal.json", destination, Owner.DELIVERY, verify,
         DeliveryJournalData),
        (PROMPT_DELIVERY_LEDGER, "opencode-prompt-delivery-ledger.json", destination,
         Owner.DELIVERY, verify, None),
        (PERMISSION_REQUESTS, "opencode-permissions.json", provider, Owner.PERMISSION, poll,
         PermissionRequestsData),
        (HOST_LEASES, "opencode-host-leases.json", provider, Owner.HOST, poll, None),
        (COMPATIBILITY_SNAPSHOT, "opencode-compatibility.json", block, Owner.COMPATIBILITY,
         RebuildStrategy.RERUN_CAPABILITY_DISCOVERY, CompatibilitySnapshotData),
        (RUNTIME_REVISION, "opencode-runtime-revision.json", block, Owner.UI,
         RebuildStrategy.REBUILD_FROM_LAUNCH_STATE, None),
        (RUNTIME_DIAGNOSTICS, "opencode-diagnostics.json", Criticality.DIAGNOSTIC_ONLY,
         Owner.DIAGNOSTICS, RebuildStrategy.DROP_AFTER_QUARANTINE, None),
    ]  # fmt: skip
    return tuple(
        Descriptor(
            schema_name=name,
            relative_path=path,
            criticality=criticality,
            owner=owner,
            rebuild_strategy=strategy,
            payload=payload,
        )
        for name, path, criticality, owner, strategy, payload in rows
    )


KNOWN_DESCRIPTORS: tuple[Descriptor, ...] = _known()
"""The stores of an OpenCode team runtime, each of schema version 1."""
