"""What scenarios are made of: beginnings, which are built undisturbed, and acts."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rtstore import Retention, RuntimeStore
from rtstore.files.durable import temporary_path
from rtstore.model.descriptors import HOST_LEASES, LAUNCH_STATE, SESSION_STORE
from rtstore.model.records import BatchOrigin
from tests.crash.children import Child, Say, killer
from tests.crash.client import DEFAULT_OPTIONS, FILES, LANE, Caller, Options, gone, new_data
from tests.crash.ledger import Foreign, Intent, Note, Told
from tests.crash.probe import Fault, FileFault, Point, Probe, watched

Build = Callable[[Path, Say], None]
Act = Callable[[Caller], object]

NEW_LEASES = temporary_path(Path(FILES[HOST_LEASES])).name
"""What the last of three stores is written to, before it takes its name."""
SHORT_HISTORY = Options(retention=Retention(batches=1, contents_per_store=1))


FEW_BATCHES = Options(retention=Retention(batches=3, contents_per_store=2))


LONG_HISTORY = Options(retention=Retention(batches=None, contents_per_store=None), filler=400_000)
"""What a short history drops of this one is worth giving back."""


@dataclass
class Builder:
    """Builds beginnings."""

    directory: Path
    say: Say
    options: Options = DEFAULT_OPTIONS

    def batches(self, *batches: tuple[str, ...], prefix: str = "base") -> Builder:
        notes: list[Note] = []
        caller = Caller(self.directory, prefix, notes.append, options=self.options)
        caller.open()
        for stores in batches:
            if not caller.write(*stores):
                raise AssertionError(f"the beginning could not be built: {notes[-1]}")
        caller.close()
        for note in notes:
            self.say(note)
        return self

    def by_hand(self, store: str, content: bytes) -> Builder:
        """Somebody edits a store's file."""
        path = self.directory / FILES[store]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
        self.say(Foreign(FILES[store], content))
        return self

    def killed(self, watch: Callable[[Point], Fault | bool], act: Act) -> None:
        """A writer is killed at the first point where `watch` says True."""

        def work(say: Say) -> None:
            kill = killer(say, 0)

            def watch_or_kill(point: Point) -> Fault | None:
                found = watch(point)
                if found is True:
                    kill(replace(point, number=0))
                return None if isinstance(found, bool) else found

            with watched(Probe(watch_or_kill)) as fs:
                act(Caller(self.directory, "crash", say, fs=fs))

        ended = Child(work).wait()
        if ended.killed_at is None:
            raise AssertionError(f"the beginning could not be built: {ended}")
        for note in ended.notes:
            self.say(note)


def edited(store: str, marker: str, version: int = 1) -> bytes:
    """A store file as somebody might leave it by hand: not indented, other data."""
    data = {**new_data(store, marker), "byHand": True}
    return json.dumps({"schemaVersion": version, "updatedAt": None, "data": data}).encode()


# --- beginnings ---------------------------------------------------------------------------------


def nowhere(directory: Path, _: Say) -> None:
    directory.rmdir()


def empty(directory: Path, say: Say) -> None:
    Builder(directory, say).batches()


def written(directory: Path, say: Say) -> None:
    Builder(directory, say).batches((LAUNCH_STATE, SESSION_STORE, HOST_LEASES), (LANE,))


def with_history(directory: Path, say: Say) -> None:
    # The launch state is written once and never again: its content must outlive its batch's turn.
    Builder(directory, say, SHORT_HISTORY).batches(
        (LAUNCH_STATE, SESSION_STORE), (SESSION_STORE,), (SESSION_STORE,), (SESSION_STORE,)
    )


def with_too_much_history(directory: Path, say: Say) -> None:
    """Two stores were written again and again, and nothing of that is beyond the retention yet."""
    Builder(directory, say).batches(
        (LAUNCH_STATE, LANE), *[(SESSION_STORE, HOST_LEASES), (SESSION_STORE,)] * 3
    )


