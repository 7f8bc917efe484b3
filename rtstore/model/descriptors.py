"""Descriptors: what a store is, before any file is read; and the registry that holds them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, overload

from pydantic import BaseModel, Field, field_validator

from rtstore.errors import InvalidRequestError, UnknownStoreError, shown
from rtstore.model.arguments import NUMBER_MAX
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

if TYPE_CHECKING:  # `Descriptor` alone is `Descriptor[Any]`: that is newer than our oldest Python
    from typing_extensions import TypeVar

    PayloadT_co = TypeVar("PayloadT_co", bound=BaseModel, covariant=True, default=Any)
else:
    from typing import TypeVar

    PayloadT_co = TypeVar("PayloadT_co", bound=BaseModel, covariant=True)

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

CONTROL_FILES = frozenset(
    {"manifest.json", "opencode-runtime-manifest.json", "opencode-runtime-receipts.json"}
)
"""The control files of the file-only format: an import reads them, and an export writes them."""
RESERVED_NAMES = CONTROL_FILES | {
    "runtime-store.sqlite3",
    "runtime-store.sqlite3-wal",
    "runtime-store.sqlite3-shm",
    "runtime-store.sqlite3-journal",
    "runtime-store.lock",
}
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


_KNOWN_STRATEGIES = frozenset(map(str, RebuildStrategy))
OWN_OWNER = "runtime"
"""The owner of a store whose descriptor names none."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
_NAME_LENGTH_MAX = 200
_PATH_BYTES_MAX = 4_000
"""Linux opens paths of at most 4,095 bytes, with the directory and what a temporary name adds."""


class Descriptor(Argument, Generic[PayloadT_co]):
    """One kind of state kept in one JSON file, as known before any file is looked at.

    `Descriptor("team.roster", payload=Roster)` is enough. What it leaves out is the careful choice:
    the runtime does not start while something is wrong with the store, what is committed is put
    back, and nothing is thrown away. The database remembers a descriptor without its payload and
    upgrades: they live in the runtime, which passes its descriptors whenever it opens the store.
    """

    schema_name: str = Field(
        pattern=rf"^{_NAME.pattern}$", max_length=_NAME_LENGTH_MAX, strict=True
    )
    """The name of the store: letters, digits and `_.:-`, a letter or a digit first, at most 200."""
    schema_version: int = Field(default=1, ge=1, le=NUMBER_MAX, strict=True)
    """The version of the form of its data. Raise it together with a function in `upgrades`."""
    relative_path: str = Field(strict=True)
    """Its file, below the runtime directory, with `/` between the parts. Default: the name with
    `.json` behind it, and `+` for each `:`, which some file systems do not take. A name that is
    reserved or too long for a file has no default. A part has at most 180 bytes."""
    criticality: Criticality = Criticality.READINESS_BLOCKING
    """How much the runtime depends on it. Default: it does not start while something is wrong."""
    owner: OwnerName = OWN_OWNER
    """The part of the runtime that it belongs to: a name. Nothing depends on it."""
    rebuild_strategy: StrategyName = RebuildStrategy.NONE
    """How its data is made again where the database has nothing to put back: a known strategy, or
    the name of a function in `rebuilders`. Default: the runtime must write it."""
    payload: type[PayloadT_co] | None = Field(default=None, exclude=True, repr=False)
    """The pydantic model of its data: what is written must pass it, and is stored as the model
    dumps it. None: any JSON."""
    upgrades: Mapping[int, DataUpgrade] = Field(default_factory=dict, exclude=True, repr=False)
    """Functions that bring older data up, step by step: `{1: from_1_to_2, 2: from_2_to_3}`."""

    @overload
    def __init__(
        self,
        schema_name: str,
        *,
        payload: type[PayloadT_co],
        schema_version: int = 1,
        relative_path: str | None = None,
        criticality: Criticality | str = Criticality.READINESS_BLOCKING,
        owner: Owner | str = OWN_OWNER,
        rebuild_strategy: RebuildStrategy | str = RebuildStrategy.NONE,
        upgrades: Mapping[int, DataUpgrade] = {},
    ) -> None: ...

    @overload
    def __init__(
        self: Descriptor[Any],
        schema_name: str,
        *,
        payload: type[BaseModel] | None = None,
        schema_version: int = 1,
        relative_path: str | None = None,
        criticality: Criticality | str = Criticality.READINESS_BLOCKING,
        owner: Owner | str = OWN_OWNER,
        rebuild_strategy: RebuildStrategy | str = RebuildStrategy.NONE,
        upgrades: Mapping[int, DataUpgrade] = {},
    ) -> None: ...

    def __init__(self, *name: Any, **fields: Any) -> None:
        """Make a descriptor; each parameter is the field of its name. Raises
        `InvalidRequestError`."""
        super().__init__(**_with_defaults(name, fields))

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # not for model_validate

    def __hash__(self) -> int:
        return hash((self.schema_name, self.schema_version, self.relative_path))

    @property
    def own_strategy(self) -> str | None:
        """The rebuild strategy if it is a name of the runtime's own; otherwise None."""
        strategy = str(self.rebuild_strategy)
        return None if strategy in _KNOWN_STRATEGIES else strategy

    @field_validator("relative_path")
    @classmethod
    def _plain_path(cls, path: str) -> str:
        problem = relative_path_problem(path)
        if problem is not None:
            raise ValueError(f"{shown(path)} {problem}")
        return path


