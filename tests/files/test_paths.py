"""Store paths stay inside the runtime directory, through no symbolic link."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtstore import FileSystem
from rtstore.errors import InvalidRequestError, UnsafePathError
from rtstore.files.paths import check_target, store_path
from tests.support import plain_descriptor


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "//server/share",
        "C:/windows",
        "C:windows",
        "..",
        "../outside.json",
        "a/../../outside.json",
        "a/..",
        "a/../b.json",
        "./a.json",
        "a/./b.json",
        ".",
        "a//b.json",
        "a/",
        "a\\b.json",
        "..\\outside.json",
        "a\0b.json",
        "a\nb.json",
        "a\ud800.json",
        "x" * 181,
        "é" * 91,
        "runtime-store.sqlite3",
        "Runtime-Store.SQLite3",
        "runtime-store.sqlite3-wal",
        "runtime-store.lock",
        "runtime-store.lock/a.json",
        "manifest.json",
        "quarantine/a.json",
        "Quarantine",
    ],
)
def test_a_path_that_leaves_the_directory_is_no_path_of_a_store(path: str) -> None:
    """A descriptor refuses it when it is made, and the error quotes it."""
    with pytest.raises(InvalidRequestError) as caught:
        plain_descriptor("test.store", path)

    assert caught.value.field == "Descriptor.relative_path"
    assert repr(path)[:40] in caught.value.problem


@pytest.mark.parametrize(
    "path",
    [
        "a.json",
        "a/b/c.json",
        "..a.json",
        "a..b/...json",
        "with space/é.json",
        "secondary%3Aopencode%3Aalice/a.json",
        "~/a.json",
        "$HOME/a.json",
        "quarantined/a.json",
        "a/quarantine/b.json",
        "x" * 180,
    ],
)
def test_an_unusual_path_inside_the_directory_is_taken_as_it_stands(
    tmp_path: Path, path: str
) -> None:
    """No part of it is expanded, and it may be written."""
    plain_descriptor("test.store", path)
    check_target(tmp_path, path, "test.store", FileSystem())

    found = store_path(tmp_path, path)

    assert found.relative_to(tmp_path).as_posix() == path
    assert found.resolve().is_relative_to(tmp_path.resolve())


def refused(directory: Path, path: str) -> UnsafePathError:
    """The error that a path is refused with as it is found on disk."""
    with pytest.raises(UnsafePathError) as caught:
        check_target(directory, path, "test.store", FileSystem())
    assert caught.value.store == "test.store"
    assert caught.value.path in path
    return caught.value


def test_nothing_yet_and_a_regular_file_may_be_written(tmp_path: Path) -> None:
    """Folders that are not there are made later; a file is replaced."""
    check_target(tmp_path, "a/b/store.json", "test.store", FileSystem())
    (tmp_path / "a" / "b").mkdir(parents=True)
    check_target(tmp_path, "a/b/store.json", "test.store", FileSystem())
    (tmp_path / "a" / "b" / "store.json").write_text("{}")
    check_target(tmp_path, "a/b/store.json", "test.store", FileSystem())

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "store.json"]


@pytest.mark.parametrize("target", [".", "..", "nowhere", "/", "inside"])
def test_a_link_on_the_way_is_refused_wherever_it_points(tmp_path: Path, target: str) -> None:
    """Also a link that stays inside today: nobody watches where it points tomorrow."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(target)

    for path in ("a/link/store.json", "a/link/b/c/store.json"):
        assert str(tmp_path / "a" / "link") in str(refused(tmp_path, path))


@pytest.mark.parametrize("target", ["real.json", "nowhere", "store.json", "/etc/passwd"])
def test_a_link_at_the_end_is_refused_wherever_it_points(tmp_path: Path, target: str) -> None:
    """A rename would replace the link, not what it points to: neither is what was asked for."""
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "store.json").symlink_to(target)

    assert "symbolic link" in refused(tmp_path, "store.json").problem


def test_a_directory_at_the_end_is_refused(tmp_path: Path) -> None:
    """It cannot be replaced by a rename."""
    (tmp_path / "a" / "store.json").mkdir(parents=True)

    assert "regular file" in refused(tmp_path, "a/store.json").problem


@pytest.mark.parametrize("path", ["file/store.json", "file/b/store.json"])
def test_a_file_on_the_way_is_refused(tmp_path: Path, path: str) -> None:
    """A store cannot be below another file."""
    (tmp_path / "file").write_text("")

    error = refused(tmp_path, path)
    assert "not a directory" in error.problem
    assert f"of store test.store is not a directory ({tmp_path / 'file'})" in str(error)


def test_the_runtime_directory_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    """Only what is below it is ours to judge."""
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)

    check_target(link, "a/store.json", "test.store", FileSystem())
