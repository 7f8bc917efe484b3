"""Holds what callers were told against what they read, and against what is there in the end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.checker.evidence import Evidence
from tests.checker.journal import Call
from tests.checker.judge_reads import check_reads
from tests.checker.judge_state import check_state
from tests.checker.judge_told import check_order
from tests.checker.mix import Mix
from tests.checker.verdict import Verdict


def judge(mix: Mix, folder: Path) -> Verdict:
    """The verdict on a life, from its journals and what a fresh process found."""
    found = Evidence(mix, folder)
    _check_processes(found)
    for call in found.calls:
        _check_call(found, call)
    if found.spoilt_at is None:
        check_order(found)
        check_reads(found)
    if found.state:
        check_state(found)
    return found.verdict


def _check_processes(found: Evidence) -> None:
    """No process hung, died of a signal that nobody sent, or has an object that is locked out."""
    open_calls = [call for call in found.calls if call.ended is None][-6:]
    for record in found.records:
        name = record.get("name")
        if record["kind"] == "hang":
            found.fail("hangs", f"{name} does not come to an end", *open_calls)
        elif record["kind"] == "died":
            code = os.waitstatus_to_exitcode(record["status"])
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
            kind = "crashes" if code < 0 else "foreign exceptions"
            found.fail(kind, f"{name} ended with {how}", *open_calls)
        elif record["kind"] == "held":
            files = sorted(set(record["files"]))
            found.fail("left over", f"{name} closed or dropped all, and has open: {files}")
        elif record["kind"] == "unusable":
            last = [call for call in found.calls if call.name.startswith(f"{name}.")][-3:]
            found.fail("unusable", f"{name}: an object is locked out for good", *last)


def _check_call(found: Evidence, call: Call) -> None:
    """No call raised what it must not, or returned what makes no sense."""
    error = call.result.get("error")
    if call.action.startswith("inherited"):
        harmless = call.outcome is None or (call.action == "inherited close" and error is None)
        if not harmless and error != "StoreClosedError":
            found.fail("lies", "a store that was inherited by a fork was used", call)
    elif error is not None and not call.result["expected"]:
        found.fail("foreign exceptions", error, call)
    elif call.outcome is not None and call.outcome.startswith("returned"):
        found.fail("lies", "a batch was returned that is not committed", call)
    elif call.action == "plan" and found.spoilt_at is None:
        wrong = {"quarantine", "block_readiness"} & set(call.result.get("actions", ()))
        if wrong:
            found.fail("lies", "the plan calls something damaged or changed", call)
