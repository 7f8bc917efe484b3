"""A file replaced: the old version or the new one, whatever fails and when."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtstore.files import durable
from rtstore.files.system import FileSystem
from tests.support import Crash, WatchedFileSystem, at, at_call, picture, stray_files

OLD, NEW = b"the old version", b"the new version, which is longer"
TIME_NS = 1_776_772_800_123_456_000
FLUSHED = [
    "create", "set_mode", "write", "set_mtime", "fsync", "close", "rename", "fsync_directory",
]  # fmt: skip
STEADY = [*(name for name in FLUSHED if not name.startswith("fsync")), "unlink"]
"""Without a flush the two versions trade names, and the old one is removed."""
NO_FILE_YET = [name for name in FLUSHED if name != "set_mode"]


def replace(
    target: Path, fs: WatchedFileSystem, *, flush: bool = True, mtime_ns: int | None = TIME_NS
) -> None:
    """Replace a file by the new version."""
    durable.replace(target, NEW, mtime_ns=mtime_ns, flush=flush, within=target.parents[-1], fs=fs)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of the old version."""
    path = tmp_path / "store.json"
    path.write_bytes(OLD)
    path.chmod(0o640)
    return path


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A umask that takes off the write permission of others, whatever the machine's is."""
    before = os.umask(0o022)
    yield
    os.umask(before)


# --- when nothing fails -------------------------------------------------------------------------


def test_without_flush_nothing_is_flushed(target: Path) -> None:
    """One file costs one rename and no flush: the log can repeat it."""
    fs = WatchedFileSystem()

    replace(target, fs, flush=False)

    assert fs.names() == STEADY
    assert target.read_bytes() == NEW


def test_where_names_cannot_be_traded_the_file_is_renamed(target: Path) -> None:
    """Not every system and file system can do it; what comes of it is the same."""

    class Old(WatchedFileSystem):
        def exchange(self, first: Path, second: Path) -> bool:
            return False

    fs = Old()

    replace(target, fs, flush=False)

    assert fs.names() == STEADY[:-1]
    assert target.read_bytes() == NEW
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert stray_files(target.parent) == []


@pytest.mark.parametrize("missing", ["first", "second"])
def test_a_file_that_is_missing_trades_no_names(tmp_path: Path, missing: str) -> None:
    """The other one stays where it is."""
    paths = [tmp_path / name for name in ("first", "second")]
    for path in paths:
        path.write_bytes(path.name.encode())
    (tmp_path / missing).unlink()

    assert not FileSystem().exchange(*paths)
    assert [path.name for path in tmp_path.iterdir()] == [
        path.name for path in paths if path.name != missing
    ]


def test_with_flush_the_file_is_flushed_before_the_rename_and_the_name_after(target: Path) -> None:
    """A name never becomes durable before the bytes under it."""
    fs = WatchedFileSystem()

    replace(target, fs)

    assert fs.names() == FLUSHED
    assert fs.calls[-1] == ("fsync_directory", target.parent)


def test_the_time_of_modification_is_set_to_the_nanosecond(target: Path) -> None:
    """It is what the manifest says, so that a look at it tells whether the file is ours."""
    replace(target, WatchedFileSystem())

    assert target.stat().st_mtime_ns == TIME_NS


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o400])
def test_the_permissions_of_the_file_are_kept(target: Path, mode: int, open_umask: None) -> None:
    """Also those that the umask would take off."""
    target.chmod(mode)

    replace(target, WatchedFileSystem())

    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_bytes() == NEW


