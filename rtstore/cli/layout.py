"""Lays text out in the width of its reader: pure. No word is broken."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

GAP = 2
"""Spaces between columns, and before what continues a line."""
_WORD = re.compile(r"\S+")
SHELL_WORD = re.compile(
    r"""(?: \$'(?:\\.|[^'\\])*' | '[^']*' | "(?:\\.|[^"\\])*" | \\. | [^\s'"\\] | ['"\\] )+""",
    re.VERBOSE | re.DOTALL,
)
_COMMAND_IN_PARENTHESES = re.compile(
    r"""\( (?:[\w ]+:\ )?
    (?P<command> (?:rtstore|cp|mv|rm|mkdir|sudo)[ ]
        (?: '[^']*' | "(?:\\.|[^"\\])*" | \\. | [^'"\\()] )+ )
    \) [.,:;]?""",
    re.VERBOSE | re.DOTALL,
)
"""As messages name what to run: `(rtstore log DIR)`, `(to look first: rtstore plan DIR)`."""
_LONG_ID = re.compile(
    r"(?<![\w/.=-])((?:batch|plan|receipt|run)-[0-9a-f]{4})[0-9a-f]{4}(?:-[0-9a-f]{4}){3}-[0-9a-f]{8}"
    r"([0-9a-f]{4})(?![\w/=-]|\.\w)"
)
_LONG_HASH = re.compile(r"\b(sha256:[0-9a-f]{8})[0-9a-f]{52}([0-9a-f]{4})\b")
_DIGITS_OF_A_FILE = re.compile(r"\.([0-9a-f]{4})[0-9a-f]{24}([0-9a-f]{4})\b")
_GOES_ON = " \\"
_ID_MAX = 20
_INDENT_SHARE = 3
_ROOM_BESIDE = 40
"""What a text needs beside a name, so that it is not a column of single words."""
_LAST_RANK = 1_000
_NOTHING = ("", "-")


class Cell(NamedTuple):
    """A piece of text and what it means: `good`, `bad`, `warn`, `dim`, `title`, `command` or
    nothing. A line that is one `command` can be copied and run, also where it is broken."""

    text: str
    tone: str = ""


Cells = list[Cell]
"""One line."""


class Column(NamedTuple):
    """A column of a table. Where not all fit, the highest `rank` goes first, rank 0 never. One with
    `room` needs no more than that: what is longer is folded between words. What a column that is
    `below` says stands below its row where it has no room beside the others."""

    header: str
    rank: int = 0
    room: int | None = None
    below: bool = False


def shortened(text: str) -> str:
    """Return text with every long id cut in its middle, such as `batch-01a2…7476`."""
    return _LONG_HASH.sub("\\1…\\2", _LONG_ID.sub("\\1…\\2", text))


def short_id(text: str) -> str:
    """Return an id of any form, cut in its middle where it is long."""
    return text if len(text) <= _ID_MAX else f"{text[:10]}…{text[-4:]}"


def shortened_path(text: str) -> str:
    """Return text with the names of quarantined files cut in their middle."""
    return _DIGITS_OF_A_FILE.sub(".\\1…\\2", text)


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_width_of_letter(letter) for letter in text)


