"""Decide what a runtime has to do at its start: a pure function of what was read.

The questions come in this order: refuse, repair, new, resume, take over. The first that is answered
with yes is the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rtstore.model.decide import is_lost, passes_over
from rtstore.model.edits import ForeignEdits
from rtstore.model.records import (
    ActionKind,
    Hindrance,
    HindranceKind,
    InspectionState,
    Manifest,
    ReadinessCheck,
    RecoveryAction,
    RecoveryPlan,
    RunIdentity,
)
from rtstore.model.runs import RunRecord, RunState, StartKind, StartState

_PART = {
    "capability_snapshot_id": "capability snapshot",
    "behavior_fingerprint": "behavior fingerprint",
}

_REBUILDS = (
    ActionKind.REBUILD_FROM_PROVIDER,
    ActionKind.REBUILD_FROM_CANONICAL_DESTINATION,
    ActionKind.RERUN_CAPABILITY_DISCOVERY,
)
_FOR_THE_RUNTIME = (*_REBUILDS, ActionKind.BLOCK_READINESS)
"""What recovery does not do alone."""
_OF_FILES = (ActionKind.RESTORE_COMMITTED, ActionKind.QUARANTINE)
"""What recovery does where a file is wrong, and not what is committed."""

# What stops no start, and who starts should know of some stores.
_REPLACING = (
    "nothing is committed for {}, and the database does not have what is in the file: writing the "
    "store moves it to quarantine, adopting the store keeps it, if it is valid"
)
_STALE = (
    "still bound to another identity: {}; a write of such a store, or a new run that keeps it, "
    "takes it over"
)
_NOT_UPGRADED = (
    "the data of {} is of an older schema version, and was not upgraded when the store was opened: "
    "it can be read and written over, and not updated or kept"
)
_REFUSED = "what is committed for {} is refused, and left out"
_LOOK_FIRST = (
    "look first: what is in the file of {} differs, and says that it was written after the last "
    "batch that the database knows. If nobody edited it, the database is a copy from before, or "
    "its WAL is spoiled or did not come along, and batches that were acknowledged are missing in "
    "it. A person must put the newer database, its WAL or a back-up in its place, or decide which "
    "counts: rtstore status says how"
)
_LINK = "the file of {} is a symbolic link, or behind one, and left out"
_CLOSED = "the file of {} cannot be read, and is left out: rtstore doctor says what opens it"
_FILE_REFUSED = "the file of {} is refused, and left out: a recovery puts it aside"
_LOST = (
    "the file of {} and what was committed are gone, and it is left out: its next write makes it "
    "anew"
)
_ADOPTED = (
    "somebody edited the file of {}, and this store adopts it when the store is next read, changed "
    "or kept"
)
_IGNORED = "somebody edited the file of {}, and for this store what is committed counts"


def start_state(
    *,
    run_id: str | None,
    identity: RunIdentity | None,
    known: RunRecord | None,
    last: RunRecord | None,
    process_alive: bool | None,
    is_own: bool,
    manifest: Manifest,
    plan: RecoveryPlan,
    readiness: ReadinessCheck,
    hindrances: Sequence[Hindrance],
    edits: ForeignEdits = ForeignEdits.RAISE,
    not_adoptable: Mapping[str, str] = {},
    behind_edits: Mapping[str, RecoveryAction] = {},
    diagnostic: Collection[str] = (),
    links: Collection[str] = (),
    closed: Collection[str] = (),
    not_upgraded: Sequence[str] = (),
    failed: Mapping[tuple[str, str], str] = {},
) -> StartState:
    """Return what a runtime has to do.

    `run_id` is the run that is about to start, with its whole `identity` if that is known, and
    `known` its record. `last` is the active run, or the last one; `is_own` says whether it is of
    the process that asks. `edits` is what the store does about files that somebody edited, and
    `not_adoptable` says why it cannot adopt the file of a store. Where edits are ignored,
    `behind_edits` has the stores with an edited file of which a read gives nothing: what is
    committed is refused or lost. The action there is what is to be done about that.
    `diagnostic` are the stores that stop no start, `links` those whose file is a symbolic link or
    behind one, `closed` those whose file cannot be read, `not_upgraded` those whose data is of an
    older schema version. `failed` says why the last recovery failed, by the kind and the store of
    an action.
    """
    actions = [behind_edits.get(action.schema_name, action) for action in plan.actions]
    replacing = _to_replace(actions, manifest)
    unwritten = tuple(
        action.schema_name
        for action in actions
        if action.schema_name in replacing
        or (action.reason == InspectionState.MISSING and manifest.entry(action.schema_name) is None)
    )
    edited = _edited(actions, edits, {*not_adoptable, *behind_edits})
    newer = [name for name in plan.newer_stores if name not in edited]
    passed_over = [
        action
        for action in actions
        if action.schema_name in diagnostic and _passes_over(action, manifest)
    ]
    wrong = [
        action
        for action in actions
        if action.kind is not ActionKind.NONE
        and action.schema_name not in (*unwritten, *edited)
        and action not in passed_over
        and plan.stale_store(action.schema_name) is None
    ]
    kind, why = (
        _refuse(identity, known, manifest, wrong, hindrances, newer)
        or _leave_to_a_person(wrong, manifest, links)
        or _repair(wrong, failed, not_adoptable)
        or _begin(run_id, last, manifest, process_alive=process_alive, is_own=is_own)
    )
    if kind not in (StartKind.REFUSE, StartKind.REPAIR):
        for sentence, stores in (
            (_REPLACING, replacing),
            (_STALE, [item.schema_name for item in plan.stale_stores]),
            (_NOT_UPGRADED, not_upgraded),
            *_left_out(passed_over, links, closed),
            (_ADOPTED if edits is ForeignEdits.ADOPT else _IGNORED, edited),
        ):
            if stores:
                why += "; " + sentence.format(", ".join(stores))
    return StartState(
        kind=kind,
        why=why,
        run=last,
        process_alive=process_alive,
        unwritten=unwritten,
        plan=plan,
        readiness=readiness,
    )


def _left_out(
    passed_over: Sequence[RecoveryAction], links: Collection[str], closed: Collection[str]
) -> list[tuple[str, list[str]]]:
    """Return what is said of diagnostic stores that stop no start, each with its stores."""
    sentences = (_REFUSED, _LINK, _CLOSED, _FILE_REFUSED, _LOST)
    stores: dict[str, list[str]] = {sentence: [] for sentence in sentences}
    for action in passed_over:
        if is_lost(action):
            sentence = _LOST
        elif action.schema_name in closed:
            sentence = _CLOSED
        elif action.kind in _OF_FILES:
            sentence = _FILE_REFUSED
        else:
            sentence = _LINK if action.schema_name in links else _REFUSED
        stores[sentence].append(action.schema_name)
    return list(stores.items())


def _passes_over(action: RecoveryAction, manifest: Manifest) -> bool:
    """Return whether an action about a diagnostic store stops no start. One for which nothing is
    committed waits for its first write, unless a link or a newer program is in its way."""
    if manifest.entry(action.schema_name) is not None:
        return passes_over(action, nothing_committed=manifest.high_watermark == 0)
    if action.reason == InspectionState.QUARANTINED:
        return action.kind is ActionKind.BLOCK_READINESS
    return action.reason == InspectionState.FUTURE_SCHEMA


def _edited(
    actions: Sequence[RecoveryAction], edits: ForeignEdits, but_not: Collection[str]
) -> list[str]:
    """Return the stores whose files somebody edited, and that the store deals with itself, if it
    was told to; a recovery would move the edits away."""
    if edits is ForeignEdits.RAISE:
        return []
    return [
        action.schema_name
        for action in actions
        if action.kind is ActionKind.QUARANTINE
        and action.reason == InspectionState.HASH_MISMATCH
        and action.schema_name not in but_not
    ]


def _to_replace(actions: Sequence[RecoveryAction], manifest: Manifest) -> list[str]:
    """Return the stores without an entry whose file somebody else wrote, and that recovery leaves
    to the runtime: its first contents replace the file. None while nothing was ever committed: then
    the files may be all that is left of a database that was lost."""
    if manifest.high_watermark == 0:
        return []
    return [
        action.schema_name
        for action in actions
        if manifest.entry(action.schema_name) is None
        and (
            (action.reason == InspectionState.UNCOMMITTED_WRITE and action.kind in _FOR_THE_RUNTIME)
            or (action.reason == InspectionState.QUARANTINED and action.kind in _REBUILDS)
        )
    ]


def _refuse(
    identity: RunIdentity | None,
    known: RunRecord | None,
    manifest: Manifest,
    wrong: Sequence[RecoveryAction],
    hindrances: Sequence[Hindrance],
    newer: Sequence[str],
) -> tuple[StartKind, str] | None:
    for hindrance in hindrances:
        return StartKind.REFUSE, hindrance.problem + _what_helps(hindrance)
    for action in wrong:
        if action.reason == InspectionState.FUTURE_SCHEMA:
            why = f"{action.schema_name} was written by a newer program: start that one"
            return StartKind.REFUSE, why
    if newer:  # what is said of runs may be of before, too
        return StartKind.REFUSE, _LOOK_FIRST.format(", ".join(newer))
    if known is not None and known.is_over:
        how = f"was superseded by run {known.superseded_by}"
        if known.state is RunState.ENDED:
            how = "ended"
        return StartKind.REFUSE, f"run {known.run_id} {how}: a new start takes a new run id"
    active = manifest.active_identity
    if known is None or identity is None or active is None or active.run_id != identity.run_id:
        return None
    for part, words in _PART.items():
        if getattr(active, part) != getattr(identity, part):
            why = (
                f"run {known.run_id} is active with {words} {getattr(active, part)!r}, not "
                f"{getattr(identity, part)!r}: a new start takes a new run id"
            )
            return StartKind.REFUSE, why
    return None


def _what_helps(hindrance: Hindrance) -> str:
    command, why = hindrance.way.command, hindrance.way.why
    if command is not None:
        return f". Run: {command}"
    is_for_a_person = hindrance.kind in (HindranceKind.OWNER, HindranceKind.READ_ONLY)
    return f". What helps: {why}" if is_for_a_person else ""


def _leave_to_a_person(
    wrong: Sequence[RecoveryAction], manifest: Manifest, links: Collection[str]
) -> tuple[StartKind, str] | None:
    """Refuse where a recovery would leave a store as it is, and say who can do what."""
    for action in wrong:
        if (is_lost(action) and action.kind not in _REBUILDS) or (
            action.kind is ActionKind.BLOCK_READINESS and action.batch_id is None
        ):
            has_entry = manifest.entry(action.schema_name) is not None
            is_link = action.schema_name in links
            why = f"{action.schema_name}: {_left(action, has_entry=has_entry, is_link=is_link)}"
            return StartKind.REFUSE, why
    return None


def _left(action: RecoveryAction, *, has_entry: bool, is_link: bool) -> str:
    if is_link:
        return (
            "its file is a symbolic link, or behind one, and a person must decide which file is "
            "good (rtstore status has the commands)"
        )
    if has_entry and action.reason == InspectionState.QUARANTINED:
        return (
            "what is committed does not pass this program's model. Give the model a new "
            "schema_version and an upgrade, write the store anew in a batch (or in the beginning "
            "of a new run), or go back to an older version (rtstore revert)"
        )
    if has_entry:
        return (
            "its file is gone, and its committed content is not in the database: nothing puts "
            "it back. Restore a back-up, write the store anew in a batch (or in the beginning of a "
            "new run), or look for the file in quarantine (rtstore quarantine), and adopt it"
        )
    if action.reason == InspectionState.UNCOMMITTED_WRITE:
        return (
            "nothing was ever committed, but there is a file of it, which may be all that is left "
            "of a lost database. Restore a back-up, make a database of the files (rtstore "
            "rebuild), or move the file away"
        )
    return f"recovery does not put it right ({action.reason})"


def _repair(
    wrong: Sequence[RecoveryAction],
    failed: Mapping[tuple[str, str], str],
    not_adoptable: Mapping[str, str],
) -> tuple[StartKind, str] | None:
    if not wrong:
        return None
    by_rebuilding = dict.fromkeys(item.schema_name for item in wrong if item.kind in _REBUILDS)
    others = dict.fromkeys(item.schema_name for item in wrong if item.kind not in _REBUILDS)
    told = [f"recover first: {', '.join(others)}"] if others else []
    if by_rebuilding:
        told.append(f"recover with a rebuilder of the runtime: {', '.join(by_rebuilding)}")
    told += [
        f"the edit of {name} cannot be adopted: {not_adoptable[name]}"
        for name in others
        if name in not_adoptable
    ]
    causes = (failed.get((item.kind, item.schema_name)) for item in wrong)
    told += [f"the last recovery failed there: {cause}" for cause in causes if cause is not None]
    return StartKind.REPAIR, "; ".join(told)


def _begin(
    run_id: str | None,
    last: RunRecord | None,
    manifest: Manifest,
    *,
    process_alive: bool | None,
    is_own: bool,
) -> tuple[StartKind, str]:
    if manifest.high_watermark == 0:
        return StartKind.NEW, "nothing was ever committed: begin a run with the first contents"
    if last is None:
        return StartKind.TAKE_OVER, "the state belongs to no run: begin one, and keep what is good"
    how = _how(last, process_alive=process_alive, is_own=is_own)
    if last.state is not RunState.ACTIVE or last.run_id != run_id:
        return StartKind.TAKE_OVER, f"the state is that of run {last.run_id}, which {how}"
    if process_alive and not is_own:
        pid = "" if last.process is None else f" {last.process.pid}"
        why = "resume it only as one more process of the same runtime"
        return StartKind.RESUME, f"run {run_id} is active, and its process{pid} is alive: {why}"
    return StartKind.RESUME, f"run {run_id} is active: resume it"


def _how(last: RunRecord, *, process_alive: bool | None, is_own: bool) -> str:
    if last.state is not RunState.ACTIVE:
        return f"ended ({last.ending}{f': {last.why}' if last.why else ''})"
    if process_alive is None:
        return "never ended; whether its process lives is not known"
    if is_own:
        return "is active in this process"
    pid = "" if last.process is None else f" {last.process.pid}"
    if process_alive:
        return f"is active, and its process{pid} is alive: it must stop first, or be superseded"
    return f"never ended, but its process{pid} is gone"
