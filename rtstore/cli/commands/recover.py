"""`rtstore recover`: executes a plan, and shows what was done and what remains.

The directory is opened with `recover=False`, so that every repair is a step of the plan made here.
An ordinary opening would do the safe repairs without showing them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from rtstore.cli.advice import NextStep
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, DryRun, LockTimeout, Wide
from rtstore.cli.output import Page, count, page_of
from rtstore.cli.progress import progress_bar
from rtstore.cli.readiness import readiness_cell, show_diagnosis
from rtstore.cli.snapshot import (
    Look,
    Verdict,
    check_may_write,
    look_at,
    temporary_files,
    until_it_fits,
)
from rtstore.cli.steps import show_steps
from rtstore.control.revisions import inspect_revision
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import RuntimeStoreError
from rtstore.files.owners import is_read_only
from rtstore.files.system import FileSystem
from rtstore.maintenance.upgrade import upgrade_directory
from rtstore.model.records import (
    ActionKind,
    DatabaseUpgrade,
    ReadinessCheck,
    Record,
    RecoveryPlan,
    RecoveryReport,
    RecoveryStep,
)
from rtstore.store import RuntimeStore, refuse_opening


class RecoverReport(Record):
    """What `rtstore recover --json` prints."""

    directory: str
    team_name: str
    dry_run: bool
    upgrade: DatabaseUpgrade | None
    """How this call upgraded an older database; None when it was not older, or another process
    upgraded it meanwhile."""
    run_number: int | None
    """The row in `recovery_runs`; None when there was nothing to do, and for a dry run."""
    plan: RecoveryPlan
    steps: tuple[RecoveryStep, ...]
    removed_files: tuple[str, ...]
    """Temporary files of a dead writer that are gone now."""
    remaining: RecoveryPlan
    verdict: Verdict
    readiness: ReadinessCheck
    next: tuple[NextStep, ...]


def run(
    directory: Directory,
    *,
    dry_run: DryRun = False,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Put right what can be, and show each step and what is left.

    Open batches are finished from the log, committed contents are put back, changed files go into
    quarantine. An older database is backed up and upgraded first, as whenever a store is opened.
    What needs the runtime is left to it. Running it again does no harm.

    \b
    JSON: directory, teamName, dryRun,
      upgrade {upgradeNumber, fromRevision, toRevision, upgradedAt, backupPath} or null,
      runNumber, plan (as in "plan"),
      steps[] {action {kind, schemaName, reason?}, outcome (done|skipped|failed), detail,
        intention (in a dry run; or null)},
      removedFiles[], remaining (a plan), verdict, readiness, next[]
    """
    check_may_write(directory)
    backup = None if dry_run else _upgrade_older(directory, lock_timeout_s)
    with (
        progress_bar(quiet=as_json, what="recovering"),
        RuntimeStore.open(
            directory, recover=False, read_only=dry_run, lock_timeout_s=lock_timeout_s
        ) as store,
    ):
        before = temporary_files(store)
        outcome = until_it_fits(
            lambda: _carry_out(store, stray_files=bool(before), dry_run=dry_run)
        )
        after = set(temporary_files(store))
        look = look_at(store)
        upgrade = _upgrade_with(backup, store)
    removed = tuple(name for name in before if name not in after)
    report = _report(look, outcome, removed, upgrade, dry_run=dry_run)
    _show(page_of(report, as_json=as_json, wide=wide), look, report)
    return ExitCode.READY if look.check.ok else ExitCode.NOT_READY


def _upgrade_older(directory: Path, lock_timeout_s: float) -> Path | None:
    """Upgrade an older database as opening would; return the back-up, and None where it was not
    older, or another process was quicker. What is wrong with it, opening says."""
    if _is_current(directory) or is_read_only(directory):
        return None
    refuse = partial(refuse_opening, registry=None, fs=FileSystem(), with_data=False)
    report = upgrade_directory(directory, lock_timeout_s=lock_timeout_s, check_first=refuse)
    return report.backup


def _is_current(directory: Path) -> bool:
    with suppress(RuntimeStoreError):
        return inspect_revision(directory / DATABASE_NAME) == REVISIONS[-1]
    return True


def _upgrade_with(backup: Path | None, store: RuntimeStore) -> DatabaseUpgrade | None:
    if backup is None:
        return None
    found = [each for each in store.upgrades() if each.backup_path == backup.name]
    return found[-1] if found else None


def _carry_out(store: RuntimeStore, *, stray_files: bool, dry_run: bool) -> RecoveryReport:
    plan = store.plan_recovery()
    if plan.manifest_healthy and not stray_files:
        return RecoveryReport(run_number=None, plan=plan, steps=(), remaining=plan)
    return store.recover(plan, dry_run=dry_run)


def _report(
    look: Look,
    outcome: RecoveryReport,
    removed: tuple[str, ...],
    upgrade: DatabaseUpgrade | None,
    *,
    dry_run: bool,
) -> RecoverReport:
    return RecoverReport(
        directory=str(look.directory),
        team_name=look.team_name,
        dry_run=dry_run,
        upgrade=upgrade,
        run_number=outcome.run_number,
        plan=outcome.plan,
        steps=outcome.steps,
        removed_files=removed,
        remaining=look.plan,
        verdict=look.verdict,
        readiness=look.check,
        next=look.next,
    )


def _show(page: Page, look: Look, report: RecoverReport) -> None:
    page.facts(
        [
            ("Runtime directory", report.directory),
            ("Team", report.team_name),
            *_upgraded(look, report.upgrade),
            ("Plan", f"{report.plan.plan_id}, impact {report.plan.readiness_impact}"),
            *([("Recovery run", str(report.run_number))] if report.run_number is not None else []),
        ]
    )
    page.title("Dry run: nothing is changed" if report.dry_run else "Done")
    show_steps(page, report.steps, report.removed_files)
    page.title("Left")
    left = sum(action.kind is not ActionKind.NONE for action in report.remaining.actions)
    page.facts([("  Actions", count(left, "action")), ("  Readiness", readiness_cell(look))])
    show_diagnosis(page, look, look.next)


def _upgraded(look: Look, upgrade: DatabaseUpgrade | None) -> list[tuple[str, str]]:
    if upgrade is None:
        return []
    return [
        ("Upgraded", f"the database, from {upgrade.from_revision} to {upgrade.to_revision}"),
        ("Back-up", f"{look.directory / upgrade.backup_path} (as it was)"),
    ]
