"""Facts to findings: every state has its colour, its words, and a command where one helps."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rtstore.control.contents import StoreSize
from rtstore.control.lock import Holder
from rtstore.control.sqlite.processes import Process
from rtstore.maintenance.doctor.facts import DatabaseState, Facts
from rtstore.maintenance.doctor.finding import Check, Finding, Level
from rtstore.maintenance.doctor.judge import (
    diagnose,
    worst,
)
from rtstore.maintenance.doctor.wal_reset import has_wal_reset_bug
from rtstore.maintenance.suggestions import LaunchState
from rtstore.model.records import Hindrance, HindranceKind, Suggestion

NOW = datetime(2026, 4, 21, 12, 0, tzinfo=UTC)
PLACE = Path("/teams/a team")


def facts(**known: Any) -> Facts:
    """The facts of a directory in which all is well, but for these."""
    well: dict[str, Any] = {
        "directory": PLACE,
        "now": NOW,
        "state": DatabaseState.SOUND,
        "has_store_files": True,
        "file_system": "ext4",
        "free_bytes": 1 << 40,
        "settings": {"journal_mode": "wal"},
        "sizes": {"store files": 4096},
        "verdict": "ready",
        "lost_quarantined": (),
    }
    return Facts(**{**well, **known})


def found(check: Check, **known: Any) -> Finding:
    """The one finding of a check."""
    (finding,) = [finding for finding in diagnose(facts(**known)) if finding.check is check]
    return finding


def commands(finding: Finding) -> list[str]:
    """The commands that are printed under a finding."""
    return [way.command for way in finding.ways if way.command]


def test_all_is_well() -> None:
    """Every check has a green finding, and no command."""
    findings = diagnose(facts(is_backup=True))
    assert [finding.check for finding in findings] == list(Check)
    assert worst(findings) is Level.GREEN
    assert [finding.ways for finding in findings] == [()] * len(Check)
    assert Check.BACKUP not in {finding.check for finding in diagnose(facts())}


def test_the_worst_counts() -> None:
    """One red finding makes the whole red; a yellow one makes it yellow."""
    assert worst(diagnose(facts(engine=(3, 40, 1)))) is Level.YELLOW
    assert worst(diagnose(facts(engine=(3, 40, 1), file_system="nfs4"))) is Level.RED


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), ((3, 44, 5), True),
        ((3, 44, 6), False), ((3, 44, 7), False), ((3, 45, 0), True), ((3, 50, 6), True),
        ((3, 50, 7), False), ((3, 51, 0), True), ((3, 51, 2), True), ((3, 51, 3), False),
        ((3, 52, 0), False), ((4, 0, 0), False),
    ],
)  # fmt: skip
def test_engines_with_the_wal_reset_bug(version: tuple[int, int, int], *, has_it: bool) -> None:
    """The range, its ends, and the back-ports."""
    assert has_wal_reset_bug(version) is has_it
    finding = found(Check.ENGINE, engine=version)
    assert finding.level is (Level.YELLOW if has_it else Level.GREEN)
    assert ("writer lock" in finding.sentence) is has_it


STATES: dict[DatabaseState, tuple[Level, list[str]]] = {
    DatabaseState.SOUND: (Level.GREEN, []),
    DatabaseState.OLDER: (Level.YELLOW, ["rtstore upgrade '/teams/a team'"]),
    DatabaseState.NEWER: (Level.RED, []),
    DatabaseState.FOREIGN: (Level.RED, ["rtstore rebuild '/teams/a team' --team NAME --force"]),
    DatabaseState.DAMAGED: (Level.RED, ["rtstore rebuild '/teams/a team' --team NAME"]),
    DatabaseState.ABSENT: (Level.RED, ["rtstore rebuild '/teams/a team' --team NAME"]),
    DatabaseState.LEGACY: (Level.RED, ["rtstore import '/teams/a team'"]),
    DatabaseState.REBUILD_INTERRUPTED: (Level.RED, ["rtstore rebuild '/teams/a team' --team NAME"]),
    DatabaseState.LOCKED: (Level.RED, []),
    DatabaseState.UNREADABLE: (Level.RED, ["chmod -R u+rwX '/teams/a team'"]),
    DatabaseState.UNUSABLE: (Level.RED, []),
}


@pytest.mark.parametrize("state", DatabaseState)
def test_states_of_the_database(state: DatabaseState) -> None:
    """Each has its colour, tells what was found, and prints its command, quoted for the shell."""
    finding = found(Check.DATABASE, state=state, problem="THE PROBLEM", verdict=None)
    level, expected = STATES[state]
    assert (finding.level, commands(finding)) == (level, expected)
    told = {
        DatabaseState.SOUND, DatabaseState.ABSENT, DatabaseState.LEGACY,
        DatabaseState.REBUILD_INTERRUPTED,
    }  # fmt: skip
    assert ("THE PROBLEM" in finding.sentence) is (state not in told)


def test_a_database_that_cannot_be_read_on_a_read_only_mount() -> None:
    """No permission can be given there: a copy can be looked at."""
    finding = found(Check.DATABASE, state=DatabaseState.UNREADABLE, is_read_only=True)
    assert commands(finding) == ["cp -r '/teams/a team' ~/'copy-of-a team'"]


def test_a_full_disk_keeps_a_database_from_being_read() -> None:
    """SQLite makes the index of the WAL first. Modes are not advised, where nothing is wrong with
    them; where something is, that comes first."""
    full = {"state": DatabaseState.UNREADABLE, "problem": "the disk is full", "free_bytes": 0}
    finding = found(Check.DATABASE, **full)
    assert commands(finding) == []
    assert "a person must free about" in finding.ways[0].why
    (chmod,) = commands(found(Check.DATABASE, **full, unreadable=("runtime-store.sqlite3",)))
    assert chmod.startswith("chmod")


def test_a_stopped_holder_of_the_lock() -> None:
    """It is red at once, however short it holds the lock, and has both ways out."""
    finding = found(Check.LOCK, lock_holder=held(stopped=42))
    assert finding.level is Level.RED
    assert commands(finding) == ["kill -CONT 42", "kill -KILL 42"]
    assert found(Check.LOCK, lock_holder=held()).level is Level.GREEN


def test_something_odd_beside_the_database() -> None:
    """It is moved away: the database itself may be sound."""
    odd = PLACE / "runtime-store.sqlite3-wal"
    finding = found(Check.DATABASE, state=DatabaseState.FOREIGN, problem="a pipe", odd_file=odd)
    assert (finding.level, commands(finding)) == (Level.RED, [f"mv '{odd}' '{odd}'.aside"])


def test_ways_out_of_damage() -> None:
    """A sound back-up first, for its history; the files after it. What the launch state says of
    team and run stands in the command; without files there is nothing to rebuild from."""
    backup = Path("/teams/backup")
    finding = found(
        Check.DATABASE,
        state=DatabaseState.DAMAGED,
        backup=backup,
        launch=LaunchState(team_name="it's us", run_id="run-1", capability_snapshot_id="cap-1"),
    )
    restore, rebuild = (shlex.split(command) for command in commands(finding))
    assert restore == ["rtstore", "restore", str(backup), "/teams/a team-restored"]
    assert rebuild == [
        *("rtstore", "rebuild", str(PLACE), "--team", "it's us", "--run-id", "run-1"),
        *("--capability-snapshot-id", "cap-1"),
    ]
    finding = found(
        Check.DATABASE, state=DatabaseState.DAMAGED, has_store_files=False, knows_descriptors=False
    )
    assert "rtstore.rebuild_database(" in finding.ways[0].why
    assert commands(finding) == ["rtstore rebuild '/teams/a team' --team NAME"]
    nothing = found(Check.DATABASE, state=DatabaseState.ABSENT, has_store_files=False)
    assert commands(nothing) == ["rtstore init '/teams/a team' --team NAME"]


@pytest.mark.parametrize(("verdict", "level"), [("degraded", "yellow"), ("blocked", "red")])
def test_stores_that_are_not_as_committed(verdict: str, level: str) -> None:
    """What status would have one run is printed here too."""
    way = Suggestion(command="rtstore recover X", why="because")
    finding = found(Check.STORES, verdict=verdict, next=(way,))
    assert (finding.level, finding.ways) == (level, (way,))
    assert verdict in finding.sentence


def test_ready_with_something_to_do_is_not_green() -> None:
    """A diagnostic file does not keep the runtime from starting; it is not as committed, though."""
    way = Suggestion(command="rtstore recover X", why="because")
    finding = found(Check.STORES, verdict="ready", next=(way,))
    assert (finding.level, finding.ways) == ("yellow", (way,))
    assert finding.sentence == "ready, but not every store file is what is committed"


def held(**facts: Any) -> Holder:
    """The writer lock in the hands of a writer of rtstore, but for what is given."""
    writer = {
        "processes": (Process(pid=42, command="python"),),
        "locked": ("runtime-store.lock", "the directory"),
        "is_shared": False,
        "is_writer": True,
        "is_this_process": False,
        "stopped": None,
        "since": NOW - timedelta(seconds=5),
        "signature": "process 42 on box since 2026-04-21T11:59:55.000Z",
    }
    return Holder.model_validate(writer | facts)


def test_the_writer_lock() -> None:
    """A writer at work is as it should be; one that has worked for long is named, with the way to
    end it; who has the database open is told."""
    short = found(Check.LOCK, lock_holder=held())
    assert short.level is Level.GREEN
    assert "process 42 (python) since 2026-04-21T11:59:55.000Z" in short.sentence
    assert found(Check.LOCK, lock_holder=held(since=None)).level is Level.GREEN
    long = found(Check.LOCK, lock_holder=held(since=NOW - timedelta(minutes=2)))
    assert (long.level, commands(long)) == (Level.YELLOW, ["kill 42"])
    assert "120 s" in long.sentence
    readers = (Process(pid=7, command="python"),)
    assert "7 (python)" in found(Check.LOCK, readers=readers).sentence


def test_a_lock_that_is_not_the_writer_lock() -> None:
    """A write transaction of another program, without the writer lock, is red; with it, it is the
    writer's own."""
    other = Process(pid=7, command="sqlite3", since=NOW)
    finding = found(Check.LOCK, sql_writer=other)
    assert (finding.level, commands(finding)) == (Level.RED, ["kill 7"])
    assert "7 (sqlite3, running since 2026-04-21T12:00:00.000Z)" in finding.sentence
    assert found(Check.LOCK, sql_writer=other, lock_holder=held()).level is Level.GREEN


