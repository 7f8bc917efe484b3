"""A model of what a loss of power may leave on the disk.

What a program writes is first in memory only. The bytes of a file are sure to be on the disk once
the file was flushed, a name (created, renamed, removed) once its directory was. Until then each may
be there or not, on its own: bytes also in part, or as zeros. SQLite follows the same rules: what
was committed with FULL is there; what was committed with NORMAL after it is there or not, whole,
and not without what was committed before it. Of the WAL's bytes after the last flush some may be
there and others not, and a checkpoint that was cut off leaves some pages of the database new.
"""

from __future__ import annotations

import os
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rtstore import DATABASE_NAME

Image = dict[str, bytes]
"""The database file and what lies beside it, by suffix."""


@dataclass(eq=False)
class File:
    """A file: the bytes that programs see, and those that were flushed."""

    content: bytes = b""
    flushed: bytes | None = b""
    mode: int = 0o600
    mtime_ns: int = 0

    @property
    def unsure(self) -> bool:
        """Whether a loss of power may take some of it."""
        return self.content != self.flushed

    def after(self, loss: str) -> bytes:
        """Its bytes after a loss of power."""
        return {
            KEPT: self.content,
            LOST: self.flushed or b"",
            ZEROS: bytes(len(self.content)),
            HALF: self.content[: len(self.content) // 2],
            SHORT: self.content[:-1],
        }[loss]


KEPT, LOST, ZEROS, HALF, SHORT = "kept", "lost", "zeros", "half", "all but the last byte"
LOSSES = (KEPT, LOST, ZEROS, HALF, SHORT)
PAGE_BYTES = 4096


@dataclass(eq=False)
class DatabaseFile:
    """The control database: what is sure to be there first, then what may be."""

    images: list[Image]
    torn: list[Image] = field(default_factory=list)
    """With some of the bytes that were not flushed, and not others."""


@dataclass(eq=False)
class Directory:
    """A directory: the names that were flushed."""

    entries: dict[str, Node] = field(default_factory=dict)


Node = File | DatabaseFile | Directory


@dataclass(frozen=True, eq=False)
class Change:
    """Names that change together: made, moved or removed."""

    label: str
    edits: tuple[tuple[Directory, str, Node | None], ...]


@dataclass(frozen=True)
class DiskState:
    """One thing that a loss of power may leave."""

    files: tuple[tuple[str, bytes, int, int], ...]
    directories: tuple[str, ...]
    database: tuple[tuple[str, bytes], ...]
    label: str = field(compare=False)

    def lay_out(self, directory: Path) -> None:
        """Make it real."""
        for name in self.directories:
            (directory / name).mkdir(parents=True, exist_ok=True)
        for name, content, mode, mtime_ns in self.files:
            path = directory / name
            path.write_bytes(content)
            path.chmod(mode)
            os.utime(path, ns=(mtime_ns, mtime_ns))
        for suffix, content in self.database:
            (directory / f"{DATABASE_NAME}{suffix}").write_bytes(content)


class Disk:
    """The disk under one runtime directory, as the calls of the seam leave it.

    Its top is the directory above the runtime directory, which may have to be made, too.
    """

    def __init__(self, directory: Path, image: Image | None, unflushed: str | None = None) -> None:
        self.root = directory
        self.top = Directory()
        self.pending: list[Change] = []
        self._open: dict[int, File] = {}
        self._database: DatabaseFile | None = None
        if directory.exists():
            found = self._scan(directory)
            self.top.entries["."] = found
            if image is not None:
                self._database = DatabaseFile([image])
                found.entries[DATABASE_NAME] = self._database
        if unflushed is not None:
            names = self.node(directory / unflushed)
            assert isinstance(names, Directory)
            for name, node in list(names.entries.items()):
                del names.entries[name]
                self._change(f"create {name}", (directory / unflushed / name, node))

    def _scan(self, path: Path) -> Directory:
        directory = Directory()
        for child in path.iterdir():
            if child.name.startswith(DATABASE_NAME):
                continue
            if child.is_dir():
                directory.entries[child.name] = self._scan(child)
            else:
                content, found = child.read_bytes(), child.stat()
                directory.entries[child.name] = File(
                    content, content, found.st_mode & 0o777, found.st_mtime_ns
                )
        return directory

    # --- what programs do -----------------------------------------------------------------------

    def created(self, path: Path, descriptor: int) -> None:
        """A file was created; its name is not flushed."""
        node = File(flushed=None, mtime_ns=path.stat().st_mtime_ns)
        node.mode = path.stat().st_mode & 0o777
        self._open[descriptor] = node
        self._change(f"create {path.name}", (path, node))

    def file(self, descriptor: int) -> File:
        """The file of an open descriptor."""
        return self._open[descriptor]

    def closed(self, descriptor: int) -> None:
        """A descriptor was closed."""
        self._open.pop(descriptor, None)

    def overwritten(self, path: Path, content: bytes) -> None:
        """Somebody else wrote into a file, and flushed it."""
        file = self.node(path)
        if file is None:
            file = File()
            self._change(f"create {path.name}", (path, file))
        assert isinstance(file, File)
        file.content = file.flushed = content
        file.mtime_ns = path.stat().st_mtime_ns

    def renamed(self, source: Path, target: Path, database: Image | None) -> None:
        """A name was moved; `database` is what has the name of the database now."""
        node = self.node(source)
        if database is not None:
            node = self._database = DatabaseFile([database])
        self._change(f"rename to {target.name}", (source, None), (target, node))

    def exchanged(self, first: Path, second: Path) -> None:
        """Two files traded names."""
        here, there = self.node(first), self.node(second)
        self._change(f"exchange with {second.name}", (first, there), (second, here))

    def unlinked(self, path: Path) -> None:
        """A name was removed."""
        self._change(f"unlink {path.name}", (path, None))

    def made(self, path: Path) -> None:
        """A directory was made."""
        self._change(f"mkdir {path.name}", (path, Directory()))

    def flushed_bytes(self, path: Path) -> None:
        """The bytes of a file were flushed, not its name."""
        file = self.node(path)
        assert isinstance(file, File)
        file.flushed = file.content

    def flushed_names(self, path: Path) -> None:
        """The names in a directory were flushed."""
        directory = self.top if path == self.root.parent else self.node(path)
        for change in list(self.pending):
            if any(edited is directory for edited, _, _ in change.edits):
                _apply(change)
                self.pending.remove(change)

    def committed(self, image: Image, *, sure: bool) -> None:
        """The database was written to."""
        if self._database is None:
            return
        database = self._database
        before = {**image, "": database.images[-1].get("", b"")}
        if image[""] != before[""]:
            # The commit ended with a checkpoint, which flushes the WAL, and then the database.
            database.torn = torn_checkpoints(before, image)
            database.images = [image]
            return
        database.torn = [] if sure else [*database.torn, *torn_wals(database.images[-1], image)]
        database.images = [image] if sure else [*database.images, image]

    def checkpointed(self, image: Image) -> None:
        """What was in the WAL was written into the database, and flushed; on the way, power may
        have been lost."""
        if self._database is not None:
            self._database.torn = torn_checkpoints(self._database.images[-1], image)
            self._database.images = [image]

    def last_image(self) -> Image | None:
        """The database as programs see it."""
        return None if self._database is None else self._database.images[-1]

    def _change(self, label: str, *edits: tuple[Path, Node | None]) -> None:
        located = []
        for path, node in edits:
            if path == self.root:
                located.append((self.top, ".", node))
            else:
                parent = self.node(path.parent)
                assert isinstance(parent, Directory)
                located.append((parent, path.name, node))
        self.pending.append(Change(label, tuple(located)))

    def node(self, path: Path) -> Node | None:
        """What programs see under a name."""
        names = [".", *path.relative_to(self.root).parts]
        node: Node | None = self.top
        for name in names:
            if not isinstance(node, Directory):
                return None
            found = node.entries.get(name)
            for change in self.pending:
                for directory, edited, new in change.edits:
                    if directory is node and edited == name:
                        found = new
            node = found
        return node

    # --- what a loss of power leaves ------------------------------------------------------------

    def states(self, *, full: bool) -> Iterator[DiskState]:
        """What may be on the disk now.

        Names: none of those that are not flushed, all, each alone, all but one; in the full part
        also all up to one. Bytes: all kept, all lost, or all torn in each way (in the fast part,
        unless all names are there: all kept or all zeros); in the full part also one file of them
        alone. Database: every image; torn ones beside files that are all there, in the full part
        beside all.
        """
        for names, kept in self._kept_names(full=full):
            tree = _flatten(self.top, kept)
            files = {name: node for name, node in tree.items() if isinstance(node, File)}
            unsure = [name for name, node in files.items() if node.unsure]
            for losses, bytes_label in _losses(unsure, full=full, all_names=names == "all"):
                laid = tuple(
                    (name, node.after(losses.get(name, KEPT)), node.mode, node.mtime_ns)
                    for name, node in files.items()
                )
                directories = tuple(n for n, node in tree.items() if isinstance(node, Directory))
                all_kept = names == "all" and not losses
                for number, image in enumerate(_images(tree, torn=full or all_kept)):
                    label = f"names: {names}; bytes: {bytes_label}; database: image {number}"
                    yield DiskState(laid, directories, tuple(sorted(image.items())), label)

    def drawn(self, dice: random.Random, number: int) -> Iterator[DiskState]:
        """Some of what may be on the disk now, where there is too much of it to enumerate.

        Names: none, all, those up to a moment, or any. Bytes: all kept, or each file as it comes.
        Database: any image, the newest as often as all others.
        """
        for _ in range(number):
            names, kept = self._drawn_names(dice)
            tree = _flatten(self.top, kept)
            files = {name: node for name, node in tree.items() if isinstance(node, File)}
            unsure = [name for name, node in files.items() if node.unsure]
            whole = dice.random() < 0.5
            losses = {name: KEPT if whole else dice.choice(LOSSES) for name in unsure}
            laid = tuple(
                (name, node.after(losses.get(name, KEPT)), node.mode, node.mtime_ns)
                for name, node in files.items()
            )
            directories = tuple(n for n, node in tree.items() if isinstance(node, Directory))
            images = _images(tree, torn=True)
            at = len(_images(tree, torn=False)) - 1
            if dice.random() < 0.5:
                at = dice.randrange(len(images))
            lost = ", ".join(f"{loss} of {name}" for name, loss in losses.items() if loss != KEPT)
            label = f"names: {names}; bytes: {lost or 'kept'}; database: image {at}"
            yield DiskState(laid, directories, tuple(sorted(images[at].items())), label)

    def _drawn_names(self, dice: random.Random) -> tuple[str, Sequence[Change]]:
        pending, way = self.pending, dice.random()
        if way < 0.3:
            return "none", ()
        if way < 0.5:
            return "all", pending
        if way < 0.75:
            count = dice.randint(0, len(pending))
            return f"the first {count}", pending[:count]
        kept = [change for change in pending if dice.random() < 0.5]
        return f"only {', '.join(change.label for change in kept)}", kept

    def _kept_names(self, *, full: bool) -> Iterator[tuple[str, Sequence[Change]]]:
        pending = self.pending
        yield "all", pending
        if pending:
            yield "none", ()
        for change in pending if len(pending) > 1 else ():
            yield f"only {change.label}", (change,)
            yield f"all but {change.label}", [other for other in pending if other is not change]
        for count in range(2, len(pending) - 1) if full else ():
            yield f"the first {count}", pending[:count]


def torn_wals(before: Image, after: Image) -> list[Image]:
    """The WAL with the first half of what is new in it, and with the second half only."""
    old, new = before.get("-wal", b""), after.get("-wal", b"")
    ends = range(1, len(new) + 1)
    changed = bisect_left(ends, True, key=lambda end: new[:end] != old[:end])  # the first byte
    if changed == len(new):
        return []
    half = (changed + len(new)) // 2
    rest = old[half : len(new)].ljust(len(new) - half, b"\0")
    return [
        {**after, "-wal": new[:half] + rest},
        {**after, "-wal": old[:half].ljust(half, b"\0") + new[half:]},
    ]


def torn_checkpoints(before: Image, after: Image) -> list[Image]:
    """The database with only some of the pages that a checkpoint wrote; the WAL is still whole."""
    old, new = before[""], after[""]
    pages = [new[at : at + PAGE_BYTES] for at in range(0, len(new), PAGE_BYTES)]
    olds = [old[at : at + PAGE_BYTES] or bytes(PAGE_BYTES) for at in range(0, len(new), PAGE_BYTES)]
    changed = [at for at, page in enumerate(pages) if page != olds[at]]
    images = []
    for kept in (changed[: len(changed) // 2], changed[len(changed) // 2 :], changed):
        mixed = [pages[at] if at in kept else olds[at] for at in range(len(pages))]
        images.append({**before, "": b"".join(mixed)})
    return images if changed else []


def _apply(change: Change) -> None:
    for directory, name, node in change.edits:
        if node is None:
            directory.entries.pop(name, None)
        else:
            directory.entries[name] = node


def _flatten(top: Directory, kept: Sequence[Change]) -> dict[str, Node]:
    """Everything that can be reached, by its path, with some of the changes."""
    found: dict[str, Node] = {}

    def walk(directory: Directory, prefix: str) -> None:
        entries: dict[str, Node | None] = dict(directory.entries)
        for change in kept:
            entries |= {name: node for edited, name, node in change.edits if edited is directory}
        for name, node in entries.items():
            path = name if name == "." else f"{prefix}{name}"
            if node is not None:
                found[path] = node
            if isinstance(node, Directory):
                walk(node, "" if name == "." else f"{path}/")

    walk(top, "")
    return found


def _losses(
    unsure: Sequence[str], *, full: bool, all_names: bool
) -> Iterator[tuple[dict[str, str], str]]:
    yield {}, "kept"
    if not unsure:
        return
    for loss in LOSSES[1:] if full or all_names else (ZEROS,):
        yield dict.fromkeys(unsure, loss), loss
        for name in unsure if full and len(unsure) > 1 else ():
            yield {name: loss}, f"{loss} of {name}"


def _images(tree: dict[str, Node], *, torn: bool) -> list[Image]:
    for node in tree.values():
        if isinstance(node, DatabaseFile):
            return [*node.images, *node.torn] if torn else node.images
    return [{}]