def _width_of_letter(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def padded(text: str, width: int) -> str:
    """Return text with spaces after it, up to a width."""
    return text + " " * (width - width_of(text))


# --- lines ----------------------------------------------------------------------------------------


def hanging(names: int, width: int | None) -> int:
    """Return how far to indent what goes on below a name with its gap, which take `names` columns:
    below the text beside the name, if there is room for it."""
    return names if width is None or width - names >= _ROOM_BESIDE else GAP


def lines_of(
    cells: Sequence[Cell], width: int | None, indent: int = 0, *, more: int = GAP
) -> Iterator[Cells]:
    """Yield the lines of a text; what continues one is indented `more`."""
    if width is None:
        yield [Cell(" " * indent), *cells]
        return
    indent = min(indent, width // _INDENT_SHARE)
    if len(cells) == 1 and cells[0].tone == "command":
        yield from _command_lines(cells[0], width, indent)
        return
    first, *others = _broken(cells, width - indent, width - indent - more)
    yield [Cell(" " * indent), *first]
    for line in others:
        yield [Cell(" " * (indent + more)), *line]


def _command_lines(command: Cell, width: int, indent: int) -> Iterator[Cells]:
    """Yield a command; a line of it that goes on below ends in a backslash, as a shell has it."""
    text, tone = command
    first = width - indent
    if width_of(text) <= first:
        yield [Cell(" " * indent), command]
        return
    first -= GAP
    ranges = _ranges(text, first, first - GAP, SHELL_WORD)
    for number, (start, end) in enumerate(ranges):
        goes_on = _GOES_ON if number + 1 < len(ranges) else ""
        yield [Cell(" " * (indent + GAP * bool(number))), Cell(text[start:end] + goes_on, tone)]


def fact_lines(name: str, value: Cell, names: int, width: int | None) -> Iterator[Cells]:
    """Yield the lines of a name and a value. `names` is the width of the longest name. A value with
    a word that has no room beside the name is below it."""
    column = names + GAP
    beside = Cell(padded(name, column), "dim")
    if width is None or column + width_of(value.text) <= width:
        yield [beside, value]
        return
    below = len(name) - len(name.lstrip()) + GAP
    if value.tone == "command":
        yield [Cell(name, "dim")]
        yield from _command_lines(value, width, below)
        return
    if column + _longest_word(value.text) <= width:
        for number, line in enumerate(_broken([value], width - column, width - column)):
            yield [Cell(" " * column) if number else beside, *line]
        return
    yield [Cell(name, "dim")]
    for line in _broken([value], width - below, width - below):
        yield [Cell(" " * below), *line]


def _longest_word(text: str) -> int:
    return max(map(width_of, text.split()), default=0)


def _broken(cells: Sequence[Cell], first: int, others: int) -> list[Cells]:
    text = "".join(cell.text for cell in cells)
    words = list(_words(text, others))
    in_commands = {word.end for word in words if word.goes_on}
    lines = []
    for start, end in _filled(text, first, others, words):
        line = _cut(cells, start, end)
        if end in in_commands:
            line[-1] = Cell(line[-1].text + _GOES_ON, line[-1].tone)
        lines.append(line)
    return lines


class _Word(NamedTuple):
    """What stays in one line, from `start` to `end` in a text."""

    start: int
    end: int
    goes_on: bool = False
    """Whether a line that ends with it needs a backslash: its command goes on."""


def _words(text: str, room: int) -> Iterator[_Word]:
    """Yield the words of a text. A command in parentheses stays whole where it has room in a line,
    and ends each of its lines in a backslash where it has not."""
    commands = _COMMAND_IN_PARENTHESES.finditer(text)
    command = next(commands, None)
    at = 0
    while found := _WORD.search(text, at):
        while command is not None and command.end() <= found.start():
            command = next(commands, None)
        if command is None or found.end() <= command.start():
            yield _Word(*found.span())
            at = found.end()
            continue
        at = command.end()
        if width_of(command[0]) <= room:
            yield _Word(*command.span())
            continue
        for word in SHELL_WORD.finditer(text, *command.span()):
            goes_on = command.start("command") < word.end() < at
            yield _Word(*word.span(), goes_on)


def _ranges(text: str, first: int, others: int, word: re.Pattern[str]) -> list[tuple[int, int]]:
    """Return where each line of a text begins and ends: as many words as fit, at least one."""
    return _filled(text, first, others, (_Word(*found.span()) for found in word.finditer(text)))


def _filled(text: str, first: int, others: int, words: Iterable[_Word]) -> list[tuple[int, int]]:
    lines: list[tuple[int, int]] = []
    start = end = 0
    for word in words:
        room = (others if lines else first) - (len(_GOES_ON) if word.goes_on else 0)
        if end > 0 and width_of(text[start : word.end]) > room:
            lines.append((start, end))
            start = word.start
        end = word.end
    return [*lines, (start, end)]


def _cut(cells: Sequence[Cell], start: int, end: int) -> Cells:
    found, at = [], 0
    for text, tone in cells:
        piece = text[max(start - at, 0) : max(end - at, 0)]
        if piece:
            found.append(Cell(piece, tone))
        at += len(text)
    return found


# --- tables ---------------------------------------------------------------------------------------


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None
) -> Iterator[Cells]:
    """Yield a table with the columns that fit. Where not even those of rank 0 do, yield each row as
    lines of names and values."""
    texts = [[cell.text for cell in row] for row in rows]
    widths = columns_that_fit(columns, texts, width)
    if not widths and width is not None:
        yield from _rows_as_facts(columns, rows, width)
        return
    yield _row([Cell(columns[at].header.upper(), "dim") for at in widths], list(widths.values()))
    below = [at for at, column in enumerate(columns) if column.below and at not in widths]
    for row in rows:
        folded = [
            [line[0] if line else Cell("") for line in _broken([row[at]], room, room)]
            for at, room in widths.items()
        ]
        for line in zip_longest(*folded, fillvalue=Cell("")):
            yield _row(line, list(widths.values()))
        for at in below:
            if row[at].text not in _NOTHING:
                name = f"{' ' * GAP}{columns[at].header}"
                yield from fact_lines(name, row[at], len(name), width)


def _row(cells: Sequence[Cell], widths: Sequence[int]) -> Cells:
    last = len(cells) - 1
    return [
        cell if at == last else Cell(padded(cell.text, width + GAP), cell.tone)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]


def columns_that_fit(
    columns: Sequence[Column], texts: Sequence[Sequence[str]], width: int | None
) -> dict[int, int]:
    """Return the positions of the columns that fit side by side, each with its width; none, if
    those of rank 0 do not. What is left of the width goes to those that would be folded."""
    whole = [
        max(width_of(column.header), *(width_of(row[at]) for row in texts), 0)
        for at, column in enumerate(columns)
    ]
    if width is None:
        return dict(enumerate(whole))
    least = [
        min(whole[at], max(column.room, *(_longest_word(row[at]) for row in texts), 0))
        if column.room
        else whole[at]
        for at, column in enumerate(columns)
    ]
    empty = [bool(texts) and all(row[at] == "-" for row in texts) for at in range(len(columns))]
    shown: dict[int, int] = {}
    room = width + GAP
    for at in sorted(range(len(columns)), key=lambda at: _rank(columns[at], is_empty=empty[at])):
        if least[at] + GAP <= room:
            shown[at] = least[at]
            room -= least[at] + GAP
        elif columns[at].rank == 0:
            return {}
    for at in shown:
        more = min(whole[at] - shown[at], room)
        shown[at] += more
        room -= more
    return dict(sorted(shown.items()))


def _rank(column: Column, *, is_empty: bool) -> int:
    """Return the rank of a column; one that says nothing goes before all others."""
    return _LAST_RANK if is_empty and column.rank else column.rank


def _rows_as_facts(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int
) -> Iterator[Cells]:
    kept = [at for at, column in enumerate(columns) if column.rank <= 1 or column.below]
    names = max(len(columns[at].header) for at in kept) + GAP
    for row in rows:
        yield from lines_of([row[kept[0]]], width)
        for at in kept[1:]:
            if row[at].text not in _NOTHING:
                yield from fact_lines(f"{' ' * GAP}{columns[at].header}", row[at], names, width)
