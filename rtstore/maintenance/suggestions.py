"""Suggests commands that several parts of the package name: what gives a directory to one user, and
what makes a new database of the store files. The facts of the doctor are a module of their own, so
that opening a store does not wait for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files import owners
from rtstore.model.descriptors import KNOWN_DESCRIPTORS
from rtstore.model.records import Record, Suggestion
from rtstore.shell import shell_command, shell_word


def owning_way(directory: Path) -> Suggestion:
    """Everything to one user: the one that the directory belongs to, unless that is another than
    this one; then whoever may decide has the choice, but where a user alone must run it."""
    database, user = directory / DATABASE_NAME, owners.this_user()
    owner = owners.owner(directory)
    if not owners.is_others(directory, database):
        is_owners = owner is not None and owner.split(":")[0] == user.split(":")[0]
        heir, why = owner if is_owners else user, "gives it all to its user (as root)"
    elif (sole := owners.sole_user(directory, database)) is not None:
        return Suggestion(
            command=None,
            why=f"run this as {sole}, whose files these are: one user alone can use a directory, "
            "for rtstore makes its files for one (rtstore guide limits)",
        )
    else:
        heir = user
        why = f"gives it all to this user (as root); or run this as its owner, {owner}"
    return Suggestion(command=f"sudo chown -R {heir} {shell_word(directory)}", why=why)


def ways_to_free(pid: int) -> tuple[Suggestion, Suggestion]:
    """Return what frees the writer lock that a stopped process holds."""
    return (
        Suggestion(
            command=f"kill -CONT {pid}",
            why=f"lets process {pid} go on, which is stopped by a signal while it holds the writer "
            "lock: every write waits for it",
        ),
        Suggestion(
            command=f"kill -KILL {pid}",
            why="or this ends it: what it had acknowledged stays, and a batch that it had logged "
            "is brought to its end by the next write or opening",
        ),
    )


def ways_to_part(command: str | None) -> tuple[Suggestion, ...]:
    """Return what gives a directory files of its own, when it shares those of its database."""
    why = "gives this directory files of its own; stop what uses either directory first"
    return () if command is None else (Suggestion(command=command, why=why),)


def way_to_register(directory: Path, unregistered: Mapping[str, str]) -> Suggestion:
    """Return what makes a database remember the descriptors of its stores again. `unregistered`
    has the files of the stores by name."""
    known = {item.schema_name: item.relative_path for item in KNOWN_DESCRIPTORS}
    if unregistered.items() <= known.items():
        command = shell_command(
            "rtstore", "upgrade", directory, "--descriptors", "rtstore:KNOWN_DESCRIPTORS"
        )
        why = "registers the known stores again; so does a runtime that opens with its descriptors"
        return Suggestion(command=command, why=why)
    command = shell_command("rtstore", "upgrade", directory, "--descriptors", "MODULE:NAME")
    return Suggestion(
        command=None,
        why="the runtime must open the directory with its descriptors, which registers its stores "
        f"again; or a command does, where MODULE:NAME has them ({command})",
    )


class LaunchState(Record):
    """Whose state the files are, as the launch state says it in plain text, completed from what is
    left of the database."""

    team_name: str | None = None
    run_id: str | None = None
    provider_id: str | None = None
    capability_snapshot_id: str | None = None
    behavior_fingerprint: str | None = None
    """Of the database: the launch state has none."""


def rebuild_command(
    directory: Path, launch: LaunchState, *options: str, team_name: str | None = None
) -> str:
    """Return the command that makes a new database of the store files, for the run that they are
    of. `team_name` is needed where no database has it."""
    known = {
        "--team": team_name,
        "--run-id": launch.run_id,
        "--capability-snapshot-id": launch.capability_snapshot_id,
        "--behavior-fingerprint": launch.behavior_fingerprint,
    }
    given = [word for option, value in known.items() if value for word in (option, value)]
    return shell_command("rtstore", "rebuild", directory, *given, *options)


def rebuild_with_descriptors(
    directory: Path, launch: LaunchState, *options: str, team_name: str
) -> str:
    """Return the command that rebuilds the database of a runtime with stores of its own. What a
    person must put into it, `about_descriptors` says."""
    given = (*options, "--descriptors", "MODULE:NAME")
    return rebuild_command(directory, launch, *given, team_name=team_name)


def about_descriptors(directory: Path, *, team_name: str) -> str:
    """Return what MODULE:NAME stands for in `rebuild_with_descriptors`."""
    return (
        "MODULE:NAME is where the runtime has its descriptors; in Python: "
        f"rtstore.rebuild_database({str(directory)!r}, team_name={team_name!r}, "
        "descriptors=[...])"
    )


def two_teams(directory: Path, team_in_database: str | None, launch: LaunchState) -> str | None:
    """Return what a person must decide where the files are of another team than the database."""
    if team_in_database is None or launch.team_name in (None, team_in_database):
        return None
    aside = directory / "runtime-store.aside"
    database = shell_word(directory / "runtime-store.sqlite3")
    rebuild = rebuild_command(directory, launch, team_name=launch.team_name)
    return (
        f"a person must say whose state this is: the database is of team {team_in_database!r}, the "
        f"files are of team {launch.team_name!r}, as launch-state.json says. If they are, this "
        f"moves the database aside and makes one of them (mkdir {shell_word(aside)} && mv "
        f"{database}* "
        f"{shell_word(aside)} && {rebuild})"
    )


def say_renamed(names: Sequence[str]) -> str:
    """Return a sentence about databases of rtstore under other names, in a directory without its
    own."""
    if len(names) == 1:
        return f"{names[0]} in it is a database of rtstore under another name"
    return (
        f"{', '.join(names)} in it are databases of rtstore under other names, and a person must "
        "say which one it is"
    )


def ways_back(renamed: Mapping[str, str]) -> Iterator[Suggestion]:
    """Suggest moving a renamed database back; `renamed` has the command of each. Between two, a
    person must choose."""
    for name, command in renamed.items():
        why = f"gives {name} the name of the database again, with its history"
        if len(renamed) > 1:
            why += "; or another one, if that is the database of this directory"
        yield Suggestion(command=command, why=f"{why}. Stop what uses it first")


def without_wal(directory: Path) -> Suggestion:
    """Suggest moving a WAL aside that spoils the pages of a sound database."""
    return Suggestion(
        command=_aside(directory / "runtime-store.sqlite3-wal"),
        why="the database alone is sound, with the history of its day: the WAL beside it is of "
        "another database, or of a newer copy of this one, whose batches are not here then. Stop "
        "what uses it first",
    )


def foreign_wal_way(wal: Path) -> Suggestion:
    """Suggest moving a WAL aside that contradicts the database."""
    return Suggestion(
        command=_aside(wal),
        why="moves it aside, before SQLite writes it over the database: it is of another database, "
        "or of another copy of this one. Stop what uses the directory first; what only the WAL has "
        "is not here then",
    )


def bring_back(directory: Path, linked: Sequence[Path]) -> Suggestion:
    """Suggest moving the database that a link leads to into its place; it is the last of its
    files."""
    path = directory / "runtime-store.sqlite3"
    *beside, database = linked
    moves = [(item, Path(f"{path}{str(item).removeprefix(str(database))}")) for item in beside]
    moves.append((database, path))
    return Suggestion(
        command=" && ".join(shell_command("mv", source, target) for source, target in moves),
        why="puts it in the place of the link; stop what uses it first",
    )


def out_of_the_way(odd_file: Path, unlink: str | None) -> Suggestion:
    """Suggest what to do with a side file that is no regular file. `unlink` is the command that
    puts the WAL itself in the place of a link to it."""
    if unlink is not None:
        return Suggestion(
            command=unlink,
            why="puts the WAL itself in the place of the link: batches may be in it. Stop what "
            "uses it first",
        )
    return Suggestion(command=_aside(odd_file), why="moves it out of the way")


def _aside(path: Path) -> str:
    quoted = shell_word(path)
    return f"mv {quoted} {quoted}.aside"
