"""What was read: whole batches, never older than what was told, never from the future."""

from __future__ import annotations

from tests.checker.caller import LEDGER, STORES
from tests.checker.evidence import Evidence, Op
from tests.checker.journal import Call


def check_reads(found: Evidence) -> None:
    """Every read, snapshot and list of batches."""
    for name in (LEDGER, *STORES):
        _check_store(found, name)
    _check_lists(found)
    for call in found.calls:
        _check_contents(found, call)
    _check_snapshots(found)


def _check_store(found: Evidence, name: str) -> None:
    """No read is older than what was told committed, or read, before it began."""
    events: list[tuple[int, int, int, Call]] = []
    for op in found.told_with_watermark():
        if name in op.stores:
            told = next(call for call in op.calls if call.ended == op.committed_at)
            events.append((op.committed_at, 1, op.watermark, told))
    for call in found.calls:
        if name in call.result.get("contents", {}) and call.ended is not None:
            watermark = call.result["contents"][name][1]
            events.append((call.begun, 0, watermark, call))
            events.append((call.ended, 1, watermark, call))
    newest, shown_by = 0, None
    for _, is_known, watermark, call in sorted(events, key=lambda event: event[:2]):
        if is_known and watermark > newest:
            newest, shown_by = watermark, call
        elif not is_known and watermark < newest and shown_by is not None:
            found.fail("stale reads", f"{name} was at {newest}", shown_by, call)


def _check_lists(found: Evidence) -> None:
    """The same of snapshots, and of the last batches, as a whole."""
    told = [(op.committed_at, op.watermark, None) for op in found.told_with_watermark()]
    looks = [
        (call.begun, 0, call) for call in found.calls if call.action in ("batches", "snapshot")
    ]
    newest = 0
    for _, watermark, call in sorted([*told, *looks], key=lambda event: event[:2]):
        if call is None:
            newest = max(newest, watermark)
            continue
        seen = [number for _, _, number in call.result.get("batches", ()) if number is not None]
        seen += [call.result["hw"]] if "hw" in call.result else []
        if seen and max(seen) < newest:
            found.fail("stale reads", f"the store was at {newest}", call)


def _check_contents(found: Evidence, call: Call) -> None:
    """What is read was written by somebody, to that store, and begun before."""
    for name, (by, watermark, *_) in call.result.get("contents", {}).items():
        op = found.ops.get(by)
        if op is None or name not in op.stores:
            found.fail("lies", f"{name} was read as written by {by}", call)
        elif call.ended is not None and op.begun > call.ended:
            found.fail("lies", "read before it was written", call, *op.calls)
        elif op.watermarks and watermark not in op.watermarks and found.mix.batches is None:
            found.fail("lies", f"{by} was read with {watermark}", call, *op.calls)


def _check_snapshots(found: Evidence) -> None:
    """A snapshot is as of one batch: no store in it is older than its high watermark."""
    written: dict[str, list[Op]] = {name: [] for name in (LEDGER, *STORES)}
    for op in found.told_with_watermark():
        for name in op.stores:
            written[name].append(op)
    for call in found.calls:
        if call.action == "snapshot" and "contents" in call.result:
            for name in call.result["contents"]:
                _check_in_snapshot(found, call, name, written[name])


def _check_in_snapshot(found: Evidence, call: Call, name: str, written: list[Op]) -> None:
    contents, top = call.result["contents"], call.result["hw"]
    by, watermark, *_ = contents[name]
    if watermark > top:
        found.fail("lies", f"{name} in a snapshot is newer than the snapshot", call)
    for other in found.ops[by].stores if by in found.ops else ():
        if other in contents and contents[other][1] < watermark:
            found.fail("lies", f"half of {by} is in a snapshot", call)
    for op in written:
        if any(watermark < told <= top for told in op.watermarks):
            found.fail("lies", f"{name} in a snapshot is too old", call, *op.calls)
