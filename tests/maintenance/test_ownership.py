"""Root takes nothing from the user of a directory, and the user is told what root took before."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore import InspectionState, RuntimeStore, StorageError
from rtstore.files import system
from rtstore.files.inspector import FileInspector
from rtstore.files.owners import closed_by_mode
from tests.support import FILE_OF, LEASES, LEDGER, TEAM, new_directory, write

USER, GROUP = 65_533, 65_532

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)


def as_user(act: Callable[[], object]) -> None:
    """Do something as another user, in a process of its own; nothing in it may raise."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(USER)
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def open_store(directory: Path, **options: Any) -> RuntimeStore:
    """Open the store; its ids are its own."""
    return RuntimeStore.open(directory, team_name=TEAM, **options)


def use(directory: Path, number: int) -> None:
    """Open, write, read."""
    with open_store(directory, lock_timeout_s=5) as store:
        write(store, LEASES, {"number": number})
        assert store.read(LEASES).data == {"number": number}


def owners(directory: Path) -> set[tuple[int, int]]:
    """Whose everything is."""
    found = [directory.lstat(), *(path.lstat() for path in directory.rglob("*"))]
    return {(each.st_uid, each.st_gid) for each in found}


def chown_all(directory: Path) -> None:
    """Give everything to the user."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, USER, GROUP)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A runtime directory of the user's, where that user can get to. Everything that the user will
    do was done once before, so that nothing has to be imported then."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    try:
        directory = new_directory(top)
        use(directory, 0)
        (directory / FILE_OF[LEASES]).write_bytes(b"no JSON")
        use(directory, 1)
        shutil.rmtree(directory / "quarantine")
        chown_all(directory)
        as_user(lambda: use(directory, 2))
        yield directory
    finally:
        shutil.rmtree(top)


def _damaged(directory: Path) -> None:
    (directory / FILE_OF[LEASES]).write_bytes(b"no JSON")
    open_store(directory).close()


def _edited(directory: Path) -> None:
    with open_store(directory) as store:
        (directory / FILE_OF[LEASES]).write_bytes(b'{"by": "hand"}')
        write(store, LEASES, {"number": 3})


def _first_write_of_a_store(directory: Path) -> None:
    with open_store(directory) as store:
        write(store, LEDGER, {"number": 3})


def _lock_file_gone(directory: Path) -> None:
    (directory / "runtime-store.lock").unlink()
    _edited(directory)


def _backed_up(directory: Path) -> None:
    with open_store(directory) as store:
        store.back_up(directory.with_name("back-up"))
    assert owners(directory.with_name("back-up")) == {(0, 0)}  # that folder is root's


@pytest.mark.parametrize(
    "act", [_damaged, _edited, _first_write_of_a_store, _lock_file_gone, _backed_up]
)
def test_what_root_makes_is_the_users(directory: Path, act: Callable[[Path], None]) -> None:
    """Root recovers, writes, makes store files, quarantine and the lock file: the user goes on."""
    act(directory)
    assert owners(directory) == {(USER, GROUP)}
    as_user(lambda: use(directory, 4))


def test_a_directory_that_root_makes_in_the_users(directory: Path) -> None:
    """A whole new runtime directory, database included."""
    made = directory / "team-b"
    with RuntimeStore.open(made, team_name="team-b") as store:
        assert store.manifest().team_name == "team-b"
    assert owners(made) == {(USER, GROUP)}


def test_a_file_of_somebody_elses_stays_that(directory: Path) -> None:
    """The owner of a replaced file stays, as its mode does; but root's own is given back."""
    path = directory / FILE_OF[LEASES]
    os.chown(path, 12_345, 12_346)
    use(directory, 5)
    assert (path.stat().st_uid, path.stat().st_gid) == (12_345, 12_346)
    os.chown(path, 0, 0)
    use(directory, 6)
    assert (path.stat().st_uid, path.stat().st_gid) == (USER, GROUP)


def test_what_is_linked_elsewhere_is_not_given_away(tmp_path: Path) -> None:
    """A file of root's that the user has only linked into the directory stays root's."""
    folder = tmp_path / "users"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"root's")
    os.link(secret, folder / "runtime-store.lock")
    os.chown(folder, USER, GROUP)
    descriptor = os.open(folder / "runtime-store.lock", os.O_RDWR)
    try:
        system.give_to_owner_of(folder, descriptor)
    finally:
        os.close(descriptor)
    assert secret.stat().st_uid == 0


def test_what_its_owner_closed(directory: Path) -> None:
    """What the owner's own bits keep from the owner is told from what is only read-only, or is
    somebody else's."""
    names = ("closed", "read_only", "other", "folder", "link", "gone")
    for name in names[:3]:
        (directory / name).touch()
    (directory / "folder").mkdir()
    (directory / "link").symlink_to("closed")
    chown_all(directory)
    os.chown(directory / "link", USER, GROUP, follow_symlinks=False)
    os.chown(directory / "other", 0, 0)
    for name, mode in (("closed", 0o066), ("read_only", 0o400), ("other", 0), ("folder", 0o500)):
        (directory / name).chmod(mode)

    def looked_at() -> None:
        assert list(closed_by_mode(directory, names)) == ["closed", "folder"]

    as_user(looked_at)
    assert list(closed_by_mode(directory, names)) == []  # nothing is closed to root


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "name", ["runtime-store.sqlite3", "runtime-store.lock", FILE_OF[LEASES], "quarantine", "."]
)
def test_errors_name_the_command(directory: Path, name: str) -> None:
    """What root took before, by whatever means: the error says whose it is, and how to get it."""
    path = directory / name
    if name == "quarantine":
        path.mkdir()
        (directory / FILE_OF[LEASES]).write_bytes(b"no JSON")
    os.chown(path, 0, 0)
    path.chmod(0o700 if stat.S_ISDIR(path.stat().st_mode) else 0o600)

    def refused() -> None:
        with pytest.raises(StorageError) as caught:
            use(directory, 7)
        deep = "-R " if path.is_dir() else ""
        assert f"sudo chown {deep}{USER}:{GROUP} {directory / name}" in str(caught.value)
        assert f"{directory / name} belongs to root (uid 0)" in str(caught.value)

    as_user(refused)
    if name == FILE_OF[LEASES]:

        def looked_at() -> None:
            with open_store(directory, recover=False) as store:
                inspector = FileInspector(directory)
                entry = store.manifest().entry(LEASES)
                found = inspector.inspect(store.descriptors.get(LEASES), entry)
                assert found.state is InspectionState.QUARANTINED
                assert f"sudo chown {USER}:{GROUP}" in str(found.detail)

        as_user(looked_at)
    os.chown(path, USER, GROUP)
    as_user(lambda: use(directory, 8))
