"""What the tests of the library share: small stores, watched file systems, other processes."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rtstore import Criticality, Descriptor, FileSystem, Owner, RebuildStrategy, RuntimeStore
from rtstore.model.records import RunIdentity
from rtstore.testing import Ids as Ids
from rtstore.testing import Seams
from tests.support.forked import HEAD, Forked

NOON = datetime(2026, 4, 21, 12, 0, tzinfo=UTC)
NOON_TEXT = "2026-04-21T12:00:00.000Z"
TEAM = "team-a"
IDENTITY = RunIdentity(
    run_id="run-1", capability_snapshot_id="cap-1", behavior_fingerprint="behavior-1"
)
CHECKPOINT = "launch_checkpoint"
CHECKOUT = Path(__file__).parents[2]

LAUNCH, SESSIONS = "opencode.launchState", "opencode.sessionStore"
LEASES, LEDGER = "opencode.hostLeases", "opencode.promptDeliveryLedger"
DIAGNOSTICS = "opencode.runtimeDiagnostics"
FILE_OF = {
    LAUNCH: "launch-state.json",
    SESSIONS: "opencode-sessions.json",
    LEASES: "opencode-host-leases.json",
    LEDGER: "opencode-prompt-delivery-ledger.json",
    DIAGNOSTICS: "opencode-diagnostics.json",
}
"""Of these stores the leases, the ledger and the diagnostics accept any JSON."""


def may_do_anything() -> bool:
    """Whether no mode of a file keeps this process from anything, as it is for most who are root;
    tests of what is forbidden have nothing to see then."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o500)
        try:
            (Path(folder) / "file").touch()
        except PermissionError:
            return False
        return True


def launch_state(run_id: str = "run-1", **more: Any) -> dict[str, Any]:
    """The smallest data that the launch state accepts."""
    return {"providerId": "opencode", "teamName": TEAM, "runId": run_id, **more}


def plain_descriptor(name: str, path: str, version: int = 1) -> Descriptor:
    """A store that accepts any JSON and cannot be rebuilt."""
    return Descriptor(
        schema_name=name,
        schema_version=version,
        relative_path=path,
        criticality=Criticality.READINESS_BLOCKING,
        owner=Owner.E2E,
        rebuild_strategy=RebuildStrategy.NONE,
    )


# --- stores -------------------------------------------------------------------------------------


