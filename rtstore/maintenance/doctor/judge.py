"""Judges what is wrong with a runtime directory, and how to repair it: pure, from gathered facts.

Every check returns a finding: green (as it should be), yellow (works, but look at it) or red (does
not work, or will lose something), each with a sentence, and with commands where one helps.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from rtstore.control.lock import Holder, read_signature
from rtstore.control.sqlite.processes import listed
from rtstore.maintenance.doctor.facts import DatabaseState, Facts
from rtstore.maintenance.doctor.finding import Check, Finding, FindingBuilder, Level
from rtstore.maintenance.doctor.permissions import make_accessible, permissions
from rtstore.maintenance.doctor.wal_reset import has_wal_reset_bug
from rtstore.maintenance.growth import LARGE_WAL, outgrown, pruning, space_returning
from rtstore.maintenance.suggestions import (
    about_descriptors,
    bring_back,
    foreign_wal_way,
    out_of_the_way,
    rebuild_command,
    rebuild_with_descriptors,
    say_renamed,
    two_teams,
    way_to_register,
    ways_back,
    ways_to_free,
    ways_to_part,
    without_wal,
)
from rtstore.model.descriptors import RUN_TOMBSTONES
from rtstore.model.records import ROOM_FOR_NOTHING, HindranceKind, Suggestion
from rtstore.model.times import format_time
from rtstore.shell import shell_command, shell_word

NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph", "fuse.glusterfs",
        "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb2", "smb3",
        "smbfs",
    }
)  # fmt: skip
VIRTUAL = frozenset({"drvfs", "prl_fs", "vboxsf", "virtiofs", "vmhgfs"})
IN_MEMORY = frozenset({"ramfs", "tmpfs"})

LONG_HOLD = timedelta(seconds=60)
CLOCK_TOLERANCE = timedelta(seconds=2)
_INCREMENTAL = 2
"""What `auto_vacuum` is where free pages are given back when they are asked for."""
SPARE_BYTES = 16 << 20
"""Bytes. Free space below this plus the size of the files here is reported."""


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """Return every finding, in the order of the checks."""
    checks = (
        _database, _rows, _backup, _stores, _lock, _engine, _file_system, _space, permissions,
        _settings, _quarantine, _stray_files, _sizes, _clock,
    )  # fmt: skip
    return tuple(finding for check in checks for finding in check(facts))


def worst(findings: tuple[Finding, ...]) -> Level:
    """Return the level of the worst finding."""
    order = (Level.GREEN, Level.YELLOW, Level.RED)
    return max((finding.level for finding in findings), key=order.index, default=Level.GREEN)


# --- the database ---------------------------------------------------------------------------------


def _database(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.DATABASE)
    match facts.state:
        case DatabaseState.SOUND:
            yield from _sound(facts, say)
        case DatabaseState.OLDER if facts.upgrade_refused is not None:
            yield _not_to_be_upgraded(facts, say)
        case DatabaseState.OLDER:
            yield say.yellow(
                f"it is older than this rtstore ({facts.problem}); opening the store upgrades it",
                _writing(facts, "upgrade", "backs it up and upgrades it, whole or not at all"),
            )
        case DatabaseState.NEWER:
            yield say.red(
                f"a newer rtstore made it ({facts.problem}); this one does not touch it",
                Suggestion(command=None, why="open it with a newer rtstore"),
            )
        case DatabaseState.LOCKED:
            yield say.red(f"another program is in the way: {facts.problem}")
        case DatabaseState.UNREADABLE:
            yield say.red(f"it cannot be read: {facts.problem}", _to_read(facts))
        case DatabaseState.UNUSABLE:
            ways = (_unless_hindered(facts, way) for way in ways_to_part(facts.own_files))
            yield say.red(f"it must not be used: {facts.problem}", *ways)
        case _ if facts.lost_marks:
            lost = " and ".join(f"its {name}" for name in facts.lost_marks)
            yield say.red(
                "all of it is sound, but what says which revision it is at is gone or altered: "
                f"{lost}, which somebody removed or edited, or which a dump did not have",
                _put_back(facts),
            )
        case _:
            yield _without(facts, say)


def _sound(facts: Facts, say: FindingBuilder) -> Iterator[Finding]:
    """Yield what somebody did to a sound database by which nothing committed is lost."""
    if facts.in_the_way:
        yield say.yellow(
            "every page of it is sound, but somebody added what may refuse, swallow or change "
            f"what rtstore writes: {', '.join(facts.in_the_way)}",
            *_without_added(facts),
        )
    elif not facts.rows_left and facts.set_back is None:
        yield say.green("it is at this rtstore's revision, and every page of it is sound")
    if facts.rows_left:
        rows = "1 row is" if facts.rows_left == 1 else f"{facts.rows_left} rows are"
        yield say.yellow(
            "somebody deleted history of it by hand, which is lost, and of which "
            f"{rows} left. What is committed now holds, and so does the history of every other "
            "batch",
            _writing(
                facts, "upgrade", "removes what is left of it; no batch and no file is touched"
            ),
        )
    if facts.set_back is not None:
        yield say.yellow(
            f"somebody changed the high watermark of the manifest: {facts.set_back}. Every "
            "command goes by that of the batch, and the next batch writes it again; nothing is lost"
        )


def _rows(facts: Facts) -> Iterator[Finding]:
    for problem, statement in facts.changed_rows.items():
        command = shell_command("sqlite3", facts.directory / "runtime-store.sqlite3", statement)
        way = Suggestion(
            command=command,
            why="puts the row right, or takes it out; no file is touched. Stop what uses the "
            "directory first",
        )
        yield FindingBuilder(Check.DATABASE).red(
            f"somebody changed a row: {problem}. What needs the row is refused",
            _unless_hindered(facts, way),
        )


def _without(facts: Facts, say: FindingBuilder) -> Finding:
    """Return the finding when there is no usable database."""
    match facts.state:
        case DatabaseState.LEGACY if facts.import_refused is not None:
            return say.red(
                "there is none yet: this is a directory of the legacy format, and cannot be "
                f"taken over as it is: {facts.import_refused}",
                _without_control_file(facts),
            )
        case DatabaseState.LEGACY:
            return say.red(
                "there is none yet: this is a directory of the legacy format",
                _import(facts),
            )
        case DatabaseState.ABSENT:
            return _absent(facts, say)
        case DatabaseState.REBUILD_INTERRUPTED:
            return say.red("a rebuild was interrupted", _rebuild(facts))
        case DatabaseState.FOREIGN if facts.odd_file is not None:
            return say.red(
                f"{facts.odd_file.name}, which SQLite would open with it: {facts.problem}",
                _unless_hindered(facts, foreign_wal_way(facts.odd_file))
                if facts.has_foreign_wal
                else out_of_the_way(facts.odd_file, facts.unlink_odd_file),
            )
        case DatabaseState.FOREIGN if facts.linked:
            return say.red(
                f"it is not a regular file, but a link to a sound one, {facts.linked[-1]}: SQLite "
                "would look for the WAL beside that one",
                bring_back(facts.directory, facts.linked),
                _rebuild(facts, "--force"),
            )
        case DatabaseState.FOREIGN if facts.leads_nowhere:
            first = "first, a person must look for what the link leads to: its history is there"
            anew = _rebuild(facts, "--force")
            return say.red(
                f"{facts.problem}",
                Suggestion(command=None, why=first),
                anew.model_copy(update={"why": f"only if that is lost for good: {anew.why}"}),
            )
        case DatabaseState.FOREIGN:
            return say.red(
                f"what has its name is not a control database of rtstore: {facts.problem}",
                _rebuild(facts, "--force"),
            )
        case _:
            elsewhere = f". {say_renamed(tuple(facts.renamed))}" if facts.renamed else ""
            return say.red(f"it is damaged: {facts.problem}{elsewhere}", *_ways_out(facts))


def _absent(facts: Facts, say: FindingBuilder) -> Finding:
    if facts.renamed:
        return say.red(f"it is gone. {say_renamed(tuple(facts.renamed))}", *_ways_out(facts))
    if facts.left_behind and not facts.has_store_files:
        return say.red(
            f"it is gone, and so are the store files; left are {', '.join(facts.left_behind)}",
            *_ways_out(facts),
            *_move_aside(facts),
        )
    if not facts.has_store_files:
        return say.red(
            "there is no runtime store here: neither a database nor store files",
            Suggestion(
                command=_run("init", facts, "--team", facts.launch.team_name or "NAME"),
                why="makes one",
            ),
        )
    gone = "it is gone" if facts.had_database else "it is gone, or there never was one"
    return say.red(
        f"{gone}, but the store files are there{_older_control_files(facts)}",
        *_ways_out(facts),
        *_import_older(facts),
    )


def _not_to_be_upgraded(facts: Facts, say: FindingBuilder) -> Finding:
    """Return the finding for an older database of which an upgrade fails. What its revision makes
    is known: what somebody added is in the way, or what somebody dropped is needed."""
    sentence = (
        f"it is older than this rtstore ({facts.problem}), and cannot be upgraded as it is: "
        f"{facts.upgrade_refused}"
    )
    if facts.added:
        sentence += f". In it, and not of rtstore: {', '.join(facts.added)}"
    if facts.gone:
        sentence += f". Somebody dropped what is gone from it: {', '.join(facts.gone)}"
    older = "an rtstore that knows no newer revision opens it as it is"
    if facts.gone:
        return say.red(sentence, _rebuild(facts, "--force"))
    remove = Suggestion(
        command=None,
        why="whoever added what is in the way must remove or rename it, while no program uses the "
        f"database; then: {_run('upgrade', facts)}. Until then {older}",
    )
    return say.red(sentence, remove, _rebuild(facts, "--force"))


def _without_added(facts: Facts) -> Iterator[Suggestion]:
    path = facts.directory / "runtime-store.sqlite3"
    for part, statement in facts.in_the_way.items():
        yield Suggestion(
            command=shell_command("sqlite3", path, statement),
            why=f"removes the {part}, if whoever added it can do without. Then, where a write or a "
            f"recovery was refused: {_run('recover', facts)}",
        )


def _put_back(facts: Facts) -> Suggestion:
    is_empty = any(name.startswith("table ") for name in facts.dropped)
    rows = ", but a table without its rows, which are lost" if is_empty else ""
    way = Suggestion(
        command=_run("upgrade", facts),
        why=f"makes it again as it was{rows}; no batch and no file is touched",
    )
    return _unless_hindered(facts, way)


def _take_from_files(facts: Facts) -> Suggestion:
    why = "takes it again from the store's file, which is as committed; no batch is touched"
    return _unless_hindered(facts, Suggestion(command=_run("recover", facts), why=why))


def _without_control_file(facts: Facts) -> Suggestion:
    """The control files of the legacy format say more than the store files, but an import takes
    them only whole."""
    damaged = facts.damaged_control_file
    if damaged is None:
        why = f"a person must see to what is said there; then: {_run('import', facts)}"
        return Suggestion(command=None, why=why)
    if facts.unlink_control_file is not None:
        return Suggestion(
            command=f"{facts.unlink_control_file} && {_run('import', facts)}",
            why="puts a copy of what the link leads to in its place, and takes everything over",
        )
    move = shell_command("mv", damaged, Path(f"{damaged}.aside"))
    if damaged.name == "opencode-runtime-receipts.json":
        return Suggestion(
            command=f"{move} && {_run('import', facts)}",
            why="takes the stores over without their receipts, which it keeps aside; rather the "
            "file from a back-up, where there is one",
        )
    if damaged.name == RUN_TOMBSTONES:
        return Suggestion(
            command=f"{move} && {_run('import', facts)}",
            why="takes everything over but the list of ended runs, which it keeps aside: a run "
            "that only the list calls ended may write again; rather the file from a back-up, where "
            "there is one",
        )
    team = facts.launch.team_name or "NAME"
    rebuild = rebuild_command(facts.directory, facts.launch, team_name=team)
    return Suggestion(
        command=f"{move} && {rebuild}",
        why="makes a database of the store files as they are, without what the manifest said of "
        "them, which it keeps aside; rather the manifest from a back-up, where there is one",
    )


def _ways_out(facts: Facts) -> Iterator[Suggestion]:
    """Suggest to make again what was dropped, or to take from the files what was altered; else a
    restore and a rebuild: a back-up has the history, the files have the newest state."""
    if facts.dropped:
        yield _put_back(facts)
        return
    if facts.in_files and not facts.is_backup:
        yield _take_from_files(facts)
        return
    if facts.is_sound_without_wal:
        yield _unless_hindered(facts, without_wal(facts.directory))
    yield from (_unless_hindered(facts, way) for way in ways_back(facts.renamed))
    if facts.backup is not None:
        restored = facts.restored or Path(f"{facts.directory}-restored")
        restore = Suggestion(
            command=f"rtstore restore {shell_word(facts.backup)} {shell_word(restored)}",
            why="makes a new directory of the newest sound back-up, with its history; what was "
            "written since is not in it. Stop the runtime before it takes the old one's place",
        )
        yield _once_there_is_room(facts, restore)
    if facts.is_backup:
        yield next(_ways_of_backup(facts))
    elif facts.has_store_files:
        yield _rebuild(facts)
    elif facts.state is DatabaseState.DAMAGED:  # contents may be readable still
        if not facts.knows_descriptors:
            yield _rebuild_in_the_runtime(facts)
        yield _rebuild(facts)


def _rebuild_in_the_runtime(facts: Facts, *options: str) -> Suggestion:
    """A store file does not say the name of its store: only the descriptors of the runtime do."""
    team = facts.launch.team_name or facts.team_in_database or "NAME"
    stores = "stores of its own, if it has any"
    if facts.nameless_files:
        stores = f"the stores of {', '.join(facts.nameless_files[:5])}"
    rebuild = rebuild_with_descriptors(facts.directory, facts.launch, *options, team_name=team)
    return Suggestion(
        command=None,
        why=f"the runtime must name {stores} with its descriptors ({rebuild}); what they do not "
        f"name stays as it is. {about_descriptors(facts.directory, team_name=team)}",
    )


def _move_aside(facts: Facts) -> Iterator[Suggestion]:
    """Suggest moving the signs of an earlier database away: they alone keep a new store out."""
    moves = [facts.directory / name for name in facts.left_behind]
    command = " && ".join(shell_command("mv", item, Path(f"{item}.aside")) for item in moves)
    yield Suggestion(command=command, why="moves that aside; then a new store can be made here")


def _unless_hindered(facts: Facts, way: Suggestion) -> Suggestion:
    """Return a way that writes, or else the step before it; in a back-up nothing is written."""
    if facts.is_backup:
        return next(_ways_of_backup(facts))
    hindrance = next((item.way for item in facts.hindrances if item.schema_name is None), None)
    return hindrance or _once_there_is_room(facts, way)


def _once_there_is_room(facts: Facts, way: Suggestion) -> Suggestion:
    """Return a way that needs room. On a full disk, a person must make room first."""
    if way.command is None or not _is_full(facts):
        return way
    free = _size(facts.free_bytes or 0)
    why = (
        f"a person must make room first, for {free} are free; then run this ({way.command}), "
        f"which {way.why}"
    )
    return Suggestion(command=None, why=why)


def _is_full(facts: Facts) -> bool:
    return facts.free_bytes is not None and facts.free_bytes < max(
        1 << 20, facts.sizes.get("store files", 0)
    )


def _rebuild(facts: Facts, *options: str) -> Suggestion:
    if facts.renamed and "--force" not in options:
        options = (*options, "--force")
    if facts.nameless_files:
        return _rebuild_in_the_runtime(facts, *options)
    undecided = two_teams(facts.directory, facts.team_in_database, facts.launch)
    if undecided is not None:
        return Suggestion(command=None, why=undecided)
    team = facts.launch.team_name or facts.team_in_database or "NAME"
    if facts.descriptors_name is not None:
        options = (*options, "--descriptors", facts.descriptors_name)
    aside = "" if facts.state is DatabaseState.ABSENT else ", and keeps the old one aside"
    named = "; team and run are what the launch state says" if facts.launch.run_id else ""
    if facts.launch.behavior_fingerprint is not None:
        named += ", and the behavior fingerprint what the old database says"
    way = Suggestion(
        command=rebuild_command(facts.directory, facts.launch, *options, team_name=team),
        why=f"makes a new database from the store files as they are now{aside}; history and "
        f"receipts are lost{named}",
    )
    return _unless_hindered(facts, way)


def _backup(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.BACKUP)
    if not facts.is_backup:
        return
    of = "" if facts.backup_origin is None else f" of {facts.backup_origin}"
    made = "" if facts.backup_made_at is None else f", made {format_time(facts.backup_made_at)}"
    if not facts.backup_problems:
        yield say.green(f"this is a back-up{of}{made}, and is as it was made")
        return
    problems = facts.backup_problems
    more = f" (and {len(problems) - 3} more)" if problems[3:] else ""
    yield say.yellow(
        f"this was made as a back-up{of}{made}, and is not as it was made, so that no restore "
        f"takes it: {'; '.join(problems[:3])}{more}",
        *_ways_of_backup(facts),
    )


def _ways_of_backup(facts: Facts) -> Iterator[Suggestion]:
    """Suggest what can be done with a back-up. Nothing writes to it: then no restore takes it."""
    restored = shell_word(facts.restored or Path(f"{facts.directory}-restored"))
    is_usable = facts.state in (DatabaseState.SOUND, DatabaseState.OLDER)
    if not facts.backup_problems and (is_usable or facts.dropped):
        yield Suggestion(
            command=f"rtstore restore {shell_word(facts.directory)} {restored}",
            why="makes a runtime directory of this back-up, to be put right there: whatever "
            "writes to a back-up spoils it",
        )
    elif is_usable:
        database = facts.directory / "runtime-store.sqlite3"
        record = facts.directory / "runtime-store.backup.json"
        yield Suggestion(
            command=f"rtstore restore {shell_word(database)} {restored}",
            why="makes a runtime directory of the database as it is now, and of what is committed "
            "in it; without its quarantine",
        )
        yield Suggestion(
            command=f"rm {shell_word(record)}",
            why="or this, only if a runtime works in it: then it is a runtime directory like any "
            "other, and no back-up",
        )
    else:
        yield Suggestion(command=None, why="it is a back-up, and not put right: use another one")


def _stores(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.STORES)
    refusals = {
        facts.data_refused: "the runtime must open the directory with descriptors that bring its "
        "data up",
        facts.move_refused: "a person must put right what is in the way of the new file first",
        facts.edit_refused: "a person must have the edit adopted, or refuse it, first",
    }
    refusals.pop(None, None)
    for problem, why in refusals.items():
        sentence = f"opening with these descriptors is refused: {problem}"
        yield say.red(sentence, Suggestion(command=None, why=why))
    if facts.moved and not refusals:
        moves = [f"{name} from {now} to {then}" for name, (now, then) in facts.moved.items()]
        yield say.yellow(f"opening with these descriptors moves {', '.join(moves)}")
    if facts.verdict is None and facts.lost_batches is None:
        return
    if facts.remembers_no_store and facts.unregistered:
        yield say.red(
            f"{facts.verdict}: the database remembers no descriptor, so that no store file was "
            f"looked at: committed are {_some(tuple(facts.unregistered))}",
            way_to_register(facts.directory, facts.unregistered),
        )
        return
    ways = facts.next
    if facts.is_backup and ways:
        ways = (next(_ways_of_backup(facts)),)
    if facts.lost_batches is not None:
        yield say.red(f"opening is refused: {facts.lost_batches}", *ways)
        return
    if facts.verdict == "ready" and ways:
        why = facts.newer_batches or "not every store file is what is committed"
        yield say.yellow(f"ready, but {why}", *ways)
        return
    if facts.verdict == "ready":
        named = " that a descriptor names" if facts.unregistered else ""
        yield say.green(f"every store file{named} is what is committed: ready")
        return
    sentence = f"not everything is as committed: {facts.verdict}"
    level = Level.YELLOW if facts.verdict == "degraded" else Level.RED
    yield Finding(check=Check.STORES, level=level, sentence=sentence, ways=ways)


def _lock(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.LOCK)
    writer = facts.sql_writer
    odd = [item for item in facts.hindrances if item.kind is HindranceKind.LOCK]
    if odd:
        yield from (say.red(item.problem, item.way) for item in odd)
    elif facts.lock_holder is not None:
        yield _held(facts.lock_holder, facts, say)
    elif writer is not None:
        since = "" if writer.since is None else f", running since {format_time(writer.since)}"
        yield say.red(
            f"process {writer.pid} ({writer.command}{since}) has a write transaction open on the "
            "database, without the writer lock: every write waits for it, and fails",
            _end(writer.pid),
        )
    elif "runtime-store.lock" in facts.not_writable:
        return  # whether it is free cannot be told; why not is told of the permissions
    elif all(item.schema_name is not None for item in facts.hindrances):
        open_in = ", ".join(f"{item.pid} ({item.command})" for item in facts.readers)
        yield say.green(f"free; the database is open in process {open_in}" if open_in else "free")


def _held(holder: Holder, facts: Facts, say: FindingBuilder) -> Finding:
    """Return the finding of a lock that somebody holds. Only who is seen to hold it is to be ended,
    and never the process that asks."""
    if holder.stopped is not None:
        return say.red(
            f"held by {holder.words}; process {holder.stopped} is stopped by a signal: every write "
            "waits for it, and fails",
            *ways_to_free(holder.stopped),
        )
    pids = [item.pid for item in holder.processes]
    ways = () if holder.is_this_process or not pids else (_end(*pids),)
    if holder.processes and not holder.is_writer:
        return say.red(f"held by {holder.words}: every write waits for it, and fails", *ways)
    if holder.is_writer:
        what, since = f"a writer is at work: {holder.words}", holder.since
    else:
        what, since = f"held by {holder.words}", read_signature(holder.signature or "").since
    age = None if since is None else facts.now - since
    if holder.is_writer if age is None else age <= LONG_HOLD:
        return say.green(what)
    if age is not None and holder.is_writer:
        what = f"a writer holds it for {_seconds(age)} s: {holder.words}"
    return say.yellow(f"{what}. Others wait for it", *ways)


def _end(*pids: int) -> Suggestion:
    return Suggestion(
        command=shell_command("kill", *map(str, pids)),
        why=f"ends {'them, if they' if pids[1:] else 'it, if it'} cannot be asked to finish; what "
        "was not committed is rolled back",
    )


# --- what it stands on ----------------------------------------------------------------------------


def _engine(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.ENGINE)
    version = ".".join(map(str, facts.engine))
    if not has_wal_reset_bug(facts.engine):
        yield say.green(f"SQLite {version} does not have the WAL-reset bug")
        return
    yield say.yellow(
        f"SQLite {version} has the WAL-reset bug (3.7.0 to 3.51.2): two connections that write or "
        "checkpoint at the same moment can corrupt a database. rtstore is safe from it, as it does "
        "both under its writer lock only; other programs should open the database read-only",
        Suggestion(
            command=f"sqlite3 -readonly {shell_word(facts.directory)}/runtime-store.sqlite3",
            why="looks without writing",
        )
        if _has_database(facts)
        else Suggestion(command=None, why="nothing to be done before there is a database"),
    )


def _has_database(facts: Facts) -> bool:
    return facts.state not in (
        DatabaseState.ABSENT,
        DatabaseState.LEGACY,
        DatabaseState.REBUILD_INTERRUPTED,
    )


def _file_system(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.FILE_SYSTEM)
    kind, away = facts.file_system, Suggestion(
        command=f"rtstore backup {shell_word(facts.directory)} /a/local/directory",
        why="copies all that is committed into a directory that opens as a ready store, with "
        "changed files in its quarantine",
    )  # fmt: skip
    if not _has_database(facts):
        away = Suggestion(command=None, why="move the directory to a local disk first")
    if kind is None:
        yield say.green("its kind cannot be told here")
    elif kind in NETWORK:
        yield say.red(
            f"{kind} is a network file system: SQLite's WAL needs shared memory and locks that it "
            "does not give between machines",
            away,
        )
    elif kind in VIRTUAL or kind.startswith("fuse."):
        yield say.yellow(f"{kind} is a virtual file system; its locks may not be real", away)
    elif kind in IN_MEMORY:
        yield say.yellow(f"{kind} is in memory: nothing here survives a restart", away)
    else:
        yield say.green(f"{kind}, local")


def _space(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.SPACE)
    if facts.free_bytes is None:
        return
    needed = sum(facts.sizes.values())
    look = Suggestion(command=f"df -h {shell_word(facts.directory)}", why="shows what is full")
    free = f"{_size(facts.free_bytes)} free"
    inodes: tuple[Suggestion, ...] = ()
    if facts.free_inodes == 0:
        free += ", and no file can be made: the file system has no inodes left"
        inodes = _ways_to_inodes(facts)
    if _is_full(facts):
        full = "full" if facts.free_bytes < ROOM_FOR_NOTHING else "nearly full"
        yield say.red(
            f"the disk is {full}: {free}. A batch that finds no room fails, and is undone; "
            f"dropping history, too, needs some room before it gives any back.{_wal_in(facts)}",
            look,
            _make_room(facts),
            *inodes,
        )
    elif inodes:
        yield say.red(free, *inodes)
    elif facts.free_bytes < needed + SPARE_BYTES:
        yield say.yellow(f"{free}: too little for a back-up or an upgrade", look)
    else:
        yield say.green(free)


def _ways_to_inodes(facts: Facts) -> tuple[Suggestion, ...]:
    look = shell_command("df", "-i", facts.directory)
    remove = "a person must remove files that nobody needs, elsewhere on it"
    return (
        Suggestion(command=look, why="shows which file system has none left"),
        Suggestion(command=None, why=remove),
    )


def _wal_in(facts: Facts) -> str:
    wal = facts.sizes.get("WAL", 0)
    return f" The database's own WAL takes {_size(wal)} of it" if wal else ""


def _make_room(facts: Facts) -> Suggestion:
    """Suggest how much room to free: for a batch, and for moving the WAL into the database."""
    database, wal = facts.sizes.get("database", 0), facts.sizes.get("WAL", 0)
    growth = wal if facts.committed_bytes is None else max(0, facts.committed_bytes - database)
    needed = max(1 << 20, facts.sizes.get("store files", 0)) + (growth if wal else 0)
    gives = f", which moves the WAL into the database and gives its {_size(wal)} back"
    if facts.state not in (DatabaseState.SOUND, DatabaseState.OLDER):
        return Suggestion(
            command=None,
            why=f"a person must free about {_size(max(0, needed - (facts.free_bytes or 0)))} "
            f"elsewhere on this file system, or make it larger; then: {_run('doctor', facts)}",
        )
    return Suggestion(
        command=None,
        why=f"a person must free about {_size(max(0, needed - (facts.free_bytes or 0)))} elsewhere "
        f"on this file system, or make it larger; then: {_run('recover', facts)}"
        + (gives if wal else ""),
    )


def _to_read(facts: Facts) -> Suggestion:
    """Suggest what makes a database readable. SQLite makes the index of a WAL before it reads it:
    that needs room, where nothing is wrong with owner and modes."""
    if facts.is_read_only:
        return _copy_elsewhere(facts)
    is_accessible = not (facts.others or facts.unreadable or facts.not_writable)
    return _make_room(facts) if is_accessible and _is_full(facts) else make_accessible(facts)


def _copy_elsewhere(facts: Facts) -> Suggestion:
    copy = shell_word(f"copy-of-{facts.directory.name}")
    return Suggestion(
        command=f"cp -r {shell_word(facts.directory)} ~/{copy}",
        why="makes a copy that can be looked at: SQLite cannot read a WAL whose index (-shm) is "
        "gone where it may not make it anew",
    )


def _settings(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.SETTINGS)
    if not facts.settings:
        return
    found = ", ".join(f"{name} {'?' if value is None else value}" for name, value in
                     facts.settings.items())  # fmt: skip
    if facts.settings.get("journal_mode") not in (None, "wal"):
        yield say.yellow(
            f"{found}: another program took it out of WAL mode",
            _writing(facts, "recover", "opens it for writing, which sets it again"),
        )
    elif facts.settings.get("auto_vacuum") in (None, _INCREMENTAL):
        yield say.green(found)
    if facts.settings.get("auto_vacuum") not in (None, _INCREMENTAL):
        way = space_returning(facts.directory / "runtime-store.sqlite3")
        yield say.yellow(f"{found}: {_of_auto_vacuum(facts)}", _unless_hindered(facts, way))


def _of_auto_vacuum(facts: Facts) -> str:
    if facts.settings.get("auto_vacuum") == 1:
        return "another program set auto_vacuum to 1 (full): each commit moves pages about"
    return (
        "another program turned auto_vacuum off: what dropped history leaves free stays in the "
        "file, for later batches, and pruning gives nothing back"
    )


# --- what lies about ------------------------------------------------------------------------------


def _quarantine(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.QUARANTINE)
    if facts.lost_quarantined is None:
        return
    unlisted = facts.unlisted_quarantined
    if unlisted:
        yield say.yellow(
            "files in it of which the database knows nothing, of an earlier database or of another "
            f"program; nobody here uses or removes them: {_some(unlisted)}"
        )
    if facts.closed_quarantine is not None:
        yield say.red(
            f"{facts.closed_quarantine}: no file can be kept there, so a write or a recovery that "
            "would go over a changed file is refused",
            *(() if facts.open_quarantine is None else (facts.open_quarantine,)),
        )
    elif not (facts.lost_quarantined or facts.changed_quarantined or unlisted):
        yield say.green("no file is missing in it, or was changed")
    if facts.lost_quarantined:
        yield say.yellow(
            "quarantined files that are gone, so that they cannot be put back; somebody removed "
            "them or took the folder away, or this directory was made of a database that an "
            f"upgrade backed up, which has none: {_some(facts.lost_quarantined)}",
            Suggestion(
                command=f"rtstore quarantine list {shell_word(facts.directory)}",
                why="marks what is gone; only a back-up may have it, or the folder that was taken "
                "away. Pruning the quarantine forgets it",
            ),
        )
    if facts.changed_quarantined:
        yield say.yellow(
            "quarantined files that somebody changed, so that they cannot be put back: "
            f"{_some(facts.changed_quarantined)}",
            Suggestion(
                command=f"rtstore quarantine list {shell_word(facts.directory)}",
                why="says what each was; only a back-up may have it. Pruning the quarantine "
                "removes it",
            ),
        )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if names[5:] else "")


_KNOWING = (DatabaseState.SOUND, DatabaseState.OLDER, DatabaseState.DAMAGED)
"""The states of a database in which it was asked for its stores."""


def _stray_files(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.STRAY_FILES)
    if facts.unregistered:
        files = ", ".join(f"{path} of {name}" for name, path in facts.unregistered.items())
        yield say.yellow(
            f"not stray, but committed, of stores that no descriptor names: {files}",
            Suggestion(
                command=None,
                why="the runtime must open the directory with their descriptors, too, to use such "
                "a store or to delete it; until then no plan looks after it",
            ),
        )
    is_left = bool(facts.stray_files) and facts.lock_holder is None
    if is_left:
        yield say.yellow(
            f"left by a process that died: {', '.join(facts.stray_files)}",
            _writing(facts, "recover", "removes them")
            if facts.state in (DatabaseState.SOUND, DatabaseState.OLDER)
            else Suggestion(
                command=None,
                why="nothing to be done before the store can be opened, which removes them",
            ),
        )
    if facts.unknown_files:
        names = ", ".join(facts.unknown_files)
        yield say.yellow(
            f"not of any store that this directory knows: {names}"
            if facts.state in _KNOWING and facts.knows_descriptors
            else f"perhaps of stores, for the database cannot be asked: {names}"
        )
    elif not (is_left or facts.unregistered):
        yield say.green("none")


def _sizes(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.SIZES)
    sizes = ", ".join(f"{name} {_size(size)}" for name, size in facts.sizes.items())
    if facts.sizes.get("WAL", 0) > LARGE_WAL:
        reading = listed(facts.in_transaction) if facts.in_transaction else ""
        who = ", ".join(str(item.pid) for item in facts.readers) or "unknown"
        yield say.yellow(
            f"{sizes}: the WAL grows while a reader keeps an old transaction open "
            + (f"({reading})" if reading else f"(open in: {who})")
        )
    elif sizes:
        yield say.green(sizes)
    for store in outgrown(facts.store_sizes, facts.content_bytes):
        yield say.yellow(
            f"the history of {store.schema_name} takes {_size(store.history_bytes)} in the "
            f"database ({store.history_contents} contents beside the current one of "
            f"{_size(store.file_bytes)})",
            _unless_hindered(facts, pruning(facts.directory, facts.content_bytes)),
        )


def _clock(facts: Facts) -> Iterator[Finding]:
    say = FindingBuilder(Check.CLOCK)
    newest = facts.newest_batch_at
    ahead = newest is not None and newest > facts.now + CLOCK_TOLERANCE
    look = Suggestion(command="date -u", why="shows this machine's clock")
    if ahead and newest is not None:
        yield say.yellow(
            f"the newest batch was written {_seconds(newest - facts.now)} s in the future "
            f"({format_time(newest)}): a clock was wrong, then or now",
            look,
        )
    if facts.future_files:
        yield say.yellow(f"files with a time in the future: {', '.join(facts.future_files)}", look)
    if not ahead and not facts.future_files:
        yield say.green("nothing here is from the future")


def _size(number_of_bytes: int) -> str:
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if number_of_bytes >= length:
            return f"{number_of_bytes / length:.1f} {unit}"
    return f"{number_of_bytes / (1 << 10):.1f} KiB"


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())


def _run(command: str, facts: Facts, *options: str) -> str:
    return shell_command("rtstore", command, facts.directory, *options)


def _import(facts: Facts) -> Suggestion:
    named = () if facts.descriptors_name is None else ("--descriptors", facts.descriptors_name)
    command = shell_command("rtstore", "import", facts.directory, *named)
    why = "takes it over; its files stay as they are"
    return _unless_hindered(facts, Suggestion(command=command, why=why))


def _older_control_files(facts: Facts) -> str:
    newer = facts.newer_than_control_files
    if not newer:
        return ""
    return f". The control files of the legacy format beside them are older than {_some(newer)}"


def _import_older(facts: Facts) -> Iterator[Suggestion]:
    """Suggest the import where the store files are newer: it has the history until the export."""
    way = _import(facts)
    if not facts.newer_than_control_files or way.command is None or facts.is_backup:
        return
    why = (
        "or this, which takes over what the control files say, with its history, as of the day "
        "when they were written; the newer files are then changed files, to be adopted one by one"
    )
    yield way.model_copy(update={"why": why})


def _writing(facts: Facts, command: str, why: str) -> Suggestion:
    return _unless_hindered(facts, Suggestion(command=_run(command, facts), why=why))
