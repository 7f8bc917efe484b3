"""File owners and mounts: find out why a user cannot change a directory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rtstore.errors import cause_of
from rtstore.foreign import suppress_system_error, system_error
from rtstore.forks import no_fork
from rtstore.shell import shell_word

_MOUNTS = Path("/proc/self/mountinfo")
_NO_ATTRIBUTE = "user.rtstore.no-such-attribute"
_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


class Barrier(StrEnum):
    """What keeps this process from changing what is in a folder, in words."""

    READ_ONLY = "it is mounted read-only"
    IMMUTABLE = "somebody made it immutable (chattr)"
    OWNER = "it belongs to another user"
    MODE = "its mode lets nobody write there"


class Mount(NamedTuple):
    """A mount point, and the type of its file system."""

    path: Path
    kind: str


def mounts(*, below: Path | None = None) -> list[Mount]:
    """Return the mounts that Linux lists; an empty list on other systems.

    With `below`, a resolved path, return only the mounts at and below it. Most often there are
    none, and then no line is parsed.
    """
    try:
        content = _MOUNTS.read_bytes()
        if below is not None and _escaped(below) not in content:
            return []
        found = _parse(content.decode("utf-8"))
    except system_error(UnicodeDecodeError):
        return []
    return [mount for mount in found if below is None or mount.path.is_relative_to(below)]


@lru_cache(maxsize=64)
def _escaped(path: Path) -> bytes:
    """Return a path as Linux lists it."""
    escaped = str(path)
    for escape, character in reversed(_ESCAPES):
        escaped = escaped.replace(character, escape)
    return os.fsencode(escaped)


def _parse(text: str) -> list[Mount]:
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        name, kind = before.split()[4], after.split()[0]
        for escape, character in _ESCAPES:
            name = name.replace(escape, character)
        found.append(Mount(Path(name), kind))
    return found


def is_mount_point(path: Path) -> bool:
    """Return whether exactly this path is a mount point; a file can be one, too."""
    try:
        real = path.parent.resolve() / path.name
    except system_error(RuntimeError):
        return False
    return any(mount.path == real for mount in mounts())


def may(path: str | os.PathLike[str], needed: int) -> bool:
    """Return whether this process may read, write or search a path (`os.R_OK`, `W_OK`, `X_OK`), as
    its effective user and with its capabilities: `os.access` alone asks for the real user."""
    return os.access(path, needed, effective_ids=os.access in os.supports_effective_ids)


def barrier(folder: Path) -> Barrier | None:
    """Return what keeps this process from changing what is in a folder, or None. The mount is asked
    first: where it is read-only, no mode and no owner helps."""
    if may(folder, os.W_OK | os.X_OK):
        return None
    try:
        is_own = os.stat(folder).st_uid == os.geteuid()
    except system_error(AttributeError):
        return None
    if is_read_only(folder):
        return Barrier.READ_ONLY
    if is_immutable(folder):
        return Barrier.IMMUTABLE
    return Barrier.MODE if is_own else Barrier.OWNER


def not_changeable(directory: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield those `names` (relative to a directory) that this user cannot read and write, because
    somebody else owns them. The directory itself belongs to this user."""
    for name, path, found in _there(directory, names):
        if found.st_uid != os.geteuid() and _lacks(path, _needed(found)):
            yield name


