"""The model: what is committed, what is on disk, and what must never be lost, in dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from rtstore import DELETED, Batch, RunIdentity
from tests.state_machine.stores import (
    DESCRIPTORS,
    LEFT_WHEN_DAMAGED,
    REBUILDABLE,
    STORES,
    Rebuilding,
    Worth,
    data_of,
    is_of_store,
    judge,
    rebuilt,
    render,
)
from tests.support import DIAGNOSTICS, digest

Bytes = bytes | None
"""What is under the name of a store file; None for nothing."""
Allowed = Mapping[str, Iterable[Bytes]]


class Version(NamedTuple):
    """The committed content of a store."""

    content: bytes
    data: Any
    identity: RunIdentity
    batch_id: str
    watermark: int


@dataclass
class Intent:
    """A batch that was asked for, before it is known whether it happened."""

    contents: dict[str, Bytes]
    """By store; None for one that it deletes."""
    identity: RunIdentity
    reason: str
    moment: datetime
    batch_id: str | None = None
    decided: bool = False
    """It is in the log for certain."""
    exact: bool = False
    """Its bytes are somebody else's, adopted."""

    @classmethod
    def of(
        cls, data: Mapping[str, Any], identity: RunIdentity, moment: datetime, **more: Any
    ) -> Intent:
        """A batch that writes some data, and deletes the stores whose data is `DELETED`."""
        contents = {
            name: None if value is DELETED else render(name, value, moment)
            for name, value in data.items()
        }
        return cls(contents, identity, more.pop("reason", "launch_checkpoint"), moment, **more)

    def check_is(self, batch: Batch) -> None:
        """The batch is this one: whole, with nothing invented."""
        assert self.batch_id in (None, batch.batch_id)
        assert {receipt.schema_name: receipt.content_hash for receipt in batch.receipts} == {
            name: digest(content) for name, content in self.contents.items() if content is not None
        }
        assert {deletion.schema_name for deletion in batch.deletions} == {
            name for name, content in self.contents.items() if content is None
        }
        assert batch.reason == self.reason
        assert batch.run_id == self.identity.run_id
        assert batch.started_at == batch.completed_at == self.moment
        assert {receipt.written_at for receipt in batch.receipts} <= {self.moment}
        assert {deletion.deleted_at for deletion in batch.deletions} <= {self.moment}


