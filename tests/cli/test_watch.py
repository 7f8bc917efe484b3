"""`rtstore watch`: what is new is told once, in order, beside a writer that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rtstore import DATABASE_NAME, RuntimeStore
from rtstore.cli.commands.watch import BatchEvent, ErrorEvent, Event, StateEvent, _Watcher
from rtstore.cli.demo.writer import IDENTITY, fatal_checkpoint
from rtstore.cli.exits import ExitCode
from tests.cli.commands import CHECKOUT, crashed_team, ready_team, run
from tests.cli.test_read_only import WRITE_ON
from tests.support import hear
from tests.support.forked import forked


def write(directory: Path, number: int = 1) -> list[str]:
    """Write batches; return their ids."""
    checkpoint = fatal_checkpoint()
    with RuntimeStore.open(directory) as store:
        return [
            store.write_batch(
                identity=IDENTITY, reason=checkpoint.reason, writes=checkpoint.writes
            ).batch_id
            for _ in range(number)
        ]


def told(events: Iterator[Event]) -> list[Any]:
    """The events in short: a batch by its id and state, a state by its verdict."""
    short: list[Any] = []
    for event in events:
        if isinstance(event, BatchEvent):
            short.append((event.batch.batch_id, str(event.batch.state)))
        elif isinstance(event, StateEvent):
            short.append(str(event.verdict))
        elif isinstance(event, ErrorEvent):
            short.append(event.error.type)
    return short


def test_what_is_new_is_told_once(tmp_path: Path) -> None:
    """First how it is; then each batch as it is committed, in order, more of them than one look
    fetches; the readiness whenever it changes; and nothing when nothing is new."""
    directory = ready_team(tmp_path)
    watcher = _Watcher(directory)
    assert told(watcher.look()) == ["ready"]
    assert told(watcher.look()) == []
    (first,) = write(directory)
    assert told(watcher.look()) == [(first, "committed")]
    many = write(directory, 120)
    assert told(watcher.look()) == [(batch_id, "committed") for batch_id in many]
    (directory / "launch-state.json").unlink()
    assert told(watcher.look()) == ["blocked"]
    assert told(watcher.look()) == []
    (directory / "opencode-sessions.json").unlink()
    assert told(watcher.look()) == ["blocked"], "another diagnostic is news"
    run("recover", directory)
    assert told(watcher.look()) == ["ready"]


def test_a_batch_has_the_time_of_its_commit(tmp_path: Path) -> None:
    """However late the watch looks, and however many batches it finds then."""
    directory = ready_team(tmp_path)
    watcher = _Watcher(directory)
    list(watcher.look())
    write(directory, 3)
    with RuntimeStore.open(directory, read_only=True) as store:
        times = [batch.completed_at for batch in store.batches()[-3:]]
    assert [event.at for event in watcher.look()] == times


def test_an_open_batch_that_ends(tmp_path: Path) -> None:
    """The batch of a dead writer is there at the first look; that it was finished is news."""
    directory = crashed_team(tmp_path)
    watcher = _Watcher(directory)
    assert told(watcher.look()) == ["blocked"]
    run("recover", directory)
    assert told(watcher.look()) == [("batch-crashed", "committed"), "ready"]


def test_a_directory_that_cannot_be_looked_at_meanwhile(tmp_path: Path) -> None:
    """An error is told once, and the state again when it is over; a database that was made anew
    tells nothing of its batches, which are old news or none."""
    directory = ready_team(tmp_path)
    write(directory, 3)
    watcher = _Watcher(directory)
    assert told(watcher.look()) == ["ready"]
    (directory / DATABASE_NAME).write_bytes(b"")
    assert told(watcher.look()) == ["CorruptDatabaseError"]
    assert told(watcher.look()) == []
    identity = ["--run-id", IDENTITY.run_id]
    identity += ["--capability-snapshot-id", str(IDENTITY.capability_snapshot_id)]
    identity += ["--behavior-fingerprint", str(IDENTITY.behavior_fingerprint)]
    assert run("rebuild", directory, "--team", "demo-team", *identity).code == 0
    assert told(watcher.look()) == ["ready"]
    (batch,) = write(directory)
    assert told(watcher.look()) == [(batch, "committed")]


def test_lines(tmp_path: Path) -> None:
    """Where there is no terminal each event is a line with its time, and what to run below it; the
    exit code is that of status."""
    directory = crashed_team(tmp_path)
    result = run("watch", directory, "--for", "0")
    assert (result.code, result.err) == (ExitCode.NOT_READY, "")
    first, second = result.out.splitlines()
    assert first[:2] == "20"
    assert first[24:].startswith("  blocked (runtime_store_recovery_required), 3 batches committed")
    assert second == f"{' ' * 26}rtstore recover {directory}"
    assert run("watch", ready_team(tmp_path), "-n", "0").code == ExitCode.READY


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--interval", "0"], "--interval"),
        (["--for", "-1"], "--for"),
        (["-n", "-1"], "-n"),
    ],
)
def test_wrong_options(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Each is named."""
    result = run("watch", ready_team(tmp_path), *arguments)
    assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
    assert words in result.err


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    """At the beginning an error is one like any other, and as JSON too."""
    result = run("watch", tmp_path / "missing", "--json")
    assert result.code == ExitCode.WRONG_CALL
    assert result.json()["error"]["type"] == "NotARuntimeDirectoryError"


@contextmanager
def watching(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, being read along."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rtstore", "watch", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.thorough
def test_beside_a_writer_until_interrupted(tmp_path: Path) -> None:
    """A pipe gets each document as it happens: beside a busy writer every batch once, in order,
    without a gap, and never a word of a readiness that was lost. Ctrl-C ends it with 130."""
    directory = ready_team(tmp_path)
    with watching(directory, "--json", "--interval", "0.05") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "state"
        with forked(WRITE_ON, directory) as writer:
            assert hear(writer) == "writing"
            events = [json.loads(process.stdout.readline()) for _ in range(300)]
            assert writer.poll() is None
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(timeout=30)
    assert (process.returncode, err) == (ExitCode.INTERRUPTED, "rtstore: interrupted\n")
    assert {event["event"] for event in events} == {"batch"}
    numbers = [
        event["batch"]["batchNumber"] for event in events if event["batch"]["state"] == "committed"
    ]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(numbers) > 200
    assert all(json.loads(line) for line in rest.splitlines())


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`rtstore watch DIR | head -1` ends, without a traceback."""
    directory = ready_team(tmp_path)
    with watching(directory, "--interval", "0.05") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        write(directory, 3)
        assert process.wait(timeout=30) != 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_the_number_of_changes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-n 2` ends after two changes, and tells no third one that was seen with them."""
    directory = ready_team(tmp_path)
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: write(directory, 3))
    monkeypatch.setattr("rtstore.cli.commands.watch.time", clock)
    result = run("watch", directory, "-n", "2", "--json")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [event["event"] for event in events] == ["state", "batch", "batch"]
    assert result.code == ExitCode.READY
