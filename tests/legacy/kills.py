"""SIGKILL before every SQL statement and file operation of the import of a team with a lane.

    python -m tests.legacy.kills [--quick] [DIR]

DIR is a legacy runtime directory, or a team's; default: one of our own. What is killed
is run again, and held against an import that was left alone. Prints a line of JSON for the import,
and one for a control.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from rtstore import DATABASE_NAME, import_team
from rtstore.legacy.team import runtime_directory_of
from tests.crash.children import Say
from tests.crash.probe import TracedFileSystem
from tests.crash.workers import workshop
from tests.legacy.build import HARBOUR, IMPORTED_AT, OWN, all_rows
from tests.support import CONTROL, Picture, picture
from tests.upgrade.kills import Check, kill_everywhere


def taking(directory: Path, _say: Say, fs: TracedFileSystem) -> None:
    """Import the team."""
    import_team(directory, clock=lambda: IMPORTED_AT, batch_id_factory=lambda: "stand-in", fs=fs)


def in_place(directory: Path, say: Say, fs: TracedFileSystem) -> None:
    """An import as it must not be: a database has its name before it is whole."""
    own = runtime_directory_of(directory)
    place = next(iter(sorted(own.glob("lanes/*"))), own)
    fs.close(fs.create(place / DATABASE_NAME, 0o600))
    fs.mkdir(directory / "reached")


def rows_in(directory: Path) -> dict[str, Any]:
    """Every row of every database below a directory."""
    return {
        path.parent.relative_to(directory).as_posix(): all_rows(path.parent)
        for path in sorted(directory.rglob(DATABASE_NAME))
    }


def files_in(directory: Path) -> Picture:
    """Every file that is not the store's own, bytes and times."""
    return {
        name: facts
        for name, facts in picture(directory, without=CONTROL).items()
        if not facts[0].startswith("0o4")
    }


def check_against(directory: Path, expected: dict[str, Any]) -> Check:
    """After a kill: each database is whole or not there, no legacy file is changed; and
    importing again ends where an import ends that was left alone."""
    files = files_in(directory)

    def check(killed: Path) -> list[str]:
        found = rows_in(killed)
        problems = [f"{place} is not whole" for place in found if found[place] != expected[place]]
        import_team(killed, clock=lambda: IMPORTED_AT, batch_id_factory=lambda: "stand-in")
        if rows_in(killed) != expected:
            problems.append("importing again does not end in the same rows")
        if files_in(killed) != files:
            problems.append("a file is not as it was")
        return problems

    return check


def main(arguments: list[str]) -> None:
    """The command."""
    quick = "--quick" in arguments
    given = [argument for argument in arguments if argument != "--quick"]
    source = Path(given[0]) if given else OWN / HARBOUR
    for name, act in (("import", taking), ("control", in_place)):
        with workshop() as workplace:
            directory = Path(shutil.copytree(source, workplace / "beginning"))
            for path in (directory, *directory.rglob("*")):
                path.chmod(0o700 if path.is_dir() else 0o600)
            whole = Path(shutil.copytree(directory, workplace / "whole"))
            import_team(whole, clock=lambda: IMPORTED_AT, batch_id_factory=lambda: "stand-in")
            check = check_against(directory, rows_in(whole))
            tally = kill_everywhere(
                name, directory, act, check, quick=quick, stop_at_first=name == "control"
            )
        print(tally.line(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