@dataclass
class World:
    """Everything that the store promises, and what is allowed to be on disk."""

    directory: Path
    keeps_everything: bool
    committed: dict[str, Version] = field(default_factory=dict)
    watermark: int = 0
    active: RunIdentity | None = None
    disk: dict[str, Bytes] = field(default_factory=lambda: dict.fromkeys(STORES))
    batches: dict[str, Batch] = field(default_factory=dict)
    """Those committed, as they were acknowledged or found after a crash."""
    intents: dict[str, Intent] = field(default_factory=dict)
    """What was asked for in each of them."""
    failed: set[str] = field(default_factory=set)
    logged: dict[str, set[bytes]] = field(default_factory=lambda: {name: set() for name in STORES})
    """What the batches that are in the database wrote."""
    newest: dict[str, list[bytes]] = field(default_factory=lambda: {name: [] for name in STORES})
    """The committed bytes of a store, and what batches that failed since were to write."""
    replaced: set[frozenset[tuple[str, bytes]]] = field(default_factory=set)
    """What somebody else wrote and the store then replaced: it must be retrievable for ever, each
    time one of these."""
    over: set[str] = field(default_factory=set)
    """The runs that were superseded."""
    pending: list[Intent] = field(default_factory=list)
    """Open batches of a dead writer, in a store that was opened without recovery."""
    maybe: list[Intent] = field(default_factory=list)
    """What a dead writer was about: logged or not, nobody has looked yet."""

    # --- looking --------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """The file of a store."""
        return self.directory / DESCRIPTORS[name].relative_path

    def on_disk(self, name: str) -> Bytes:
        """What is really there."""
        try:
            return self.path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def coming(self, name: str) -> Any:
        """The committed data of a store once open batches are finished; None before the first, and
        of one that is deleted."""
        for intent in reversed(self.pending):
            if name in intent.contents:
                content = intent.contents[name]
                return None if content is None else data_of(content)
        return self.committed[name].data if name in self.committed else None

    def current(self, name: str) -> Bytes:
        """The committed bytes of a store."""
        version = self.committed.get(name)
        return None if version is None else version.content

    def is_healthy(self, name: str) -> bool:
        """The store is committed, and its file is what is committed."""
        return name in self.committed and self.disk[name] == self.current(name)

    def seems_changed(self, name: str) -> bool:
        """Somebody changed the file. With its size and time as before it shows all the same, for
        nobody can set the time of the last change: a file that was published has it recorded only
        where a later change has another, and is read otherwise. There is no exception."""
        return self.disk[name] != self.current(name)

    def worth(self, name: str) -> Worth | None:
        """What the file is worth; None when there is none."""
        content = self.disk[name]
        return None if content is None else judge(name, content)

    @property
    def knows_a_batch(self) -> bool:
        """The database has a batch for certain."""
        return bool(self.batches or self.failed or self.pending)

    def may_have_lost_its_database(self) -> bool:
        """No batch is known for certain, and there is a file that a store may have written."""
        files = self.disk.values()
        return not self.knows_a_batch and any(content and is_of_store(content) for content in files)

    def is_newer(self, name: str) -> bool:
        """The file is one of a newer program."""
        return self.disk[name] != self.current(name) and self.worth(name) is Worth.NEWER

    def is_stale(self, name: str) -> bool:
        """The store was written by another run than the last batch."""
        version = self.committed.get(name)
        return (
            version is not None and name != DIAGNOSTICS and version.identity != self.active
        )  # fmt: skip

    def blocked(self, intents: Iterable[Intent]) -> bool:
        """A file of a newer program is in the way of finishing these batches."""
        return any(
            self.is_newer(name) and self.disk[name] != content
            for intent in intents
            for name, content in intent.contents.items()
        )

    # --- what happened --------------------------------------------------------------------------

    def absorb(self, allowed: Allowed) -> None:
        """Look at the disk: each file must be as it was, or for a store named in `allowed` one of
        the contents given."""
        for name in STORES:
            before, now = self.disk[name], self.on_disk(name)
            assert now in set(allowed.get(name, [before])), f"{name} holds {now!r}, not {before!r}"
            self.assume(name, now)

    def assume(self, name: str, now: Bytes) -> None:
        """The store replaced a file; what somebody else had written there is quarantined,
        unless the database has its bytes: then what has them stays, where nothing is pruned."""
        before = self.disk[name]
        if now == before:
            return
        self.disk[name] = now
        if before is None:
            return
        source = self.source_of(name, before)
        if source is None:
            undecided = _contents_of(name, self.maybe)
            sources = [content for content in undecided if begins(content, before)]
            if self.keeps_everything or not sources:
                self.replaced.add(frozenset((name, item) for item in (before, *sources)))
        elif self.keeps_everything:
            self.replaced.add(frozenset({(name, source)}))

    def source_of(self, name: str, found: bytes) -> Bytes:
        """The content in the database that has every byte of what a file held, so that no copy is
        due: of older versions the same bytes or all but the last newline; of the current one and
        later ones any beginning, with zeros for the rest; so too of all versions of a store that is
        deleted."""
        for content in (found, found.rstrip(b"\0") + b"\n"):
            if content in self.logged[name]:
                return content
        for content in (*self.newest[name], *_contents_of(name, self.pending)):
            if begins(content, found):
                return content
        return None

    def loosely(self, intents: Iterable[Intent]) -> dict[str, set[Bytes]]:
        """What may be on disk after somebody was interrupted who wrote these batches."""
        allowed = {name: {self.disk[name]} for name in STORES}
        for intent in intents:
            for name, content in intent.contents.items():
                allowed[name].add(content)
        return allowed

    def commit(self, intent: Intent, batch: Batch) -> None:
        """A batch is committed, and the store says so."""
        intent.check_is(batch)
        self.watermark += 1
        assert batch.high_watermark == self.watermark
        assert batch.state == "committed"
        assert batch.batch_id not in self.batches
        assert batch.batch_id not in self.failed
        self.batches[batch.batch_id] = batch
        self.intents[batch.batch_id] = intent
        intent.batch_id = batch.batch_id
        if self.active is not None and self.active.run_id != intent.identity.run_id:
            self.over.add(self.active.run_id)
        self.active = intent.identity
        for name, content in intent.contents.items():
            if content is None:
                del self.committed[name]
                self.newest[name] = sorted(self.logged[name])
                continue
            self.logged[name].add(content)
            self.newest[name] = [content]
            self.committed[name] = Version(
                content, data_of(content), intent.identity, batch.batch_id, self.watermark
            )

    def fail(self, intent: Intent, batch_id: str) -> None:
        """A batch is recorded as failed: in the database for ever, and never committed."""
        self.failed.add(batch_id)
        for name, content in intent.contents.items():
            if content is not None:
                self.logged[name].add(content)
                self.newest[name].append(content)

    def outsider(self, name: str, content: Bytes) -> None:
        """Somebody else writes or removes a file."""
        path = self.path(name)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.disk[name] = content

    # --- what recovery makes of it --------------------------------------------------------------

    def restored(self, name: str) -> set[Bytes]:
        """The file after what opening a store does by itself: damaged, missing, or somebody
        else's copy of an older version, it is what is committed; anything else is left. Of a store
        of which nothing is committed, any part of an older version is removed."""
        if self.is_left_over(name):
            return {None} if self.keeps_everything else {self.disk[name], None}
        content, worth, current = self.disk[name], self.worth(name), self.current(name)
        known = content is not None and content in self.logged[name]
        unexplained = worth in (Worth.VALID, Worth.OLDER)
        if name in self.committed and worth in (None, Worth.DAMAGED):
            return {current}
        if unexplained and known and content != current:
            return {current} if self.keeps_everything else {content, current}
        return {content}

    def is_left_over(self, name: str) -> bool:
        """Nothing is committed for a store, and its file holds bytes of an older version only."""
        content = self.disk[name]
        if name in self.committed or content is None or self.worth(name) is Worth.NEWER:
            return False
        return self.source_of(name, content) is not None

    def recovered(self, name: str) -> set[Bytes]:
        """The file after a recovery in which nothing was rebuilt."""
        if name in self.committed:
            return {self.current(name)}
        if self.is_left_over(name):
            may_stay = not self.keeps_everything and name in LEFT_WHEN_DAMAGED
            return {None, self.disk[name]} if may_stay else {None}
        content, worth = self.disk[name], self.worth(name)
        if content is None or worth is Worth.NEWER:
            return {None}
        if worth is Worth.DAMAGED:
            return {content if name in LEFT_WHEN_DAMAGED else None}
        if name == DIAGNOSTICS:
            return {None}
        return self.restored(name)

    def to_rebuild(self, behaviour: Rebuilding) -> list[str]:
        """The stores that a recovery rebuilds: those that nobody committed, and those of another
        run."""
        if behaviour is not Rebuilding.GOOD:
            return []
        return [
            name
            for name in STORES
            if name in REBUILDABLE
            and (name not in self.committed or (self.is_stale(name) and self.is_healthy(name)))
        ]

    def rebuilds(
        self, names: Sequence[str], identity: RunIdentity, moment: datetime
    ) -> list[Intent]:
        """The batch in which stores are rebuilt, and what it may be where some are refused on the
        way: all of them first."""
        return [
            Intent.of({name: rebuilt(name) for name in some}, identity, moment, reason="recovery")
            for number in range(len(names), 0, -1)
            for some in combinations(names, number)
        ]


def _contents_of(name: str, intents: Iterable[Intent]) -> list[bytes]:
    """What these batches were to write to a store."""
    found = [intent.contents.get(name) for intent in intents]
    return [content for content in found if content is not None]


def begins(content: bytes, found: bytes) -> bool:
    """Bytes are a beginning of a content, with zeros for what a loss of power took."""
    return content[: len(found.rstrip(b"\0"))] == found.rstrip(b"\0")