@functools.cache
def _template() -> Path:
    """A runtime directory as `RuntimeStore.open` makes it, made once for all tests."""
    folder = Path(tempfile.mkdtemp(prefix="rtstore-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    directory = folder / "runtime"
    RuntimeStore.open(directory, team_name=TEAM, seams=Seams(clock=lambda: NOON)).close()
    return directory


def new_directory(parent: Path, name: str = "runtime") -> Path:
    """A runtime directory of `team-a` in which nothing was committed yet; copied, for speed."""
    return Path(shutil.copytree(_template(), parent / name))


_SEAMS = {field.name for field in dataclasses.fields(Seams)}


def options_of(**options: Any) -> dict[str, Any]:
    """The options of `open`, with those that are fields of `Seams` put together."""
    seams = {name: options.pop(name) for name in _SEAMS & options.keys()}
    return {**options, "seams": Seams(**seams)} if seams else options


def open_store(directory: Path, **options: Any) -> RuntimeStore:
    """Open a store with the ids and the time of the seed's tests, unless others are given. A field
    of `Seams` is given by its name."""
    defaults: dict[str, Any] = {
        "team_name": TEAM,
        "clock": lambda: NOON,
        "batch_id_factory": Ids("batch"),
        "receipt_id_factory": Ids("receipt"),
        "plan_id_factory": Ids("plan"),
    }
    return RuntimeStore.open(directory, **options_of(**{**defaults, **options}))


def write(store: RuntimeStore, name: str, data: Any, **options: Any) -> str:
    """Commit one store; return the id of the batch."""
    return store.write_batch(
        identity=IDENTITY, reason=CHECKPOINT, writes={name: data}, **options
    ).batch_id


def file_of(store: RuntimeStore, name: str) -> Path:
    """The file of a store."""
    return store.directory / store.descriptors.get(name).relative_path


def data_in(path: Path) -> Any:
    """The data in a store file."""
    return json.loads(path.read_bytes())["data"]


def agree(store: RuntimeStore) -> bool:
    """Whether every file of the manifest is byte for byte what is committed."""
    return all(
        (store.directory / entry.relative_path).is_file()
        and digest((store.directory / entry.relative_path).read_bytes()) == entry.content_hash
        for entry in store.manifest().entries
    )


def digest(content: bytes) -> str:
    """The content hash of the domain, computed without the library."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


# --- pictures of a directory --------------------------------------------------------------------

Picture = dict[str, tuple[str, int, str]]


def picture(directory: Path, *, without: tuple[str, ...] = ()) -> Picture:
    """Every name below a directory with its kind and mode, time of modification, and bytes.

    Names that end in one of `without` are left out. The control database must not be open in this
    process unless its files are left out: closing a descriptor of it would drop SQLite's locks.
    """
    found: Picture = {}
    for path in sorted(directory.rglob("*")):
        if path.name.endswith(without) and without:
            continue
        stat = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = digest(path.read_bytes())
        else:
            content = ""
        found[str(path.relative_to(directory))] = (oct(stat.st_mode), stat.st_mtime_ns, content)
    return found


CONTROL = (".sqlite3", ".sqlite3-wal", ".sqlite3-shm", "runtime-store.lock")
"""The files of the store itself, to be left out of a picture."""


def files_picture(directory: Path) -> Picture:
    """A picture of everything but the store's own files, and without directories (a failed batch
    may leave an empty quarantine or a folder that it made)."""
    return {
        name: facts
        for name, facts in picture(directory, without=CONTROL).items()
        if not facts[0].startswith("0o4")
    }


def stray_files(directory: Path) -> list[str]:
    """Temporary files anywhere below a directory."""
    return [str(path) for path in directory.rglob("*") if path.name.endswith(".rtstore-tmp")]


# --- watched file systems -----------------------------------------------------------------------


class Crash(BaseException):
    """Stands for the death of the process: nothing on the way may answer it."""


Judge = Callable[[int, str, Path | int], BaseException | None]


class WatchedFileSystem(FileSystem):
    """Notes every call that changes something, and asks a judge whether it fails.

    The judge gets the number of the call (from 0), its name and its subject. After a `Crash`
    nothing is changed any more, as when the process were dead.
    """

    def __init__(self, judge: Judge | None = None) -> None:
        self.judge = judge
        self.calls: list[tuple[str, Path | int]] = []
        self.dead = False
        self.written_per_call: int | None = None

    def names(self) -> list[str]:
        """The names of the calls so far."""
        return [name for name, _ in self.calls]

    def _ask(self, name: str, subject: Path | int) -> None:
        if self.dead:
            raise Crash
        number = len(self.calls)
        self.calls.append((name, subject))
        verdict = self.judge(number, name, subject) if self.judge else None
        if verdict is not None:
            self.dead = isinstance(verdict, Crash)
            raise verdict

    def create(self, path: Path, mode: int) -> int:
        self._ask("create", path)
        return super().create(path, mode)

    def write(self, descriptor: int, content: memoryview) -> int:
        self._ask("write", descriptor)
        return super().write(descriptor, content[: self.written_per_call])

    def set_mode(self, descriptor: int, mode: int) -> None:
        self._ask("set_mode", descriptor)
        super().set_mode(descriptor, mode)

    def set_mtime(self, descriptor: int, mtime_ns: int) -> None:
        self._ask("set_mtime", descriptor)
        super().set_mtime(descriptor, mtime_ns)

    def fsync(self, descriptor: int) -> None:
        self._ask("fsync", descriptor)
        super().fsync(descriptor)

    def flush(self, path: Path) -> None:
        self._ask("flush", path)
        super().flush(path)

    def close(self, descriptor: int) -> None:
        super().close(descriptor)  # also when it fails: the descriptor is gone then too
        self._ask("close", descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._ask("rename", target)
        super().rename(source, target)

    def rename_new(self, source: Path, target: Path) -> bool:
        self._ask("rename", target)  # another way to give the new version its name
        return super().rename_new(source, target)

    def exchange(self, first: Path, second: Path) -> bool:
        self._ask("rename", second)  # and another
        return super().exchange(first, second)

    def unlink(self, path: Path) -> None:
        self._ask("unlink", path)
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._ask("mkdir", path)
        super().mkdir(path)

    def rmdir(self, path: Path) -> None:
        self._ask("rmdir", path)
        super().rmdir(path)

    def fsync_directory(self, path: Path) -> None:
        self._ask("fsync_directory", path)
        super().fsync_directory(path)


def at_call(number: int, error: BaseException) -> Judge:
    """Fail the call of that number, and no other."""
    return lambda current, _name, _subject: error if current == number else None


def at(name: str, path: Path, error: BaseException) -> Judge:
    """Fail every call of that name for that path."""
    return lambda _number, called, subject: error if (called, subject) == (name, path) else None


# --- other processes ----------------------------------------------------------------------------


@contextmanager
def child(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a Python of its own that can import the library; killed at the end.

    It speaks to the test with `say(...)`, and `wait()` blocks until the test answers or is gone.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + script, *map(str, arguments)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def hear(process: subprocess.Popen[str] | Forked) -> str:
    """The next line that a child says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def answer(process: subprocess.Popen[str] | Forked) -> None:
    """Let a child that waits go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
