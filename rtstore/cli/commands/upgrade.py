"""`rtstore upgrade`: upgrades a runtime directory: its database and its store data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import typer
from pydantic import Field, computed_field
from sqlalchemy import Connection

from rtstore.cli.descriptors import Descriptors
from rtstore.cli.descriptors import load_descriptors as read_descriptors
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, DryRun, LockTimeout
from rtstore.cli.output import Cell, Column, Page, count, page_of
from rtstore.cli.progress import progress_bar
from rtstore.cli.snapshot import check_may_write
from rtstore.control.manifest import load_descriptors, load_paths, without_descriptor
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import RuntimeStoreError
from rtstore.files.system import FileSystem
from rtstore.maintenance.create import moves_of
from rtstore.maintenance.upgrade import UpgradeReport, backups_in, upgrade_directory
from rtstore.maintenance.upgrade_data import DataUpgradeReport
from rtstore.model.data_upgrade import MovedStore, UpgradedStore
from rtstore.model.descriptors import Descriptor, Registry
from rtstore.shell import shell_command, shell_word
from rtstore.store import RuntimeStore, refuse_opening, rehearse_upgrade


class FullReport(UpgradeReport):
    """What `rtstore upgrade --json` prints."""

    batch_id: str | None = None
    """The batch that brought store data up; None when there was none to bring up."""
    stores: tuple[UpgradedStore, ...] = ()
    moved: tuple[MovedStore, ...] = ()
    quarantined: tuple[str, ...] = ()
    """The files that made way for those of stores."""
    unregistered: tuple[str, ...] = ()
    """The committed stores that the descriptors which were given do not name."""
    backups: tuple[Path, ...] = ()
    """The databases that upgrades have kept here, oldest first."""
    was_opened: bool = Field(default=False, exclude=True)
    """Whether the opening did something: a recovery, a batch, or other descriptors remembered."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def changed(self) -> bool:
        """Whether anything of the directory was changed."""
        return super().changed or self.was_opened