def with_much_history(directory: Path, say: Say) -> None:
    Builder(directory, say, LONG_HISTORY).batches((LAUNCH_STATE,), *[(SESSION_STORE,)] * 4)


def with_versions(directory: Path, say: Say) -> None:
    Builder(directory, say).batches((LAUNCH_STATE, SESSION_STORE), (SESSION_STORE,))


def changed_by_hand(directory: Path, say: Say) -> None:
    builder = Builder(directory, say).batches((LAUNCH_STATE, SESSION_STORE))
    builder.by_hand(SESSION_STORE, edited(SESSION_STORE, "by hand"))
    builder.by_hand(HOST_LEASES, edited(HOST_LEASES, "before there was a batch"))


def lost(directory: Path, say: Say) -> None:
    """A store that the provider can be asked for was written by hand, and never committed."""
    builder = Builder(directory, say).batches((LAUNCH_STATE,))
    builder.by_hand(SESSION_STORE, edited(SESSION_STORE, "by hand"))


def kept_unflushed(directory: Path, say: Say) -> None:
    """A writer was killed right before the name of the file that it had quarantined was flushed."""
    builder = Builder(directory, say).batches((LAUNCH_STATE, SESSION_STORE))
    builder.by_hand(SESSION_STORE, edited(SESSION_STORE, "by hand"))
    renamed: list[Point] = []

    def watch(point: Point) -> bool:
        renamed.extend([point] if point.call == "rename" else [])
        return bool(renamed) and point.call == "fsync_directory"

    builder.killed(watch, write_three)


def quarantined(directory: Path, say: Say) -> None:
    """Files that were changed by hand were moved aside by a recovery."""
    damaged(directory, say)
    caller = Caller(directory, "repair", say)
    caller.recover()
    caller.close()


def of_the_legacy_format(directory: Path, say: Say) -> None:
    """A directory of the legacy format, with a file that was never committed there."""
    notes: list[Note] = []
    source = directory.with_name(f"{directory.name}-source")
    source.mkdir()
    builder = Builder(source, notes.append).batches((LAUNCH_STATE, SESSION_STORE), (LANE,))
    builder.batches((SESSION_STORE,), prefix="later")
    with RuntimeStore.open(source) as store:
        store.export(directory)
    shutil.rmtree(source)
    for note in notes:
        if isinstance(note, Intent):
            say(note)
        if isinstance(note, Told):
            say(Told(note.batch.model_copy(update={"origin": BatchOrigin.IMPORTED})))
    Builder(directory, say).by_hand(HOST_LEASES, edited(HOST_LEASES, "never committed"))


def torn(directory: Path, say: Say) -> None:
    """Power was lost after the last batch: its commit record is there, its files are torn or
    gone."""
    written(directory, say)
    for store in (SESSION_STORE, LANE):
        path = directory / FILES[store]
        found = path.stat()
        path.write_bytes(bytes(found.st_size))
        os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))
    (directory / FILES[HOST_LEASES]).unlink()


def killed_between_renames(directory: Path, say: Say) -> None:
    builder = Builder(directory, say).batches((LAUNCH_STATE, SESSION_STORE))
    builder.by_hand(SESSION_STORE, edited(SESSION_STORE, "by hand"))
    # The first rename is the quarantined file's, the second the launch state's.
    builder.killed(_before("rename", 3), write_three)


def killed_in_undoing(directory: Path, say: Say) -> None:
    builder = Builder(directory, say).batches((LAUNCH_STATE, SESSION_STORE))
    failed: list[Point] = []

    def watch(point: Point) -> Fault | bool:
        if point.call == "create" and point.subject == NEW_LEASES:
            failed.append(point)
            return FileFault(errno.ENOSPC)
        return bool(failed) and point.call == "create"

    builder.killed(watch, write_three)


def killed_in_deleting(directory: Path, say: Say) -> None:
    """A writer was killed when it had taken the name of the file that it deletes, in which there
    was somebody's edit."""
    builder = Builder(directory, say).batches((LAUNCH_STATE, SESSION_STORE), (LANE,))
    builder.by_hand(SESSION_STORE, edited(SESSION_STORE, "by hand"))
    builder.killed(
        lambda point: point.call == "unlink",
        lambda caller: caller.write(gone(SESSION_STORE), gone(LANE)),
    )


