"""Hostile control databases."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtstore.control.schema import APPLICATION_ID
from tests.hostile.scene import Scene
from tests.hostile.sessions import ABOUT, LOOK, RECOVER, WRITE
from tests.hostile.template import DATABASE, template
from tests.support import breadth

PAGE = 4096
SIDE_FILES = ("-wal", "-shm", "-journal")


def try_everything(scene: Scene, what: str) -> bool:
    """Try every way in on the directory as it is; return whether any could open it. A database that
    cannot be opened is left exactly as it is, with everything beside it."""
    scene.begin("control databases", what)
    about = [*ABOUT, DATABASE, scene.directory]
    before, files = scene.whole(), scene.files()
    opened = scene.session(LOOK, about, read_only=True)
    _same(scene, "looking", files)
    opened |= scene.session(LOOK, about, recover=False)
    _same(scene, "looking", files)
    opened |= scene.session(WRITE, about)
    opened |= scene.session(RECOVER, about)
    if not opened and scene.whole() != before:
        scene.unexpected("open", "a database that cannot be opened was changed")
    scene.check()
    return opened


def _same(scene: Scene, call: str, files: object) -> None:
    if scene.files() != files:
        scene.unexpected(call, "a file was changed")


def spoil(scene: Scene, *, crashed: bool = False) -> Path:
    """A fresh runtime directory; return the path of its database, to be spoiled."""
    if scene.directory.exists():
        scene.remove()
    shutil.copytree(template(crashed=crashed), scene.directory)
    return scene.directory / DATABASE


def test_cut_short(scene: Scene) -> None:
    """A database that is empty or ends early is refused, and left as it is. (SQLite takes a last
    page that is cut for one that ends in zeros: that is noticed where the page is read.)"""
    size = (template(crashed=False) / DATABASE).stat().st_size
    dice = random.Random(1)
    lengths = {0, 1, 15, 16, 99, 100, 512, size - 1, *range(0, size, 4 * PAGE // breadth.drawn(1))}
    lengths |= {dice.randrange(size) for _ in range(breadth.drawn(12))}
    for length in sorted(lengths):
        with spoil(scene).open("r+b") as file:
            file.truncate(length)
        opened = try_everything(scene, f"cut at {length} of {size}")
        assert not opened or length > size - PAGE


@pytest.mark.parametrize("third", breadth.params(range(3), normal=range(1)))
def test_spoiled_pages(scene: Scene, third: int) -> None:
    """Random bytes in any page end in an error of ours, or are not noticed where nobody looks."""
    size = (template(crashed=False) / DATABASE).stat().st_size
    dice = random.Random(2 + third)
    for page in range(third, size // PAGE, 3):
        with spoil(scene).open("r+b") as file:
            file.seek(page * PAGE)
            file.write(dice.randbytes(PAGE))
        try_everything(scene, f"page {page + 1} of {size // PAGE}")


@pytest.mark.thorough
def test_spoiled_bytes(scene: Scene) -> None:
    """A few random bytes anywhere end in an error of ours, or do no harm."""
    size = (template(crashed=False) / DATABASE).stat().st_size
    for number in range(breadth.drawn(80)):
        dice = random.Random(f"bytes {number}")
        with spoil(scene).open("r+b") as file:
            for _ in range(dice.choice([1, 1, 4, 40])):
                file.seek(dice.randrange(size))
                file.write(dice.randbytes(dice.choice([1, 1, 2, 8])))
        try_everything(scene, f"random bytes {number}")


@pytest.mark.thorough
def test_spoiled_header(scene: Scene) -> None:
    """Every byte of the header, turned over, ends in an error of ours, or does no harm."""
    for position in range(100):
        path = spoil(scene)
        with path.open("r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 0xFF]))
        try_everything(scene, f"header byte {position}")


# --- other databases ----------------------------------------------------------------------------


def _others() -> Iterator[tuple[str, list[str]]]:
    ours = f"PRAGMA application_id = {APPLICATION_ID}"
    tables = ["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]
    version = ["CREATE TABLE alembic_version (version_num TEXT)"]
    first = [*version, "INSERT INTO alembic_version VALUES ('0001_control_database')"]
    yield "another program's", tables
    yield "another program's, of another id", [*tables, "PRAGMA application_id = 1"]
    yield "ours by its id, without tables", [ours, "CREATE VIEW v AS SELECT 1"]
    yield "ours by its id, with other tables", [ours, *tables]
    yield "ours by its id, without a version", [ours, *version]
    yield "ours by id and version, with other tables", [ours, *first, "PRAGMA user_version = 1"]
    yield "ours by its id, with a version table of other columns", [
        ours, "CREATE TABLE alembic_version (a)", "PRAGMA user_version = 1",
    ]  # fmt: skip
    yield "of a newer revision", [
        ours, *version, "INSERT INTO alembic_version VALUES ('9999_next')",
        "PRAGMA user_version = 99",
    ]  # fmt: skip
    yield "of a negative revision", [ours, *first, "PRAGMA user_version = -1"]
    yield "of a strange revision", [
        ours, *version, "INSERT INTO alembic_version VALUES (x'ff00fe')", "PRAGMA user_version = 1",
    ]  # fmt: skip
    yield "in UTF-16", ["PRAGMA encoding = 'UTF-16'", ours, *first, "PRAGMA user_version = 1"]


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_other_databases(scene: Scene, journal: str) -> None:
    """A database that is not ours, or not of our time, is refused and left as it is."""
    for what, statements in _others():
        path = spoil(scene)
        path.unlink()
        connection = sqlite3.connect(path, isolation_level=None)
        for statement in [statements[0], f"PRAGMA journal_mode = {journal}", *statements[1:]]:
            connection.execute(statement)
        connection.close()
        assert not try_everything(scene, what)


def test_no_databases(scene: Scene) -> None:
    """A file that is no database at all is refused and left as it is."""
    dice = random.Random(3)
    for what, content in {
        "a text": b"not a database\n" * 1000,
        "JSON": b'{"schemaVersion": 1}\n',
        "an empty page": bytes(PAGE),
        "noise": dice.randbytes(10 * PAGE),
        "the magic alone": b"SQLite format 3\0",
        "the magic, then noise": b"SQLite format 3\0" + dice.randbytes(3 * PAGE),
    }.items():
        spoil(scene).write_bytes(content)
        assert not try_everything(scene, what)


# --- files beside it ----------------------------------------------------------------------------


def _wals() -> Iterator[tuple[str, bytes | None]]:
    real = (template(crashed=True) / f"{DATABASE}-wal").read_bytes()
    dice = random.Random(4)
    yield "missing", None
    yield "empty", b""
    yield "zeros", bytes(len(real))
    frame = PAGE + 24
    for length in {1, 31, 32, 33, *range(32, len(real), 3 * frame // breadth.drawn(1) + 1)}:
        yield f"cut at {length}", real[:length]
    for number in range(breadth.drawn(20)):
        yield f"noise {number}", dice.randbytes(dice.randrange(1, len(real)))
        content = bytearray(real)
        for _ in range(dice.choice([1, 5])):
            content[dice.randrange(dice.choice([32, len(real)]))] ^= 1 << dice.randrange(8)
        yield f"flipped bits {number}", bytes(content)
    yield "noise after it", real + dice.randbytes(5000)


@pytest.mark.thorough
def test_spoiled_wal(scene: Scene) -> None:
    """Whatever is in the WAL, what of it holds together counts; there is no other error."""
    for what, content in _wals():
        wal = spoil(scene, crashed=True).with_name(f"{DATABASE}-wal")
        wal.unlink()
        if content is not None:
            wal.write_bytes(content)
        try_everything(scene, f"WAL: {what}")


@pytest.mark.parametrize(
    "crashed", breadth.params([False, True], normal=[True]), ids=["at rest", "crashed"]
)
def test_rubbish_beside_it(scene: Scene, crashed: bool) -> None:
    """A WAL, a shared memory or a journal that is rubbish, or of another database, does no harm."""
    dice = random.Random(5)
    other = scene.folder / "outside" / "other.sqlite3"
    connection = sqlite3.connect(other, isolation_level=None)
    for statement in ("PRAGMA journal_mode = PERSIST", "CREATE TABLE t (a)", "BEGIN"):
        connection.execute(statement)
    connection.execute("INSERT INTO t VALUES (zeroblob(9000))")
    journal = other.with_name("other.sqlite3-journal").read_bytes()
    connection.close()
    shutil.rmtree(scene.outside)
    shutil.copytree(template(crashed=True), scene.outside)
    scene.forget()
    foreign = (scene.outside / f"{DATABASE}-wal").read_bytes()
    for suffix in SIDE_FILES:
        for what, content in {
            "empty": b"",
            "a byte": b"x",
            "zeros": bytes(32 * 1024),
            "noise": dice.randbytes(32 * 1024),
            "a WAL of another time": foreign[: len(foreign) // 2],
            "a journal of another database": journal,
        }.items():
            path = spoil(scene, crashed=crashed)
            path.with_name(path.name + suffix).write_bytes(content)
            try_everything(scene, f"{suffix}: {what}")


def test_side_files_alone(scene: Scene) -> None:
    """Side files without their database are no new beginning: a new one would take them for its
    own."""
    for suffix in SIDE_FILES:
        path = spoil(scene, crashed=True)
        path.unlink()
        for other in SIDE_FILES:
            if other != suffix:
                path.with_name(path.name + other).unlink(missing_ok=True)
        path.with_name(path.name + suffix).touch()
        assert not try_everything(scene, f"{suffix} alone")
        assert not scene.session(LOOK, [DATABASE], team_name="team-a")