def run(
    directory: Directory,
    *,
    descriptors: Descriptors = None,
    dry_run: DryRun = False,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Bring the control database to this rtstore's revision. In a current one, only views, triggers
    and indexes that somebody dropped or altered are made again, dropped tables that only remember
    (quarantined_files, recovery_actions, database_upgrades) without their rows, and what says which
    revision it is at; and what is left of batches that somebody deleted by hand is removed.

    Where rows change, the database is backed up first, in the same directory ("rtstore restore"
    makes a directory of that back-up); it is upgraded whole or not at all. With --dry-run it is
    tried on a copy. With --descriptors, store data of an older schema version is brought up too,
    with their functions, in one batch; data that is newer than its descriptor is refused; and these
    are the descriptors that the directory remembers from then on. Opening a store does the same,
    and leaves newer data as it is.

    \b
    JSON: directory, fromRevision, toRevision, revisions[], changed, dryRun,
      upgradedAt or null, backup or null, putBack[] (such as "view run_log"), removedRows,
      batchId or null, stores[] {schemaName, fromVersion, toVersion},
      moved[] {schemaName, fromPath, toPath} (stores with another file in these descriptors),
      quarantined[] (the files that made way for theirs),
      unregistered[] (committed stores that the descriptors given do not name),
      backups[] (those that are kept)
    """
    check_may_write(directory)
    known = read_descriptors(descriptors)
    refuse = partial(refuse_opening, registry=known, fs=FileSystem())
    found: dict[str, Any] = {}

    def rehearse(database: Database) -> None:
        nonlocal found
        assert known is not None  # noqa: S101 - it is called with descriptors only
        data, moved, quarantined = rehearse_upgrade(directory.absolute(), database, known)
        left = tuple(without_descriptor(database.read(load_paths), known))
        found = {**_of_data(data), "moved": moved, "quarantined": quarantined}
        found["unregistered"] = left

    with progress_bar(quiet=as_json, what="upgrading") as bar:
        report = upgrade_directory(
            directory,
            dry_run=dry_run,
            lock_timeout_s=lock_timeout_s,
            descriptors=known,
            progress=None if bar is None else partial(bar, "database"),
            tried=None if known is None else rehearse,
            check_first=None if known is None else refuse,
        )
        if known is not None and not dry_run:
            with _saying_what_was_done(report):
                found = _open(directory, known, lock_timeout_s)
    full = FullReport(
        **report.model_dump(exclude={"changed"}),
        **found,
        backups=tuple(backups_in(directory, FileSystem())),
    ).model_copy(update={"dry_run": dry_run})
    options = () if descriptors is None else ("--descriptors", descriptors)
    again = shell_command("rtstore", "upgrade", directory, *options)
    _show(page_of(full, as_json=as_json), full, again)
    return ExitCode.READY


@contextmanager
def _saying_what_was_done(report: UpgradeReport) -> Iterator[None]:
    """Say what was changed of the database before an error refuses the rest."""
    try:
        yield
    except RuntimeStoreError:
        if report.changed:
            done = "upgraded" if report.revisions else "mended"
            kept = "" if report.backup is None else f"; its back-up: {report.backup}"
            typer.echo(f"rtstore: the control database was {done} before that{kept}", err=True)
        raise


def _open(directory: Path, known: Registry, lock_timeout_s: float) -> dict[str, Any]:
    """Open the store, and return what that did."""

    def look(connection: Connection) -> tuple[tuple[MovedStore, ...], tuple[Descriptor, ...]]:
        return moves_of(connection, known, directory), load_descriptors(connection)

    with closing(Database(directory / DATABASE_NAME, read_only=True)) as database:
        moved, before = database.read(look)
    with RuntimeStore.open(directory, descriptors=known, lock_timeout_s=lock_timeout_s) as store:
        data, recovery = store.last_data_upgrade, store.last_recovery
        plan_id = None if recovery is None else recovery.plan.plan_id
        kept = () if recovery is None else store.quarantined_files()
        _, after = store.database.read(look)
        return {
            **_of_data(data),
            "moved": moved,
            "quarantined": tuple(it.relative_path for it in kept if it.plan_id == plan_id),
            "unregistered": tuple(without_descriptor(store.manifest().paths, known)),
            "was_opened": bool(data or recovery or before != after),
        }


def _of_data(data: DataUpgradeReport | None) -> dict[str, Any]:
    return {} if data is None else data.model_dump()


def _show(page: Page, report: FullReport, again: str) -> None:
    if report.put_back:
        page.line(_put_back(report))
    if report.removed_rows:
        page.line(_removed(report))
    if not (report.put_back or report.removed_rows or report.revisions):
        does = report.changed or report.moved or report.stores
        left = "" if does else "; left as it was"
        page.line(f"The database is at {report.to_revision} already{left}")
    if report.revisions and report.dry_run:
        page.line("Tried on a copy, which worked; the directory was left as it was")
    elif report.revisions:
        page.line(Cell("Upgraded", "good"), " the control database")
    steps = count(len(report.revisions), "revision")
    facts: list[tuple[str, str | Cell]] = [("Runtime directory", str(report.directory))]
    if report.revisions:
        facts += [("From", report.from_revision), ("To", f"{report.to_revision} ({steps})")]
    facts += [
        ("Back-up" if path == report.backup else "Earlier back-up", str(path))
        for path in reversed(report.backups)
    ]
    page.facts(facts)
    if report.stores:
        _show_stores(page, report)
    if report.moved:
        _show_moved(page, report)
    if report.unregistered:
        page.gap()
        page.line(Cell(_left_out(report), "warn"))
    _show_next(page, report, again)


def _put_back(report: FullReport) -> str:
    names = ", ".join(f"its {part}" for part in report.put_back)
    how = "Would make" if report.dry_run else "Made"
    return f"{how} again what was gone of the database, or altered: {names}. No batch is touched"


def _removed(report: FullReport) -> str:
    how = "Would remove" if report.dry_run else "Removed"
    rows = count(report.removed_rows, "row")
    return f"{how} {rows} that were left of history that somebody deleted by hand"


def _left_out(report: FullReport) -> str:
    names, how = ", ".join(report.unregistered), "would look" if report.dry_run else "looks"
    return (
        f"Committed, and named by none of these descriptors: {names}. No plan {how} after such a "
        "store, until the directory is opened with its descriptor, too"
    )


def _show_stores(page: Page, report: FullReport) -> None:
    how = "would be brought up" if report.batch_id is None else f"in batch {report.batch_id}"
    page.title(f"Data of {count(len(report.stores), 'store')}, {how}")
    rows = [
        (item.schema_name, str(item.from_version), str(item.to_version)) for item in report.stores
    ]
    page.table([Column("store"), Column("from"), Column("to")], rows, indent=2)


def _show_moved(page: Page, report: FullReport) -> None:
    how = "would get" if report.dry_run else "got"
    page.title(f"{count(len(report.moved), 'store')} {how} another file")
    rows = [(item.schema_name, item.from_path, item.to_path) for item in report.moved]
    page.table([Column("store"), Column("from"), Column("to")], rows, indent=2)
    if report.quarantined:
        goes = "would go" if report.dry_run else "went"
        page.line(f"{', '.join(report.quarantined)}: what was there {goes} to quarantine", indent=2)


def _show_next(page: Page, report: FullReport, again: str) -> None:
    where = shell_word(report.directory)
    if report.dry_run:
        if (
            report.revisions
            or report.stores
            or report.put_back
            or report.removed_rows
            or report.moved
        ):
            page.title("Next")
            page.line(Cell(again, "command"), indent=2)
            page.line("does it", indent=6)
        return
    page.title("Next")
    page.line(Cell(f"rtstore status {where}", "command"), indent=2)
    if report.backups:
        kept = shell_word(report.backup or report.backups[-1])
        page.line(Cell(f"rtstore restore {kept} NEW_DIR", "command"), indent=2)
        of = ", for an older rtstore" if report.revisions else ""
        page.line(f"makes a directory of the database as it was{of}", indent=6)