def not_replaceable(directory: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield those files (relative to a directory) that somebody else owns, and that this user
    cannot read, or cannot put another file in place of, though the folder may be written: it is
    sticky, as /tmp is. The mode of the file itself keeps nobody from replacing it."""
    user = os.geteuid()
    for name, path, found in _there(directory, names):
        if found.st_uid != user:
            folder = os.stat(os.path.dirname(path))
            is_kept = folder.st_mode & stat.S_ISVTX and user not in (0, folder.st_uid)
            if is_kept or not may(path, os.R_OK):
                yield name


def _there(directory: Path, names: Iterable[str]) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield those names that are there and no links, with their paths and states."""
    for name in names:
        path = os.path.join(directory, name)
        try:
            found = os.lstat(path)
        except system_error():
            continue
        if not stat.S_ISLNK(found.st_mode):
            yield name, path, found


def _lacks(path: str, needed: int) -> bool:
    """Return whether an owner or a mode keeps this process from a path. Nothing can be written on a
    file system that is mounted read-only, whoever owns it."""
    if may(path, needed):
        return False
    return not is_read_only(Path(path)) or not may(path, needed & ~os.W_OK)


def _needed(found: os.stat_result) -> int:
    needed = os.R_OK | os.W_OK
    return needed | os.X_OK if stat.S_ISDIR(found.st_mode) else needed


def closed_by_mode(directory: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield those `names` (relative to a directory) that belong to this user, whose own permission
    bits keep this user from using them: from reading a file, from changing a folder."""
    for name, path, found in _there(directory, names):
        if found.st_uid != os.geteuid():
            continue
        needed = _needed(found) if stat.S_ISDIR(found.st_mode) else os.R_OK
        granted = found.st_mode >> 6  # those of its owner, in the order of os.access
        if needed & ~granted and _lacks(path, needed):
            yield name


def is_read_only(path: Path) -> bool:
    """Return whether a path is on a file system mounted read-only, or one that an error made
    read-only; False when unknown.

    ext4 does not show the second in the flags of the mount: only who changes something is told.
    """
    try:
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return True
        os.removexattr(path, _NO_ATTRIBUTE)  # nobody has it: nothing changes
    except system_error(AttributeError) as error:
        return getattr(error, "errno", None) == errno.EROFS
    return False


def is_immutable(path: Path) -> bool:
    """Return whether a file has the attribute that keeps everybody from changing, replacing and
    removing it, root too (chattr(1), `i`).

    Asks no descriptor, for closing one of the database would drop locks: it is immutable when it
    cannot be written although its mode, its owner and its file system allow it.
    """
    if may(path, os.W_OK):
        return False
    try:
        found = os.lstat(path)
    except system_error():
        return False
    mine = found.st_uid == os.geteuid() and found.st_mode & stat.S_IWUSR
    allowed = bool(mine or overrides_modes()) and not stat.S_ISLNK(found.st_mode)
    return allowed and not is_read_only(path)


def overrides_modes() -> bool:
    """Return whether this process may write whatever the modes are: as root does, unless that was
    taken from it (CAP_DAC_OVERRIDE, capabilities(7)). Where that is unknown, root may."""
    with suppress_system_error(ValueError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & 2)
    return hasattr(os, "geteuid") and os.geteuid() == 0


def why_forbidden(directory: Path) -> str | None:
    """Return why this user may not use a directory of another user, and who can change that; None
    when they may use it."""
    try:
        uid = os.stat(directory).st_uid
    except system_error():
        return None
    if uid == os.geteuid() or may(directory, os.R_OK | os.W_OK | os.X_OK):
        return None
    give = f", or have root give it away (sudo chown -R {this_user()} {shell_word(directory)})"
    return (
        f"it belongs to {owner(directory)}, and this is {this_user()}: run this as its owner"
        f"{'' if _is_no_heir(directory) else give}"
    )


def owner(path: Path) -> str | None:
    """Return USER:GROUP as `chown` takes it, by name where there is one; None when unknown."""
    try:
        found = os.stat(path)
    except system_error():
        return None
    return f"{user_name(found.st_uid)}:{_group_name(found.st_gid)}"


def is_others(directory: Path, database: Path) -> bool:
    """Return whether a directory and its database belong to other users than this one; who may
    write whatever the modes are, as root may, is everybody."""
    user = os.geteuid()
    if directory.stat().st_uid == user:
        return False
    with suppress_system_error():
        if database.stat().st_uid == user:
            return False
    return not overrides_modes()


def sole_user(directory: Path, database: Path) -> str | None:
    """Return the user (USER:GROUP) who alone must use a directory, where giving it to this one
    would help nobody for long; None where it may be given away."""
    if not _is_no_heir(directory):
        return None
    return owner(database) or owner(directory)


def _is_no_heir(path: Path) -> bool:
    """Return whether nothing there should be given to this user: it is root without the right to
    override modes, or several users share the folder, each of whom would take it from the others.

    A folder is shared where others may make files in it, or files get its group, unless that is the
    owner's own.
    """
    if os.geteuid() == 0:
        return True
    try:
        found = os.stat(path if path.is_dir() else path.absolute().parent)
    except system_error():
        return False
    if found.st_mode & stat.S_IWOTH:
        return True
    of_group = bool(found.st_mode & (stat.S_IWGRP | stat.S_ISGID))
    return of_group and found.st_gid != _own_group(found.st_uid)


def _own_group(uid: int) -> int:
    try:
        with no_fork():
            import pwd

        return pwd.getpwuid(uid).pw_gid
    except (ImportError, KeyError):
        return uid


def this_user() -> str:
    """Return USER:GROUP of this process."""
    return f"{user_name(os.geteuid())}:{_group_name(os.getegid())}"


def as_root(command: str) -> str:
    """Return a command that only root may run, as this user types it."""
    return command if hasattr(os, "geteuid") and os.geteuid() == 0 else f"sudo {command}"


def explained(error: Exception, path: Path) -> str:
    """Return the text of an error about a path. Where access was denied, add what denies it, as
    `why_denied` says it."""
    if not isinstance(error, OSError) or error.errno not in (errno.EACCES, errno.EPERM):
        return str(error)
    hint = why_denied(path)
    return f"{error}. {hint}" if hint else str(error)


def why_denied(path: Path) -> str | None:
    """Return whose owner or mode keeps this process from a path, and the command that changes it;
    None when nothing is found.

    A folder of another user goes first: a file is replaced there, whoever owns the file. Where all
    else is well, the file is one that is written in its place, and its mode forbids that.
    """
    folder = path if os.path.isdir(path) else path.absolute().parent
    of_folder = whose(folder) if barrier(folder) is Barrier.OWNER else None
    return (
        of_folder
        or closed_to_its_owner(path)
        or whose(path)
        or closed_to_its_owner(path, needed=os.R_OK | os.W_OK)
    )


def cause_explained(error: Exception) -> str:
    """Return the cause of an error, for the message of another one: of an error of the system about
    a path as `explained` says it."""
    path = error.filename if isinstance(error, OSError) else None
    return explained(error, Path(path)) if isinstance(path, str) else cause_of(error)


def folder_to_write(directory: Path, folder: str) -> Path | None:
    """Return the folder that must let a user write for a file to be put into `folder`, a relative
    path: that, or the nearest above it that is there. None for the directory itself, for a link and
    for what is no folder."""
    path = os.path.join(directory, folder)
    while len(path) > len(str(directory)):
        with suppress_system_error():
            found = os.lstat(path)
            return Path(path) if stat.S_ISDIR(found.st_mode) else None
        path = os.path.dirname(path)
    return None


def whose(path: Path) -> str | None:
    """Return the owner of a path, or of its nearest visible parent, and the command that makes this
    user the owner. None when this user is the owner, or may write whatever the modes are."""
    if not hasattr(os, "geteuid") or overrides_modes():
        return None
    me, group = os.geteuid(), os.getegid()
    for candidate in (path, *path.absolute().parents):
        with suppress_system_error():
            found = os.lstat(candidate)
            if found.st_uid == me:
                return None
            deep = "-R " if stat.S_ISDIR(found.st_mode) else ""
            give = f", or: sudo chown {deep}{me}:{group} {shell_word(candidate)}"
            return (
                f"{candidate} belongs to {_user(found.st_uid)}, and this process runs as "
                f"{_user(me)}. Run it as that user{'' if _is_no_heir(candidate) else give}"
            )
    return None


def closed_to_its_owner(path: Path, needed: int = os.R_OK) -> str | None:
    """Return which permission bits keep this user out of what is its own, and the command that
    gives them: those of a path (of a file those `needed`), or of a folder above it. None when there
    are none. The folder of a file of another user is looked at, too."""
    needs_all = True  # of the path itself, and of the folder of a file
    for candidate in (path.absolute(), *path.absolute().parents):
        with suppress_system_error(AttributeError):
            found = os.lstat(candidate)
            is_folder = stat.S_ISDIR(found.st_mode)
            if found.st_uid != os.geteuid():
                if is_folder:
                    return None
                continue
            lacking = needed
            if is_folder:
                lacking = _needed(found) if needs_all else os.X_OK
            mode = stat.S_IMODE(found.st_mode)
            if lacking & ~(mode >> 6) and _lacks(str(candidate), lacking):
                return (
                    f"The mode of {candidate} ({mode:03o}) keeps its owner out. "
                    f"Run: chmod u+{'rwx' if is_folder else 'rw'} {shell_word(candidate)}"
                )
            needs_all = not is_folder
    return None


def _user(uid: int) -> str:
    name = user_name(uid)
    return f"uid {uid}" if name == str(uid) else f"{name} (uid {uid})"


def user_name(uid: int) -> str:
    """Return the name of a user; the number when there is no name."""
    try:
        with no_fork():  # Windows has no pwd
            import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        with no_fork():
            import grp

        return grp.getgrgid(gid).gr_name
    except (ImportError, KeyError):
        return str(gid)
