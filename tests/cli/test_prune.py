"""`rtstore prune`: what it says, what it refuses, and that it drops what the dry run promised."""

from __future__ import annotations

import errno
import shlex
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import DATABASE_NAME, KEEP_EVERYTHING, Retention, RuntimeStore
from rtstore.cli.demo.writer import IDENTITY, fatal_checkpoint
from rtstore.cli.exits import ExitCode
from rtstore.files.system import FileSystem
from tests.cli.commands import crashed_team, ready_team, run
from tests.support import picture


def with_history(parent: Path, number: int = 30) -> Path:
    """A ready team with that many batches more."""
    directory, checkpoint = ready_team(parent), fatal_checkpoint()
    with RuntimeStore.open(directory, retention=KEEP_EVERYTHING) as store:
        for _ in range(number):
            store.write_batch(identity=IDENTITY, reason=checkpoint.reason, writes=checkpoint.writes)
    return directory


def test_a_dry_run_says_what_pruning_does(tmp_path: Path) -> None:
    """The same limits with and without `--dry-run` tell the same numbers; the first changes
    nothing and prints the second; a second time there is nothing left to drop."""
    directory = with_history(tmp_path)
    before = picture(directory)
    limits = ["--batches", "10", "--contents", "3"]
    rehearsed = run("prune", directory, *limits, "--dry-run", "--json").json()
    text = run("prune", directory, *limits, "--dry-run").out
    assert picture(directory) == before
    (step,) = rehearsed["next"]
    assert step["command"] == f"rtstore prune {directory} --batches 10 --contents 3"
    assert f"\nNext\n  {step['command']}\n" in text
    assert "Would drop         20 batches with their receipts, " in text
    done = run(*step["command"].split()[1:], "--json").json()
    counts = ("batches", "contents", "contentBytes", "batchesLeft", "contentsLeft")
    assert [done[name] for name in counts] == [rehearsed[name] for name in counts]
    assert done["batches"] == 20
    assert done["databaseBytesAfter"] == (directory / DATABASE_NAME).stat().st_size
    assert run("status", directory).code == ExitCode.READY
    assert len(run("log", directory, "-n", "99", "--json").json()["batches"]) == 13
    again = run("prune", directory, *limits)
    assert "Dropped            nothing\n" in again.out


