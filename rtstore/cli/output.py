"""Printing: laid out for a terminal, plain lines elsewhere, JSON on demand.

On a terminal, and wherever `COLUMNS` says how wide the reader is, lines are broken between words,
the columns of a table that can be looked up are left out, and long ids are cut in their middle. A
command that is broken can still be copied. Elsewhere, and with `--wide`, nothing is broken, left
out or cut, so that everything can be found with grep; `--json` always has everything. `NO_COLOR`
and `TERM=dumb` are respected.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING

from rtstore.cli.layout import (
    GAP,
    Cell,
    Cells,
    Column,
    fact_lines,
    hanging,
    lines_of,
    short_id,
    shortened,
    shortened_path,
    table_lines,
    width_of,
)
from rtstore.cli.width import reader_width
from rtstore.model.times import format_time

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

    from rtstore.model.records import Record

__all__ = ["Cell", "Column"]

_NAMES_MAX = 3
_STYLES = {
    "good": "green",
    "bad": "bold red",
    "warn": "yellow",
    "dim": "dim",
    "title": "bold",
    "command": "bold",
}


class Page:
    """Where a command writes what people read."""

    def __init__(self, stream: IO[str], width: int | None = None) -> None:
        self._stream = stream
        self._width = width
        """Of the reader; None: nothing is broken, left out or cut."""
        self._mark = "…" if _can_write("…", stream) else ".."
        """Stands for what is cut; both may be typed."""

    def line(self, *cells: str | Cell, indent: int = 0, more: int = GAP) -> None:
        """Print a line made of the cells; where it does not fit, it goes on below, indented
        `more`."""
        for line in lines_of([self._shown(cell) for cell in cells], self._width, indent, more=more):
            self._put(line)

    def hanging(self, names: int) -> int:
        """Return how far to indent what goes on below a name with its gap, of that width."""
        return hanging(names, self._width)

    def exact(self, text: str, tone: str = "") -> None:
        """Print a line of somebody's data as it is: it is neither broken nor cut."""
        self._put([Cell(visible(text), tone)])

    def _cut_path(self, text: str) -> str:
        return shortened_path(text).replace("…", self._mark)

    def is_narrower_than(self, text: str) -> bool:
        """Return whether a line has to be broken."""
        return self._width is not None and width_of(visible(text)) > self._width

    def gap(self) -> None:
        """Print an empty line."""
        self._put([])

    def title(self, text: str) -> None:
        """Print a heading, with an empty line before it."""
        self.gap()
        self.line(Cell(text, "title"))

    def facts(self, rows: Sequence[tuple[str, str | Cell]]) -> None:
        """Print names and values, aligned."""
        names = max(width_of(name) for name, _ in rows)
        for name, value in rows:
            for line in fact_lines(visible(name), self._shown(value), names, self._width):
                self._put(line)

    def table(
        self, columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], *, indent: int = 0
    ) -> None:
        """Print rows under headers, of the columns that fit."""
        width = None if self._width is None else max(self._width - indent, 1)
        shown = [[self._shown(cell) for cell in row] for row in rows]
        if width is not None:
            shown = [[Cell(self._cut_path(text), tone) for text, tone in row] for row in shown]
        for line in table_lines(columns, shown, width):
            self._put([Cell(" " * indent), *line])

    def id(self, text: str) -> str:
        """Return an id; for a reader of some width, cut in its middle."""
        return text if self._width is None else short_id(text).replace("…", self._mark)

    def names(self, names: Sequence[str]) -> str:
        """Return names in a row; for a reader of some width, of many the first ones only."""
        if self._width is None or len(names) <= _NAMES_MAX:
            return ", ".join(names) or "-"
        shown = names[: _NAMES_MAX - 1]
        return f"{', '.join(shown)} and {len(names) - len(shown)} more"

    def _shown(self, cell: str | Cell) -> Cell:
        text, tone = Cell(cell) if isinstance(cell, str) else cell
        text = visible(text)
        is_cut = self._width is not None and tone != "command"
        return Cell(shortened(text).replace("…", self._mark) if is_cut else text, tone)

    def _put(self, line: Cells) -> None:
        self._stream.write("".join(cell.text for cell in line).rstrip() + "\n")


def _can_write(letter: str, stream: IO[str]) -> bool:
    try:
        letter.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


class SilentPage(Page):
    """A page that nobody reads: the report is printed as JSON instead."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())

    def _put(self, line: Cells) -> None:
        """Print nothing."""


class TerminalPage(Page):
    """The same with colours, by rich."""

    def __init__(self, console: Console, width: int | None = None) -> None:
        super().__init__(console.file, width)
        self._console = console

    def _put(self, line: Cells) -> None:
        self._print(_coloured(line))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


class LivePage(TerminalPage):
    """A page that is shown as a whole, again and again; see `rich.live`."""

    def __init__(self, console: Console, width: int | None = None) -> None:
        super().__init__(console, width)
        self._parts: list[Text] = []

    def whole(self) -> Group:
        """Return everything written so far."""
        from rich.console import Group

        return Group(*self._parts)

    def _print(self, text: Text) -> None:
        self._parts.append(text)


def _coloured(line: Cells) -> Text:
    from rich.text import Text

    text = Text.assemble(*((cell.text, _STYLES.get(cell.tone, "")) for cell in line))
    text.rstrip()
    return text


def page_for(stream: IO[str] | None = None, *, wide: bool = False) -> Page:
    """Return the page for a stream (default: standard output); `wide` lays nothing out."""
    stream = stream or sys.stdout
    width = None if wide else reader_width(stream)
    console = console_for(stream)
    return Page(stream, width) if console is None else TerminalPage(console, width)


def page_of(report: Record, *, as_json: bool, wide: bool = False) -> Page:
    """Return the page on which a report is shown to people. With `as_json`, print the report as
    JSON, and nothing on the page."""
    if not as_json:
        return page_for(wide=wide)
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
