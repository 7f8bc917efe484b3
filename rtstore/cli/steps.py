"""Shows the steps of a recovery."""

from __future__ import annotations

from rtstore.cli.output import Cell, Column, Page, count
from rtstore.model.records import ActionOutcome, RecoveryStep

_TONES = {
    ActionOutcome.DONE: "good",
    ActionOutcome.SKIPPED: "warn",
    ActionOutcome.FAILED: "bad",
}


def show_steps(page: Page, steps: tuple[RecoveryStep, ...], removed: tuple[str, ...] = ()) -> None:
    """Print the outcome of each action of a plan."""
    if steps:
        columns = [
            Column("store"),
            Column("outcome"),
            Column("detail", 1, room=24, below=True),
            Column("action", 2),
        ]
        page.table(
            columns,
            [
                [
                    step.action.schema_name,
                    Cell(step.outcome, _TONES[step.outcome]),
                    step.detail or "-",
                    step.action.kind,
                ]
                for step in steps
            ],
            indent=2,
        )
    else:
        page.line("nothing to do", indent=2)
    if removed:
        page.line(f"removed {count(len(removed), 'temporary file')}", indent=2)
