"""Holds what callers were told against what they read, and against what is there in the end."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.checker.caller import LEDGER, STORES
from tests.checker.journal import Call, calls_of, records
from tests.checker.mix import Mix

KINDS = (
    "lies",
    "lost",
    "out of order",
    "stale reads",
    "hangs",
    "crashes",
    "foreign exceptions",
    "unusable",
    "left over",
)
ALLOWED_LEFT = {"quarantine"}


@dataclass
class Verdict:
    """What became of one life, or of many."""

    lives: int = 0
    processes: int = 0
    told: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def fail(self, kind: str, text: str, *calls: Call) -> None:
        """Note a failure of a kind, with the calls that show it."""
        assert kind in KINDS
        self.failures.append((kind, "\n    ".join([text, *map(str, calls)])))

    def add(self, other: Verdict) -> None:
        """Count another one in."""
        self.lives += other.lives
        self.processes += other.processes
        self.told += other.told
        self.errors += other.errors
        self.failures += other.failures

    def counts(self) -> dict[str, int]:
        """How many failures of each kind."""
        found = Counter(kind for kind, _ in self.failures)
        return {kind: found[kind] for kind in KINDS}

    def details(self, most: int = 12) -> str:
        """The failures, a few of each kind in full."""
        shown: Counter[str] = Counter()
        lines = []
        for kind, text in self.failures:
            shown[kind] += 1
            if shown[kind] <= most:
                lines.append(f"{kind}: {text}")
        return "\n".join(lines)

    def summary(self, seed: int) -> str:
        """Everything in one line."""
        failures = ", ".join(f"{kind} {count}" for kind, count in self.counts().items())
        return (
            f"checker: seed {seed}, {self.lives} lives, {self.processes} processes, "
            f"{self.told.total()} calls: told committed {self.told['committed']}, "
            f"decided {self.told['decided']}, refused {self.told['refused']}, "
            f"unknown {self.told['unknown']}; {failures}"
        )


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
    def begun(self) -> int:
        """When the first call was begun."""
        return min(call.begun for call in self.calls)

    @property
    def committed_at(self) -> int:
        """When a caller had been told so."""
        return min(c.ended for c in self.calls if c.outcome == "committed" and c.ended is not None)


def judge(mix: Mix, folder: Path) -> Verdict:
    """The verdict on a life, from its journals and what a fresh process found."""
    return _Judge(mix, folder).verdict


class _Judge:
    def __init__(self, mix: Mix, folder: Path) -> None:
        self.mix = mix
        self.verdict = Verdict(lives=1)
        self.fail = self.verdict.fail
        self.records = list(records(folder))
        self.calls = calls_of(self.records)
        self.verdict.processes = len({record["pid"] for record in self.records})
        self.spoilt_at = max((r["time"] for r in self.records if r["kind"] == "wal removed"),
                             default=None)  # fmt: skip
        self.ops = self._ops()
        self.by_batch_id = {op.batch_id: op for op in self.ops.values() if op.batch_id}
        self._count()
        self._processes()
        self._errors()
        state = self._state(folder)
        if state is None:
            return
        self.state = state
        if self.spoilt_at is None:
            self._order()
            self._watermarks()
            self._reads()
            self._snapshots()
            self._refused()
            self._record()
            self._history()
        self._ledger()
        self._current()
        self._files()

    # --- gathering ------------------------------------------------------------------------------

    def _ops(self) -> dict[str, Op]:
        ops: dict[str, Op] = {}
        for call in self.calls:
            if "op" not in call.facts or call.action.startswith("inherited"):
                continue
            name = call.facts["op"]
            op = ops.setdefault(name, Op(name, tuple(call.facts["stores"]), call.action == "update"))
            op.calls.append(call)
            op.batch_id = op.batch_id or call.facts["batch_id"] or call.result.get("batch_id")
            if call.outcome == "committed" and call.result.get("hw") is not None:
                op.watermarks.add(call.result["hw"])
        return ops

    def _count(self) -> None:
        self.verdict.told = Counter(
            call.outcome or "unknown" if "op" in call.facts else call.outcome or "died"
            for call in self.calls
        )
        self.verdict.errors = Counter(
            call.result["error"] for call in self.calls if "error" in call.result
        )

    def _state(self, folder: Path) -> dict[str, Any] | None:
        states = {}
        for name in ("state", "again"):
            path = folder / f"{name}.json"
            if not path.exists():
                self.fail("unusable", f"no state was written down ({name})")
                return None
            states[name] = json.loads(path.read_text())
            for problem in states[name]["problems"]:
                if self.spoilt_at is None or not _is_said(problem):
                    self.fail("unusable", f"{name}: {problem}")
        state: dict[str, Any] = states["state"]
        return state if "quarantined" in state else None

    # --- processes and errors -------------------------------------------------------------------

    def _processes(self) -> None:
        for record in self.records:
            if record["kind"] == "hang":
                self.fail("hangs", f"{record['name']} does not come to an end", *self._open_calls())
            elif record["kind"] == "died":
                code = os.waitstatus_to_exitcode(record["status"])
                how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
                kind = "crashes" if code < 0 else "foreign exceptions"
                self.fail(kind, f"{record['name']} ended with {how}", *self._open_calls())
            elif record["kind"] == "unusable":
                last = [c for c in self.calls if c.name.startswith(f"{record['name']}.")][-3:]
                self.fail("unusable", f"{record['name']}: an object is locked out for good", *last)

    def _open_calls(self) -> list[Call]:
        return [call for call in self.calls if call.ended is None][-6:]

    def _errors(self) -> None:
        for call in self.calls:
            if call.action.startswith("inherited"):
                told = call.result.get("error")
                if call.outcome is not None and told != "StoreClosedError" and (
                    call.action != "inherited close" or told is not None
                ):  # fmt: skip
                    self.fail("lies", "a store that was inherited by a fork was used", call)
            elif "error" in call.result and not call.result["expected"]:
                self.fail("foreign exceptions", call.result["error"], call)
            elif call.outcome is not None and call.outcome.startswith("returned"):
                self.fail("lies", "a batch was returned that is not committed", call)
            elif call.action == "plan" and self.spoilt_at is None:
                if {"quarantine", "block_readiness"} & set(call.result.get("actions", ())):
                    self.fail("lies", "the plan calls something damaged or changed", call)

    # --- what was told --------------------------------------------------------------------------

    def _told(self, kind: str) -> list[Op]:
        return [op for op in self.ops.values() if op.told == kind]

    def _order(self) -> None:
        """Who was told committed before another began has the lower high watermark."""
        events: list[tuple[int, int, Op]] = []
        for op in self._told("committed"):
            if len(op.watermarks) > 1 and self.mix.batches is None:
                self.fail("lies", f"{op.name} has {op.watermarks}", *op.calls)
            if len(op.watermarks) == 1:
                events += [(op.begun, 0, op), (op.committed_at, 1, op)]
        before: dict[str, Op | None] = {}
        highest: Op | None = None
        for _, is_end, op in sorted(events, key=lambda event: event[:2]):
            if not is_end:
                before[op.name] = highest
                continue
            earlier = before[op.name]
            if earlier is not None and min(earlier.watermarks) >= min(op.watermarks):
                self.fail("out of order", "a later batch is older", *earlier.calls, *op.calls)
            if highest is None or min(op.watermarks) > min(highest.watermarks):
                highest = op

    def _watermarks(self) -> None:
        """Each high watermark is of one batch, and every batch that has one is known."""
        owners: dict[int, Op] = {}
        for op in self.ops.values():
            for watermark in op.watermarks:
                other = owners.setdefault(watermark, op)
                if other is not op:
                    self.fail("out of order", f"two have {watermark}", *other.calls, *op.calls)
            for call in op.calls:
                expected = call.facts.get("expected")
                if call.outcome == "committed" and expected is not None:
                    if call.result["hw"] is not None and call.result["hw"] != expected + 1:
                        self.fail("lies", "it was not where it was expected", call)
        last = self.state["high_watermark"]
        if owners and max(owners) > last:
            op = owners[max(owners)]
            self.fail("lost", f"the store is at {last} only", *op.calls)
        known = set(owners) | {item[2] for item in self.state["batches"]}
        for name, watermark in self._seen().items():
            known.add(watermark)
            op = self.ops.get(name)  # type: ignore[assignment]
            if op is not None and op.watermarks and watermark not in op.watermarks:
                self.fail("lies", f"{name} was read with {watermark}", *op.calls)
        unknown = [op for op in self.ops.values() if op.told in ("unknown", "decided")]
        missing = set(range(1, last + 1)) - known
        if len(missing) > len(unknown):
            self.fail("lies", f"nobody knows who wrote {sorted(missing)[:10]} of {last}")

    def _seen(self) -> dict[str, int]:
        """Which batches were read, with their high watermarks."""
        return {
            by: watermark
            for call in self.calls
            for by, watermark, _, _ in call.result.get("contents", {}).values()
        }

    def _refused(self) -> None:
        """What was told refused appears nowhere, at no time."""
        refused = {op.name: op for op in self._told("refused")}
        ids = {op.batch_id: op for op in refused.values() if op.batch_id}
        for call in self.calls:
            for by, *_ in call.result.get("contents", {}).values():
                if by in refused:
                    self.fail("lies", "refused, but read", *refused[by].calls, call)
            for batch_id, state, _ in call.result.get("batches", ()):
                if batch_id in ids and state != "failed":
                    self.fail("lies", "refused, but on record", *ids[batch_id].calls, call)
        for record in self.records:
            if record["kind"] == "event" and record["batch_id"] in ids:
                calls = ids[record["batch_id"]].calls
                self.fail("lies", "refused, but an event says that it is committed", *calls)
        for when in ("before", "batches"):
            for batch_id, state, _ in self.state.get(when, ()):
                if batch_id in ids and state != "failed":
                    self.fail("lies", f"refused, but {state} in the end", *ids[batch_id].calls)
        for versions in self.state["versions"].values():
            for _, _, by in versions:
                if by in refused:
                    self.fail("lies", "refused, but in the history", *refused[by].calls)

    # --- what was read --------------------------------------------------------------------------

    def _reads(self) -> None:
        """No read is older than what was told committed, or read, before it began."""
        for name in (LEDGER, *STORES):
            events: list[tuple[int, int, int, Call]] = []
            for op in self._told("committed"):
                if name in op.stores and op.watermarks:
                    call = next(c for c in op.calls if c.ended == op.committed_at)
                    events.append((op.committed_at, 1, min(op.watermarks), call))
            for call in self.calls:
                if name in call.result.get("contents", {}) and call.ended is not None:
                    watermark = call.result["contents"][name][1]
                    events.append((call.begun, 0, watermark, call))
                    events.append((call.ended, 1, watermark, call))
            newest, shown_by = 0, None
            for _, is_known, watermark, call in sorted(events, key=lambda event: event[:2]):
                if is_known and watermark > newest:
                    newest, shown_by = watermark, call
                elif not is_known and watermark < newest and shown_by is not None:
                    self.fail("stale reads", f"{name} was at {newest}", shown_by, call)
        self._reads_of_others()

    def _reads_of_others(self) -> None:
        """What is read was begun before, and is the whole of its batch; so are lists of batches."""
        events = [
            (op.committed_at, 1, min(op.watermarks)) for op in self._told("committed")
            if op.watermarks
        ]  # fmt: skip
        lists = [(c.begun, 0, c) for c in self.calls if c.action in ("batches", "snapshot")]
        newest = 0
        for _, is_known, item in sorted([*events, *lists], key=lambda event: event[:2]):
            if isinstance(item, int):
                newest = max(newest, item)
                continue
            seen = [hw for _, _, hw in item.result.get("batches", ()) if hw is not None]
            seen += [item.result["hw"]] if "hw" in item.result else []
            if seen and max(seen) < newest:
                self.fail("stale reads", f"the store was at {newest}", item)
        for call in self.calls:
            for name, (by, *_) in call.result.get("contents", {}).items():
                op = self.ops.get(by)
                if op is None or name not in op.stores:
                    self.fail("lies", f"{name} was read as written by {by}", call)
                elif call.ended is not None and op.begun > call.ended:
                    self.fail("lies", "read before it was written", call, *op.calls)

    def _snapshots(self) -> None:
        """A snapshot is as of one batch: no store in it is older than its high watermark."""
        written: dict[str, list[tuple[int, Op]]] = {name: [] for name in (LEDGER, *STORES)}
        for op in self._told("committed"):
            for name in op.stores:
                written[name] += [(watermark, op) for watermark in op.watermarks]
        for call in self.calls:
            if call.action != "snapshot" or "contents" not in call.result:
                continue
            contents, top = call.result["contents"], call.result["hw"]
            for name, (by, watermark, *_) in contents.items():
                if watermark > top:
                    self.fail("lies", f"{name} in a snapshot is newer than the snapshot", call)
                for other in self.ops[by].stores if by in self.ops else ():
                    if other in contents and contents[other][1] < watermark:
                        self.fail("lies", f"half of {by} is in a snapshot", call)
                for told, op in written[name]:
                    if watermark < told <= top:
                        self.fail("lies", f"{name} in a snapshot is too old", call, *op.calls)

    # --- what is there --------------------------------------------------------------------------

    def _record(self) -> None:
        """What was told committed, or decided, is on record as far back as is promised."""
        state = {batch_id: (state, hw) for batch_id, state, hw in self.state["batches"]}
        last, keeps = self.state["high_watermark"], self.mix.batches
        for op in (*self._told("committed"), *self._told("decided")):
            found, watermark = state.get(op.batch_id or "", (None, None))
            if found is not None and found != "committed":
                self.fail("lost", f"{op.name} is on record as {found}", *op.calls)
            elif found is None and self._must_be_kept(op):
                self.fail("lost", f"{op.name} is not on record (of {last}, {keeps})", *op.calls)
            elif found and op.watermarks and watermark not in op.watermarks:
                self.fail("lies", f"{op.name} is on record with {watermark}", *op.calls)
        for batch_id, found, _ in self.state["batches"]:
            if found == "preparing":
                self.fail("unusable", f"{batch_id} is unfinished after opening")

    def _must_be_kept(self, op: Op) -> bool:
        if op.batch_id is None:
            return False
        if self.mix.batches is None:
            return True
        failed = sum(1 for _, state, _ in self.state["batches"] if state == "failed")
        oldest = self.state["high_watermark"] - self.mix.batches + failed + 1
        return bool(op.watermarks) and max(op.watermarks) >= oldest

    def _history(self) -> None:
        """The versions on record are those that were told, as far back as they go."""
        for name, versions in self.state["versions"].items():
            watermarks = [hw for _, hw, _ in versions]
            if watermarks != sorted(set(watermarks)):
                self.fail("out of order", f"the history of {name}: {watermarks}")
            for op in self._told("committed"):
                if name in op.stores and op.watermarks and self._must_be_kept(op):
                    newer = sum(1 for watermark in watermarks if watermark > max(op.watermarks))
                    there = op.watermarks & set(watermarks)
                    if not there and (self.mix.contents is None or newer < self.mix.contents):
                        self.fail("lost", f"not in the history of {name}", *op.calls)
            for batch_id, _, by in versions[-(self.mix.contents or 100) :]:
                known = self.by_batch_id.get(batch_id)
                if by is None and known is not None and self._must_be_kept(known):
                    self.fail("lost", f"no content in the history of {name}", *known.calls)

    def _ledger(self) -> None:
        """Every update of the ledger that was told committed is in it, once and in order."""
        seen: list[str] = self.state["contents"][LEDGER]["data"]["seen"]
        counts = Counter(seen)
        for name, count in counts.items():
            if count > 1:
                self.fail("lies", f"{name} is {count} times in the ledger")
            if name not in self.ops:
                self.fail("lies", f"{name} is in the ledger, and nobody wrote it")
        for op in self.ops.values():
            if not op.update or LEDGER not in op.stores:
                continue
            if op.told in ("committed", "decided") and op.name not in counts:
                if self._counts(op):
                    self.fail("lost", f"{op.name} is not in the ledger", *op.calls)
            if op.told == "refused" and op.name in counts and self.spoilt_at is None:
                self.fail("lies", f"{op.name} was refused, and is in the ledger", *op.calls)
        told = [
            min(op.watermarks) for name in seen for op in [self.ops.get(name)]
            if op is not None and op.watermarks
        ]  # fmt: skip
        if told != sorted(told) and self.spoilt_at is None:
            self.fail("out of order", f"the ledger is not in the order of its batches: {told}")

    def _counts(self, op: Op) -> bool:
        """Whether what was told of it must hold: when the WAL was removed, only what was begun
        later can be asked for."""
        return self.spoilt_at is None or op.begun > self.spoilt_at

    def _current(self) -> None:
        """What a store holds is the last that was told committed, or something newer."""
        for name, content in self.state["contents"].items():
            told: Iterable[Op] = (
                op for op in self._told("committed")
                if name in op.stores and op.watermarks and self._counts(op)
            )  # fmt: skip
            last = max(told, key=lambda op: max(op.watermarks), default=None)
            by = self.ops.get(content["data"]["by"])
            if by is None or name not in by.stores:
                self.fail("lies", f"{name} holds {content['data']}, which nobody wrote")
            elif last is not None and content["hw"] < max(last.watermarks):
                self.fail("lost", f"{name} is at {content['hw']}", *last.calls)
            elif by.watermarks and content["hw"] not in by.watermarks and self._counts(by):
                self.fail("lies", f"{name} is at {content['hw']}", *by.calls)

    def _files(self) -> None:
        """The files are what is committed; nothing of ours lies about."""
        state = self.state
        for name, same in state["files"].items():
            if not same:
                self.fail("lies", f"the file of {name} is not what is committed")
        left = set(state.get("left", ())) - ALLOWED_LEFT
        if left:
            self.fail("left over", f"{sorted(left)}")
        if state.get("integrity", ["ok"]) != ["ok"]:
            self.fail("lost", f"integrity_check: {state['integrity'][:3]}")
        if self.spoilt_at is None:
            if set(state["plan"]["actions"]) - {"none"}:
                self.fail("unusable", f"after opening: {state['plan']}")
            if state["quarantined"]:
                self.fail("lies", f"nobody edited a file: {state['quarantined'][:3]}")


def _is_said(problem: str) -> bool:
    """Whether it is an error of ours that a person can act on."""
    return "Error: " in problem and "rtstore" in problem