def _with_defaults(name: tuple[Any, ...], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a descriptor with its name, and with a path if it has none."""
    if len(name) > 1 or (name and not fields.keys().isdisjoint(("schema_name", "schemaName"))):
        problem = "is the only argument without its name, and is given once"
        raise InvalidRequestError("Descriptor.schema_name", problem)
    if name:
        fields = {"schema_name": name[0], **fields}
    given = fields.get("schema_name", fields.get("schemaName"))
    if fields.get("relative_path") is None and "relativePath" not in fields:
        fields = {**fields, "relative_path": _default_path(given)}
    return fields


def default_path(name: str) -> str:
    """Return the file of a store that names none. A name may make none that a store may have."""
    return f"{name.replace(':', '+')}.json"


def _default_path(name: object) -> str:
    """Return the file of a store whose descriptor names none. Raises `InvalidRequestError` for a
    good name that is none for a file."""
    if not (isinstance(name, str) and _NAME.fullmatch(name) and len(name) <= _NAME_LENGTH_MAX):
        return "nowhere.json"  # the name itself is refused
    path = default_path(name)
    problem = relative_path_problem(path)
    if problem is not None:
        why = f"must be given for this store: {shown(path)}, its default, {problem}"
        raise InvalidRequestError("Descriptor.relative_path", why, store=name)
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
    if len(path.encode()) > _PATH_BYTES_MAX:
        return f"has more than {_PATH_BYTES_MAX:,} bytes: a system opens some 4,000, all in all"
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


StoreKey = str | Descriptor
"""A store in a call: its name, for plain JSON; or its descriptor, for objects of its model."""


StoreKeys = list[Any] | tuple[StoreKey, ...] | Set[StoreKey] | Iterator[StoreKey]
"""Several stores in a call, as type checkers see them: any of these with a `StoreKey` each. A text
is an iterable of texts too, and must not pass for several names."""


def store_name(store: StoreKey) -> str:
    """Return the name of a store that is given by its name or by its descriptor."""
    return store.schema_name if isinstance(store, Descriptor) else store


def _refuse_another(given: Descriptor, registered: Descriptor) -> None:
    """Raise `InvalidRequestError` for a descriptor that differs from the registered one in what is
    written: its file, the version of its data, or the model."""
    for field in ("relative_path", "schema_version", "payload"):
        other = getattr(registered, field)
        if getattr(given, field) != other:
            problem = (
                f"is another descriptor than the one that the store was opened with, whose {field} "
                f"is {shown(other)}: pass this one to open, in descriptors=[...]"
            )
            raise InvalidRequestError("store", problem, store=given.schema_name)


class TakenBy(NamedTuple):
    """A store whose file keeps another store from having a path."""

    owner: str
    path: str
    """The file itself, one in the folder that the path would replace, or one that would have to be
    a folder for it."""

    def problem(self, path: str) -> str:
        """Return in words why no other store can have the path."""
        how = ""
        if path.startswith(f"{self.path}/"):
            how = f", which {path} needs as a folder,"
        elif path != self.path:
            how = f", for which {path} is a folder,"
        return f"the file {self.path}{how} is that of store {self.owner}"

    def way(self, name: str) -> str:
        """Return what lets the store of that name have the path, in words. It does not lead from
        one to the other where two stores swap files."""
        return (
            f"give {name} another relative_path, or first open the directory without {name}, with "
            f"a file for {self.owner} that is no store's, and write {self.owner} there or delete it"
        )


class TakenFiles:
    """Which files are those of stores, and which folders those are in."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        """Take the file of each store, by the store's name."""
        self._paths = paths
        self._owners = {path: name for name, path in paths.items()}
        self._folders = {folder for path in paths.values() for folder in folders_above(path)}

    def by(self, name: str, path: str) -> TakenBy | None:
        """Return why a store cannot have a path, or None when it can."""
        if self._owners.get(path) == name:
            return None
        for there in (path, *folders_above(path)):
            owner = self._owners.get(there, name)
            if owner != name:
                return TakenBy(owner, there)
        if path in self._folders:
            for owner, there in self._paths.items():
                if owner != name and there.startswith(f"{path}/"):
                    return TakenBy(owner, there)
        return None


def taken_file(name: str, path: str, taken: TakenBy) -> str:
    """Return, in words, why a store cannot have a file that is another store's, and the way out."""
    owner = taken.owner
    return (
        f"{taken.problem(path)}, until {owner} is written to another file or deleted: "
        f"{taken.way(name)}"
    )


def kept_file(name: str, path: str, kept: Descriptor) -> str:
    """Return, in words, why a store cannot have a file that a newer program gave another store, and
    the way out. `kept` is the descriptor of the newer program."""
    owner = kept.schema_name
    return (
        f"the file {path} is in the way of {kept.relative_path}, which a newer program gave store "
        f"{owner}: the data of {owner} is newer than its descriptor here, so {owner} keeps that "
        f"file. Give {name} another relative_path, or first open the directory with the newer "
        f"program, with another file for {owner}"
    )


def diagnostic_only(descriptors: Iterable[Descriptor]) -> frozenset[str]:
    """Return the names of the stores that stop no runtime, whatever is wrong with their data."""
    return frozenset(
        item.schema_name for item in descriptors if item.criticality is Criticality.DIAGNOSTIC_ONLY
    )


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
            needed = folders_above(path)
            other = next(filter(None, map(owner_of.get, needed)), user_of.get(path))
            if other is not None:
                problem = f"needs as a directory what {other} has as its file, or the reverse"
                raise InvalidRequestError("descriptors", problem, store=name)
            self._by_name[name] = descriptor
            owner_of[path] = name
            user_of.update(dict.fromkeys(needed, name))

    def get(self, store: StoreKey) -> Descriptor:
        """Return the descriptor of a store, which is given by its name or by itself. Raises
        `UnknownStoreError`, and `InvalidRequestError` for another descriptor of that name."""
        name: object = store_name(store)
        found = self._by_name.get(name) if isinstance(name, str) else None
        if found is None:
            raise UnknownStoreError(store_name(store), self.names)
        if isinstance(store, Descriptor) and store is not found:
            _refuse_another(store, found)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all stores, in the order they were registered."""
        return tuple(self._by_name)

    def __iter__(self) -> Iterator[Descriptor]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, store: object) -> bool:
        name = store.schema_name if isinstance(store, Descriptor) else store
        return isinstance(name, str) and name in self._by_name


def folders_above(path: str) -> list[str]:
    """Return the directories that a relative path needs, the outermost first."""
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
