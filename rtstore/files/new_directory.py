"""Create a directory whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rtstore.errors import InvalidRequestError, StorageError
from rtstore.files import durable
from rtstore.files.owned import CAN_OWN_DIRECTORIES, Owner, open_owned
from rtstore.files.system import FileSystem
from rtstore.foreign import refusal, suppress_system_error, system_error
from rtstore.shell import shell_word

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
)
_ATTEMPTS = 5


@contextmanager
def new_directory(
    target: Path, what: str, fs: FileSystem, *, outside: Path | None = None
) -> Iterator[Path]:
    """Yield a temporary directory; give it the name `target` when the block ends without an error.

    `target` must not exist, or be an empty directory that can be replaced, and not be inside of the
    directory `outside`, which it is made from: it would be lost with that, or be taken for a part
    of it.

    Until then it has another name, and whoever has locked it makes it: what a process left that
    died in the block is nobody's, and goes. Raises `InvalidRequestError` where something is in the
    way, `StorageError`.
    """
    refuse_target(target, what, fs)
    if outside is not None and target.resolve().is_relative_to(outside.resolve()):
        raise InvalidRequestError(
            what, f"{target} is inside of {outside}: give a directory outside of it"
        )
    building = target.with_name(f".{target.name}{durable.TEMPORARY_SUFFIX}")
    try:
        durable.make_directories(target.parent, fs)
        held: list[Owner] = []
        is_mine = False
        try:
            _make(building, target, what, fs, held)
            is_mine = True
            yield building
            fs.fsync_directory(building)
            _refuse_used(target, what, fs)
            _put_into_place(building, target, what, fs)
        except BaseException:
            with suppress_system_error():
                if not is_mine:  # or interrupted before that was known
                    _release(held)
                    is_mine = _lock(building, held)
                if is_mine:
                    durable.remove_tree(building, fs)
            raise
        finally:
            _release(held)
    except system_error() as error:
        raise StorageError(target, "it cannot be made", str(error)) from error


def _put_into_place(building: Path, target: Path, what: str, fs: FileSystem) -> None:
    try:
        fs.rename(building, target)
    except system_error() as error:
        if error.errno != errno.EBUSY:
            raise
        raise _mounted(target, what) from None  # a folder of the same disk: no look tells
    fs.fsync_directory(target.parent)


def _make(building: Path, target: Path, what: str, fs: FileSystem, held: list[Owner]) -> None:
    """Make the directory and lock it, or take over what a dead process left of one, emptied. Where
    directories cannot be locked, only a new one will do."""
    for _ in range(_ATTEMPTS):
        try:
            fs.mkdir(building)
            is_new = True
        except FileExistsError:
            is_new = False
        try:
            is_locked = _lock(building, held)
        except FileNotFoundError:  # whoever made it has given up
            continue
        except system_error():
            if is_new:
                return
            remove = f"If no process makes it now, remove it: rm -r {shell_word(building)}"
            raise InvalidRequestError(what, f"{building} is in the way. {remove}") from None
        if is_locked:
            for name in () if is_new else fs.list_directory(building):
                durable.remove_tree(building / name, fs)
            return
    problem = f"{building} is in the way: another process makes {target.name} at this moment"
    raise InvalidRequestError(what, f"{problem}. Wait for its end, or give another directory")


def _lock(building: Path, held: list[Owner]) -> bool:
    """Lock the directory that has the name. Return False when somebody else has, or it has lost its
    name. Raises OSError where it is none, is another user's, or cannot be locked."""
    if not CAN_OWN_DIRECTORIES or fcntl is None:  # pragma: no cover - Windows
        raise refusal("this system cannot lock a directory")
    held.append(open_owned(building, _FLAGS))
    found = os.fstat(held[-1].fileno())
    if found.st_uid not in (os.geteuid(), building.parent.stat().st_uid):
        raise refusal(f"{building} belongs to another user")
    try:
        fcntl.flock(held[-1].fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.path.samestat(os.lstat(building), found)


def _release(held: list[Owner]) -> None:
    while held:
        with suppress_system_error():  # unlocked, too: a child of a fork has it as well
            fcntl.flock(held[-1].fileno(), fcntl.LOCK_UN)
        held.pop().close()


def refuse_target(target: Path, what: str, fs: FileSystem) -> None:
    """Refuse what a new directory cannot take the place of, and say what to give instead. Raises
    `InvalidRequestError`, `StorageError`."""
    if os.path.islink(target):
        end = os.path.realpath(target)
        itself = os.path.isdir(end) or not os.path.lexists(end)
        instead = f"what it leads to, {shell_word(end)}" if itself else "another name"
        problem = f"{target} is a symbolic link, which cannot be replaced: give {instead}"
        raise InvalidRequestError(what, problem)
    _refuse_used(target, what, fs)
    if os.path.ismount(target):
        raise _mounted(target, what)
    if target.name in ("", "..") or _is_here(target):
        instead = f"a directory in it, such as {shell_word(target / 'new')}"
        problem = f"{target} is the working directory: a new one cannot take its place"
        raise InvalidRequestError(what, f"{problem}; give {instead}")


def _mounted(target: Path, what: str) -> InvalidRequestError:
    instead = f"a directory in it, such as {shell_word(target / 'new')}"
    problem = f"{target} is a mount point, which cannot be replaced: give {instead}"
    return InvalidRequestError(what, problem)


def _is_here(target: Path) -> bool:
    with suppress_system_error():
        return os.path.samefile(target, os.curdir)
    return False  # it is new, or the working directory is gone


def _refuse_used(target: Path, what: str, fs: FileSystem) -> None:
    try:
        names = fs.list_directory(target)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise InvalidRequestError(what, f"{target} is not a directory") from None
    except system_error() as error:
        raise StorageError(target, "it cannot be looked at", str(error)) from error
    if names:
        raise InvalidRequestError(
            what, f"{target} is not empty: give a directory that is new or empty"
        )
