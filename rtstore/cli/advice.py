"""Suggests what to run next, after a diagnosis: pure, from a plan and a readiness check."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rtstore.cli.obstacles import Obstacle, ObstacleKind
from rtstore.cli.run_words import differences, end_of
from rtstore.files.paths import move_aside_command, replace_link_command
from rtstore.maintenance.suggestions import (
    LaunchState,
    about_descriptors,
    rebuild_command,
    rebuild_with_descriptors,
    two_teams,
)
from rtstore.model.decide import ENTRY_ALTERED, ENTRY_MISSING, OF_ENTRY
from rtstore.model.descriptors import LAUNCH_STATE
from rtstore.model.records import (
    ActionKind,
    Hindrance,
    InspectionState,
    ReadinessCheck,
    Record,
    RecoveryAction,
    RecoveryPlan,
)
from rtstore.model.runs import RunRecord
from rtstore.shell import shell_word

if TYPE_CHECKING:
    from rtstore.legacy import NewerBatches

_REBUILDS = (
    ActionKind.REBUILD_FROM_PROVIDER,
    ActionKind.REBUILD_FROM_CANONICAL_DESTINATION,
    ActionKind.RERUN_CAPABILITY_DISCOVERY,
)


_OF_PERMISSION = (ObstacleKind.OWNER, ObstacleKind.MODE)
_OF_SOMEBODY = (InspectionState.HASH_MISMATCH, InspectionState.UNCOMMITTED_WRITE)


_START = (
    "start the runtime, whose first batch writes the stores (RuntimeStore.begin_run, or "
    "write_batch)"
)


class NextStep(Record):
    """One thing to do, and what it does. `command` is None where the runtime must act."""

    command: str | None
    why: str


def next_steps(
    directory: Path,
    plan: RecoveryPlan,
    check: ReadinessCheck,
    *,
    high_watermark: int,
    committed: Mapping[str, str],
    paths: Mapping[str, str] = {},
    rebuild: NextStep | None = None,
    unknown: str | None = None,
    obstacles: Sequence[Obstacle] = (),
    hindrances: Sequence[Hindrance] = (),
    newer_files: Sequence[str] = (),
    details: Mapping[str, str] | None = None,
    expected_run: RunRecord | None = None,
    living: str | None = None,
    knows_run: bool = True,
    not_adoptable: Mapping[str, str] | None = None,
    launched_run: str | None = None,
    newer_batches: NewerBatches | None = None,
    over_again: str | None = None,
    kept_of_deleted: Mapping[str, str] | None = None,
    undo: NextStep | None = None,
) -> tuple[NextStep, ...]:
    """Return the steps that resolve a plan, in order; empty when there is nothing to do.

    What would end as it did before is not advised again: where an obstacle is in the way of a
    store, that goes first, and by whoever can. `committed` has the stores for which something is
    committed, each with the file that it was written to; `paths` the files that stores have now.
    `details` says what was found in a file, by store.
    `newer_files` say that they were written after the last batch that the database knows.
    `rebuild` is the advice for files that a database without any batch knows nothing of, and
    `unknown` says what takes those of which it knows not even the stores.
    `expected_run` is the run of the expected identity, if it ever began. `living` is the process of
    the active run, if it is alive. Without `knows_run` an adopted file has no run to belong to, so
    that somebody must name one. `not_adoptable` says why a file cannot be adopted as it is, by
    store. `launched_run` is the run that the file of the launch state names, if its adoption begins
    it: under another run it would contradict the manifest. `newer_batches` are those that only the
    control files of the legacy format know.
    `over_again` is the command that takes control files of the legacy format over again
    which were changed since the import. `kept_of_deleted` has the stores that were deleted and have
    a version that can be brought back, each with the point in time of the last one. `undo`
    takes back what a person put in, where that is why the stores contradict each other.
    """
    whole = [_step(item) for item in hindrances if item.schema_name is None]
    if whole:
        return tuple(whole)
    if rebuild is not None and any(
        action.reason == InspectionState.UNCOMMITTED_WRITE for action in plan.actions
    ):
        return (*_first(unknown), rebuild)
    cleared = {it.schema_name for it in obstacles if it.kind in _OF_PERMISSION}
    in_the_way = {it.schema_name for it in hindrances} | {it.schema_name for it in obstacles}
    free = [action for action in plan.actions if action.schema_name not in in_the_way]
    then = [action for action in plan.afterwards if action.schema_name not in in_the_way]
    steps = [
        *_newer_files(free, details or {}),
        *_keep_changes(
            directory,
            free,
            high_watermark,
            option="" if knows_run else " --run-id RUN",
            not_adoptable=not_adoptable or {},
            launched_run=launched_run if knows_run else None,
        ),
        *_recover(directory, free, then, high_watermark, committed, paths, newer_batches),
    ]
    if newer_batches is not None:
        steps = _of_the_old_program(directory, newer_batches, steps)
    elif over_again is not None and any(action.reason in _OF_SOMEBODY for action in free):
        steps.insert(0, _control_files_changed(over_again))
    elif newer_files:
        steps.insert(0, _batches_may_be_missing(newer_files, free))
    clearing = [step for obstacle in obstacles for step in _clear(directory, obstacle)]
    told = {step.command for step in clearing} - {None}
    hindering = [_step(item) for item in hindrances if item.schema_name not in cleared]
    steps += [*dict.fromkeys(step for step in hindering if step.command not in told), *clearing]
    if not steps and high_watermark == 0:
        if check.ok:
            return ()
        return (_start(unknown),)
    steps += _for_the_runtime(directory, free, details or {}, kept_of_deleted or {})
    steps += _for_another_run(plan, {action.schema_name for action in free}, expected_run, living)
    if not steps:
        steps += _for_the_runtime_too(directory, free, kept_of_deleted or {})
    contradictions = len(check.diagnostics) - len(plan.diagnostics) - len(hindrances)
    if not check.ok and contradictions > 0:
        why = "the stores contradict each other: the runtime must write a batch that settles it"
        steps += [NextStep(command=None, why=why), *([undo] if undo else [])]
    return tuple(steps)


def steps_of_backup(directory: Path, *, is_as_made: bool, is_whole: bool) -> tuple[NextStep, ...]:
    """Return the step for a back-up that is not as it was made: nothing is put right in it."""
    if is_as_made and is_whole:
        return ()
    what = "it is a back-up, in which no command puts anything right"
    if not is_as_made:
        what = "it was made as a back-up, and was written to since, so that no restore takes it"
    command = f"rtstore doctor {shell_word(directory)}"
    return (NextStep(command=command, why=f"{what}: this says the ways out"),)


def _step(hindrance: Hindrance) -> NextStep:
    return NextStep(command=hindrance.way.command, why=hindrance.way.why)


def _recover(
    directory: Path,
    actions: Iterable[RecoveryAction],
    afterwards: Sequence[RecoveryAction],
    high_watermark: int,
    committed: Mapping[str, str],
    paths: Mapping[str, str],
    newer_batches: NewerBatches | None,
) -> list[NextStep]:
    """Return the recovery, where it changes something. Where nothing was ever committed, only an
    open batch makes one: the runtime's first batch does the rest. `afterwards` is what it puts back
    once entries are right."""
    parts = []
    imported = _batches(actions, closed=True)
    if imported:
        parts.append(f"closes {imported} as failed, imported unfinished")
    batches = _batches(actions, closed=False)
    if batches:
        parts.append(f"brings {batches} to its end")
    parts += _of_entries(actions, afterwards)
    committed = {**{it.schema_name: paths[it.schema_name] for it in afterwards}, **committed}
    actions = [*(action for action in actions if action.reason not in OF_ENTRY), *afterwards]
    known = [action for action in actions if action.schema_name in committed]
    moving = [
        action
        for action in known
        if action.reason == InspectionState.MISSING
        and paths.get(action.schema_name) not in (None, committed[action.schema_name])
    ]
    written = _names(moving, ActionKind.RESTORE_COMMITTED)
    if written:
        parts.append(
            f"writes {written} to the file that it has now: an edit of the former one, if there is "
            "one, which is decided upon then, or else what is committed"
        )
    restored = _names([it for it in known if it not in moving], ActionKind.RESTORE_COMMITTED)
    if restored:
        parts.append(f"puts the committed content of {restored} back")
    others = [action for action in actions if action.schema_name not in committed]
    removed = _names(others, ActionKind.RESTORE_COMMITTED)
    if removed:
        parts.append(f"removes the file of {removed}: nothing is committed, and a batch wrote it")
    moved = _names(_with_a_file(actions), ActionKind.QUARANTINE)
    if moved and high_watermark:
        parts.append(f"moves the files of {moved} into quarantine")
    if not parts:
        return []
    command = f"rtstore recover {shell_word(directory)}"
    gives_up = "or this, which puts what was committed before over it"
    first = [] if newer_batches is None else [gives_up]
    return [NextStep(command=command, why="; ".join([*first, *parts]))]


def _of_entries(
    actions: Iterable[RecoveryAction], afterwards: Iterable[RecoveryAction]
) -> list[str]:
    """Return what a recovery does about entries. What it does about their files afterwards is said
    with that of other files."""
    touched = {action.schema_name for action in afterwards}
    said = {
        ENTRY_MISSING: "makes the entries of {} in the manifest again, as the last batches that "
        "wrote them left them: somebody took them out by hand",
        ENTRY_ALTERED: "puts the entries of {} in the manifest right, as their batches wrote them: "
        "somebody altered them",
    }
    parts = []
    for reason, words in said.items():
        found = [action for action in actions if action.reason == reason]
        if found:
            alone = not any(action.schema_name in touched for action in found)
            names = _names(found, ActionKind.RESTORE_COMMITTED)
            parts.append(words.format(names) + (". No file is touched for that" if alone else ""))
    return parts


def _of_the_old_program(
    directory: Path, newer: NewerBatches, steps: Sequence[NextStep]
) -> list[NextStep]:
    """Return the steps where a program of the legacy format has committed batches of its own. Once
    the files hold what the database has, all that is left is to write the control files anew."""
    lost = ", ".join(newer.not_in_files)
    if lost and not steps:
        why = (
            f"{newer.said}. The files of {lost} hold something else by now, such as what a "
            "recovery put back (what it moved away: rtstore quarantine list "
            f"{shell_word(directory)}). This {newer.give_up.why}"
        )
        return [NextStep(command=newer.give_up.command, why=why)]
    but = f". It does not find what {lost} had: the files hold something else" if lost else ""
    why = f"first, {newer.said}. This {newer.take_over.why}{but}"
    give_up = NextStep(command=newer.give_up.command, why=f"or this, which {newer.give_up.why}")
    return [NextStep(command=newer.take_over.command, why=why), *(steps or [give_up])]


def _batches(actions: Iterable[RecoveryAction], *, closed: bool) -> str:
    """Return the batches that a recovery closes, because their contents were never logged, or that
    it completes or undoes."""
    return ", ".join(
        dict.fromkeys(
            action.batch_id
            for action in actions
            if action.batch_id and (action.kind is ActionKind.BLOCK_READINESS) is closed
        )
    )


def rebuild_of_files(directory: Path, team_name: str, launch: LaunchState) -> NextStep:
    """Return the step for store files of which the database has no batch."""
    undecided = two_teams(directory, team_name, launch)
    if undecided is not None:
        why = f"{undecided}. The database knows of no batch: nothing of it is lost by that"
        return NextStep(command=None, why=why)
    return NextStep(
        command=rebuild_command(directory, launch),
        why="makes a new database of the store files: this one knows of no batch, so it is a new "
        "one or its WAL did not come along. Rather a back-up, where there is one. A runtime that "
        "goes on without either begins anew, and its first batch replaces the files",
    )


def rebuild_of_unknown(
    directory: Path, team_name: str, launch: LaunchState, files: Sequence[str]
) -> str | None:
    """Return what takes store files of which the database has no batch, nor even the stores: only
    the runtime can say whether they are its. None where a person must say whose state it is."""
    if two_teams(directory, team_name, launch) is not None:
        return None
    more = f" (and {len(files) - 3} more)" if files[3:] else ""
    run = rebuild_with_descriptors(directory, launch, team_name=team_name)
    return (
        f"the database does not know whose these store files are: {', '.join(files[:3])}{more}. A "
        f"runtime whose stores have these files is refused, and this takes them: {run} "
        f"({about_descriptors(directory, team_name=team_name)})"
    )


def _first(unknown: str | None) -> list[NextStep]:
    return [] if unknown is None else [NextStep(command=None, why=f"first, {unknown}")]


def _start(unknown: str | None) -> NextStep:
    """Return the step where nothing was ever committed, and nothing is to be put right."""
    if unknown is None:
        return NextStep(command=None, why=f"nothing is committed yet: {_START}")
    why = f"nothing is committed yet, and {unknown}. If they are of nobody, {_START}"
    return NextStep(command=None, why=why)


def _control_files_changed(over_again: str) -> NextStep:
    return NextStep(
        command=None,
        why="look first: the control files of the legacy format were changed after the import, "
        "perhaps by a runtime of the old kind that wrote these files. To take over what it wrote, "
        f"stop what uses the store: {over_again} (what was written here since stays in the "
        "database that is moved aside). Else a recovery moves its files into quarantine",
    )


def _batches_may_be_missing(newer_files: Sequence[str], free: Sequence[RecoveryAction]) -> NextStep:
    """Return the step before all others. While a batch is open, no adoption can be written."""
    is_open = any(action.kind is ActionKind.ROLL_FORWARD for action in free)
    else_then = (
        "have the files adopted: a recovery moves their content into quarantine"
        if not is_open
        else "recover, which finishes the open batch and moves their content into quarantine, and "
        "have that put back (rtstore quarantine restore) and adopted"
    )
    return NextStep(
        command=None,
        why=f"look first: what is in {', '.join(newer_files)} differs, and says that it was "
        "written after the last batch that the database knows. If nobody edited it, the database "
        "is a copy from before, or its WAL (runtime-store.sqlite3-wal) is spoiled or did not come "
        "along, and batches that were acknowledged are missing in it. Then stop the runtime, and "
        "put the newer database or the WAL in its place, or a back-up. Where there is none, "
        f"{else_then}",
    )


def _clear(directory: Path, obstacle: Obstacle) -> list[NextStep]:
    """Return the steps that remove an obstacle. The advice is another afterwards."""
    name, path = obstacle.schema_name, shell_word(obstacle.path)
    again = f"rtstore recover {shell_word(directory)}"
    match obstacle.kind:
        case ObstacleKind.LINK if obstacle.target is not None:
            is_folder = obstacle.path != obstacle.store_path
            what = f"{path} is on the way to {name}, and" if is_folder else f"{name} is"
            return [
                NextStep(
                    command=replace_link_command(obstacle.path, is_folder=is_folder),
                    why=f"{what} a symbolic link, which is never followed nor replaced: this "
                    f"puts what it leads to, {obstacle.target}, in its place",
                ),
                NextStep(
                    command=f"rm {path}",
                    why=f"or this, if only what is committed counts; {again} puts it back then",
                ),
            ]
        case ObstacleKind.LINK:
            why = f"{name} is, or is behind, a symbolic link that leads nowhere: this removes it"
            return [
                NextStep(command=f"rm {path}", why=f"{why}; {again} puts back what is committed")
            ]
        case ObstacleKind.NO_FOLDER | ObstacleKind.RUNTIME_DIRECTORY:
            what = f"in place of a folder of {name}"
            if obstacle.kind is ObstacleKind.RUNTIME_DIRECTORY:
                what = f"in place of {name}, and is another runtime directory, or holds one"
            return [
                NextStep(
                    command=move_aside_command(obstacle.path),
                    why=f"{path} is {what}: this moves it away. Then: {again}",
                )
            ]
        case ObstacleKind.OWNER if obstacle.way is not None:
            why = f"{path} belongs to somebody else, and this user cannot change it: this "
            return [
                NextStep(
                    command=obstacle.way.command, why=f"{why}{obstacle.way.why}. Then: {again}"
                )
            ]
        case ObstacleKind.MODE if obstacle.path == obstacle.store_path:
            why = (
                f"the file of {name} cannot be read, so that nobody knows whether it is what is "
                "committed: this lets its owner read it. Then look again: "
                f"rtstore status {shell_word(directory)}"
            )
            return [NextStep(command=f"chmod u+rw {path}", why=why)]
        case ObstacleKind.READ_ONLY:
            why = (
                f"a person must mount {path} for writing first: what the file of {name} holds is "
                f"kept there. Then: {again}"
            )
        case ObstacleKind.MODE:
            why = (
                f"{path}, which is needed for {name}, is closed to its owner: this opens it. "
                f"Then look again: rtstore status {shell_word(directory)}"
            )
            return [NextStep(command=f"chmod u+rwx {path}", why=why)]
        case _:
            detail = (obstacle.detail or "").removesuffix(".")
            why = (
                f"a person must see to {name}, unless somebody has by now: the last recovery could "
                f"not help it: {detail}. Then: {again}"
            )
    return [NextStep(command=None, why=why)]


def _keep_changes(
    directory: Path,
    actions: Iterable[RecoveryAction],
    high_watermark: int,
    *,
    option: str,
    not_adoptable: Mapping[str, str],
    launched_run: str | None,
) -> Iterator[NextStep]:
    """Yield how a file that differs is kept. `option` is what a person must add to the command."""
    found = {
        action.schema_name: (
            f"only if the file of {action.schema_name} is to be kept, though nothing is committed",
            f"makes it the truth. {_who_takes_it_away(action)} otherwise",
        )
        for action in actions
        if action.reason == InspectionState.UNCOMMITTED_WRITE and high_watermark
    }
    found |= {
        action.schema_name: (
            f"first, only if the changed file of {action.schema_name} is to be kept",
            "makes it the truth",
        )
        for action in actions
        if action.kind is ActionKind.QUARANTINE and action.reason == InspectionState.HASH_MISMATCH
    }
    if launched_run is not None and LAUNCH_STATE in found:
        when, effect = found[LAUNCH_STATE]
        effect = f"{effect}, and begins the run that it names, {launched_run}"
        found[LAUNCH_STATE] = when, effect
    for name, (when, effect) in found.items():
        command = f"rtstore adopt {shell_word(directory)} {shell_word(name)}{option}"
        if name == LAUNCH_STATE and launched_run is not None:
            command += f" --run-id {shell_word(launched_run)}"
        if name in not_adoptable:
            why = (
                f"{when}: a person must correct it, for it cannot be adopted as it is: "
                f"{not_adoptable[name]}. Then: {command}"
            )
            yield NextStep(command=None, why=why)
        elif option:
            why = f"{when}: {command}, with the run that it belongs to, {effect}"
            yield NextStep(command=None, why=why)
        else:
            yield NextStep(command=command, why=f"{when}: {effect}")


def _who_takes_it_away(action: RecoveryAction) -> str:
    """Return what becomes of a file for which nothing is committed."""
    if action.kind is ActionKind.RESTORE_COMMITTED:
        return "A recovery, or an opening, removes it"
    return "The runtime's next batch replaces it"


def _newer_files(actions: Iterable[RecoveryAction], details: Mapping[str, str]) -> list[NextStep]:
    """Files that are newer than what is committed, and that a recovery would move away."""
    return [
        NextStep(
            command=None,
            why=f"first, only if the file of {name} is to be kept: start the newer program that "
            f"wrote it ({details.get(name, 'no more is known')}) with foreign_edits='adopt' of "
            "RuntimeStore.open, which commits the file; or with upgrade=False, and "
            f"RuntimeStore.adopt({name!r}). By default it stops at the file, too. A recovery "
            "moves it into quarantine, from where rtstore quarantine restore brings it back",
        )
        for name in dict.fromkeys(
            action.schema_name
            for action in actions
            if action.kind is ActionKind.QUARANTINE
            and action.reason == InspectionState.FUTURE_SCHEMA
        )
    ]


def _for_the_runtime_too(
    directory: Path, actions: Iterable[RecoveryAction], kept_of_deleted: Mapping[str, str]
) -> list[NextStep]:
    """Return the steps for stores that cannot be restored and that no strategy rebuilds."""
    lost = [action for action in actions if action.kind is ActionKind.QUARANTINE]
    return _must_write(directory, lost, kept_of_deleted)


def _must_write(
    directory: Path, lost: Sequence[RecoveryAction], kept_of_deleted: Mapping[str, str]
) -> list[NextStep]:
    """Return the steps for stores that the runtime must write. One that was deleted may come back
    from its history, where no other file is in its place."""
    if not lost:
        return []
    back = [
        action.schema_name
        for action in lost
        if action.reason == InspectionState.MISSING and action.schema_name in kept_of_deleted
    ]
    names = ", ".join(dict.fromkeys(action.schema_name for action in lost))
    why = "there is nothing to put back" if not back else "nothing is committed"
    return [
        NextStep(command=None, why=f"the runtime must write {names}: {why}"),
        *(
            NextStep(
                command=f"rtstore revert {shell_word(directory)} {shell_word(name)} "
                f"--to {shell_word(kept_of_deleted[name])}",
                why=f"or this, which writes {name} again as it was before it was deleted",
            )
            for name in back
        ),
    ]


def _for_the_runtime(
    directory: Path,
    actions: Iterable[RecoveryAction],
    details: Mapping[str, str],
    kept_of_deleted: Mapping[str, str],
) -> list[NextStep]:
    actions = list(actions)
    steps = []
    rebuilt = _names(actions, *_REBUILDS)
    if rebuilt:
        own = dict.fromkeys(action.rebuilder for action in actions if action.rebuilder)
        of = f" for {', '.join(own)}" if own else ""
        why = f"start the runtime: it rebuilds {rebuilt} (RuntimeStore.recover with rebuilders{of})"
        steps.append(NextStep(command=None, why=why))
    blocked = [
        action
        for action in actions
        if action.kind is ActionKind.BLOCK_READINESS and action.batch_id is None
    ]
    for action in blocked:
        detail = details.get(action.schema_name, "no more is known")
        if action.reason == InspectionState.FUTURE_SCHEMA:
            why = (
                f"start the newer program: what is committed of {action.schema_name} is its "
                f"({detail}), and is never replaced by an older one"
            )
            steps.append(NextStep(command=None, why=why))
        elif action.reason == InspectionState.QUARANTINED:
            why = (
                f"the runtime must write {action.schema_name} again, or accept its data: what is "
                f"committed does not pass its model ({detail})"
            )
            steps.append(NextStep(command=None, why=why))
    lost = [
        action
        for action in blocked
        if action.reason in (InspectionState.MISSING, InspectionState.UNCOMMITTED_WRITE)
    ]
    return [*steps, *_must_write(directory, lost, kept_of_deleted)]


def _for_another_run(
    plan: RecoveryPlan,
    names: Collection[str],
    expected_run: RunRecord | None,
    living: str | None,
) -> list[NextStep]:
    """Return the steps for stores that are of another run identity than the expected one."""
    stale = [store for store in plan.stale_stores if store.schema_name in names]
    if stale and expected_run is not None and expected_run.is_over:
        run_id, end = expected_run.run_id, end_of(expected_run)
        why = (
            f"start the runtime under a new run id: run {run_id} is {expected_run.state} ({end}), "
            "and its id is not used again"
        )
        return [NextStep(command=None, why=why)]
    steps = []
    for item in differences(stale):
        stores = ", ".join(item.names)
        why = (
            f"the runtime must write {stores} under {item.expected}, not {item.found} (a batch, or "
            "RuntimeStore.recover with rebuilders)"
        )
        if expected_run is None:
            why = (
                f"start the expected run, {item.expected}: when it begins, it takes over {stores} "
                f"from {item.found} (RuntimeStore.begin_run)"
            )
            if living is not None:
                why += f". First stop {living}, which is alive, or have it superseded"
        steps.append(NextStep(command=None, why=why))
    return steps


def _with_a_file(actions: Iterable[RecoveryAction]) -> list[RecoveryAction]:
    return [action for action in actions if action.reason != InspectionState.MISSING]


def _names(actions: Iterable[RecoveryAction], *kinds: ActionKind) -> str:
    names = dict.fromkeys(action.schema_name for action in actions if action.kind in kinds)
    return ", ".join(names)
