"""`rtstore guide`: shows the pages that the package ships, so that things can be looked up."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson
from rtstore.cli.output import console_for, page_of
from rtstore.cli.width import reader_width
from rtstore.errors import InvalidRequestError
from rtstore.model.records import Record

PAGES = Path(__file__).parents[2] / "guide"
"""Where the pages are, in a checkout and where the package is installed."""


class Topic(Record):
    """A page: its name, and what it is about."""

    topic: str
    about: str


class GuideReport(Record):
    """What `rtstore guide --json` prints."""

    topics: tuple[Topic, ...]
    text: str | None


def pages() -> dict[str, str]:
    """Return the text of every page, by topic."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(PAGES.glob("*.md"))}


def about(text: str) -> str:
    """Return what a page is about; its first line is `# TOPIC: ABOUT`."""
    return text.partition("\n")[0].partition(": ")[2]


def completed(incomplete: str) -> list[tuple[str, str]]:
    """Return the topics that begin so, for the shell."""
    return [(topic, about(text)) for topic, text in pages().items() if topic.startswith(incomplete)]


def run(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPIC", autocompletion=completed, help="Which page. Default: list them."
        ),
    ] = None,
    *,
    as_json: AsJson = False,
) -> ExitCode:
    """Show the guide: the topics, or the page of one. A page is markdown, drawn for a reader whose
    width is known.

    \b
    JSON: topics[] {topic, about}, text (of the page, or null)
    """
    found = pages()
    if topic is not None and topic not in found:
        raise InvalidRequestError("TOPIC", f"{topic!r} is no page of the guide. {_near(topic)}")
    topics = tuple(Topic(topic=name, about=about(text)) for name, text in found.items())
    page = page_of(GuideReport(topics=topics, text=found.get(topic or "")), as_json=as_json)
    if topic is None:
        page.facts([(item.topic, item.about) for item in topics])
        page.gap()
        page.line("rtstore guide TOPIC shows one. Its examples need, once: rtstore demo teams/demo")
    elif not as_json:
        _show(found[topic])
    return ExitCode.READY


def _near(topic: str) -> str:
    """Name the topics that are called nearly so, or are about that word; else all of them."""
    word = topic.lower()
    found = pages()
    near = difflib.get_close_matches(word, found)
    near += [name for name, text in found.items() if word and word in about(text).lower()]
    if near:
        return f"Did you mean {' or '.join(dict.fromkeys(near))}? All of them: rtstore guide"
    return f"There are: {', '.join(found)}"


def _show(text: str) -> None:
    """Draw a page for a reader whose width is known; else print its markdown."""
    width = reader_width(sys.stdout)
    if width is None:
        sys.stdout.write(text)
        return
    from rtstore.cli.markdown import show_markdown

    show_markdown(console_for(sys.stdout), text, width)
