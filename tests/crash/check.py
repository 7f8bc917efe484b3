"""The one check that every trial ends with: is the directory what the callers were promised?

Open it (which recovers), hold it against the ledger, open it again (which must change nothing),
write a further batch, and hold it against the ledger once more. What was found to go well in an
earlier trial, from a directory and with a ledger that are the same, is left out (`Passed`): what
comes after the first closing, or all of it where the caller itself had closed the store.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rtstore import (
    DATABASE_NAME,
    ActionKind,
    Batch,
    BatchState,
    Manifest,
    Retention,
    RuntimeStore,
)
from rtstore.model.times import utc_now
from tests.crash.client import FILES, STORES, TEAM, Caller, holds
from tests.crash.ledger import Broken, Escaped, Foreign, Ledger, Note, Outcome, Refused
from tests.crash.runs import problems_of_runs
from tests.crash.sameness import OURS, Passed, Sight, damage_through, look_at, names_below
from tests.crash.scenarios import Scenario


def check(
    directory: Path,
    ledger: Ledger,
    scenario: Scenario,
    *,
    whole: bool = True,
    passed: Passed | None = None,
    closed: bool = False,
) -> list[str]:
    """Everything that is wrong with a directory after a crash; changes it. With `whole` each store
    file must be one whole version even before the store is opened. `passed` is what passed in the
    trials before; where the store was `closed`, the directory itself may be the same as one."""
    if passed is None or not closed:
        return _check(directory, ledger, scenario, whole=whole, passed=passed)
    seen = look_at(directory, in_depth=True)
    place = passed.place(seen, ledger, "closed")
    if place in passed:
        return list(seen.damage)
    problems = _check(directory, ledger, scenario, whole=whole, passed=passed)
    if place and not problems:
        passed.add(place)
    return problems


def _check(
    directory: Path, ledger: Ledger, scenario: Scenario, *, whole: bool, passed: Passed | None
) -> list[str]:
    problems = list(ledger.problems)
    if whole and not scenario.torn_before:
        problems += torn_files(directory, ledger)
    if ledger.opened and not (directory / DATABASE_NAME).exists():
        problems.append("a store was opened, and its database is gone")
    notes: list[Note] = []
    clock = utc_now if passed is None else passed.clock(later=2)
    caller = Caller(directory, "further", notes.append, options=scenario.options, clock=clock)
    try:
        store = caller.open()
        for note in notes:
            ledger.add(note)
        notes.clear()
        problems += audit(store, ledger, scenario)
        if whole and not scenario.torn_before:
            problems += _needless(store, ledger, scenario)
        caller.close()
        before = look_at(directory, in_depth=passed is not None)
        problems += before.damage
        place = None if passed is None or problems else passed.place(before, ledger, "opened")
        if not (passed and place in passed):
            problems += _open_again(caller, before, ledger, scenario, notes)
        if passed and place and not problems:
            passed.add(place)
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    finally:
        caller.close()
    return problems


def _open_again(
    caller: Caller, before: Sight, ledger: Ledger, scenario: Scenario, notes: list[Note]
) -> list[str]:
    """Opening it once more does nothing, and the store is of use."""
    store, problems = caller.open(), []
    if store.last_recovery is not None:
        problems.append(f"opening it again found something to do: {store.last_recovery.steps}")
    if before.contents != look_at(store.directory).contents:
        problems.append("opening it again changed something")
    problems += _go_on(caller, store, ledger, scenario, notes)
    caller.close()
    return problems + _damage(store.directory)


def _go_on(
    caller: Caller, store: RuntimeStore, ledger: Ledger, scenario: Scenario, notes: list[Note]
) -> list[str]:
    """A further batch works, and so does a call that is repeated under its id."""
    if scenario.recover_first:
        caller.recover()
    for intent in list(ledger.intents.values()):
        refused = ledger.refused.get(intent.batch_id)
        if intent.id_given and (refused is None or refused.outcome is not Outcome.FAILED):
            first = ledger.told.get(intent.batch_id)
            caller.repeat(intent)
            again = store.batch(intent.batch_id)
            if again is None or again.state is not BatchState.COMMITTED:
                notes.append(Broken(f"{intent.batch_id} was repeated, and is not there"))
            elif first is not None and again != first:
                notes.append(Broken(f"{intent.batch_id} was repeated, and is another: {again}"))
    caller.take_part()
    caller.write(*STORES)
    for note in notes:
        ledger.add(note)
    problems = [
        note.problem if isinstance(note, Broken) else f"a further call: {note.error}"
        for note in notes
        if isinstance(note, (Broken, Escaped, Refused))
    ]
    problems += audit(store, ledger, scenario, in_place=False)
    plan = store.plan_recovery(expected=caller.identity)
    if not plan.manifest_healthy:
        problems.append(f"after a further batch the plan is {plan.actions}")
    return problems


# --- the audit ----------------------------------------------------------------------------------


def audit(
    store: RuntimeStore, ledger: Ledger, scenario: Scenario, *, in_place: bool = True
) -> list[str]:
    """Hold an open store against the ledger. `in_place`: what somebody left in a store file may
    still be there, untouched; otherwise it was overwritten by now."""
    batches = {batch.batch_id: batch for batch in store.batches()}
    committed = sorted(
        (batch for batch in batches.values() if batch.state is BatchState.COMMITTED),
        key=lambda batch: batch.high_watermark or 0,
    )
    manifest = store.manifest()
    problems = [
        *_lost_batches(batches, ledger, scenario),
        *_half_batches(batches, ledger),
        *_order(committed, scenario),
        *_manifest(manifest, committed, ledger, scenario),
        *problems_of_runs(store.runs(), committed, ledger),
    ]
    problems += _contents(store, committed, ledger)
    problems += _files(store.directory, manifest, ledger, in_place=in_place)
    problems += _quarantined(store, committed, ledger, scenario, in_place=in_place)
    problems += _strays(store.directory, scenario)
    if in_place:
        problems += _plan(store, manifest, ledger)
    return problems


def _lost_batches(batches: dict[str, Batch], ledger: Ledger, scenario: Scenario) -> Iterator[str]:
    """Every acknowledged batch is there, as it was told; every error kept its promise."""
    for batch in ledger.told.values():
        found = batches.get(batch.batch_id)
        if found is None and not _pruned(batch.batch_id, batches, ledger, scenario):
            yield f"acknowledged batch {batch.batch_id} is lost"
        elif found is not None and found != batch:
            yield f"batch {batch.batch_id} was told as {batch}, and is {found}"
    for refused in ledger.refused.values():
        found = batches.get(refused.batch_id)
        state = None if found is None else found.state
        fits = {
            Outcome.FAILED: state is BatchState.FAILED,
            Outcome.DECIDED: state is BatchState.COMMITTED,
            Outcome.UNDECIDED: state in (BatchState.COMMITTED, BatchState.FAILED, None),
            Outcome.NOTHING: state is None,
        }
        pruned = found is None and _pruned(refused.batch_id, batches, ledger, scenario)
        if refused.batch_id not in ledger.told and not (pruned or fits[refused.outcome]):
            yield f"batch {refused.batch_id} is {state}, but was refused as {refused}"


def _pruned(batch_id: str, batches: dict[str, Batch], ledger: Ledger, scenario: Scenario) -> bool:
    """Whether a batch had its turn, so that the retention may have dropped it."""
    asked = list(ledger.intents)
    if scenario.batches_kept is None or batch_id not in asked:
        return False
    later = asked[asked.index(batch_id) + 1 :]
    return sum(other in batches for other in later) >= scenario.batches_kept


def _half_batches(batches: dict[str, Batch], ledger: Ledger) -> Iterator[str]:
    """No batch is open, half there, or invented."""
    for batch in batches.values():
        intent = ledger.intents.get(batch.batch_id)
        if intent is None:
            yield f"batch {batch.batch_id} was never asked for"
        elif batch.state not in (BatchState.COMMITTED, BatchState.FAILED):
            yield f"batch {batch.batch_id} is still {batch.state}"
        elif batch.state is BatchState.COMMITTED:
            there = {
                **{receipt.schema_name: False for receipt in batch.receipts},
                **{deletion.schema_name: True for deletion in batch.deletions},
            }
            asked = {
                name: data is None
                for name, data in intent.writes.items()
                if name in there or not intent.may_leave_out
            }
            if list(there.items()) != list(asked.items()):
                yield f"batch {batch.batch_id} is there in part: {batch}"


def _order(committed: list[Batch], scenario: Scenario) -> Iterator[str]:
    watermarks = [batch.high_watermark or 0 for batch in committed]
    gaps = scenario.batches_kept is None and watermarks != list(range(1, len(watermarks) + 1))
    if gaps or len(set(watermarks)) < len(watermarks):
        yield f"the high watermarks of the committed batches are {watermarks}"
    if sorted(batch.batch_number for batch in committed) != [b.batch_number for b in committed]:
        yield "the batches were not committed in the order in which they were logged"


def _manifest(
    manifest: Manifest, committed: list[Batch], ledger: Ledger, scenario: Scenario
) -> Iterator[str]:
    last = committed[-1] if committed else None
    found = (
        manifest.high_watermark,
        manifest.last_committed_batch_id,
        manifest.last_preparing_batch_id,
        manifest.active_identity,
    )
    expected = (
        0 if last is None else last.high_watermark,
        None if last is None else last.batch_id,
        None,
        None if last is None else ledger.identity_of(last.batch_id),
    )
    if found != expected:
        yield f"the manifest says {found}, not {expected}"
    if manifest.team_name != TEAM:
        yield f"the store is of team {manifest.team_name}"
    if scenario.batches_kept is None and manifest.high_watermark != len(committed):
        yield f"{len(committed)} batches make a high watermark of {manifest.high_watermark}"
    current: dict[str, str | None] = {}
    for batch in committed:
        current |= {receipt.schema_name: receipt.receipt_id for receipt in batch.receipts}
        current |= dict.fromkeys(deletion.schema_name for deletion in batch.deletions)
    for entry in manifest.entries:
        if current.get(entry.schema_name, entry.last_write_receipt_id) != (
            entry.last_write_receipt_id
        ):
            yield f"the entry of {entry.schema_name} is not of the last batch that wrote it"


def _contents(store: RuntimeStore, committed: list[Batch], ledger: Ledger) -> Iterator[str]:
    """What is committed for each store is what the last committed batch was to write."""
    present = {batch.batch_id for batch in committed}
    pruned = [batch_id for batch_id in ledger.sure() if batch_id not in present]
    expected: dict[str, Any] = {}
    for batch_id in [*pruned, *(batch.batch_id for batch in committed)]:
        intent = ledger.intents.get(batch_id)
        expected |= {} if intent is None else intent.writes
    snapshot = store.snapshot()
    for name in STORES:
        if snapshot.data(name) != expected.get(name):
            yield f"{name} holds {snapshot.data(name)}, not {expected.get(name)}"


def _files(directory: Path, manifest: Manifest, ledger: Ledger, *, in_place: bool) -> Iterator[str]:
    """Every file is what its entry says, or what somebody else left there."""
    for name, relative_path in FILES.items():
        content = _read(directory / relative_path)
        entry = manifest.entry(name)
        if in_place and content in ledger.foreign_at(relative_path):
            continue
        found = None if content is None else "sha256:" + hashlib.sha256(content).hexdigest()
        expected = None if entry is None else entry.content_hash
        if found != expected and not (in_place and (directory / relative_path).is_dir()):
            yield f"{relative_path} is {found}, not {expected}: {(content or b'')[:40]!r}"


def _quarantined(
    store: RuntimeStore,
    committed: list[Batch],
    ledger: Ledger,
    scenario: Scenario,
    *,
    in_place: bool,
) -> Iterator[str]:
    """Nothing of anybody else's is gone: it is where it was, or in quarantine with its row."""
    directory, rows = store.directory, store.quarantined_files()
    for row in rows:
        content = _read(directory / row.quarantine_path)
        if row.content_hash is not None and (
            content is None or row.content_hash != f"sha256:{hashlib.sha256(content).hexdigest()}"
        ):
            yield f"the quarantined {row.quarantine_path} is not what its row says"
    if not ledger.foreign:
        return
    quarantine = directory / "quarantine"
    kept = {path.read_bytes() for path in quarantine.rglob("*") if path.is_file()}
    hashes = {row.content_hash for row in rows}
    logged = _logged_contents(directory / DATABASE_NAME)
    for foreign in ledger.foreign:
        if in_place and _read(directory / foreign.relative_path) == foreign.content:
            continue
        if foreign.content in logged:
            continue  # it was adopted, so the database has its bytes
        if scenario.options.retention != Retention() and _adopted(foreign, committed, ledger):
            continue  # since then it is history like any other
        content_hash = "sha256:" + hashlib.sha256(foreign.content).hexdigest()
        if foreign.content not in kept:
            yield f"what somebody left in {foreign.relative_path} was destroyed without a copy"
        elif foreign.relative_path in FILES.values() and content_hash not in hashes:
            yield f"what somebody left in {foreign.relative_path} is in quarantine without a row"