def damaged(directory: Path, say: Say) -> None:
    builder = Builder(directory, say).batches((LAUNCH_STATE, SESSION_STORE), (HOST_LEASES, LANE))
    builder.by_hand(LAUNCH_STATE, edited(LAUNCH_STATE, "by hand"))
    builder.by_hand(SESSION_STORE, edited(SESSION_STORE, "from a newer program", version=2))
    builder.by_hand(HOST_LEASES, b'{"schemaVersion": 1, "data": {"cut of')
    lane = directory / FILES[LANE]
    lane.unlink()
    lane.mkdir()
    (lane / "inner.txt").write_bytes(b"somebody made a directory of it")
    say(Foreign(f"{FILES[LANE]}/inner.txt", b"somebody made a directory of it"))


def superseded(directory: Path, say: Say) -> None:
    """Another run has begun, and keeps all but what it wrote anew."""
    written(directory, say)
    caller = Caller(directory, "newer", say)
    if not begin_another(caller):
        raise AssertionError("the beginning could not be built: the other run did not begin")
    caller.close()


def _before(call: str, occurrence: int) -> Callable[[Point], bool]:
    seen: list[Point] = []

    def watch(point: Point) -> bool:
        if point.call == call:
            seen.append(point)
        return len(seen) == occurrence

    return watch


# --- acts ---------------------------------------------------------------------------------------


def open_it(caller: Caller) -> None:
    caller.open()


def write_new(caller: Caller) -> None:
    caller.write(LAUNCH_STATE, LANE, give_id=True)
    caller.write(SESSION_STORE)


def write_one(caller: Caller) -> None:
    caller.write(SESSION_STORE)


def write_over(caller: Caller) -> None:
    caller.write(LAUNCH_STATE, LANE)
    caller.write(LAUNCH_STATE, SESSION_STORE)


def write_three(caller: Caller) -> None:
    caller.write(LAUNCH_STATE, SESSION_STORE, HOST_LEASES)


def write_together(caller: Caller) -> None:
    caller.write_together(
        (LAUNCH_STATE, SESSION_STORE), (SESSION_STORE, HOST_LEASES), (LANE, SESSION_STORE)
    )
    caller.write_together((LANE,), (LANE,))


def write_many(caller: Caller) -> None:
    """More batches than are kept, of more than one store."""
    for stores in ((SESSION_STORE,), (SESSION_STORE, LANE), (SESSION_STORE,), (LAUNCH_STATE,)):
        caller.write(*stores)
    caller.write(SESSION_STORE)


def write_many_together(caller: Caller) -> None:
    """The same with one flush."""
    caller.write_together(
        (SESSION_STORE,), (SESSION_STORE, LANE), (SESSION_STORE,), (LAUNCH_STATE,), (SESSION_STORE,)
    )
    caller.write(SESSION_STORE)


def update(caller: Caller) -> None:
    caller.update(SESSION_STORE)
    caller.update(SESSION_STORE)


def update_several(caller: Caller) -> None:
    """Two stores together, beside one that is not changed; then nothing."""
    caller.update_several(SESSION_STORE, LANE, beside=LAUNCH_STATE)
    caller.update_nothing(SESSION_STORE, LANE)


def delete(caller: Caller) -> None:
    """Two stores are deleted, one of them beside one that is written."""
    caller.write(LAUNCH_STATE, gone(LANE), give_id=True)
    caller.write(SESSION_STORE)
    caller.update_away(HOST_LEASES, beside=SESSION_STORE, give_id=True)


def delete_alone(caller: Caller) -> None:
    """Batches that write nothing."""
    caller.write(gone(LANE))
    caller.write(gone(SESSION_STORE), gone(HOST_LEASES), give_id=True)


