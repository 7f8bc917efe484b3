"""What is there in the end: on record, in the stores, in the files."""

from __future__ import annotations

from collections import Counter

from tests.checker.caller import LEDGER
from tests.checker.evidence import Evidence, Op

_MAY_BE_LEFT = {"quarantine"}


def check_state(found: Evidence) -> None:
    """What a fresh process found."""
    if found.spoilt_at is None:
        _check_watermarks(found)
        _check_refused(found)
        _check_record(found)
        for name, versions in found.state["versions"].items():
            _check_history(found, name, versions)
        _check_repaired(found)
    _check_ledger(found)
    for name in found.state["contents"]:
        _check_current(found, name)
    _check_files(found)


def _check_watermarks(found: Evidence) -> None:
    """Every batch that was committed is known to somebody, or was told unknown."""
    last = found.state["high_watermark"]
    known = {item[2] for item in found.state["batches"]}
    for op in found.told_with_watermark():
        known |= op.watermarks
        if max(op.watermarks) > last:
            found.fail("lost", f"the store is at {last} only", *op.calls)
    for call in found.calls:
        known |= {watermark for _, watermark, *_ in call.result.get("contents", {}).values()}
    missing = set(range(1, last + 1)) - known
    unplaced = [
        op for op in found.ops.values() if op.told != "refused" and not op.watermarks
    ]  # unknown, decided, or told committed without a number
    if len(missing) > len(unplaced):
        found.fail("lies", f"nobody knows who wrote {sorted(missing)[:10]} of {last}")


def _check_refused(found: Evidence) -> None:
    """What was told refused appears nowhere, at no time."""
    refused = {op.name: op for op in found.told("refused")}
    ids = {op.batch_id: op for op in refused.values() if op.batch_id}
    listed: list[tuple[str, str, str | None]] = []
    for call in found.calls:
        listed += [("on record", by, None) for by, *_ in call.result.get("contents", {}).values()]
        listed += [("on record", *item[:2]) for item in call.result.get("batches", ())]
    listed += [
        ("told as an event", record["batch_id"], None)
        for record in found.records
        if record["kind"] == "event"
    ]
    for when in ("before", "batches"):
        listed += [("on record in the end", *item[:2]) for item in found.state.get(when, ())]
    for versions in found.state["versions"].values():
        listed += [("in the history", by, None) for _, _, by in versions]
    for where, name, state in listed:
        op = refused.get(name) or ids.get(name)
        if op is not None and state != "failed":
            found.fail("lies", f"refused, but {where} ({state or 'there'})", *op.calls)


def _check_record(found: Evidence) -> None:
    """What was told committed, or decided, is on record as far back as is promised."""
    record = {batch_id: (state, number) for batch_id, state, number in found.state["batches"]}
    last = found.state["high_watermark"]
    for op in (*found.told("committed"), *found.told("decided")):
        state, watermark = record.get(op.batch_id or "", (None, None))
        if state is None and found.must_be_kept(op):
            found.fail("lost", f"{op.name} is not on record (the store is at {last})", *op.calls)
        elif state not in (None, "committed"):
            found.fail("lost", f"{op.name} is on record as {state}", *op.calls)
        elif (
            state
            and op.watermarks
            and watermark not in op.watermarks
            and not (
                # Its record had left the history, and a call that nobody heard of wrote it anew.
                op.has_unknown_call and watermark is not None and watermark > max(op.watermarks)
            )
        ):
            found.fail("lies", f"{op.name} is on record with {watermark}", *op.calls)
    for batch_id, state, _ in found.state["batches"]:
        if state not in ("committed", "failed"):
            found.fail("unusable", f"{batch_id} is {state} after opening")


def _check_history(found: Evidence, name: str, versions: list[tuple[str, int, str | None]]) -> None:
    """The versions on record are those that were told, as far back as is promised."""
    keeps = found.mix.contents or len(versions) + 1
    watermarks = [watermark for _, watermark, _ in versions]
    if watermarks != sorted(set(watermarks)):
        found.fail("out of order", f"the history of {name}: {watermarks}")
    for op in found.told_with_watermark():
        newer = sum(watermark > max(op.watermarks) for watermark in watermarks)
        promised = name in op.stores and newer < keeps and found.must_be_kept(op)
        if promised and not op.watermarks & set(watermarks):
            found.fail("lost", f"not in the history of {name}", *op.calls)
    for batch_id, _, by in versions[-min(keeps, 100) :]:
        known = found.by_batch_id.get(batch_id)
        if by is None and known is not None and found.must_be_kept(known):
            found.fail("lost", f"no content in the history of {name}", *known.calls)


def _check_ledger(found: Evidence) -> None:
    """Every update of the ledger that was told committed is in it, once and in order."""
    seen: list[str] = found.state["contents"][LEDGER]["data"]["seen"]
    for name, count in Counter(seen).items():
        if count > 1 or name not in found.ops:
            found.fail("lies", f"{name} is {count} times in the ledger")
    for op in found.ops.values():
        if op.update and LEDGER in op.stores:
            _check_in_ledger(found, op, op.name in seen)
    ops = [found.ops[name] for name in seen if name in found.ops and found.ops[name].watermarks]
    told = [op.watermark for op in ops]
    if told != sorted(told) and found.spoilt_at is None:
        found.fail("out of order", f"the ledger is not in the order of its batches: {told}")


def _check_in_ledger(found: Evidence, op: Op, there: bool) -> None:
    if op.told in ("committed", "decided") and not there and found.counts(op):
        found.fail("lost", f"{op.name} is not in the ledger", *op.calls)
    if op.told == "refused" and there:
        found.fail("lies", f"{op.name} was refused, and is in the ledger", *op.calls)


def _check_current(found: Evidence, name: str) -> None:
    """What a store holds is the last that was told committed, or something newer."""
    content = found.state["contents"][name]
    ops = (op for op in found.told_with_watermark() if name in op.stores and found.counts(op))
    last = max(ops, key=lambda op: max(op.watermarks), default=None)
    by = found.ops.get(content["data"]["by"])
    if by is None or name not in by.stores:
        found.fail("lies", f"{name} holds {content['data']}, which nobody wrote")
    elif last is not None and content["hw"] < max(last.watermarks):
        found.fail("lost", f"{name} is at {content['hw']}", *last.calls)
    elif by.watermarks and content["hw"] not in by.watermarks and found.counts(by):
        found.fail("lies", f"{name} is at {content['hw']}", *by.calls)


def _check_files(found: Evidence) -> None:
    """The files are what is committed; nothing of ours lies about; the database is sound."""
    for name, same in found.state["files"].items():
        if not same and found.spoilt_at is None:
            found.fail("lies", f"the file of {name} is not what is committed")
    left = set(found.state.get("left", ())) - _MAY_BE_LEFT
    if left:
        found.fail("left over", f"{sorted(left)}")
    integrity = found.state.get("integrity", ["ok"])
    if integrity != ["ok"]:
        found.fail("lost", f"integrity_check: {integrity[:3]}")


def _check_repaired(found: Evidence) -> None:
    """Opening has left nothing to be done, and took no file of ours for somebody else's."""
    if set(found.state["plan"]["actions"]) - {"none"}:
        found.fail("unusable", f"after opening: {found.state['plan']}")
    if found.state["quarantined"]:
        found.fail("lies", f"nobody edited a file: {found.state['quarantined'][:3]}")
