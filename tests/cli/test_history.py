"""`rtstore history`, `show`, `diff` and `revert`, as they are typed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from rtstore import DELETED, Descriptor, Retention, RunIdentity, RuntimeStore
from rtstore.cli.exits import ExitCode
from rtstore.model.times import utc_now
from rtstore.testing import Seams
from tests.cli.commands import crashed_team, run
from tests.support import LEASES, open_store, picture, write

SESSIONS = "opencode.sessionStore"
FILE = "opencode-sessions.json"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A team whose sessions were written three times."""
    directory = tmp_path / "team"
    with RuntimeStore.open(directory, team_name="team-a") as store:
        for number in range(1, 4):
            store.write_batch(
                identity=RunIdentity(run_id="run-1"),
                reason="launch_checkpoint",
                writes={SESSIONS: {"sessions": [], "n": number}},
                batch_id=f"batch-{number}",
            )
    return directory


def test_history_lists_versions(directory: Path) -> None:
    """Newest first, each with its batch, and whether it can still be read."""
    listed = run("history", directory, SESSIONS)
    assert listed.code == ExitCode.READY
    assert "current" in listed.row("batch-3")
    assert "yes" in listed.row("batch-1")
    assert listed.out.index("batch-3") < listed.out.index("batch-1")
    assert "batch-2" not in run("history", directory, SESSIONS, "-n", "1").out
    assert "was never written" in run("history", directory, "opencode.hostLeases").out


@pytest.mark.parametrize("store", [SESSIONS, FILE])
@pytest.mark.parametrize(("at", "number"), [("batch-1", 1), ("2", 2), ("2999-01-01T00:00:00Z", 3)])
def test_show_as_of_a_batch(directory: Path, store: str, at: str, number: int) -> None:
    """The store may be named by its file; the point is a batch, a watermark or a time."""
    assert run("show", directory, store, "--at", at).json() == {"sessions": [], "n": number}
    shown = run("show", directory, store, "--at", at, "--json").json()["content"]
    assert (shown["batchId"], shown["highWatermark"]) == (f"batch-{number}", number)


def test_show_says_when_the_file_holds_something_else(directory: Path) -> None:
    """What is committed is shown, and that the file is not that."""
    assert run("show", directory, SESSIONS, "--json").json()["note"] is None
    (directory / FILE).write_text("{}")
    assert "was changed" in run("show", directory, SESSIONS, "--json").json()["note"]
    shown = run("show", directory, SESSIONS)
    assert (shown.json()["n"], "was changed" in shown.err) == (3, True)


def test_diff_shows_what_changed(directory: Path) -> None:
    """Value by value, with the path; by default against what is committed now."""
    assert "~ /n\n    - 1\n    + 3\n" in run("diff", directory, SESSIONS, "batch-1").out
    assert "~ /n\n    - 1\n    + 2\n" in run("diff", directory, SESSIONS, "1", "2").out
    assert "no difference" in run("diff", directory, SESSIONS, "2", "2").out
    assert "~ /n\n    - 2\n    + 3\n" in run("diff", directory, SESSIONS).out


@pytest.mark.parametrize("command", [["history"], ["show"], ["diff"]])
def test_looking_back_changes_nothing(directory: Path, command: list[str]) -> None:
    """Nothing in the directory is made, changed or touched."""
    before = picture(directory)
    more = ["1"] if command == ["diff"] else []
    assert run(*command, directory, SESSIONS, *more).code == ExitCode.READY
    assert picture(directory) == before


def test_revert_writes_it_again(directory: Path) -> None:
    """The earlier version is committed in a new batch."""
    done = run("revert", directory, SESSIONS, "--to", "batch-1")
    assert (done.code, done.err) == (ExitCode.READY, "")
    assert '"n": 1' in run("show", directory, SESSIONS).out
    assert run("status", directory, "--json").json()["highWatermark"] == 4


