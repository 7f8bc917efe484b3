"""Shows a page of the guide on a terminal, with rich: prose in lines of eighty columns at most."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import zip_longest

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, TableElement
from rich.text import Text
from rich.theme import Theme

from rtstore.cli.layout import GAP

COLUMNS_MAX = 80
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_THEME = Theme({"markdown.code": "cyan", "markdown.item.bullet": "dim"})


def show_markdown(console: Console | None, text: str, width: int) -> None:
    """Print a page for a reader of that width, without colours where there is no console. What a
    link leads to is not shown: its text names the command."""
    if console is None:
        console = Console(file=sys.stdout, color_system=None, force_terminal=False)
    with console.use_theme(_THEME), console.capture() as drawn:
        page = _Markdown(_LINK.sub(r"\1", text))
        console.print(page, width=min(width, COLUMNS_MAX), crop=False)
    for line in drawn.get().splitlines():
        sys.stdout.write(f"{line.rstrip()}\n")


class _Code(CodeBlock):
    """Code as it is, so that it can be copied: the terminal alone breaks its lines."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.text.plain.rstrip().splitlines():
            style = "bold" if line.startswith("$ ") else "cyan"
            yield Text(line, style, no_wrap=True, overflow="ignore")


class _Heading(Heading):
    """A heading at the left, without a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.text.plain, "bold")


class _Table(TableElement):
    """A table; where its words do not fit side by side, a paragraph for each row."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.header is None or self.header.row is None or self.body is None:
            return
        rows = [[cell.content for cell in row.cells] for row in (self.header.row, *self.body.rows)]
        names, *rows = rows
        widths = _widths([*zip(names, *rows, strict=True)], options.max_width)
        if widths:
            yield from _side_by_side(names, rows, widths, console)
            return
        for first, *others in rows:
            first.stylize("bold")
            yield first
            for name, cell in zip(names[1:], others, strict=True):
                if cell.plain:
                    line = Text.assemble((f"{name.plain}: ", "dim"), cell)
                    yield from _indented(line, console, options.max_width)
            yield Text()


def _widths(columns: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Return the width of each column: its words whole, and where most is folded, more; nothing
    where the words do not fit side by side."""
    whole = [max(cell.cell_len for cell in column) for column in columns]
    shown = [max(map(_longest_word, column)) for column in columns]
    room = width - GAP * len(columns) - sum(shown)
    if room < 0:
        return []
    for _ in range(min(room, sum(whole) - sum(shown))):
        at = max(range(len(columns)), key=lambda at: whole[at] / max(shown[at], 1))
        shown[at] += 1
    return shown


def _side_by_side(
    names: Sequence[Text], rows: Sequence[Sequence[Text]], widths: Sequence[int], console: Console
) -> RenderResult:
    for name in names:
        name.stylize("bold")
    rule = [Text("\u2500" * width, "dim") for width in widths]
    for row in (names, rule, *rows):
        folded = [cell.wrap(console, width) for cell, width in zip(row, widths, strict=True)]
        for cells in zip_longest(*folded, fillvalue=Text()):
            line = Text(" " * GAP, no_wrap=True, overflow="ignore")
            for cell, width in zip(cells, widths, strict=True):
                line += cell
                line.pad_right(width + GAP - cell.cell_len)
            yield line
    yield Text()


def _longest_word(cell: Text) -> int:
    return max(map(len, cell.plain.split()), default=0)


def _indented(text: Text, console: Console, width: int) -> RenderResult:
    """Wrap between words; a word that is longer than a line stays whole."""
    for line in text.wrap(console, max(width - 2, _longest_word(text))):
        yield Text.assemble("  ", line, no_wrap=True, overflow="ignore")


class _Markdown(Markdown):
    """Markdown with elements of our own."""

    elements = Markdown.elements | {
        "fence": _Code,
        "heading_open": _Heading,
        "table_open": _Table,
    }