def test_what_stays_is_said_and_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be flushed nothing is dropped, and it does not look as if all was well."""
    directory = with_history(tmp_path)

    def refuse(_fs: FileSystem, path: Path) -> None:
        raise OSError(errno.EIO, "a test", str(path))

    monkeypatch.setattr(FileSystem, "flush", refuse)
    done = run("prune", directory, "--batches", "10")
    assert (done.code, "Dropped            nothing\n" in done.out) == (ExitCode.READY, True)
    assert "Held               20 batches: a store file could not be flushed" in done.out
    assert f"\nNext\n  rtstore doctor {directory}\n" in done.out
    monkeypatch.undo()
    assert "Held" not in run("prune", directory, "--batches", "10").out


def test_a_database_that_gives_no_space_back(tmp_path: Path) -> None:
    """After a VACUUM with auto_vacuum off, pruning frees nothing: it says so, and what is printed
    sets that right."""
    directory = with_history(tmp_path, 200)
    path = directory / DATABASE_NAME
    with closing(sqlite3.connect(path)) as other:
        other.executescript("PRAGMA auto_vacuum = 0; VACUUM")
    text = run("prune", directory, "--contents", "2").out
    assert "of it are free, for later batches: another program turned auto_vacuum off" in text
    done = run("prune", directory, "--contents", "2", "--json").json()
    assert done["unreturnableBytes"] > 50_000
    (step,) = done["next"]
    assert f"\nNext\n  {step['command']}\n" in text
    size = path.stat().st_size
    program, database, statements = shlex.split(step["command"])
    assert (program, database) == ("sqlite3", str(path))
    with closing(sqlite3.connect(database)) as other:
        other.executescript(statements)
    pointers = 4096  # the page by which SQLite finds what refers to a page that it moves
    assert path.stat().st_size <= size - done["unreturnableBytes"] + pointers
    again = run("prune", directory, "--contents", "1", "--json").json()
    assert (again["unreturnableBytes"], again["next"]) == (0, [])
    assert run("status", directory).code == ExitCode.READY


def test_thinning_is_a_limit_of_its_own(tmp_path: Path) -> None:
    """Alone it limits nothing else, and the printed command does what was counted."""
    directory = with_history(tmp_path)
    rehearsed = run("prune", directory, "--thin", "--dry-run", "--json").json()
    assert (rehearsed["thinsByAge"], rehearsed["keepsBatches"]) == (True, None)
    assert rehearsed["contents"] == 0  # all of it is younger than an hour
    text = run("prune", directory, "--thin", "--contents", "3", "--dry-run").out
    assert "3 contents of each store, of what is older than" in text
    assert f"\n  rtstore prune {directory} --contents 3 --thin\n" in text


def test_without_a_limit_it_keeps_what_the_directory_keeps(tmp_path: Path) -> None:
    """What is beyond the remembered retention goes, as the dry run said, and nothing else; limits
    that were given before are not remembered."""
    directory = with_history(tmp_path, 60)
    assert run("prune", directory, "--batches", "50").code == ExitCode.READY
    kept = run("prune", directory)
    assert "Keeps              everything; in any case what is current or open\n" in kept.out
    assert "Dropped            nothing\n" in kept.out
    assert "History            keeps everything\n" in run("status", directory).out

    RuntimeStore.open(directory, retention=Retention(batches=20, contents_per_store=5)).close()
    before = picture(directory)
    looked = run("prune", directory, "--dry-run", "--json").json()
    assert picture(directory) == before
    assert looked["next"] == [{"command": f"rtstore prune {directory}", "why": "drops it"}]
    done = run(*looked["next"][0]["command"].split()[1:], "--json").json()

    assert (done["keepsBatches"], done["keepsContentsPerStore"], done["keepsDays"]) == (20, 5, None)
    assert done["batches"] == looked["batches"] > 0
    status = run("status", directory, "--json").json()
    assert (status["keepsBatches"], status["keepsContentsPerStore"]) == (20, 5)


@pytest.mark.parametrize(
    "limits",
    [
        ["--batches", "0"],
        ["--contents", "-1"],
        ["--days", "0"],
        ["--days", "1e-12"],
        ["--days", "-3"],
        ["--days", "nan"],
        ["--days", "inf"],
        ["--days", "1e9"],
        ["--batches", "many"],
    ],
    ids=" ".join,
)
def test_limits_that_make_no_sense(tmp_path: Path, limits: list[str]) -> None:
    """Each is refused by name, and nothing is dropped."""
    directory = with_history(tmp_path, 2)
    before = picture(directory)
    result = run("prune", directory, *limits)
    assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
    assert limits[0] in result.err
    assert picture(directory) == before


def test_by_age(tmp_path: Path) -> None:
    """What is younger than the days stays; the limit comes back in the command as it was given."""
    directory = with_history(tmp_path, 5)
    kept = run("prune", directory, "--days", "0.5", "--json").json()
    assert (kept["batches"], kept["keepsDays"], kept["keepsBatches"]) == (0, 0.5, None)
    time.sleep(1.2)
    looked = run("prune", directory, "--days", str(1 / 86_400), "--dry-run", "--json").json()
    assert looked["batches"] == 4
    assert looked["next"][0]["command"].endswith(" --days 1.15741e-05")


def test_after_a_crash(tmp_path: Path) -> None:
    """The batch of a dead writer is finished first, as by every command that writes, and is not
    dropped; the dry run leaves it open."""
    directory = crashed_team(tmp_path)
    before = picture(directory)
    assert run("prune", directory, "--batches", "1", "--dry-run").code == ExitCode.READY
    assert picture(directory) == before
    assert run("prune", directory, "--batches", "1").code == ExitCode.READY
    assert run("status", directory).code == ExitCode.READY
    assert "batch-crashed" in run("log", directory).out
