"""What somebody writes between the look at a file and its replacement is quarantined."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from rtstore import BatchFailedError, BatchState, Durability, FileSystem, RuntimeStore
from rtstore.files.durable import temporary_path
from rtstore.model.request import batch_request
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    TEAM,
    Crash,
    WatchedFileSystem,
    agree,
    new_directory,
    options_of,
    stray_files,
    write,
)

BY_HAND = b'{"schemaVersion": 1, "updatedAt": null, "data": "by hand"}'
BY_HAND_TOO = b'{"schemaVersion": 1, "updatedAt": null, "data": "by hand, and before"}'
NEWER = b'{"schemaVersion": 2, "updatedAt": null, "data": "by a newer program"}'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with two stores that were written once."""
    directory = new_directory(tmp_path)
    with open_it(directory) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 1, LEDGER: 1})
    first, second = directory / FILE_OF[LEASES], tmp_path / "trade"
    second.write_bytes(b"")
    if not FileSystem().exchange(first, second):
        pytest.skip("two files cannot trade names here")
    assert FileSystem().exchange(first, second)
    return directory


def open_it(directory: Path, **options: Any) -> RuntimeStore:
    """Open the store; it is opened several times, so its ids are its own."""
    return RuntimeStore.open(directory, team_name=TEAM, **options_of(**options))


class Raced(WatchedFileSystem):
    """Somebody writes a file when its new version is begun for that time, or before it is removed;
    then a call goes wrong."""

    def __init__(
        self,
        target: Path,
        content: bytes = BY_HAND,
        trouble: BaseException | None = None,
        at: int = -1,
        time: int = 1,
    ) -> None:
        super().__init__(self._race)
        self._target = target
        self._content: bytes | None = content
        self._trouble = trouble
        self._at = at
        self._times_left = time
        self.since: list[str] = []
        """The calls since then."""

    def _race(self, _: int, name: str, subject: Path | int) -> BaseException | None:
        if self._content is not None:
            if name in ("create", "rename") and subject == temporary_path(self._target):
                self._times_left -= 1
                if self._times_left == 0:
                    self._target.write_bytes(self._content)
                    self._content = None
            return None
        self.since.append(name)
        return self._trouble if len(self.since) == self._at else None


def quarantined(store: RuntimeStore) -> list[bytes]:
    """What is in quarantine, as its rows say."""
    return [
        (store.directory / item.quarantine_path).read_bytes() for item in store.quarantined_files()
    ]


@pytest.mark.parametrize("durability", Durability)
def test_a_write_that_comes_between_is_kept(directory: Path, durability: Durability) -> None:
    """The batch goes through, and the other program's version is in quarantine, with its row."""
    fs = Raced(directory / FILE_OF[LEASES])
    with open_it(directory, fs=fs, durability=durability) as store:
        batch = store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEDGER: 2, LEASES: 2}
        )

        assert quarantined(store) == [BY_HAND]
        [item] = store.quarantined_files()
        assert (item.schema_name, item.batch_id) == (LEASES, batch.batch_id)
        assert store.read(LEASES).data == 2
        assert agree(store)
    assert stray_files(directory) == []


@pytest.mark.parametrize("durability", Durability)
def test_a_file_that_appears_is_kept(directory: Path, durability: Durability) -> None:
    """The same for a store that has no file yet, when its batch is logged."""
    target = directory / FILE_OF[DIAGNOSTICS]
    with open_it(directory, fs=Raced(target), durability=durability) as store:
        write(store, DIAGNOSTICS, 1)

        assert quarantined(store) == [BY_HAND]
        assert store.read(DIAGNOSTICS).data == 1
        assert agree(store)
    assert stray_files(directory) == []


@pytest.mark.parametrize("is_link", [False, True], ids=["directory", "link"])
def test_what_appears_and_is_no_file(directory: Path, is_link: bool) -> None:
    """A directory stays, and the batch fails; a link makes way, and leads to nothing of ours."""
    target = directory / FILE_OF[DIAGNOSTICS]

    def appear(_: int, name: str, subject: Path | int) -> None:
        if (name, subject) == ("create", temporary_path(target)) and is_link:
            target.symlink_to("elsewhere")
        elif (name, subject) == ("create", temporary_path(target)):
            target.mkdir()

    with open_it(directory, fs=WatchedFileSystem(appear)) as store:
        if is_link:
            write(store, DIAGNOSTICS, 1)
            assert not target.is_symlink()
        else:
            with pytest.raises(BatchFailedError):
                write(store, DIAGNOSTICS, 1)
            target.rmdir()
        assert agree(store)
    assert stray_files(directory) == []


