"""All that is known of a life: the journals, the batches that were tried, the state in the end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.checker.journal import Call, calls_of, records
from tests.checker.mix import Mix
from tests.checker.verdict import Verdict


@dataclass
class Op:
    """One batch: all calls that tried to write it."""

    name: str
    stores: tuple[str, ...]
    update: bool
    calls: list[Call] = field(default_factory=list)
    batch_id: str | None = None
    watermarks: set[int] = field(default_factory=set)

    @property
    def told(self) -> str:
        """What all calls together say of it."""
        outcomes = {call.outcome for call in self.calls}
        for outcome in ("committed", "decided"):
            if outcome in outcomes:
                return outcome
        return "refused" if outcomes == {"refused"} else "unknown"

    @property
    def has_unknown_call(self) -> bool:
        """Whether a call of it ended without an answer, or with one that leaves it open."""
        return any(call.outcome not in ("committed", "refused") for call in self.calls)

    @property
    def begun(self) -> int:
        """When the first call was begun."""
        return min(call.begun for call in self.calls)

    @property
    def committed_at(self) -> int:
        """When a caller had been told so."""
        return min(c.ended for c in self.calls if c.outcome == "committed" and c.ended is not None)

    @property
    def watermark(self) -> int:
        """The first that was told."""
        return min(self.watermarks)


class Evidence:
    """What is known of a life, and the verdict on it."""

    def __init__(self, mix: Mix, folder: Path) -> None:
        self.mix = mix
        self.verdict = Verdict(lives=1)
        self.fail = self.verdict.fail
        self.records = list(records(folder))
        self.calls = calls_of(self.records)
        self.ops = self._ops()
        self.by_batch_id = {op.batch_id: op for op in self.ops.values() if op.batch_id}
        self.spoilt_at: int | None = max(
            (record["time"] for record in self.records if record["kind"] == "wal removed"),
            default=None,
        )
        """When the WAL was removed, if it was: of what was told before, nothing must hold."""
        self.state = self._state(folder)
        """What a fresh process found, as far as it came."""
        self._count()

    def _ops(self) -> dict[str, Op]:
        ops: dict[str, Op] = {}
        for call in self.calls:
            if "op" not in call.facts or call.action.startswith("inherited"):
                continue
            name, stores = call.facts["op"], tuple(call.facts["stores"])
            op = ops.setdefault(name, Op(name, stores, call.action == "update"))
            op.calls.append(call)
            op.batch_id = op.batch_id or call.facts["batch_id"] or call.result.get("batch_id")
            if call.outcome == "committed" and call.result.get("hw") is not None:
                op.watermarks.add(call.result["hw"])
        return ops

    def _state(self, folder: Path) -> dict[str, Any]:
        states: dict[str, dict[str, Any]] = {}
        for name in ("state", "again"):
            path = folder / f"{name}.json"
            if not path.exists():
                self.fail("unusable", f"no state was written down ({name})")
                return {}
            states[name] = json.loads(path.read_text())
            for problem in states[name]["problems"]:
                if self.spoilt_at is None or "Error: " not in problem:
                    self.fail("unusable", f"{name}: {problem}")
        return states["state"] if "quarantined" in states["state"] else {}

    def _count(self) -> None:
        verdict = self.verdict
        verdict.processes = len({record["pid"] for record in self.records})
        verdict.told = Counter(
            call.outcome or ("unknown" if "op" in call.facts else "died") for call in self.calls
        )
        verdict.errors = Counter(c.result["error"] for c in self.calls if "error" in c.result)

    def told(self, kind: str) -> list[Op]:
        """The batches of which this was told in the end."""
        return [op for op in self.ops.values() if op.told == kind]

    def told_with_watermark(self) -> list[Op]:
        """The batches that were told committed, with their high watermark."""
        return [op for op in self.told("committed") if op.watermarks]

    def counts(self, op: Op) -> bool:
        """Whether what was told of it must hold."""
        return self.spoilt_at is None or op.begun > self.spoilt_at

    def must_be_kept(self, op: Op) -> bool:
        """Whether the retention promises that it is still on record."""
        if op.batch_id is None:
            return False
        if self.mix.batches is None:
            return True
        failed = sum(1 for _, state, _ in self.state["batches"] if state == "failed")
        oldest = self.state["high_watermark"] - self.mix.batches + failed + 1
        return bool(op.watermarks) and max(op.watermarks) >= oldest
