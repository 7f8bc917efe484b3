"""Draws the page: one HTML file without a script, which asks for nothing from anywhere.

Everything that is put into the template is escaped twice over: control characters and what turns
text around are shown as escapes, then HTML is escaped. A policy in the page forbids any request and
any script, should something get through.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from rtstore.cli import output
from rtstore.cli.report import chart
from rtstore.cli.report.facts import Batch, Facts
from rtstore.model.times import format_time

_FIRST_BATCHES = 50
_BATCHES_PER_FOLD = 250


def html_of(facts: Facts) -> str:
    """Return the page of these facts."""
    return _template().render(
        facts=facts,
        ago=lambda at: output.ago(at, facts.made_at),
        folds=folds_of,
        timelines=lambda contents: chart.timelines_of(contents, facts.made_at),
        growth=chart.growth_of,
        elapsed=chart.elapsed,
        WIDTH=chart.WIDTH,
        HEIGHT=chart.HEIGHT,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"time": format_time, "size": output.size, "count": output.count}
    return environment.get_template("page.html")


def _finalized(value: Any) -> Any:
    """Return what is put into the template; text with what is not printable as escapes."""
    return (
        output.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
    )


def folds_of(batches: tuple[Batch, ...]) -> list[tuple[Batch, ...]]:
    """Return the batches in the parts that are folded: few first, which are open."""
    starts = range(_FIRST_BATCHES, len(batches), _BATCHES_PER_FOLD)
    rest = [batches[start : start + _BATCHES_PER_FOLD] for start in starts]
    return [batches[:_FIRST_BATCHES], *rest]
