"""Shows a readiness and what to run next: the end of what most commands print."""

from __future__ import annotations

from collections.abc import Sequence

from rtstore.cli.advice import NextStep
from rtstore.cli.output import Cell, Page
from rtstore.cli.run_words import differences, in_a_line
from rtstore.cli.snapshot import Look, Verdict


def readiness_cell(look: Look) -> Cell:
    """Return the verdict and its reason, in the colour of the verdict."""
    tone = {Verdict.READY: "good", Verdict.DEGRADED: "warn", Verdict.BLOCKED: "bad"}
    return Cell(f"{look.verdict} ({look.check.reason})", tone[look.verdict])


def run_cell(look: Look) -> Cell:
    """Return the state of the active run, or of the last one, and whether its process lives."""
    if look.run is None:
        return Cell("none yet", "dim")
    return in_a_line(look.run, look.now, alive=look.process_alive)


def show_diagnosis(page: Page, look: Look, steps: Sequence[NextStep]) -> None:
    """Print the diagnostics, and what to run next; nothing when all is well."""
    if look.check.diagnostics:
        page.title("Diagnostics")
        for text in look.check.diagnostics:
            page.line(text, indent=2)
        for line in look.lines:
            if line.detail:
                page.line(f"{line.relative_path}: {line.detail}", indent=2)
        for item in differences(look.plan.stale_stores):
            names = ", ".join(item.names)
            page.line(f"of {item.found}, expected is {item.expected}: {names}", indent=2)
    show_next(page, steps)


def show_contradictions(page: Page, contradictions: Sequence[str]) -> None:
    """Print in what the stores contradict each other by a batch that a command wrote."""
    if not contradictions:
        return
    page.gap()
    why = "The runtime is blocked now: by this batch the stores contradict each other"
    page.line(Cell(why, "bad"))
    for text in contradictions:
        page.line(text, indent=2)


def show_next(page: Page, steps: Sequence[NextStep]) -> None:
    """Print what to run next, each with what it does; nothing when there is nothing to do."""
    if not steps:
        return
    page.title("Next")
    for step in steps:
        if step.command:
            page.line(Cell(step.command, "command"), indent=2)
        page.line(step.why, indent=6 if step.command else 2)
