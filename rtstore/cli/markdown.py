"""Shows a page of the guide on a terminal, with rich: prose in lines of eighty columns at most."""

from __future__ import annotations

import re

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, TableElement
from rich.text import Text
from rich.theme import Theme

COLUMNS_MAX = 80
_BETWEEN = 3
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_THEME = Theme({"markdown.code": "cyan", "markdown.item.bullet": "dim"})


def show_markdown(console: Console, text: str) -> None:
    """Print a page. What a link leads to is not shown: its text names the command."""
    width = min(console.width, COLUMNS_MAX)
    with console.use_theme(_THEME):
        console.print(_Markdown(_LINK.sub(r"\1", text)), width=width, crop=False)


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
        words = [max(map(_longest_word, column)) for column in zip(*rows, strict=True)]
        if sum(words) + _BETWEEN * len(words) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        names, *rows = rows
        for first, *others in rows:
            first.stylize("bold")
            yield first
            for name, cell in zip(names[1:], others, strict=True):
                if cell.plain:
                    line = Text.assemble((f"{name.plain}: ", "dim"), cell)
                    yield from _indented(line, console, options.max_width)
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