def test_what_is_known_is_not_kept(directory: Path) -> None:
    """Somebody who puts back what a batch wrote has lost nothing by it."""
    earlier = (directory / FILE_OF[LEASES]).read_bytes()
    with open_it(directory) as store:
        write(store, LEASES, 2)
    with open_it(directory, fs=Raced(directory / FILE_OF[LEASES], earlier)) as store:
        write(store, LEASES, 3)

        assert quarantined(store) == []


def test_a_newer_file_that_comes_between_is_put_back(directory: Path) -> None:
    """The batch fails, and every file is as it was found."""
    target = directory / FILE_OF[LEASES]
    with open_it(directory, fs=Raced(target, NEWER)) as store:
        with pytest.raises(BatchFailedError, match="newer"):
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEDGER: 2, LEASES: 2})

        assert target.read_bytes() == NEWER
        assert store.read(LEDGER).data == 1
        assert quarantined(store) == []
    assert stray_files(directory) == []


def test_a_write_that_comes_between_a_recovery_is_kept(directory: Path) -> None:
    """The committed content is put back over a spoiled file, and over what came after that."""
    target = directory / FILE_OF[LEASES]
    target.write_bytes(b"no JSON")
    with open_it(directory, fs=Raced(target)) as store:
        assert quarantined(store) == [b"no JSON", BY_HAND]
        assert agree(store)
    assert stray_files(directory) == []


def test_a_write_that_comes_between_an_undoing_is_kept(directory: Path) -> None:
    """The batch fails and is undone; what was written over its file meanwhile is in quarantine."""
    target = directory / FILE_OF[LEASES]
    fs, ledger = Raced(target, time=2), temporary_path(directory / FILE_OF[LEDGER])
    race = fs.judge
    assert race is not None
    fs.judge = lambda *call: (
        OSError(errno.ENOSPC, "full") if call[1:] == ("create", ledger) else race(*call)
    )
    with open_it(directory, fs=fs) as store:
        with pytest.raises(BatchFailedError, match="full"):
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 2, LEDGER: 2})

        assert quarantined(store) == [BY_HAND]
        assert agree(store)
    assert stray_files(directory) == []


@pytest.mark.parametrize("known", [True, False], ids=["committed before", "never committed"])
def test_a_write_that_comes_between_quarantining_is_kept(directory: Path, known: bool) -> None:
    """A file is moved aside and makes way for the committed content or for nothing; what was
    written meanwhile is in quarantine beside it."""
    name = LEASES if known else DIAGNOSTICS
    target = directory / FILE_OF[name]
    target.write_bytes(BY_HAND_TOO)
    with open_it(directory, fs=Raced(target), recover=False) as store:
        store.recover(store.plan_recovery())

        assert quarantined(store) == [BY_HAND_TOO, BY_HAND]
        assert target.exists() == known
        assert agree(store)
    assert stray_files(directory) == []


def test_a_write_that_comes_between_taking_back_is_kept(directory: Path) -> None:
    """A quarantined file is put back over what is committed, and over what came
    after the look at it."""
    target = directory / FILE_OF[LEASES]
    target.write_bytes(BY_HAND_TOO)
    with open_it(directory) as store:
        store.recover(store.plan_recovery())
    with open_it(directory, fs=Raced(target), recover=False) as store:
        store.restore_quarantined(store.quarantined_files()[0].quarantine_number)

        assert target.read_bytes() == BY_HAND_TOO
        assert quarantined(store) == [BY_HAND_TOO, BY_HAND]
    assert stray_files(directory) == []


