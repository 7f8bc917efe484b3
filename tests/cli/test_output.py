"""How values look, and what of a table fits."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from rich.console import Console

from rtstore.cli.layout import columns_that_fit, table_lines
from rtstore.cli.output import (
    Cell,
    Column,
    Page,
    TerminalPage,
    ago,
    count,
    size,
    visible,
)
from rtstore.model.times import utc_now

COLUMNS = [Column("name"), Column("note", 2), Column("state", 1)]
ROWS: list[list[str | Cell]] = [
    ["first", "a long note that takes its room", Cell("ready", "good")],
    ["second", "-", Cell("blocked", "bad")],
]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7_199, "119 min ago"),
        (7_200, "2 h ago"),
        (172_800, "2 days ago"),
        (-0.5, "0 s ago"),
        (-90, "90 s ahead of this clock"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    """An age is told in the largest unit that has at least two; the future is called so."""
    now = utc_now()
    assert ago(now - timedelta(seconds=seconds), now) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 20, "3.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_sizes(number: int, text: str) -> None:
    """A size is told in the largest unit of 1024 that it fills."""
    assert size(number) == text


def test_counts() -> None:
    """Numbers and nouns agree."""
    assert [count(number, "batch") for number in (0, 1, 2)] == [
        "no batches",
        "1 batch",
        "2 batches",
    ]
    assert count(3, "file") == "3 files"


def test_text_cannot_steer_the_terminal() -> None:
    """Control characters and lone surrogates are shown, never sent; other letters stay."""
    assert visible("Zoë [bold]x[/bold]") == "Zoë [bold]x[/bold]"
    assert visible("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"
    assert visible("x\udcff") == "x\\udcff"


def test_plain_tables_are_as_wide_as_they_must_be() -> None:
    """Nothing is cut or wrapped, columns line up, and no line ends in spaces."""
    stream = io.StringIO()
    page = Page(stream)
    page.table(COLUMNS, [*ROWS, ["x" * 300, "", "-"]])
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("x" * 300)
    assert [line.index(word) for line, word in zip(lines, ("STATE", "ready"), strict=False)] == [
        lines[0].index("STATE")
    ] * 2
    assert all(line == line.rstrip() for line in lines)


def test_the_most_important_columns_stay() -> None:
    """Where the width does not suffice, the highest rank goes first, rank 0 never."""
    texts = [["first", "x" * 30, "ready"], ["second", "-", "blocked"]]
    assert columns_that_fit(COLUMNS, texts, 80) == {0: 6, 1: 30, 2: 7}
    assert columns_that_fit(COLUMNS, texts, None) == {0: 6, 1: 30, 2: 7}
    assert columns_that_fit(COLUMNS, texts, 30) == {0: 6, 2: 7}
    assert columns_that_fit(COLUMNS, texts, 6) == {0: 6}
    assert columns_that_fit(COLUMNS, texts, 3) == {}, "then each row is a paragraph"
    assert columns_that_fit(COLUMNS, [], 80) == {0: 4, 1: 4, 2: 5}


def test_a_column_that_says_nothing_goes_first() -> None:
    """However important it would be, where the others have no room."""
    texts = [["first", "a note", "-"], ["second", "-", "-"]]
    assert columns_that_fit(COLUMNS, texts, 15) == {0: 6, 1: 6}
    assert columns_that_fit(COLUMNS, texts, 40) == {0: 6, 1: 6, 2: 5}


def test_an_explanation_without_room_stands_below_its_row() -> None:
    """Whatever the width: why something happened is never left out."""
    columns = [Column("name"), Column("size", 1), Column("why", 2, room=10, below=True)]
    rows = [[Cell("first"), Cell("12 KiB"), Cell("a file of somebody else")], [Cell("-")] * 3]

    def shown(width: int) -> list[str]:
        lines = table_lines(columns, rows, width)
        return ["".join(cell.text for cell in line).rstrip() for line in lines]

    assert shown(26)[1:4] == [
        "first  12 KiB  a file of",
        "               somebody",
        "               else",
    ]
    assert shown(20) == [
        "NAME   SIZE",
        "first  12 KiB",
        "  why  a file of",
        "       somebody else",
        "-      -",
    ]
    assert shown(4)[:2] == ["first", "  size"]
    assert "  why" in shown(4)


def test_what_is_folded_gets_the_room_that_is_left() -> None:
    """At least that of its longest word."""
    columns = [Column("name"), Column("note", 1, room=2)]
    texts = [["first", "some more words"]]
    assert [columns_that_fit(columns, texts, width) for width in (30, 16, 12, 11)] == [
        {0: 5, 1: 15},
        {0: 5, 1: 9},
        {0: 5, 1: 5},
        {0: 5},
    ]


def test_terminal_tables_fit() -> None:
    """On a terminal no line is wider than it, and what the columns say is unharmed."""
    stream = io.StringIO()
    page = TerminalPage(Console(file=stream, force_terminal=True, markup=False), 30)
    page.table(COLUMNS, ROWS, indent=2)
    page.line(Cell("[bold]not markup", "title"))
    printed = stream.getvalue()
    assert "blocked" in printed
    assert "NOTE" not in printed
    assert "[bold]not markup" in printed
    assert "\x1b[" in printed
