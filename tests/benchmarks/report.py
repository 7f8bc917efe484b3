"""A run on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import MEMORY
from tests.benchmarks.measure import Figure, Spread

WIDTH_MIN = 160
"""In columns: a busy machine has figures of many digits."""


def console() -> Console:
    """The terminal; where there is none, wide enough that no line is cut."""
    found = Console()
    return found if found.is_terminal else Console(width=max(WIDTH_MIN, found.width))


def table(figures: Iterable[Figure], title: str) -> Table:
    """Each subject with its measurement, and below it what it is held against."""
    found = Table(title=title, title_justify="left")
    found.add_column("subject\n  / what it is held against", no_wrap=True)
    for heading in ("median", "ratio", "half of\nthe rounds", "if\nquiet", "target"):
        found.add_column(heading, justify="right", no_wrap=True)
    found.add_column("", no_wrap=True)
    for (_, subject), group in groupby(figures, lambda figure: (figure.case, figure.subject)):
        lines = list(group)
        found.add_row(subject, _quantity(lines[0].value, lines[0].unit), style="bold")
        for figure in lines:
            found.add_row(
                f"  / {figure.against}",
                _quantity(figure.floor, figure.unit),
                f"{figure.ratio.median:.2f}",
                _quartiles(figure.ratio),
                "" if figure.quiet_ratio is None else f"{figure.quiet_ratio:.2f}",
                "" if figure.target is None else str(figure.target),
                {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[figure.met],
            )
        found.add_section()
    return found


def _quantity(spread: Spread, unit: str) -> str:
    value = spread.median
    number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def _quartiles(spread: Spread) -> str:
    return f"{spread.q1:.2f} to {spread.q3:.2f}" if spread.count > 1 else ""


def summary(facts: dict[str, Any], figures: Iterable[Figure]) -> list[str]:
    """The lines under the table: the targets, where this was measured, and what was not."""
    verdicts = [figure.met for figure in figures if figure.met is not None]
    machine = facts["machine"]
    load = machine["load_average"][0]
    versions = (f"{name} {version}" for name, version in facts["versions"].items() if version)
    lines = [
        "ratios: the median of all rounds, the middle half of them, that of the quickest calls",
        f"targets: {verdicts.count(True)} met, {verdicts.count(False)} missed",
        f"{machine['platform']}, {machine['cpu_count']} CPUs with a load of {load:.1f} before",
        f"file system {facts['file_system']}, {', '.join(versions)}",
        *facts["notes"],
    ]
    if facts["file_system"] in MEMORY:
        lines.append("files in memory: a flush costs nothing here, choose another --directory")
    return lines


def as_json(facts: dict[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """The run as plain data."""
    return {**facts, "figures": [figure.as_json() for figure in figures]}