def test_revert_says_whether_the_runtime_may_start(tmp_path: Path) -> None:
    """By an older version the stores may contradict each other, as by an adopted file."""
    directory = crashed_team(tmp_path)
    assert run("recover", directory).code == ExitCode.READY
    told = run("revert", directory, SESSIONS, "--to", "1")
    assert told.code == ExitCode.READY
    assert "blocked" in told.row("Readiness", "blocked")
    assert "by this batch the stores contradict each other" in told.out
    assert "carol" in told.out
    undo = told.row("undo", "rtstore").split("rtstore ")[1].split()
    back = run(*undo, "--json").json()
    assert (back["verdict"], back["contradictions"], back["next"]) == ("ready", [], [])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["show", "nobody"], "unknown store 'nobody'"),
        (
            ["show", SESSIONS, "--at", "nothing"],
            "'nothing' is not a high watermark (300), an age (5m), a time",
        ),
        (["show", SESSIONS, "--at", "2026-99-01"], "is no time"),
        (["diff", SESSIONS, "1", "77"], "high watermark 77"),
        (["diff", "opencode.hostLeases"], "there is nothing to compare with"),
        (["show", SESSIONS, "--at", "batch"], "--at: 'batch' is short for 3: batch-1 (high "),
        (["show", SESSIONS, "--at", "b"], "'b' is not a high watermark (300), an age (5m), a time"),
        (["show", SESSIONS, "--at", "999999999w"], "is no time"),
        (["show", SESSIONS, "--at", "1h"], "no batch that was committed by"),
        (["revert", SESSIONS, "--to", "batch-3"], "nothing to revert"),
        (
            ["revert", SESSIONS, "--to", "nothing"],
            "'nothing' is not a high watermark (300), an age (5m), a time",
        ),
    ],
)
def test_a_wrong_call_changes_nothing(directory: Path, words: list[str], problem: str) -> None:
    """It says what is wrong, and leaves the stores and the history as they are."""
    result = run(words[0], directory, *words[1:])
    assert result.code == ExitCode.WRONG_CALL
    assert problem in result.err
    assert run("status", directory, "--json").json()["highWatermark"] == 3


# --- short names ----------------------------------------------------------------------------------

LONG = [f"batch-01dad0aa-5c0{number}-7000-8000-a9087476{number:04}" for number in range(4)]


