"""`rtstore plan`: shows what is wrong, and what a recovery would do about it."""

from __future__ import annotations

from collections.abc import Sequence

from rtstore.cli.advice import NextStep
from rtstore.cli.exits import ExitCode
from rtstore.cli.identity import Expected, takes_identity
from rtstore.cli.options import AsJson, Directory, Wide
from rtstore.cli.output import Cell, Column, Page, count, page_of
from rtstore.cli.readiness import readiness_cell, run_cell, show_diagnosis
from rtstore.cli.snapshot import Look, Verdict, look_at, open_to_look, until_it_fits
from rtstore.model.records import (
    ActionKind,
    ReadinessCheck,
    Record,
    RecoveryPlan,
    RecoveryStep,
    RunIdentity,
    StaleStore,
)
from rtstore.model.runs import RunRecord
from rtstore.store import RuntimeStore


class Intention(Record):
    """What a recovery would do about one store."""

    schema_name: str
    kind: ActionKind
    reason: str | None
    intention: str


class PlanReport(Record):
    """What `rtstore plan --json` prints."""

    directory: str
    team_name: str
    verdict: Verdict
    readiness: ReadinessCheck
    nothing_committed: bool
    """Whether no batch was ever committed: a first start, and no loss."""
    expected_identity: RunIdentity | None
    run: RunRecord | None
    """The active run, or the last one; None before the first."""
    process_alive: bool | None
    """Whether the process of that run lives; None when that is not known here."""
    stale_stores: tuple[StaleStore, ...]
    """The stores that are of another identity than the expected one, each with both values."""
    plan: RecoveryPlan
    recovery: tuple[Intention, ...]
    """One for each action that is not `none`."""
    next: tuple[NextStep, ...]


@takes_identity
def run(
    directory: Directory,
    expected: Expected,
    *,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Show what is wrong, and what "recover" would do about it. Changes nothing.

    \b
    JSON: directory, teamName, verdict, readiness, nothingCommitted, expectedIdentity,
      run, processAlive, staleStores[] (as in "status"),
      plan {planId, teamName, runId, createdAt, highWatermark, manifestHealthy,
        readinessImpact (none|degraded|blocked), actions[] {kind, schemaName, reason?, rebuilder?},
        diagnostics[]},
      recovery[] {schemaName, kind, reason, intention}, next[] {command, why}
    """
    with open_to_look(directory) as store:

        def plan() -> tuple[Look, tuple[Intention, ...]]:
            look = look_at(store, expected)
            return look, _rehearse(store, look.plan)

        look, intentions = until_it_fits(plan)
    _show(page_of(_report(look, intentions), as_json=as_json, wide=wide), look, intentions)
    return ExitCode.READY if look.check.ok else ExitCode.NOT_READY


def _rehearse(store: RuntimeStore, plan: RecoveryPlan) -> tuple[Intention, ...]:
    if plan.manifest_healthy:
        return ()
    return tuple(_intention(step) for step in store.recover(plan, dry_run=True).steps)


def _intention(step: RecoveryStep) -> Intention:
    return Intention(
        schema_name=step.action.schema_name,
        kind=step.action.kind,
        reason=step.action.reason,
        intention=step.intention or "",
    )


def _report(look: Look, intentions: tuple[Intention, ...]) -> PlanReport:
    return PlanReport(
        directory=str(look.directory),
        team_name=look.team_name,
        verdict=look.verdict,
        readiness=look.check,
        nothing_committed=look.check.nothing_committed,
        expected_identity=look.expected,
        run=look.run,
        process_alive=look.process_alive,
        stale_stores=look.plan.stale_stores,
        plan=look.plan,
        recovery=intentions,
        next=look.next,
    )


def _show(page: Page, look: Look, intentions: Sequence[Intention]) -> None:
    page.facts(
        [
            ("Runtime directory", str(look.directory)),
            ("Team", look.team_name),
            ("Plan", f"for high watermark {look.plan.high_watermark}, {look.plan.plan_id}"),
            ("Run", run_cell(look)),
            ("Impact", look.plan.readiness_impact),
            ("Readiness", readiness_cell(look)),
        ]
    )
    page.title("Actions")
    _show_actions(page, look, intentions)
    show_diagnosis(page, look, look.next)


def _show_actions(page: Page, look: Look, intentions: Sequence[Intention]) -> None:
    if intentions:
        columns = [
            Column("store"),
            Column("recover would", room=30),
            Column("action", 1),
            Column("reason", 2),
        ]
        page.table(
            columns,
            [
                [item.schema_name, item.intention, Cell(item.kind, "warn"), item.reason or "-"]
                for item in intentions
            ],
            indent=2,
        )
    idle = sum(action.kind is ActionKind.NONE for action in look.plan.actions)
    if idle:
        verb = "needs" if idle == 1 else "need"
        page.line(f"{count(idle, 'store')} {verb} nothing", indent=2)
