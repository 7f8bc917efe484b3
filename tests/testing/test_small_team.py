"""A small runtime of six stores of its own starts, works, dies at every point, and starts again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtstore import AsyncRuntimeStore, RunIdentity, RuntimeStore
from rtstore.testing import CrashPoint, crash_at, crash_points, kill_at
from tests.support import CHECKOUT
from tests.testing import small_team
from tests.testing.small_team import JOURNAL, MAILBOX, PROGRESS, Team

MESSAGES = 30
FIRST = [point for point in crash_points(stores=6) if point.published % 3 == 0]


async def session(directory: Path, run_id: str, *messages: str) -> list[str]:
    """Send messages in a run, and receive all that wait. The run is left active."""
    async with AsyncRuntimeStore.open(
        directory, team_name="demo", descriptors=small_team.DESCRIPTORS
    ) as store:
        team = Team(store, RunIdentity(run_id=run_id, capability_snapshot_id="caps-1"))
        await team.make_ready()
        for body in messages:
            await team.send("planner", "coder", body)
        got = []
        while (message := await team.receive("coder")) is not None:
            got.append(message.body)
        return got


def test_a_new_run_takes_over_what_the_first_left(tmp_path: Path) -> None:
    """All stores are of the new run, and messages are delivered once."""
    directory = tmp_path / "team"
    assert asyncio.run(session(directory, "run-1", "a", "b")) == ["a", "b"]
    assert asyncio.run(session(directory, "run-2", "c")) == ["c"]
    with RuntimeStore.open(directory) as store:
        assert {item.run_id for item in store.snapshot().contents.values()} == {"run-2"}


@pytest.mark.parametrize("point", FIRST, ids=str)
def test_a_crash_in_the_first_launch(tmp_path: Path, point: CrashPoint) -> None:
    """The next run begins with all of its stores."""
    directory = tmp_path / "team"
    with crash_at(point):
        asyncio.run(session(directory, "run-1", "lost"))
    assert asyncio.run(session(directory, "run-2", "x")) == ["x"]


@pytest.mark.parametrize("point", crash_points(stores=2), ids=str)
def test_a_crash_while_a_message_is_received(tmp_path: Path, point: CrashPoint) -> None:
    """It leaves the mailbox and enters the journal in one batch: it is delivered once."""
    directory = tmp_path / "team"
    asyncio.run(session(directory, "run-1"))
    with crash_at(point, batch=3):  # the run begins, a message is sent, and received
        asyncio.run(session(directory, "run-2", "once"))
    assert asyncio.run(session(directory, "run-3")) == ([] if point.logged else ["once"])


def test_a_kill_while_a_message_is_received(tmp_path: Path) -> None:
    """The run that was killed is resumed under its own id, and does not receive it again."""
    directory = tmp_path / "team"
    kill_at("after-rename-1", session, directory, "run-1", "m", batch=3)
    assert asyncio.run(session(directory, "run-1")) == []


def test_an_edit_by_hand_is_kept(tmp_path: Path) -> None:
    """It goes to quarantine when the runtime starts, and what is committed is put back."""
    directory = tmp_path / "team"
    asyncio.run(session(directory, "run-1"))
    path = directory / PROGRESS.relative_path
    path.write_text(path.read_text().replace('"coder": 0', '"coder": 99'))
    assert "99" in path.read_text()
    asyncio.run(session(directory, "run-1"))
    with RuntimeStore.open(directory) as store:
        (kept,) = store.quarantined_files()
        assert kept.relative_path == PROGRESS.relative_path
        assert store.read(PROGRESS.schema_name).data["steps"]["coder"] == 0


def test_many_tasks_receive_each_message_once(tmp_path: Path) -> None:
    """Ten tasks change the mailbox and the journal together, without a loop that tries again."""

    async def main() -> int:
        async with AsyncRuntimeStore.open(
            tmp_path / "team", team_name="demo", descriptors=small_team.DESCRIPTORS
        ) as store:
            team = Team(store, RunIdentity(run_id="run-1"))
            await team.make_ready()
            send = (team.send("planner", "coder", str(number)) for number in range(MESSAGES))
            await asyncio.gather(*send)
            receive = (team.receive("coder") for _ in range(MESSAGES))
            received = {message.key for message in await asyncio.gather(*receive) if message}
            seen = await store.snapshot([MAILBOX, JOURNAL])
            assert seen[MAILBOX].data.waiting == []
            assert seen[JOURNAL].data.deliveries.keys() == received
            return len(received)

    assert asyncio.run(main()) == MESSAGES


@pytest.mark.thorough
def test_it_runs_as_a_program(tmp_path: Path) -> None:
    """It works, stops, and starts again under a new run id; one that is over is refused."""
    ended = [
        subprocess.run(
            [
                *(sys.executable, "-m", "tests.testing.small_team", tmp_path / "team"),
                *("--run-id", run_id, "--seconds", "0.2"),
            ],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
            check=False,
        )
        for run_id in ("run-1", "run-2", "run-1")
    ]
    assert [done.returncode for done in ended] == [0, 0, 1], [done.stderr for done in ended]
    assert "refused: run run-1 ended" in ended[2].stderr
    with RuntimeStore.open(tmp_path / "team", read_only=True) as store:
        assert [(run.run_id, run.ending) for run in store.runs()] == [
            ("run-2", "finished"),
            ("run-1", "finished"),
        ]