def test_what_a_dead_recovery_left_is_looked_at_by_a_living_writer(directory: Path) -> None:
    """Another program's version under the temporary name is kept before a batch uses that; a
    beginning of what is committed is not."""
    target = directory / FILE_OF[LEASES]
    with open_it(directory) as store:
        for left, kept in ((target.read_bytes()[:20], []), (BY_HAND, [BY_HAND])):
            temporary_path(target).write_bytes(left)
            write(store, LEASES, 2)

            assert quarantined(store) == kept
            assert agree(store)
    assert stray_files(directory) == []


@pytest.mark.parametrize("number", range(1, 16))
def test_killed_at_any_moment_after_it(directory: Path, number: int) -> None:
    """Whoever opens the store next finishes the batch, and has kept the other version."""
    fs = Raced(directory / FILE_OF[LEASES], trouble=Crash(), at=number)
    store = open_it(directory, fs=fs)
    with pytest.raises(Crash):
        write(store, LEASES, 2)
    with store.lock.hold():
        store.database.close()

    with open_it(directory) as store:
        assert quarantined(store) == [BY_HAND], fs.since
        assert store.read(LEASES).data == 2
        assert agree(store)
        assert stray_files(directory) == []
        write(store, LEASES, 3)


@pytest.mark.parametrize(
    "torn", [b"", bytes(40), b'{\n  "schemaVersion"'], ids=["empty", "zeros", "half"]
)
@pytest.mark.parametrize("number", range(1, 16))
def test_power_lost_at_any_moment_after_it(directory: Path, number: int, torn: bytes) -> None:
    """The same where the loss of power took the bytes of the new version, wherever that is."""
    target = directory / FILE_OF[LEASES]
    fs = Raced(target, trouble=Crash(), at=number)
    store = open_it(directory, fs=fs)
    with pytest.raises(Crash):
        write(store, LEASES, 2)
    with store.lock.hold():
        store.database.close()
    for path in (target, temporary_path(target)):
        if path.exists() and path.read_bytes() != BY_HAND:
            path.write_bytes(torn)

    with open_it(directory) as store:
        assert BY_HAND in quarantined(store), fs.since
        assert store.read(LEASES).data == 2
        assert agree(store)
        assert stray_files(directory) == []


@pytest.mark.parametrize("number", range(1, 16))
def test_an_error_at_any_moment_after_it(directory: Path, number: int) -> None:
    """The batch goes through or fails; the other version is in its place or in quarantine."""
    target = directory / FILE_OF[LEASES]
    fs = Raced(target, trouble=OSError(errno.EIO, "input/output error"), at=number)
    with open_it(directory, fs=fs) as store:
        failed = False
        try:
            write(store, LEASES, 2)
        except BatchFailedError:
            failed = True
        fs.judge = None

        assert BY_HAND in [*quarantined(store), target.read_bytes()], fs.since
        write(store, LEASES, 3)
        assert BY_HAND in quarantined(store)
        assert [batch.state for batch in store.batches()].count(BatchState.FAILED) == failed
        assert agree(store)
    assert stray_files(directory) == []


def test_the_moments_are_all_there_are(directory: Path) -> None:
    """The tests above go through every call."""
    fs = Raced(directory / FILE_OF[LEASES])
    with open_it(directory, fs=fs) as store:
        write(store, LEASES, 2)

    assert len(fs.since) == 15, fs.since


@pytest.mark.parametrize("position", [0, 1], ids=["first of the group", "last of the group"])
def test_a_torn_new_version_is_nobodys(directory: Path, position: int) -> None:
    """What a loss of power left of a version that a dead writer had begun is not quarantined, of
    whichever batch of its group it is."""
    fs = WatchedFileSystem(lambda _, name, __: Crash() if name == "create" else None)
    store = open_it(directory, fs=fs)
    group = [
        store._writer.prepare(
            batch_request(
                TEAM, store.descriptors, identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: data}
            )
        )
        for data in (2, 3)
    ]
    with pytest.raises(Crash):
        store._writer.write_pending(group)
    with store.lock.hold():
        store.database.close()
    planned = group[position].planned
    assert planned is not None
    begun = planned.content_of[LEASES]
    temporary_path(directory / FILE_OF[LEASES]).write_bytes(begun[:-4] + bytes(4))

    with open_it(directory) as store:
        assert quarantined(store) == []
        assert store.read(LEASES).data == 3
        assert agree(store)
    assert stray_files(directory) == []
