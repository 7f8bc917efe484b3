"""Which directories are the legacy runtime's, as far as making a new store must know."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rtstore import NotARuntimeDirectoryError, RuntimeStore
from rtstore.errors import Hint
from rtstore.legacy import is_legacy_directory
from tests.legacy.build import FERRY, HARBOUR, LANE, MANIFEST, OTHER_MANIFEST, OWN, RECEIPTS, edit
from tests.support import picture

TEXT = (OWN / HARBOUR / MANIFEST).read_bytes()
WEB_MANIFEST = b'{"name": "An app", "icons": [], "data": {"teamName": "x"}}'


@pytest.mark.parametrize("name", [HARBOUR, LANE, FERRY])
def test_legacy_directories_are_recognised(name: str) -> None:
    """Enveloped or bare, under either name."""
    assert is_legacy_directory(OWN / name)


def test_a_bare_manifest_is_recognised(tmp_path: Path) -> None:
    """`manifest.json` without an envelope is recognised by its keys."""
    (tmp_path / MANIFEST).write_bytes(TEXT)
    edit(tmp_path / MANIFEST, lambda document: document["data"])
    assert is_legacy_directory(tmp_path)


@pytest.mark.parametrize(
    ("content", "recognised"),
    [
        (TEXT, True),
        (TEXT[:900], True),  # damaged, and by its text still the legacy runtime's
        (TEXT[:20], False),
        (b"", False),
        (b"{bad", False),
        (b"\xff\xfe", False),
        (b"[1, 2]", False),
        (b"7", False),
        (b"null", False),
        (b"[" * 100_000, False),
        (WEB_MANIFEST, False),
        (b'{"data": [1]}', False),
        (b'{"teamName": "t", "highWatermark": "7", "entries": []}', False),
    ],
)
def test_manifest_json_must_look_legacy(tmp_path: Path, content: bytes, recognised: bool) -> None:
    """`manifest.json` is a name that many programs use: only one that looks
    legacy counts. With receipts beside it there is no doubt; under its other name neither."""
    (tmp_path / MANIFEST).write_bytes(content)
    assert is_legacy_directory(tmp_path) is recognised
    (tmp_path / RECEIPTS).touch()
    assert is_legacy_directory(tmp_path)
    (tmp_path / RECEIPTS).unlink()
    (tmp_path / MANIFEST).rename(tmp_path / OTHER_MANIFEST)
    assert is_legacy_directory(tmp_path)


def test_nothing_raises(tmp_path: Path) -> None:
    """Whatever the path is, the answer is yes or no."""
    assert not is_legacy_directory(tmp_path)
    assert not is_legacy_directory(tmp_path / "nowhere")
    assert not is_legacy_directory(tmp_path / "nul\0")
    assert not is_legacy_directory(tmp_path / ("long" * 1_000))
    (tmp_path / RECEIPTS).touch()
    assert not is_legacy_directory(tmp_path)
    assert not is_legacy_directory(tmp_path / RECEIPTS)
    (tmp_path / RECEIPTS).unlink()
    (tmp_path / MANIFEST).mkdir()
    assert not is_legacy_directory(tmp_path)
    (tmp_path / MANIFEST).rmdir()
    (tmp_path / MANIFEST).symlink_to(tmp_path)
    assert not is_legacy_directory(tmp_path)
    (tmp_path / MANIFEST).unlink()
    os.mkfifo(tmp_path / MANIFEST)
    assert not is_legacy_directory(tmp_path)


@pytest.mark.parametrize("damaged", [False, True])
def test_no_store_is_made_over_legacy_files(tmp_path: Path, damaged: bool) -> None:
    """Opening a legacy directory, damaged or not, makes no store that knows nothing of it,
    and says what to run."""
    directory = Path(shutil.copytree(OWN / HARBOUR, tmp_path / "runtime"))
    if damaged:
        (directory / MANIFEST).write_bytes(TEXT[:100])
    before = picture(directory)
    with pytest.raises(NotARuntimeDirectoryError, match=f"rtstore import {directory}") as caught:
        RuntimeStore.open(directory, team_name="harbour")
    assert caught.value.hint is Hint.IMPORT
    assert picture(directory) == before


def test_a_web_manifest_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """A directory with somebody else's `manifest.json` gets a store like any other."""
    (tmp_path / MANIFEST).write_bytes(WEB_MANIFEST)
    RuntimeStore.open(tmp_path, team_name="harbour").close()
    assert (tmp_path / MANIFEST).read_bytes() == WEB_MANIFEST