def _adopted(foreign: Foreign, committed: list[Batch], ledger: Ledger) -> bool:
    """Whether a batch has made somebody's file the committed content."""
    written = {*ledger.sure(), *(batch.batch_id for batch in committed)}
    return any(
        holds(foreign.content, data)
        for batch_id in written & ledger.intents.keys()
        for store, data in ledger.intents[batch_id].writes.items()
        if data is not None and FILES[store] == foreign.relative_path
    )


def _needless(store: RuntimeStore, ledger: Ledger, scenario: Scenario) -> Iterator[str]:
    """Nothing of our own is quarantined as somebody else's: nothing but an old version whose
    temporary name could not be removed, and whose content is history no more."""
    foreign = {item.content for item in ledger.foreign}
    short = scenario.options.retention != Retention() or scenario.batches_kept is not None
    for row in store.quarantined_files():
        content = _read(store.directory / row.quarantine_path)
        if short and _is_version(content, row.schema_name or "", ledger):
            continue
        if row.content_hash is not None and content not in foreign:
            yield f"the quarantined {row.quarantine_path} is nobody's: {(content or b'')[:40]!r}"


def _strays(directory: Path, scenario: Scenario) -> Iterator[str]:
    for name in scenario.beside:
        if not (directory / name).is_file():
            yield f"{name} is gone"
    known = {*OURS, *scenario.beside, *FILES.values()}
    inside = ("quarantine", *(f"{file}/" for file in FILES.values()))
    for name, is_folder in names_below(directory):
        if not (name in known or name.startswith(inside) or is_folder):
            yield f"{name} was left lying about"