def test_a_lock_of_another_program() -> None:
    """It is red however short it is held, for no writer comes by; who is known to have it is to be
    ended, all of them, and never the process that asks."""
    both = (Process(pid=7, command="flock"), Process(pid=8, command="sleep"))
    other = {"processes": both, "is_writer": False, "since": None}
    finding = found(Check.LOCK, lock_holder=held(**other, locked=("the directory",)))
    assert (finding.level, commands(finding)) == (Level.RED, ["kill 7 8"])
    assert "processes 7 (flock), 8 (sleep), by a lock on the directory" in finding.sentence
    assert "process 42" not in finding.sentence
    shared = found(Check.LOCK, lock_holder=held(**other, is_shared=True))
    assert "by a shared lock on runtime-store.lock and the directory" in shared.sentence
    own = found(Check.LOCK, lock_holder=held(**other, is_this_process=True))
    assert (own.level, commands(own)) == (Level.RED, [])
    long = held(since=NOW - timedelta(minutes=2), is_this_process=True)
    assert commands(found(Check.LOCK, lock_holder=long)) == []


def test_a_holder_that_the_system_does_not_show() -> None:
    """Who signed the lock last may be idle or gone, or its pid another program's: nothing is to be
    ended."""
    hidden = {"processes": (), "is_writer": False, "since": None}
    finding = found(Check.LOCK, lock_holder=held(**hidden))
    assert (finding.level, commands(finding)) == (Level.GREEN, [])
    assert "not known here" in finding.sentence
    assert "last signed by process 42 on box" in finding.sentence
    old = "process 42 on box since 2026-04-21T11:58:00.000Z"
    for signature in (old, "rubbish", None):
        finding = found(Check.LOCK, lock_holder=held(**hidden, signature=signature))
        assert (finding.level, commands(finding)) == (Level.YELLOW, [])


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("ext4", "green"), ("xfs", "green"), ("overlay", "green"), (None, "green"),
        ("nfs4", "red"), ("cifs", "red"), ("9p", "red"), ("fuse.sshfs", "red"),
        ("fuse.something", "yellow"), ("virtiofs", "yellow"), ("tmpfs", "yellow"),
    ],
)  # fmt: skip
def test_file_systems(kind: str | None, level: str) -> None:
    """Local, network, virtual and in memory are told apart."""
    finding = found(Check.FILE_SYSTEM, file_system=kind)
    assert finding.level == level
    assert bool(commands(finding)) is (level != "green")


