"""The facts about a runtime directory that `rtstore.maintenance.doctor.judge` judges."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from rtstore.control.contents import StoreSize
from rtstore.control.lock import Holder
from rtstore.control.sqlite.processes import Process
from rtstore.maintenance.suggestions import LaunchState
from rtstore.model.records import Hindrance, Record, Suggestion
from rtstore.model.times import Timestamp


class DatabaseState(StrEnum):
    """The state of the control database."""

    SOUND = "sound"
    OLDER = "older"
    NEWER = "newer"
    FOREIGN = "foreign"
    DAMAGED = "damaged"
    ABSENT = "absent"
    LEGACY = "legacy"
    """There is no database, but there are the control files of the legacy format."""
    REBUILD_INTERRUPTED = "rebuild_interrupted"
    LOCKED = "locked"
    UNREADABLE = "unreadable"
    UNUSABLE = "unusable"
    """The database is sound, but cannot be used where it is, as it is, or by this installation."""


class Facts(Record):
    """A runtime directory as it was found. Sizes are in bytes."""

    directory: Path
    now: Timestamp
    state: DatabaseState
    problem: str | None = None
    dropped: tuple[str, ...] = ()
    """Views, triggers, indexes and tables that somebody dropped or altered, when that is all that
    is wrong with the database and they can be made again."""
    in_files: tuple[str, ...] = ()
    """Stores whose committed content somebody altered, when that is all that is wrong with the
    database and their files are as committed."""
    lost_marks: tuple[str, ...] = ()
    """What says which revision the database is at and is gone or altered, when that is all that is
    wrong with it."""
    rows_left: int = 0
    """How many rows of a sound database are left of history that somebody deleted by hand."""
    set_back: str | None = None
    """That the high watermark of a sound database's manifest is not what its last batch has, in
    words; None where it may be."""
    upgrade_refused: str | None = None
    """Why an older database cannot be upgraded as it is. Tried where it is not made of what its
    revision makes."""
    added: tuple[str, ...] = ()
    """What somebody added to it then, some of which is in the way."""
    gone: tuple[str, ...] = ()
    """What somebody dropped from it then."""
    in_the_way: dict[str, str] = Field(default_factory=dict)
    """What somebody added to a sound database that may refuse or change what is written to it, each
    with the SQL that removes it."""
    changed_rows: dict[str, str] = Field(default_factory=dict)
    """Rows of a sound database whose paths somebody changed, in words, each with the SQL that puts
    that right."""
    odd_file: Path | None = None
    """An entry next to the database with the name of its WAL that is not a regular file."""
    is_sound_without_wal: bool = False
    """Whether the file alone is sound, while with the WAL beside it the database is damaged: the
    WAL is then another database's, or a newer one's."""
    has_foreign_wal: bool = False
    """Whether the odd file is the WAL of another database, which SQLite would write into this."""
    unlink_odd_file: str | None = None
    """The command that puts the WAL itself in the place of a link to it; None where it is none."""
    renamed: dict[str, str] = Field(default_factory=dict)
    """The databases of rtstore here, while the one of this directory is gone, by name, each with
    the command that moves it back."""
    linked: tuple[Path, ...] = ()
    """When the database's name is a link to a sound database: the files of that one, the database
    itself last."""
    leads_nowhere: bool = False
    """Whether the database's name is a link to what is not there."""
    own_files: str | None = None
    """The command that gives the directory files of its own, when those of the database have other
    names as well."""
    has_store_files: bool = False
    nameless_files: tuple[str, ...] = ()
    """Store files of stores that no descriptor here names; looked for where there is no database
    that could be used."""
    knows_descriptors: bool = True
    """Whether the descriptors could be read, if only from a damaged database."""
    descriptors_name: str | None = None
    """The MODULE:NAME of the descriptors, as a command was given them; None without."""
    left_behind: tuple[str, ...] = ()
    """Signs of an earlier database: a quarantine folder, databases that were set aside."""
    launch: LaunchState = LaunchState()
    team_in_database: str | None = None
    """The team, as read from a damaged database."""
    backup: Path | None = None
    """The newest sound back-up; gathered only when one would help."""
    restored: Path | None = None
    """Where it can be restored to: next to the directory, a name that nobody has."""
    is_backup: bool = False
    """Whether the directory has the record of a back-up."""
    backup_origin: str | None = None
    """The directory that was backed up, as the record says."""
    backup_made_at: Timestamp | None = None
    backup_problems: tuple[str, ...] = ()
    """What is not as it was backed up, so that no restore takes it."""
    import_refused: str | None = None
    """Why the control files of the legacy format cannot be imported as they are."""
    damaged_control_file: Path | None = None
    """The one of them that is damaged, where that is why."""
    unlink_control_file: str | None = None
    """The command that puts what it leads to in its place, where it is a link to a file."""
    lock_holder: Holder | None = None
    """Who holds the writer lock; None where nobody is seen to."""
    sql_writer: Process | None = None
    """A process with a write transaction open on the database that does not hold the writer
    lock."""
    readers: tuple[Process, ...] = ()
    """The processes that have the database open."""
    in_transaction: tuple[Process, ...] = ()
    """Those that read in a transaction at this moment."""
    engine: tuple[int, int, int] = (3, 51, 3)
    file_system: str | None = None
    is_read_only: bool = False
    hindrances: tuple[Hindrance, ...] = ()
    """What keeps everybody from writing here, or from replacing the database where that would be
    the way out."""
    free_bytes: int | None = None
    free_inodes: int | None = None
    """How many files can still be made; None where the file system has no such limit."""
    committed_bytes: int | None = None
    """How large the database is once its WAL is moved into it; looked at where the disk is full."""
    not_writable: tuple[str, ...] = ()
    """What every write needs and this user may not write: the directory (`.`), the lock file, the
    files of the database."""
    shut_folders: tuple[str, ...] = ()
    """Folders of stores that this user may not write."""
    loose_modes: tuple[str, ...] = ()
    """Paths that other users may read or write, each with its mode."""
    unreadable: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    """Paths here that belong to another user, so that this user cannot read or change them."""
    owning: Suggestion | None = None
    """What gives all of it to one user, or who must run this."""
    is_others: bool = False
    """Whether the directory and its database belong to other users than this one."""
    settings: dict[str, str | int | None] = Field(default_factory=dict)
    """Pragmas of the database file as they are; None: not looked at."""
    closed_quarantine: str | None = None
    """Why no file can be quarantined."""
    open_quarantine: Suggestion | None = None
    """What changes that."""
    lost_quarantined: tuple[str, ...] | None = None
    """What the database says is in quarantine, and is not; None: it cannot be asked."""
    had_database: bool = True
    """Whether something other than store files shows that there is a database, or was one."""
    newer_than_control_files: tuple[str, ...] = ()
    """Store files that control files of the legacy format, beside a database that is gone, know
    nothing of yet."""
    changed_quarantined: tuple[str, ...] = ()
    """What is in quarantine, and is not what its row says."""
    unlisted_quarantined: tuple[str, ...] = ()
    """What lies in quarantine, and has no row."""
    stray_files: tuple[str, ...] = ()
    unknown_files: tuple[str, ...] = ()
    unregistered: dict[str, str] = Field(default_factory=dict)
    """The files of committed stores that no descriptor names, by store."""
    moved: dict[str, tuple[str, str]] = Field(default_factory=dict)
    """The stores that the descriptors which are given would move, each with the file that it has
    and the one that it would get."""
    lost_batches: str | None = None
    """Why every opening is refused where store files show batches that the database has not."""
    data_refused: str | None = None
    """Why opening with those descriptors is refused: what is committed cannot be brought up."""
    move_refused: str | None = None
    """Why opening with those descriptors is refused: what is in the way of a store's new file."""
    edit_refused: str | None = None
    """Why opening with those descriptors is refused: an edit is in the way of bringing data up."""
    remembers_no_store: bool = False
    """Whether the database has no descriptor at all, so that no store file is looked after."""
    sizes: dict[str, int] = Field(default_factory=dict)
    store_sizes: tuple[StoreSize, ...] = ()
    """Looked at where the database is at this rtstore's revision."""
    content_bytes: int | None = None
    """How many bytes of the contents of each store are kept, as remembered; None without a
    limit."""
    newest_batch_at: Timestamp | None = None
    future_files: tuple[str, ...] = ()
    """Store files with a modification time in the future."""
    verdict: str | None = None
    """The verdict of `rtstore status`; None when it cannot be computed."""
    newer_batches: str | None = None
    """What a program of the legacy format has committed, which only its control files know."""
    next: tuple[Suggestion, ...] = ()
    """The next steps that `rtstore status` suggests."""
