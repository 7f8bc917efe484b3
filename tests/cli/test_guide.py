"""`rtstore guide`: the pages, listed and shown."""

from __future__ import annotations

import pytest

from rtstore.cli.commands.guide import PAGES, about, pages
from rtstore.cli.exits import ExitCode
from tests.cli.commands import run


def test_the_topics_are_listed() -> None:
    """Each in a line of eighty columns at most, with what it is about."""
    result = run("guide")
    assert result.code == ExitCode.READY
    assert max(map(len, result.out.splitlines())) <= 80
    for topic, text in pages().items():
        assert about(text)
        (line,) = [line for line in result.out.splitlines() if line.startswith(f"{topic} ")]
        assert line.endswith(f"  {about(text)}")


@pytest.mark.parametrize("topic", ["limits", "sqlite3"])
def test_a_page_is_markdown_where_it_is_piped(topic: str) -> None:
    """What a program or a pager gets is the file."""
    result = run("guide", topic)
    assert (result.code, result.out) == (0, (PAGES / f"{topic}.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("backup", "Did you mean backups?"),
        ("metrics", "Did you mean events?"),
        ("Doctor", "Did you mean recovery?"),
        ("../guide/limits", "There are: asyncio, backups, "),
        ("", "There are: asyncio, backups, "),
    ],
)
def test_a_topic_that_is_not_there(typed: str, named: str) -> None:
    """A wrong call, which names what is called nearly so, or is about that word."""
    result = run("guide", typed)
    assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
    assert named in result.err