def test_space() -> None:
    """Full is less than a batch needs; little is less than a back-up needs."""
    sizes = {"store files": 3 << 20, "database": 50 << 20}
    assert found(Check.SPACE, sizes=sizes, free_bytes=2 << 20).level is Level.RED
    assert "nearly full" in found(Check.SPACE, sizes=sizes, free_bytes=2 << 20).sentence
    assert "is full" in found(Check.SPACE, sizes=sizes, free_bytes=1 << 10).sentence
    both = found(Check.SPACE, sizes=sizes, free_bytes=200_000, free_inodes=0)
    assert "nearly full" in both.sentence
    assert "inodes" in both.sentence
    assert f"df -i '{PLACE}'" in commands(both)
    assert "inodes" in found(Check.SPACE, sizes=sizes, free_bytes=80 << 20, free_inodes=0).sentence
    assert found(Check.SPACE, sizes=sizes, free_bytes=60 << 20).level is Level.YELLOW
    assert found(Check.SPACE, sizes=sizes, free_bytes=80 << 20).level is Level.GREEN


def test_permissions() -> None:
    """What cannot be read, cannot be written, or is open to others."""
    assert found(Check.PERMISSIONS, unreadable=("a.json",)).level is Level.RED
    assert found(Check.PERMISSIONS, not_writable=(".",)).level is Level.RED
    lock_file = found(Check.PERMISSIONS, not_writable=("runtime-store.lock",))
    assert lock_file.sentence == "this user may not write runtime-store.lock"
    assert commands(lock_file) == ["chmod -R u+rwX '/teams/a team'"]
    mounted = Hindrance(
        kind=HindranceKind.READ_ONLY,
        problem="mounted read-only",
        way=Suggestion(command=None, why="a person must mount it for writing"),
    )
    finding = found(
        Check.PERMISSIONS, not_writable=(".",), is_read_only=True, hindrances=(mounted,)
    )
    assert (finding.level, finding.ways) == (Level.RED, (mounted.way,))
    loose = found(Check.PERMISSIONS, loose_modes=("a.json (644)",))
    assert (loose.level, commands(loose)) == (Level.YELLOW, ["chmod -R go-rwx '/teams/a team'"])


