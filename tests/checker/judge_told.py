"""What was told, held against itself: order, and numbers that are given once."""

from __future__ import annotations

from tests.checker.evidence import Evidence, Op


def check_order(found: Evidence) -> None:
    """Who was told committed before another began has the lower high watermark; each is given once,
    and where it was expected."""
    _check_real_time(found)
    owners: dict[int, Op] = {}
    for op in found.ops.values():
        for watermark in op.watermarks:
            other = owners.setdefault(watermark, op)
            if other is not op:
                found.fail("out of order", f"two have {watermark}", *other.calls, *op.calls)
        if len(op.watermarks) > 1 and found.mix.batches is None:
            found.fail("lies", f"{op.name} has {op.watermarks}", *op.calls)
        for call in op.calls:
            expected, given = call.facts.get("expected"), call.result.get("hw")
            if expected is not None and given not in (None, expected + 1):
                found.fail("lies", "it is not where it was expected", call)


def _check_real_time(found: Evidence) -> None:
    ops = [op for op in found.told_with_watermark() if len(op.watermarks) == 1]
    events = [(op.begun, 0, op) for op in ops] + [(op.committed_at, 1, op) for op in ops]
    before: dict[str, Op | None] = {}
    highest: Op | None = None
    for _, is_end, op in sorted(events, key=lambda event: event[:2]):
        if not is_end:
            before[op.name] = highest
            continue
        earlier = before[op.name]
        if earlier is not None and earlier.watermark >= op.watermark:
            found.fail("out of order", "a later batch is older", *earlier.calls, *op.calls)
        if highest is None or op.watermark > highest.watermark:
            highest = op