def test_a_new_file_and_a_new_directory_are_for_their_owner_alone(
    tmp_path: Path, open_umask: None
) -> None:
    """The state of a run may hold secrets; who wants to share it opens it, and that is kept."""
    fs = WatchedFileSystem()

    replace(tmp_path / "a" / "new.json", fs)

    assert stat.S_IMODE((tmp_path / "a" / "new.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert "set_mode" not in fs.names()


def test_a_link_that_is_replaced_does_not_pass_on_its_permissions(
    tmp_path: Path, open_umask: None
) -> None:
    """Every link seems open to everybody; the file in its place must not be."""
    (tmp_path / "link").symlink_to("nowhere")

    replace(tmp_path / "link", WatchedFileSystem())

    assert stat.S_IMODE((tmp_path / "link").lstat().st_mode) == 0o600


@pytest.mark.parametrize("size", [1, 7, 31])
def test_short_writes_are_continued(target: Path, size: int) -> None:
    """The operating system may take less than it is given."""
    fs = WatchedFileSystem()
    fs.written_per_call = size

    replace(target, fs)

    assert target.read_bytes() == NEW
    assert fs.names().count("write") == -(-len(NEW) // size)


def test_an_empty_file_can_be_written(target: Path) -> None:
    """No bytes are a version too."""
    durable.replace(
        target, b"", mtime_ns=None, flush=False, within=target.parent, fs=WatchedFileSystem()
    )

    assert target.read_bytes() == b""


def test_nested_directories_are_made_and_their_names_flushed(tmp_path: Path) -> None:
    """A durable file in a directory that is not would be lost with it; flushed even without
    `flush`, for it happens once."""
    fs = WatchedFileSystem()

    replace(tmp_path / "a" / "b" / "store.json", fs, flush=False)

    assert fs.calls[1:5] == [
        ("mkdir", tmp_path / "a"),
        ("fsync_directory", tmp_path),
        ("mkdir", tmp_path / "a" / "b"),
        ("fsync_directory", tmp_path / "a"),
    ]
    assert fs.names().count("fsync_directory") == 2


def test_a_directory_that_somebody_else_makes_meanwhile_is_welcome(tmp_path: Path) -> None:
    """It is there, which is what was wanted."""

    class Hasty(WatchedFileSystem):
        def mkdir(self, path: Path) -> None:
            path.mkdir()
            super().mkdir(path)

    replace(tmp_path / "a" / "store.json", Hasty())

    assert (tmp_path / "a" / "store.json").read_bytes() == NEW


def test_a_temporary_file_of_a_dead_writer_is_replaced(target: Path) -> None:
    """It is never added to, nor does it stop anybody."""
    stale = durable.temporary_path(target)
    stale.write_bytes(b"half of something" * 100)
    stale.chmod(0o400)

    replace(target, WatchedFileSystem())

    assert target.read_bytes() == NEW
    assert stray_files(target.parent) == []


def test_temporary_names_are_recognised(target: Path) -> None:
    """A sweep finds what a dead writer left, and no store file."""
    assert durable.is_temporary(durable.temporary_path(target).name)
    assert not durable.is_temporary(target.name)
    assert durable.temporary_path(target).parent == target.parent


# --- when something fails -----------------------------------------------------------------------


def failing_calls(names: list[str]) -> list[tuple[int, str]]:
    """The calls before the new version has its name: a failure leaves the old one."""
    return [(number, name) for number, name in enumerate(names) if name != "fsync_directory"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize(("number", "name"), failing_calls(FLUSHED))
def test_a_failure_leaves_the_old_version_and_nothing_else(
    target: Path, number: int, name: str, code: int
) -> None:
    """Whatever call fails: the file is as before, to its mode and time, and no temporary file."""
    before = picture(target.parent)
    fs = WatchedFileSystem(at_call(number, OSError(code, os.strerror(code))))

    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        replace(target, fs)

    assert caught.value.errno == code
    assert fs.calls[number][0] == name
    assert picture(target.parent) == before


@pytest.mark.parametrize("number", range(6))
def test_a_failure_while_directories_are_made_leaves_no_file(tmp_path: Path, number: int) -> None:
    """What was made on the way may stay; the file is not there."""
    fs = WatchedFileSystem(at_call(number, OSError(errno.EIO, "input/output error")))

    with pytest.raises(OSError, match="input/output"):
        replace(tmp_path / "a" / "b" / "store.json", fs)

    assert fs.calls[number][0] in ("create", "mkdir", "fsync_directory")
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize(("number", "name"), failing_calls(NO_FILE_YET))
def test_a_failure_where_there_was_no_file_leaves_none(
    tmp_path: Path, number: int, name: str
) -> None:
    """Neither half a file nor a temporary one."""
    fs = WatchedFileSystem(at_call(number, OSError(errno.EIO, "input/output error")))

    with pytest.raises(OSError, match="input/output"):
        replace(tmp_path / "new.json", fs)

    assert fs.calls[number][0] == name
    assert list(tmp_path.iterdir()) == []


def test_an_old_version_that_cannot_be_removed_waits_for_the_next_writer(target: Path) -> None:
    """The new version has its name by then, so nothing failed."""
    left = durable.temporary_path(target)
    fs = WatchedFileSystem(at("unlink", left, OSError(errno.EIO, "input/output error")))

    replace(target, fs, flush=False)

    assert (target.read_bytes(), left.read_bytes()) == (NEW, OLD)
    replace(target, WatchedFileSystem(), flush=False)
    assert stray_files(target.parent) == []


def test_a_failing_flush_of_the_name_is_an_error_over_the_new_version(target: Path) -> None:
    """The rename has happened and may not last, so the caller must hear of it and write again."""
    fs = WatchedFileSystem(at("fsync_directory", target.parent, OSError(errno.EIO, "lost")))

    with pytest.raises(OSError, match="lost"):
        replace(target, fs)

    assert target.read_bytes() == NEW
    assert stray_files(target.parent) == []


def test_a_failure_of_the_cleaning_up_does_not_hide_the_first_error(target: Path) -> None:
    """The cause is what the caller hears of; the temporary file waits for the next writer."""

    def judge(_number: int, name: str, _subject: Path | int) -> OSError | None:
        return OSError(errno.EIO, name) if name in ("write", "unlink") else None

    with pytest.raises(OSError, match="write"):
        replace(target, WatchedFileSystem(judge))

    assert target.read_bytes() == OLD
    replace(target, WatchedFileSystem())
    assert stray_files(target.parent) == []


@pytest.mark.parametrize(
    ("flush", "number", "name"),
    [
        (flush, number, name)
        for flush, names in ((True, FLUSHED), (False, STEADY))
        for number, name in enumerate(names)
    ],
)
def test_a_crash_leaves_the_old_version_or_the_new_one(
    target: Path, flush: bool, number: int, name: str
) -> None:
    """A reader that looks at any moment sees a whole file, and the next writer gets its way."""
    fs = WatchedFileSystem(at_call(number, Crash()))

    with pytest.raises(Crash):
        replace(target, fs, flush=flush)

    assert fs.calls[number][0] == name
    renamed = number > (FLUSHED if flush else STEADY).index("rename")
    assert target.read_bytes() == (NEW if renamed else OLD)
    replace(target, WatchedFileSystem())
    assert target.read_bytes() == NEW
    assert stray_files(target.parent) == []


@pytest.mark.parametrize("below", ["state.json", "in/state.json"])
def test_a_runtime_directory_that_was_removed_is_not_made_anew(tmp_path: Path, below: str) -> None:
    """Somebody removed it or moved it away: a new one there would hold one file and no database."""
    directory = tmp_path / "removed"
    fs = WatchedFileSystem()
    with pytest.raises(FileNotFoundError):
        durable.replace(directory / below, NEW, mtime_ns=None, flush=False, within=directory, fs=fs)
    assert not directory.exists()


def test_a_file_where_a_directory_is_needed_is_an_error(tmp_path: Path) -> None:
    """It is not replaced by a directory."""
    (tmp_path / "a").write_bytes(OLD)

    with pytest.raises(NotADirectoryError):
        replace(tmp_path / "a" / "store.json", WatchedFileSystem())

    assert (tmp_path / "a").read_bytes() == OLD