def delete_two(caller: Caller) -> None:
    """A batch fails when it has written a file and removed another; the one after it does not."""
    caller.write(LAUNCH_STATE, gone(LANE), gone(HOST_LEASES))
    caller.write(gone(SESSION_STORE), gone(LANE))


def delete_again(caller: Caller) -> None:
    """A store is deleted, written anew, and deleted again."""
    caller.write(gone(LANE))
    caller.write(LANE, SESSION_STORE)
    caller.write(SESSION_STORE, gone(LANE))
    caller.write(LANE)


def delete_together(caller: Caller) -> None:
    """Batches that share a flush write and delete the same stores: each is published once."""
    caller.write_together(
        (LANE, SESSION_STORE), (HOST_LEASES, gone(LANE)), (SESSION_STORE, gone(HOST_LEASES))
    )
    caller.write_together((gone(SESSION_STORE),), (SESSION_STORE,), (LANE, gone(SESSION_STORE)))
    caller.write_together((gone(LANE),), (LANE,))


def delete_mixed(caller: Caller) -> None:
    """What is deleted was edited by hand."""
    caller.write(LAUNCH_STATE, gone(SESSION_STORE))
    caller.write(gone(LAUNCH_STATE))


def delete_many(caller: Caller) -> None:
    """Deletions, and more batches than are kept."""
    caller.write(LANE, gone(SESSION_STORE))
    caller.write(LAUNCH_STATE)
    caller.write(gone(LAUNCH_STATE))
    caller.write(LANE)
    caller.write(LANE)
    caller.prune(SHORT_HISTORY.retention)
    caller.write(HOST_LEASES, gone(LANE))


def delete_and_begin(caller: Caller) -> None:
    """Delete a store, and begin another run with what is left."""
    left = () if caller.write(LAUNCH_STATE, gone(SESSION_STORE)) else (SESSION_STORE,)
    caller.begin("run-2", LAUNCH_STATE, rebuilt=LANE, keep=(HOST_LEASES, *left))
    caller.write(gone(HOST_LEASES))


def delete_imported(caller: Caller) -> None:
    """Delete stores whose versions were imported."""
    caller.open()
    caller.write(LAUNCH_STATE, gone(SESSION_STORE))
    caller.write(gone(LANE))


def prune(caller: Caller) -> None:
    caller.write(SESSION_STORE)
    caller.prune(SHORT_HISTORY.retention)
    caller.write(HOST_LEASES)


def recover(caller: Caller) -> None:
    caller.open()
    caller.recover()


def begin_another(caller: Caller) -> bool:
    """Begin a run with stores that are given, one that is rebuilt, and one that is kept, which
    nothing wrote since it was read."""
    given = (LAUNCH_STATE, SESSION_STORE)
    return caller.begin("run-2", *given, rebuilt=LANE, keep=(HOST_LEASES,))


def begin_run(caller: Caller) -> None:
    """Write for the run, begin another, and write for that if it began."""
    caller.write(SESSION_STORE)
    begin_another(caller)
    caller.write(SESSION_STORE)


def end_run(caller: Caller) -> None:
    """End the run, try to write for it all the same, and begin another one."""
    caller.write(SESSION_STORE)
    caller.end()
    caller.write(LAUNCH_STATE, LANE)
    begin_another(caller)


def write_as_a_zombie(caller: Caller) -> None:
    """Write for a run that was superseded, and then for the one that is active."""
    caller.write(LAUNCH_STATE, LANE)
    caller.update(SESSION_STORE)
    caller.take_part()
    caller.write(LAUNCH_STATE)


def adopt(caller: Caller) -> None:
    edits = {SESSION_STORE: "by hand", HOST_LEASES: "before there was a batch"}
    for store, marker in edits.items():
        caller.adopt(store, json.loads(edited(store, marker))["data"])
    caller.write(SESSION_STORE)


def restore_quarantined(caller: Caller) -> None:
    caller.restore_quarantined()


def revert(caller: Caller) -> None:
    caller.revert(SESSION_STORE, "base-1")