def test_what_lies_about() -> None:
    """A dead process's files are yellow; a living writer's are not looked at; files of nobody are
    named; a WAL that has grown, with who keeps it from being tidied up."""
    stray = found(Check.STRAY_FILES, stray_files=(".x.rtstore-tmp",))
    assert (stray.level, commands(stray)) == (Level.YELLOW, ["rtstore recover '/teams/a team'"])
    at_work = found(Check.STRAY_FILES, stray_files=(".x.rtstore-tmp",), lock_holder=held())
    assert at_work.level is Level.GREEN
    assert "own.json" in found(Check.STRAY_FILES, unknown_files=("own.json",)).sentence
    committed = found(Check.STRAY_FILES, unregistered={"team.old": "old.json"})
    assert committed.level is Level.YELLOW
    assert "committed, of stores that no descriptor names: old.json of team.old" in (
        committed.sentence
    )
    readers = (Process(pid=7, command="python"),)
    assert "open in: 7" in found(Check.SIZES, sizes={"WAL": 100 << 20}, readers=readers).sentence
    reading = found(Check.SIZES, sizes={"WAL": 100 << 20}, readers=readers, in_transaction=readers)
    assert "open (process 7 (python))" in reading.sentence
    two = (*readers, Process(pid=8, command="less"))
    reading = found(Check.SIZES, sizes={"WAL": 100 << 20}, readers=two, in_transaction=two)
    assert "open (processes 7 (python), 8 (less))" in reading.sentence


def test_clocks() -> None:
    """A batch or a file from the future; a second's difference between clocks is nothing."""
    ahead = NOW + timedelta(seconds=90)
    finding = found(Check.CLOCK, newest_batch_at=ahead)
    assert (finding.level, "90 s in the future" in finding.sentence) == (Level.YELLOW, True)
    assert found(Check.CLOCK, newest_batch_at=NOW + timedelta(seconds=1)).level is Level.GREEN
    assert found(Check.CLOCK, future_files=("a.json",)).level is Level.YELLOW


def test_another_journal_mode() -> None:
    """A database that somebody took out of WAL mode."""
    finding = found(Check.SETTINGS, settings={"journal_mode": "delete"})
    assert (finding.level, "delete" in finding.sentence) == (Level.YELLOW, True)


