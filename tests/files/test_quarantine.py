"""Quarantine: the same bytes kept once, whole, and durable before anything is overwritten."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from rtstore.files import quarantine
from tests.support import WatchedFileSystem, at_call, digest, stray_files

BYTES = b'{"what": "somebody else wrote"}'


def kept(directory: Path) -> list[str]:
    """The names of the quarantined files."""
    return sorted(path.name for path in (directory / "quarantine").iterdir())


def test_evidence_is_named_by_its_store_file_and_its_hash(tmp_path: Path) -> None:
    """People see whose it is; no two different contents share a name."""
    where = quarantine.keep(tmp_path, "a/store.json", BYTES, WatchedFileSystem())

    assert where == f"quarantine/a__store.json.{digest(BYTES)[7:39]}"
    assert (tmp_path / where).read_bytes() == BYTES
    assert where == quarantine.quarantine_path("a/store.json", digest(BYTES))


def test_the_same_bytes_are_kept_once(tmp_path: Path) -> None:
    """Keeping them again writes them anew under the same name, for the flush of the first time may
    have failed, and one that is only tried again says nothing; other bytes, or those of another
    store, are quarantined files of their own."""
    quarantine.keep(tmp_path, "store.json", BYTES, WatchedFileSystem())
    again = WatchedFileSystem()
    quarantine.keep(tmp_path, "store.json", BYTES, again)

    assert [name for name in again.names() if "sync" in name or name == "rename"] == [
        "fsync_directory",
        "fsync",
        "rename",
        "fsync_directory",
    ]
    assert len(kept(tmp_path)) == 1
    quarantine.keep(tmp_path, "store.json", BYTES + b" ", WatchedFileSystem())
    quarantine.keep(tmp_path, "other.json", BYTES, WatchedFileSystem())
    assert len(kept(tmp_path)) == 3


def test_evidence_is_durable_when_it_is_kept(tmp_path: Path) -> None:
    """The bytes are flushed before they get their name, the name and its folder before return:
    right after, the original is overwritten."""
    fs = WatchedFileSystem()

    quarantine.keep(tmp_path, "store.json", BYTES, fs)

    names = fs.names()
    assert fs.calls[1:3] == [("mkdir", tmp_path / "quarantine"), ("fsync_directory", tmp_path)]
    assert names.index("fsync") < names.index("rename")
    assert fs.calls[-1] == ("fsync_directory", tmp_path / "quarantine")


@pytest.mark.parametrize("found", [b"", BYTES[:-1], BYTES + b"x", b"x" * len(BYTES)])
def test_evidence_that_was_cut_short_is_written_again(tmp_path: Path, found: bytes) -> None:
    """A name alone is no proof that the bytes are there."""
    where = tmp_path / quarantine.keep(tmp_path, "store.json", BYTES, WatchedFileSystem())
    where.write_bytes(found)

    quarantine.keep(tmp_path, "store.json", BYTES, WatchedFileSystem())

    assert where.read_bytes() == BYTES
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("number", range(9))
def test_a_failure_is_heard_of_and_leaves_no_half_evidence(tmp_path: Path, number: int) -> None:
    """Without its copy nothing may be overwritten, so every failure reaches the caller."""
    fs = WatchedFileSystem(at_call(number, OSError(errno.ENOSPC, "no space")))

    with pytest.raises(OSError, match="no space"):
        quarantine.keep(tmp_path, "store.json", BYTES, fs)

    assert stray_files(tmp_path) == []
    assert all(path.read_bytes() == BYTES for path in tmp_path.rglob("store.json.*"))
    quarantine.keep(tmp_path, "store.json", BYTES, WatchedFileSystem())
    assert len(kept(tmp_path)) == 1


def test_what_is_no_regular_file_is_moved_as_it_is(tmp_path: Path) -> None:
    """A link or a directory has no bytes to copy; it is found under a name that says what it is."""
    fs = WatchedFileSystem()
    (tmp_path / "store.json").symlink_to("nowhere")
    aside = quarantine.aside_path("store.json", (tmp_path / "store.json").lstat())

    quarantine.move_aside(tmp_path, "store.json", aside, fs)

    assert aside.startswith("quarantine/store.json.link-")
    assert (tmp_path / aside).readlink() == Path("nowhere")
    assert fs.calls[-2:] == [
        ("fsync_directory", tmp_path / "quarantine"),
        ("fsync_directory", tmp_path),
    ]
    (tmp_path / "store.json").mkdir()
    aside = quarantine.aside_path("store.json", (tmp_path / "store.json").lstat())
    assert aside.startswith("quarantine/store.json.directory-")