@pytest.fixture(scope="module")
def long_ago(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A team of two runs, each with two batches of long ids, each an hour after the one before."""
    directory = tmp_path_factory.mktemp("short") / "team"
    clock = {"hours": 4.5}
    with RuntimeStore.open(
        directory,
        team_name="team-a",
        seams=Seams(clock=lambda: utc_now() - timedelta(hours=clock["hours"])),
    ) as store:
        for number, batch_id in enumerate(LONG):
            store.write_batch(
                identity=RunIdentity(run_id=f"run-{number // 2 + 1}"),
                reason="launch_checkpoint",
                writes={SESSIONS: {"sessions": [], "n": number}},
                batch_id=batch_id,
            )
            clock["hours"] -= 1
    return directory


@pytest.mark.parametrize(
    ("at", "number"),
    [
        (LONG[1], 1),
        ("batch-01dad0aa-5c02", 2),
        ("0001", 0),  # digits alone are a high watermark
        ("…0001", 1),
        ("...0001", 1),
        ("a90874760001", 1),
        ("batch-01da…0003", 3),
        ("batch-01da..0003", 3),
        ("01da..0003", 3),
        ("01dad0aa-5c02", 2),
        (LONG[1].removeprefix("batch-"), 1),
        ("batch-01dad0aa-5c02-7000…", 2),
        ("run-1", 1),
        ("run-2", 3),
        ("un-1", 1),
        ("2h", 2),
        ("120 min", 2),
        ("1.2h", 3),
        ("240m", 0),
    ],
)
def test_a_point_by_its_short_name(long_ago: Path, at: str, number: int) -> None:
    """The beginning or the end of an id, or both; the end of a run; an age."""
    assert run("show", long_ago, SESSIONS, "--at", at).json()["n"] == number


def test_a_short_name_of_several_names_them_all(long_ago: Path) -> None:
    """With what each can be told apart by; nothing is guessed."""
    refused = run("show", long_ago, SESSIONS, "--at", "batch-01da…")
    assert (refused.code, refused.out) == (ExitCode.WRONG_CALL, "")
    assert all(
        f"{batch_id} (high watermark {at})" in refused.err for at, batch_id in enumerate(LONG, 1)
    )
    assert "'01da' is short for 4: " in run("show", long_ago, SESSIONS, "--at", "01da").err
    assert "run run-1, run run-2" in run("show", long_ago, SESSIONS, "--at", "run-…").err
    both = run("diff", long_ago, SESSIONS, "…0000", "run-1")
    assert "~ /n\n    - 0\n    + 1\n" in both.out
    assert run("revert", long_ago, SESSIONS, "--to", "batch-").code == ExitCode.WRONG_CALL


def test_a_short_name_of_many_says_how_many(directory: Path) -> None:
    """The first ones are named."""
    with RuntimeStore.open(directory) as store:
        for number in range(4, 9):
            store.write_batch(
                identity=RunIdentity(run_id="run-1"),
                reason="launch_checkpoint",
                writes={SESSIONS: {"n": number}},
                batch_id=f"batch-{number}",
            )
    refused = run("show", directory, SESSIONS, "--at", "batch")
    assert "'batch' is short for 8: batch-1 (high watermark 1), " in refused.err
    assert refused.err.count("(high watermark ") == 5
    assert " and 3 more. Give more letters" in refused.err


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ([], [3, 2, 1, 0]),
        (["--run-id", "run-1"], [1, 0]),
        (["--run-id", "un-2"], [3, 2]),
        (["--since", "2"], [3, 2]),
        (["--since", "run-1"], [3, 2]),
        (["--since", "160m"], [3, 2]),
        (["--since", "0"], [3, 2, 1, 0]),
        (["--since", "1", "--run-id", "run-1"], [1]),
        (["--store", FILE, "-n", "1"], [3]),
        (["--store", "opencode.hostLeases"], []),
    ],
)
def test_the_log_of_some_batches(long_ago: Path, options: list[str], numbers: list[int]) -> None:
    """Of a run, of a store, or after a point in time; each with the stores that it wrote."""
    found = run("log", long_ago, *options, "--json").json()["batches"]
    assert [line["batch"]["batchId"] for line in found] == [LONG[number] for number in numbers]
    assert all(line["stores"] == [SESSIONS] for line in found)
    if not numbers:
        assert run("log", long_ago, *options).out.endswith("\nno such batch is on record\n")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--run-id", "run-7"], "--run-id: there never was a run 'run-7' here"),
        (["--run-id", "run-"], "'run-' is short for 2: run run-1, run run-2"),
        (["--store", "nobody"], "unknown store 'nobody'"),
        (["--since", "77"], "high watermark 77"),
        (["--since", "0001-01-01T00:00+05:00"], "--since: '0001-01-01T00:00+05:00' is no time:"),
    ],
)
def test_a_log_of_nothing_that_there_is(long_ago: Path, options: list[str], problem: str) -> None:
    """Is a wrong call, and says which."""
    refused = run("log", long_ago, *options)
    assert (refused.code, refused.out) == (ExitCode.WRONG_CALL, "")
    assert problem in refused.err


def test_the_history_of_a_store_without_a_descriptor(tmp_path: Path) -> None:
    """Commands that look take its name or its file, though another store has that file by now;
    one that writes says who can. Any other name is unknown."""
    directory, old = tmp_path / "team", Descriptor("team.old")
    identity = RunIdentity(run_id="run-1")
    with RuntimeStore.open(directory, team_name="t", descriptors=[old]) as store:
        for data in (1, 2, DELETED):
            store.write_batch(identity=identity, reason="recovery", writes={old: data})
    heir = Descriptor("team.heir", relative_path=old.relative_path)
    for descriptors, given in (([], "team.old"), ([], old.relative_path), ([heir], "team.old")):
        RuntimeStore.open(directory, descriptors=descriptors).close()
        assert run("history", directory, given).out.count("batch-") == 3
        assert run("log", directory, "--store", given).out.count("batch-") == 3
        assert run("show", directory, given, "--at", "2").out == "2\n"
        assert "it was deleted by batch" in run("show", directory, given).err
        assert "    - 1\n    + 2\n" in run("diff", directory, given, "1", "2").out
        for command in (("revert", "--to", "1"), ("adopt",)):
            refused = run(command[0], directory, given, *command[1:])
            assert refused.code == ExitCode.WRONG_CALL
            assert "'team.old' has no descriptor any more, so no command writes it" in refused.err
            assert "opens the directory with its descriptor" in refused.err
    assert "unknown store 'team.odd'" in run("history", directory, "team.odd").err


def test_what_is_committed_for_a_store_without_a_descriptor(tmp_path: Path) -> None:
    """It is shown with what became of its file, and nothing is registered by that."""
    directory, old = tmp_path / "team", Descriptor("team.old", relative_path="of/old.json")
    with RuntimeStore.open(directory, team_name="t", descriptors=[old]) as store:
        store.write_batch(identity=RunIdentity(run_id="run-1"), reason="recovery", writes={old: 1})
    RuntimeStore.open(directory, descriptors=[]).close()
    shown = run("show", directory, "of/old.json")
    assert (shown.code, shown.out, shown.err) == (ExitCode.READY, "1\n", "")
    (directory / old.relative_path).write_text("{}")
    assert "of/old.json" in run("show", directory, "team.old").err
    assert "Not registered     team.old" in run("status", directory).out


def test_a_deleted_store_is_called_so(directory: Path) -> None:
    """By log, history, status, diff and show; the report and the readiness of the rest go on."""
    store = "opencode.hostLeases"
    with RuntimeStore.open(directory) as opened:
        identity = RunIdentity(run_id="run-2")
        opened.write_batch(identity=identity, reason="launch_checkpoint", writes={store: {"n": 9}})
        batch = opened.write_batch(
            identity=identity, reason="launch_checkpoint", writes={store: DELETED}
        )
    assert f"{store} (deleted)" in run("log", directory).out
    assert run("log", directory, "--store", store, "-n", "1").out.count(batch.batch_id) == 1
    logged = run("log", directory, "-n", "1", "--json").json()["batches"][0]
    assert logged["stores"] == [store]
    assert logged["batch"]["deletions"][0]["schemaName"] == store
    history = run("history", directory, store)
    assert "deleted" in history.out.splitlines()[3]
    versions = run("history", directory, store, "--json").json()["versions"]
    assert [line["version"]["isDeletion"] for line in versions][:2] == [True, False]
    status = run("status", directory)
    (line,) = [line for line in status.out.splitlines() if line.startswith(store)]
    assert "deleted" in line
    refused = run("show", directory, store)
    assert refused.code != ExitCode.READY
    assert f"deleted by batch {batch.batch_id}" in refused.err
    compared = run("diff", directory, store)
    assert f"({batch.batch_id}), deleted " in compared.out
    assert '- (all of it)\n    - {"n": 9}\n' in compared.out
    assert run("show", directory, store, "--at", str((batch.high_watermark or 0) - 1)).code == 0
    assert run("report", directory, "-o", directory.parent / "page.html").code == ExitCode.READY


def test_null_is_not_what_is_not_kept_any_more(tmp_path: Path) -> None:
    """Both have no `data` in the views; `show` prints the one, and says the other."""
    directory, store_of = tmp_path / "team", Descriptor("team.a")
    with RuntimeStore.open(
        directory,
        team_name="t",
        descriptors=[store_of],
        retention=Retention(contents_per_store=1),
    ) as store:
        for value in ("first", None):
            store.write_batch(
                identity=RunIdentity(run_id="run-1"), reason="checkpoint", writes={store_of: value}
            )
        store.prune()
    assert run("show", directory, "team.a").out == "null\n"
    assert "is not kept any more" in run("show", directory, "team.a", "--at", "1").err


def test_the_log_since_a_time_after_a_clock_that_was_ahead(tmp_path: Path) -> None:
    """Batches before that point are not listed for their times."""
    clock = [utc_now() + timedelta(days=1)]
    with open_store(tmp_path / "t", clock=lambda: clock[-1]) as store:
        write(store, LEASES, {"number": 1})
        clock.append(utc_now() - timedelta(minutes=1))
        write(store, LEASES, {"number": 2})
    assert run("log", tmp_path / "t", "--since", "30s", "--json").json()["batches"] == []
