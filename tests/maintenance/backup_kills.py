"""SIGKILL before every SQL statement and file operation of a back-up, and of a restore.

    python -m tests.maintenance.backup_kills [--quick]

Prints a line of JSON for each. Run in a process of one thread, which forks a child for each trial.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from rtstore import RuntimeStore, restore_backup, verify_backup
from rtstore.control.sqlite import copying
from rtstore.maintenance.backup import back_up
from tests.crash.children import Say
from tests.crash.probe import TracedFileSystem
from tests.crash.workers import workshop
from tests.support import IDENTITY, LEASES, LEDGER, agree, new_directory, open_store, picture
from tests.upgrade.kills import kill_everywhere

LIVING, BACKUP, RESTORED = "living", "backup", "restored"


def begin(place: Path) -> Path:
    """A place with a living directory, its back-up, and nothing restored yet."""
    place.mkdir()
    directory = new_directory(place, LIVING)
    with open_store(directory) as store:
        for number in range(3):
            store.write_batch(
                identity=IDENTITY,
                reason="delivery_commit",
                writes={LEASES: {"n": number}, LEDGER: {"n": number}},
            )
    return place


def backing(place: Path, _say: Say, fs: TracedFileSystem) -> None:
    """Back the living directory up."""
    with RuntimeStore.open(place / LIVING, read_only=True) as store:
        back_up(store.directory, store.database, place / BACKUP, fs=fs)


def restoring(place: Path, _say: Say, fs: TracedFileSystem) -> None:
    """Restore the back-up."""
    restore_backup(place / BACKUP, place / RESTORED, fs=fs)


def in_place(place: Path, _say: Say, fs: TracedFileSystem) -> None:
    """A restore as it must not be: into the directory that is looked for, file by file."""
    fs.mkdir(place / RESTORED)
    for path in sorted((place / BACKUP).rglob("*")):
        fs.lstat(path)
        if path.is_file():
            shutil.copy2(path, place / RESTORED / path.name)
    for _ in range(30):
        fs.lstat(place)


def check_backup(place: Path) -> list[str]:
    """A back-up that is there is whole; the living directory is as it was."""
    before = picture(place.parent / "beginning" / LIVING)
    problems = [] if picture(place / LIVING) == before else ["the living directory was changed"]
    if (place / BACKUP).exists():
        verify_backup(place / BACKUP)
    return problems


def check_restored(place: Path) -> list[str]:
    """A restored directory that is there is whole, and the back-up is as it was."""
    verify_backup(place / BACKUP)
    if not (place / RESTORED).exists():
        return []
    with RuntimeStore.open(place / RESTORED, recover=False) as store:
        whole = store.manifest().high_watermark == 3 and agree(store)
    return [] if whole else ["what was restored is not whole"]


def main(arguments: list[str]) -> None:
    """The command."""
    quick = "--quick" in arguments
    copying.PAGES_AT_ONCE = 8
    jobs = {
        "backup": (backing, check_backup),
        "restore": (restoring, check_restored),
        "control": (in_place, check_restored),
    }
    for name, (act, check) in jobs.items():
        with workshop() as workplace:
            place = begin(workplace / "beginning")
            if name != "backup":
                with RuntimeStore.open(place / LIVING, read_only=True) as store:
                    store.back_up(place / BACKUP)
            is_control = name == "control"
            tally = kill_everywhere(
                name,
                place,
                act,
                check,
                quick=quick and not is_control,
                stop_at_first=is_control,
            )
        print(tally.line(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
