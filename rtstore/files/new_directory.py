"""A directory that comes into being whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rtstore.errors import InvalidRequestError, StorageError
from rtstore.files import durable
from rtstore.files.system import FileSystem


@contextmanager
def new_directory(
    target: Path, what: str, fs: FileSystem, *, outside: Path | None = None
) -> Iterator[Path]:
    """A directory that gets its name when the block has ended well, whole and flushed.

    `target` must not exist, or be an empty directory, and not be inside of the directory `outside`,
    which it is made from: it would be lost with that, or be taken for a part of it. What a process
    that died in the block left has another name, and is in nobody's way but that of the next one
    that makes the same target.
    Raises `InvalidRequestError` where something is in the way, `StorageError`.
    """
    _refuse_used(target, what, fs)
    if outside is not None and target.resolve().is_relative_to(outside.resolve()):
        raise InvalidRequestError(
            what, f"{target} is inside of {outside}: give a directory outside of it"
        )
    building = target.with_name(f".{target.name}{durable.TEMPORARY_SUFFIX}")
    try:
        durable.make_directories(target.parent, fs)
        try:
            fs.mkdir(building)
        except FileExistsError:
            raise InvalidRequestError(
                what,
                f"{building} is in the way: somebody makes {target.name} at this moment, or died "
                "doing it. In the second case remove that directory and run this again",
            ) from None
        try:
            yield building
            fs.fsync_directory(building)
            _refuse_used(target, what, fs)
            fs.rename(building, target)
            fs.fsync_directory(target.parent)
        except BaseException:
            with suppress(OSError):
                durable.remove_tree(building, fs)
            raise
    except OSError as error:
        raise StorageError(target, "it cannot be made", str(error)) from error


def _refuse_used(target: Path, what: str, fs: FileSystem) -> None:
    try:
        names = fs.list_directory(target)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise InvalidRequestError(what, f"{target} is not a directory") from None
    except OSError as error:
        raise StorageError(target, "it cannot be looked at", str(error)) from error
    if names:
        raise InvalidRequestError(
            what, f"{target} is not empty: give a directory that is new or empty"
        )
