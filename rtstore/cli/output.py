"""Printing: tables and colours on a terminal, plain lines elsewhere, JSON on demand.

Plain lines are never cut or wrapped, so that ids and paths can be copied, and found with grep. On a
terminal too narrow for a table whole columns are left out, the least important first; `--json`
always has everything. `NO_COLOR` and `TERM=dumb` are respected.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, NamedTuple

from rtstore.model.times import format_time

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.text import Text

    from rtstore.model.records import Record

_STYLES = {"good": "green", "bad": "bold red", "warn": "yellow", "dim": "dim", "title": "bold"}


class Cell(NamedTuple):
    """A piece of text and what it means: `good`, `bad`, `warn`, `dim`, `title` or nothing."""

    text: str
    tone: str = ""


class Column(NamedTuple):
    """A column of a table; of those that do not fit on a terminal, the highest `rank` goes first.
    Rank 0 always stays. One with `room` needs no more than that: what is longer is folded."""

    header: str
    rank: int = 0
    room: int | None = None


class Page:
    """Where a command writes what people read: plain lines, never cut or wrapped."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def line(self, *cells: str | Cell, indent: int = 0) -> None:
        """Print one line, made of the cells as they are."""
        text = "".join(_cell(cell).text for cell in cells)
        self._stream.write(f"{' ' * indent}{visible(text)}".rstrip() + "\n")

    def gap(self) -> None:
        """Print an empty line."""
        self.line()

    def title(self, text: str) -> None:
        """Print a heading, with an empty line before it."""
        self.gap()
        self.line(Cell(text, "title"))

    def facts(self, rows: Sequence[tuple[str, str | Cell]]) -> None:
        """Print names and values, aligned."""
        width = max(len(name) for name, _ in rows) + 2
        for name, value in rows:
            self.line(Cell(name.ljust(width), "dim"), value)

    def table(
        self, columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], *, indent: int = 0
    ) -> None:
        """Print rows under headers."""
        texts = [[visible(_cell(cell).text) for cell in row] for row in rows]
        texts.insert(0, [column.header.upper() for column in columns])
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        for row in texts:
            self.line("  ".join(map(str.ljust, row, widths)), indent=indent)


class SilentPage(Page):
    """A page that nobody reads: the report is printed as JSON instead."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())

    def line(self, *cells: str | Cell, indent: int = 0) -> None:
        """Print nothing."""

    def table(
        self, columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], *, indent: int = 0
    ) -> None:
        """Print nothing."""


class TerminalPage(Page):
    """The same for a terminal, with rich: its width, its colours."""

    def __init__(self, console: Console) -> None:
        super().__init__(console.file)
        self._console = console

    def line(self, *cells: str | Cell, indent: int = 0) -> None:
        """Print one line; the terminal wraps it when it is too long."""
        from rich.text import Text

        parts = [(visible(text), _STYLES.get(tone, "")) for text, tone in map(_cell, cells)]
        self._put(Text.assemble(" " * indent, *parts), soft_wrap=True)

    def table(
        self, columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], *, indent: int = 0
    ) -> None:
        """Print a table of the columns that fit."""
        from rich import box
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        cells = [[_cell(cell) for cell in row] for row in rows]
        shown = columns_that_fit(
            columns,
            [[visible(cell.text) for cell in row] for row in cells],
            self._console.width - indent,
        )
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            header_style="dim",
        )
        folds = any(columns[position].room for position in shown)
        for position in shown:
            kept_whole = folds and not columns[position].room
            table.add_column(columns[position].header, overflow="fold", no_wrap=kept_whole)
        for row in cells:
            table.add_row(
                *(
                    Text(visible(row[position].text), _STYLES.get(row[position].tone, ""))
                    for position in shown
                )
            )
        self._put(Padding(table, (0, 0, 0, indent)), soft_wrap=False)

    def _put(self, what: Text | Padding, *, soft_wrap: bool) -> None:
        self._console.print(what, soft_wrap=soft_wrap)


class LivePage(TerminalPage):
    """A page that is shown as a whole, again and again; see `rich.live`."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._parts: list[Text | Padding] = []

    def whole(self) -> Group:
        """Return everything written so far."""
        from rich.console import Group

        return Group(*self._parts)

    def _put(self, what: Text | Padding, *, soft_wrap: bool) -> None:  # noqa: ARG002 - never here
        self._parts.append(what)


def columns_that_fit(
    columns: Sequence[Column], texts: Sequence[Sequence[str]], width: int
) -> list[int]:
    """Return the positions of the columns that fit side by side, two spaces between them."""
    longest = [
        max(len(column.header), *(len(row[position]) for row in texts), 0)
        for position, column in enumerate(columns)
    ]
    widths = [
        min(length, column.room or length) + 2
        for column, length in zip(columns, longest, strict=True)
    ]
    shown = [position for position, column in enumerate(columns) if column.rank == 0]
    room = width + 2 - sum(widths[position] for position in shown)
    for position in sorted(range(len(columns)), key=lambda position: columns[position].rank):
        if columns[position].rank and widths[position] <= room:
            shown.append(position)
            room -= widths[position]
    return sorted(shown)


def page_for(stream: IO[str] | None = None) -> Page:
    """Return the page for a stream (default: standard output)."""
    stream = stream or sys.stdout
    console = console_for(stream)
    return Page(stream) if console is None else TerminalPage(console)


def page_of(report: Record, *, as_json: bool) -> Page:
    """Return the page on which a report is shown to people. With `as_json`, print the report as
    JSON, and nothing on the page."""
    if not as_json:
        return page_for()
    print_json(report)
    return SilentPage()


def console_for(stream: IO[str]) -> Console | None:
    """Return a console for a stream that is a terminal; None for another stream or a dumb one."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return None
    from rich.console import Console

    coloured = not os.environ.get("NO_COLOR")
    return Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        color_system="auto" if coloured else None,
    )


def print_json(record: Record) -> None:
    """Print a record as the JSON of `--json`: camelCase, two-space indented, ASCII."""
    document = record.model_dump(mode="json", by_alias=True)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def print_json_line(record: Record) -> None:
    """Print a record as JSON in one line, and flush it, so that a reader gets it at once."""
    document = record.model_dump(mode="json", by_alias=True)
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


# --- words for values ---------------------------------------------------------------------------


def _cell(cell: str | Cell) -> Cell:
    return Cell(cell) if isinstance(cell, str) else cell


def visible(text: str) -> str:
    """Return text from a file or a database with all terminal control characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def age_of(moment: datetime, now: datetime) -> float:
    """Return the seconds since a moment; negative when a clock puts it into the future."""
    return round((now - moment).total_seconds(), 3)


def ago(moment: datetime, now: datetime) -> str:
    """Return an age such as `3 min ago`, in the largest unit that fits."""
    seconds = age_of(moment, now)
    if seconds < -1:
        return f"{_span(-seconds)} ahead of this clock"
    return f"{_span(max(0.0, seconds))} ago"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def when(moment: datetime, now: datetime) -> str:
    """Return a time with its age."""
    return f"{format_time(moment)} ({ago(moment, now)})"


def size(number_of_bytes: int) -> str:
    """Return a size for people, from bytes."""
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number_of_bytes >= length:
            return f"{number_of_bytes / length:.1f} {unit}"
    return f"{number_of_bytes} B"


def count(number: int, noun: str) -> str:
    """Return `1 file`, `2 files` or `no files`; a noun in -ch takes -es, one in -ry -ries."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    if noun.endswith("ry"):
        plural = f"{noun[:-1]}ies"
    return f"{number or 'no'} {plural}"