def _plan(store: RuntimeStore, manifest: Manifest, ledger: Ledger) -> Iterator[str]:
    """Nothing is left to do but what needs a decision about somebody else's file."""
    for action in store.plan_recovery(expected=manifest.active_identity).actions:
        path = FILES[action.schema_name]
        foreign = any(
            item.relative_path.startswith(path)
            and _read(store.directory / item.relative_path) == item.content
            for item in ledger.foreign
        )
        unwritten = manifest.entry(action.schema_name) is None
        if action.kind is not ActionKind.NONE and not foreign and not unwritten:
            yield f"the plan still has {action.kind} of {action.schema_name}: {action.reason}"


# --- looking without the store ------------------------------------------------------------------


def torn_files(directory: Path, ledger: Ledger) -> list[str]:
    """Store files that are no whole version of anybody's, as another program would find them."""
    problems = []
    for name, relative_path in FILES.items():
        content = _read(directory / relative_path)
        if content is None or content in ledger.foreign_at(relative_path):
            continue
        if not _is_version(content, name, ledger):
            problems.append(f"{relative_path} is no whole version: {content[:40]!r}")
    return problems


def _is_version(content: bytes | None, store: str, ledger: Ledger) -> bool:
    """Whether these bytes are what some batch wrote, or was to write."""
    return any(holds(content, data) for data in ledger.data_of(store))


def _logged_contents(path: Path) -> set[bytes]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = connection.execute("SELECT content FROM store_contents").fetchall()
    return {text.encode() for (text,) in rows}


def _damage(directory: Path) -> list[str]:
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as connection:
        return list(damage_through(connection))


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
