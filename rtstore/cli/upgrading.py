"""`rtstore upgrade`: brings the control database of a runtime directory up to date."""

from __future__ import annotations

import shlex
from pathlib import Path

from rtstore.cli.exits import ExitCode
from rtstore.cli.looking import check_directory
from rtstore.cli.output import Cell, count, page_for, print_json
from rtstore.upgrading import UpgradeReport, upgrade_directory


def run(directory: Path, *, dry_run: bool, lock_timeout_s: float, as_json: bool) -> ExitCode:
    """Upgrade, or say what an upgrade would do."""
    check_directory(directory)
    report = upgrade_directory(directory, dry_run=dry_run, lock_timeout_s=lock_timeout_s)
    if as_json:
        print_json(report)
    else:
        _show(report)
    return ExitCode.READY


def _show(report: UpgradeReport) -> None:
    page = page_for()
    steps = count(len(report.revisions), "revision")
    if not report.revisions:
        page.line(f"The database is at {report.to_revision} already; left as it was")
        return
    if report.dry_run:
        page.line("Tried on a copy, which worked; the directory was left as it was")
    else:
        page.line(Cell("Upgraded", "good"), " the control database")
    facts: list[tuple[str, str | Cell]] = [
        ("Runtime directory", str(report.directory)),
        ("From", report.from_revision),
        ("To", f"{report.to_revision} ({steps})"),
    ]
    if report.backup is not None:
        facts.append(("Back-up", str(report.backup)))
    page.facts(facts)
    page.title("Next")
    where = shlex.quote(str(report.directory))
    if report.backup is None:
        page.line(Cell(f"rtstore upgrade {where}", "title"), indent=2)
        return
    page.line(Cell(f"rtstore status {where}", "title"), indent=2)
    kept = shlex.quote(str(report.backup))
    page.line(Cell(f"rtstore restore {kept} NEW_DIR", "title"), indent=2)
    page.line("makes a directory of the database as it was, for an older rtstore", indent=6)