def test_a_database_that_gives_no_space_back() -> None:
    """Somebody ran VACUUM with auto_vacuum off: what it means is said, and how it is set again."""
    settings = {"journal_mode": "wal", "auto_vacuum": 0}
    finding = found(Check.SETTINGS, settings=settings)
    assert (finding.level, "gives nothing back" in finding.sentence) == (Level.YELLOW, True)
    path = "'/teams/a team/runtime-store.sqlite3'"
    assert commands(finding) == [f"sqlite3 {path} 'PRAGMA auto_vacuum = 2; VACUUM'"]
    assert "stop every program" in finding.ways[0].why
    assert found(Check.SETTINGS, settings={**settings, "auto_vacuum": 2}).level is Level.GREEN
    full = found(Check.SETTINGS, settings={**settings, "auto_vacuum": 1})
    assert (full.level, commands(full)) == (Level.YELLOW, commands(finding))
    both = [
        finding.sentence
        for finding in diagnose(facts(settings={"journal_mode": "delete", "auto_vacuum": 0}))
        if finding.check is Check.SETTINGS
    ]
    assert ["WAL mode" in both[0], "auto_vacuum off" in both[1]] == [True, True]


@pytest.mark.parametrize(
    "state", [state for state in DatabaseState if state not in ("sound", "older")]
)
def test_stray_files_where_nothing_can_be_recovered(state: DatabaseState) -> None:
    """`recover` refuses such a database, so that it is not advised."""
    finding = found(Check.STRAY_FILES, state=state, stray_files=(".x.rtstore-tmp",))
    assert (finding.level, commands(finding)) == (Level.YELLOW, [])
    assert "before the store can be opened, which removes them" in finding.ways[0].why


def test_files_of_stores_that_nobody_can_name() -> None:
    """Where the database cannot be read, they may be what is committed: nobody calls them stray."""
    files = {"unknown_files": ("a.one.json",)}
    read = found(Check.STRAY_FILES, **files)
    assert read.sentence == "not of any store that this directory knows: a.one.json"
    assert found(Check.STRAY_FILES, state=DatabaseState.FOREIGN, **files).sentence == (
        "perhaps of stores, for the database cannot be asked: a.one.json"
    )


def test_a_link_to_a_sound_database() -> None:
    """It is brought back, its WAL first, before the history is given up."""
    finding = found(
        Check.DATABASE,
        state=DatabaseState.FOREIGN,
        problem="it is not a regular file",
        linked=(Path("/away/db-wal"), Path("/away/db")),
    )
    first, second = commands(finding)
    place = f"{PLACE}/runtime-store.sqlite3"
    assert first == f"mv /away/db-wal '{place}-wal' && mv /away/db '{place}'"
    assert second.startswith("rtstore rebuild")


@pytest.mark.parametrize("state", [DatabaseState.DAMAGED, DatabaseState.ABSENT])
def test_a_full_disk_comes_before_what_needs_room(state: DatabaseState) -> None:
    """No rebuild and no restore is advised that would end with "the disk is full", and no recovery
    of a database that cannot be read."""
    known: dict[str, Any] = {"state": state, "backup": PLACE / "backup", "free_bytes": 0}
    full = found(Check.DATABASE, **known)
    assert commands(full) == []
    assert [way.why.partition(" first")[0] for way in full.ways] == ["a person must make room"] * 2
    assert "then run this (rtstore restore" in full.ways[0].why
    assert "then run this (rtstore rebuild" in full.ways[1].why
    assert "rtstore recover" not in str(found(Check.SPACE, **known).ways)
    assert len(commands(found(Check.DATABASE, **{**known, "free_bytes": 1 << 40}))) == 2


def test_a_history_that_outgrows_its_data() -> None:
    """It is yellow where it is large and many times the data, unless that is what is asked for;
    the command limits it, or does what the directory remembers."""
    large = StoreSize(
        schema_name="own.notes", file_bytes=17 << 20, history_contents=49, history_bytes=833 << 20
    )
    levels = [item.level for item in diagnose(facts()) if item.check is Check.SIZES]
    assert levels == [Level.GREEN]
    *_, told = (item for item in diagnose(facts(store_sizes=(large,))) if item.check is Check.SIZES)
    assert told.level is Level.YELLOW
    assert "own.notes takes 833.0 MiB in the database (49 contents beside" in told.sentence
    assert commands(told) == ["rtstore prune '/teams/a team' --mib 64"]
    for content_bytes, expected in ((64 << 20, ["rtstore prune '/teams/a team'"]), (1 << 30, [])):
        findings = diagnose(facts(store_sizes=(large,), content_bytes=content_bytes))
        assert [way for item in findings for way in commands(item)] == expected
    small = large.model_copy(update={"history_bytes": 100 << 20, "file_bytes": 1})
    few = large.model_copy(update={"history_bytes": 160 << 20})
    assert worst(diagnose(facts(store_sizes=(small, few)))) is Level.GREEN
