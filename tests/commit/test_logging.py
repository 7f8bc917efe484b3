"""The log has every event with its facts, and a program that asked for nothing hears nothing."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore import BatchCommitted, Event, RuntimeStore
from tests.support import (
    CHECKOUT,
    CHECKPOINT,
    IDENTITY,
    LEASES,
    TEAM,
    file_of,
    open_store,
    write,
)
from tests.support.events import Told


@pytest.fixture
def store(directory: Path, told: Told) -> Iterator[RuntimeStore]:
    """Its store, observed."""
    with open_store(directory, on_event=told) as store:
        yield store


def test_the_log_has_every_event_with_its_facts(
    store: RuntimeStore, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """One record of `rtstore.model.events` for each event; the levels and the names beside the
    message are those of the documentation."""
    caplog.set_level(logging.DEBUG, "rtstore")
    write(store, LEASES, 1)
    file_of(store, LEASES).write_text("{}")
    store.recover(store.plan_recovery())
    store.check_readiness()
    records = [record for record in caplog.records if record.name == "rtstore.events"]
    assert [record.getMessage() for record in records] == [event.message for event in told]
    levels = {vars(record)["event"]: record.levelname for record in records}
    assert levels == {
        "committed": "DEBUG", "quarantined": "WARNING", "recovered": "INFO", "blocked": "INFO",
    }  # fmt: skip
    for record, event in zip(records, told, strict=True):
        facts = vars(record)
        assert facts.items() >= event.log_fields().items()
        assert (facts["team_name"], facts["directory"]) == (TEAM, str(store.directory))
        assert facts["duration_s"] is None or facts["duration_s"] > 0
    committed = vars(records[0])
    assert committed["batch_id"] == "batch-1"
    assert committed["stores"] == (LEASES,)
    assert committed["high_watermark"] == 1
    assert committed["reason"] == CHECKPOINT
    assert committed["run_id"] == IDENTITY.run_id
    assert committed["size_bytes"] == file_size(told[0])


def file_size(event: Event) -> int:
    """The size of the files of a committed batch."""
    assert isinstance(event, BatchCommitted)
    return event.batch.receipts[0].file_size


def test_the_log_can_be_formatted_with_its_facts(store: RuntimeStore) -> None:
    """A handler that asks for the fields by name gets them."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(event)s %(batch_id)s %(stores)s"))
    logger = logging.getLogger("rtstore.events")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        write(store, LEASES, 1)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert stream.getvalue() == f"committed batch-1 ('{LEASES}',)\n"


def test_the_format_of_the_guide_takes_every_record(
    store: RuntimeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those without a duration: what formats a record of each kind that tells of trouble is
    the handler of the page itself."""
    page = (CHECKOUT / "rtstore/guide/events.md").read_text(encoding="utf-8")
    (setup,) = re.findall(
        r"^(?:handler|logging\.basicConfig).*?DEBUG\)$", page, re.DOTALL | re.MULTILINE
    )
    logger, root = logging.getLogger("rtstore.events"), logging.getLogger()
    before = list(root.handlers)
    stream, others = io.StringIO(), logging.getLogger("rtstore.maintenance")
    try:
        with contextlib.redirect_stderr(stream):
            exec(setup, {"logging": logging})
            write(store, LEASES, 1)
            file_of(store, LEASES).write_text("{}")
            store.check_readiness()
            write(store, LEASES, 2)
            file_of(store, LEASES).unlink()
            store.recover(store.plan_recovery())
            others.warning("of another logger")
    finally:
        logger.handlers.clear()
        root.handlers[:] = before
        logger.setLevel(logging.NOTSET)
    lines = stream.getvalue().splitlines()
    assert "--- Logging error ---" not in lines
    kinds = {line.split()[1] for line in lines}
    assert kinds >= {"committed", "blocked", "quarantined", "recovered"}, lines
    assert any(f"('{LEASES}',) None " in line for line in lines), lines


SILENT = """
import sys
from rtstore import RunIdentity, RuntimeStore
with RuntimeStore.open(sys.argv[1]) as store:
    store.write_batch(identity=RunIdentity(run_id="r"), reason="host_lease_update",
        writes={"opencode.hostLeases": 1})
    (store.directory / "opencode-host-leases.json").write_text("{}")
    store.recover(store.plan_recovery())
"""


def test_a_program_that_sets_up_nothing_hears_nothing(directory: Path) -> None:
    """No observer, no logging: standard error stays empty, whatever happens."""
    done = subprocess.run(
        [sys.executable, "-c", SILENT, directory],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_no_event_is_made_where_nobody_listens(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an observer, and with the log at its usual level, a committed batch costs the
    question whether anybody listens, and no more."""
    from rtstore.commit import reporting

    def never(*_: Any) -> None:
        pytest.fail("an event was made")

    monkeypatch.setattr(reporting.EventDispatcher, "_tell", never)
    monkeypatch.setattr(reporting.EventDispatcher, "_committed", never)
    with open_store(directory) as store:
        write(store, LEASES, 1)


UNHEARD = """
import sys
from rtstore import RunIdentity, RuntimeStore

def fail(event):
    raise LookupError("mine")

with RuntimeStore.open(sys.argv[1], on_event=fail) as store:
    store.write_batch(identity=RunIdentity(run_id="r"), reason="host_lease_update",
        writes={"opencode.hostLeases": 1})
    print(store.read("opencode.hostLeases").data)
"""


def test_a_program_without_logging_hears_of_it_on_standard_error(directory: Path) -> None:
    """As it hears of any error that Python logs; nothing is swallowed, and nothing breaks."""
    done = subprocess.run(
        [sys.executable, "-c", UNHEARD, directory],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
    assert "the observer raised LookupError" in done.stderr
    assert "Traceback" in done.stderr
    assert "fail" in done.stderr
