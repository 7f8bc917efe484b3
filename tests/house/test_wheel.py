"""What ships: the wheel, built and installed away from the checkout.

The environment holds the wheel and nothing else of ours; what it depends on is borrowed from the
environment that runs the tests. Every command runs in a folder that is not the checkout.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from rtstore.control.schema import REVISIONS
from tests.support.earlier_names import EARLIER_NAMES
from tests.support.installed import CHECKOUT, Installed
from tests.upgrade.freeze import unpack

# --- what is in it ------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_its_migrations(installed: Installed) -> None:
    """The wheel holds every module, the types' marker and all migrations, and nothing else: no
    tests, no caches, no second top-level package."""
    with zipfile.ZipFile(installed.wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    expected = {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "rtstore").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    expected |= {
        f"rtstore/{path.relative_to(CHECKOUT).as_posix()}"
        for path in (CHECKOUT / "migrations").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert names - metadata == expected
    assert {
        "rtstore/py.typed", "rtstore/migrations/env.py", "rtstore/guide/sqlite3.md",
    } <= names  # fmt: skip


def test_the_wheel_says_what_it_needs(installed: Installed) -> None:
    """The metadata names the Python and the dependencies, each with a lower bound."""
    with zipfile.ZipFile(installed.wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        headers = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    assert headers["Requires-Python"] == ">=3.11"
    needed = [each for each in headers.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert {each.partition(">=")[0] for each in needed} == {
        "alembic", "jinja2", "pydantic", "rich", "sqlalchemy", "typer",
    }  # fmt: skip
    assert all(">=" in each for each in needed)


# --- what it does -------------------------------------------------------------------------------

WHERE = """
import importlib.metadata, json, rtstore
print(json.dumps({
    "package": rtstore.__file__,
    "migrations": str(rtstore.migrations_path()),
    "version": rtstore.__version__,
}))
"""


def test_the_package_comes_from_the_wheel(installed: Installed) -> None:
    """Package and migrations are those of the wheel, not of the checkout, and the version is that
    of the wheel."""
    done = installed.run(installed.python, "-c", WHERE)
    found = json.loads(done.stdout)
    site = installed.site.resolve()
    assert Path(found["package"]).resolve() == site / "rtstore" / "__init__.py"
    assert Path(found["migrations"]).resolve() == site / "rtstore" / "migrations"
    assert installed.wheel.name.startswith(f"rtstore-{found['version']}-")


def test_the_guide_is_in_it(installed: Installed) -> None:
    """`rtstore guide TOPIC`, piped, is the page as it stands in the checkout."""
    page = CHECKOUT / "rtstore" / "guide" / "backups.md"
    done = installed.run(installed.bin / "rtstore", "guide", "backups", PYTHONIOENCODING="utf-8")
    assert done.stdout == page.read_text(encoding="utf-8")


def test_the_demo_runs(installed: Installed) -> None:
    """`rtstore demo` makes a database, has a process killed and recovers, away from the
    checkout."""
    done = installed.run(installed.bin / "rtstore", "demo", "shown", "--json")
    shown = json.loads(done.stdout)
    assert shown["kill"]["signal"] in (9, "SIGKILL")
    assert shown["crash"]["verdict"] == "blocked"
    assert shown["outcome"]["verdict"] == "ready"
    assert (installed.folder / "shown" / "runtime-store.sqlite3").is_file()


def test_the_demo_speaks_to_people(installed: Installed) -> None:
    """Without `--json` the demo tells its story in plain text, whatever the terminal's encoding."""
    done = installed.run(installed.bin / "rtstore", "demo", PYTHONIOENCODING="ascii")
    assert "sqlite3" in done.stdout
    assert "blocked" in done.stdout
    assert "ready" in done.stdout
    assert done.stderr == ""


UPGRADE = """
import json, sys
from rtstore import RuntimeStore
with RuntimeStore.open(sys.argv[1]) as store:
    (row,) = store.upgrades()
    batch = store.batches()[-1]
    print(json.dumps([row.from_revision, row.to_revision, batch.state, batch.high_watermark]))
"""


def test_the_oldest_database_is_upgraded(installed: Installed) -> None:
    """With the wheel alone the oldest frozen directory is upgraded when it is opened, by the
    revisions in the wheel, and its batches are there; the command finds it current."""
    directory = unpack(REVISIONS[0], installed.folder)
    done = installed.run(installed.python, "-c", UPGRADE, directory)
    assert json.loads(done.stdout) == [REVISIONS[0], REVISIONS[-1], "committed", 8]
    again = installed.run(installed.bin / "rtstore", "upgrade", directory, "--json")
    assert json.loads(again.stdout)["changed"] is False


# --- its types ----------------------------------------------------------------------------------

SAMPLE = '''
"""A runtime that uses the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, assert_never, assert_type

from pydantic import BaseModel

from rtstore import (
    AsyncRuntimeStore,
    Batch,
    BatchReason,
    Descriptor,
    Event,
    ReadinessCheck,
    RecoveryPlan,
    RunIdentity,
    RuntimeStore,
    RuntimeStoreError,
    Snapshot,
    StoreContent,
)
from rtstore.events import (
    BatchCommitted,
    BatchFailed,
    BatchUnfinished,
    EventKind,
    FileQuarantined,
    NotReady,
    StoreRecovered,
)
from rtstore.records import QuarantinedFile, StoreDifferences, StoreVersion
from rtstore.testing import (
    CrashPoint,
    Ids,
    Kill,
    PointNotReachedError,
    Seams,
    StepClock,
    crash_at,
    crash_points,
    kill_at,
)


class Roster(BaseModel):
    """Who is there."""

    names: list[str] = []


class Box(BaseModel):
    """What waits."""

    waiting: dict[str, int] = {}


ROSTER = Descriptor("team.roster", payload=Roster)
BOX = Descriptor("team.box", payload=Box, owner="postman", rebuild_strategy="ask_the_postman")
NOTES = Descriptor("team.notes")
ALL = [ROSTER, BOX, NOTES]


def join(roster: Roster) -> Roster:
    """One more."""
    return Roster(names=[*roster.names, "ann"])


def with_models(directory: Path) -> str:
    """By its descriptor a store is its model, by its name plain JSON."""
    assert_type(ROSTER, Descriptor[Roster])
    assert_type(NOTES, Descriptor[Any])
    with RuntimeStore.open(directory, team_name="team-a", descriptors=ALL) as store:
        first = {ROSTER: Roster(), BOX: Box(), "team.notes": 1}
        with store.begin_run("run-1", writes=first) as run:
            run.update(ROSTER, join, reason="somebody_came")
            run.update(BOX, lambda box: Box(waiting={**box.waiting, "a": 1}), reason="a_letter")
            assert_type(run.update("team.notes", add_session, reason="a_note"), Batch)
            run.write_batch("cleaned_up", {BOX: Box()})
        assert_type(store.read(ROSTER), StoreContent[Roster])
        assert_type(store.read(ROSTER).data, Roster)
        assert_type(store.read(BOX, at=1).data.waiting, dict[str, int])
        assert_type(store.read("team.roster"), StoreContent[Any])
        snapshot = store.snapshot([ROSTER, BOX, "team.notes"])
        assert_type(snapshot[ROSTER].data, Roster)
        assert_type(snapshot.get(BOX), StoreContent[Box] | None)
        assert_type(snapshot.data(BOX), Box | None)
        return store.read(ROSTER).data.names[0]


async def with_models_on_a_loop(store: AsyncRuntimeStore) -> list[str]:
    """The same, awaited."""
    async with store.begin_run("run-2", keep=[ROSTER, BOX]) as run:
        await run.update(ROSTER, join, reason="somebody_came")
    assert_type((await store.snapshot())[BOX].data, Box)
    return (await store.read(ROSTER)).data.names


def add_session(data: Any) -> Any:
    """Append a session."""
    return {"sessions": [*(data or {"sessions": []})["sessions"], {"id": "s-1"}]}


def main(directory: Path) -> list[str]:
    """Checkpoint, then check."""
    identity = RunIdentity(run_id="run-1", capability_snapshot_id=None)
    with RuntimeStore.open(directory, team_name="team-a") as store:
        assert_type(store, RuntimeStore)
        batch = store.write_batch(
            identity=identity,
            reason=BatchReason.LAUNCH_CHECKPOINT,
            writes={"opencode.hostLeases": {"leases": []}},
        )
        assert_type(batch, Batch)
        assert_type(batch.receipts[0].content_hash, str)
        assert_type(batch.high_watermark, int | None)
        try:
            store.update(
                "opencode.hostLeases", add_session, identity=identity, reason="host_lease_update"
            )
        except (KeyError, RuntimeStoreError) as error:
            print(error)
        assert_type(store.read("opencode.hostLeases"), StoreContent)
        assert_type(store.snapshot(), Snapshot)
        assert_type(store.plan_recovery(expected=identity), RecoveryPlan)
        check = store.check_readiness(expected=identity)
        assert_type(check, ReadinessCheck)
        return list(check.diagnostics)


def observe(event: Event) -> None:
    """Every kind has its own record, and there are no others."""
    assert_type(event.stores, tuple[str, ...])
    assert_type(event.duration_s, float | None)
    match event:
        case BatchCommitted():
            assert_type(event.batch, Batch)
            assert_type(event.duration_s, float)
            assert_type(event.batch_id, str)
        case BatchFailed() | BatchUnfinished():
            assert_type(event.cause, str)
        case StoreRecovered():
            assert_type(event.batch_ids, tuple[str, ...])
        case FileQuarantined():
            assert_type(event.file, QuarantinedFile)
        case NotReady():
            assert event.kind in (EventKind.DEGRADED, EventKind.BLOCKED)
            assert_type(event.check, ReadinessCheck)
        case _:
            assert_never(event)


async def on_a_loop(directory: Path) -> StoreContent:
    """The same for asyncio."""
    queue: asyncio.Queue[Event] = asyncio.Queue()
    async with AsyncRuntimeStore.open(directory, on_event=queue.put_nowait) as store:
        assert_type(store, AsyncRuntimeStore)
        identity = RunIdentity(run_id="run-2")
        batch, again = await asyncio.gather(
            store.write_batch(identity=identity, reason="recovery", writes={"own": 1}),
            store.update("own", add_session, identity=identity, reason=BatchReason.RECOVERY),
        )
        assert_type(batch, Batch)
        assert_type(again, Batch)
        assert_type(await store.history("own"), list[StoreVersion])
        assert_type(await store.diff("own", batch.batch_id), StoreDifferences)
        assert_type(await store.check_readiness(), ReadinessCheck)
        return await store.read("own", at=1)


def crash_it(directory: Path) -> None:
    """And for the tests of a runtime."""
    seams = Seams(clock=StepClock(), batch_id_factory=Ids("batch"))
    store = RuntimeStore.open(directory, on_event=observe, seams=seams)
    for point in crash_points(stores=2):
        assert_type(point, CrashPoint)
        try:
            with crash_at(point, batch=2) as crash:
                main(directory)
            assert_type(crash.batch_ids, tuple[str, ...])
        except PointNotReachedError as error:
            print(error)
    assert_type(kill_at("in-log", main, directory, timeout_s=5), Kill)
    assert_type(kill_at("in-log", on_a_loop, directory), Kill)
    store.close()
'''

WRONG = [
    ("store.read(1)", "call-overload"),
    ("store.nothing()", "attr-defined"),
    ("store.write_batch(identity='run-1', reason='recovery', writes={})", "arg-type"),
    ("store.manifest().high_watermark + 'x'", "operator"),
    ("RunIdentity(run=1)", "call-arg"),
    ("RuntimeStore.open('x', on_event=len)", "arg-type"),
    ("crash_at(1)", "arg-type"),
    ("StoreEvent(kind=EventKind.FAILED, team_name='t', directory='x', batch=1)", "call-arg"),
    ("AsyncRuntimeStore(store).read('own').data", "attr-defined"),
    ("store.read(NUMBERS).data.nothing", "attr-defined"),
    ("store.snapshot()[NUMBERS].data + 1", "operator"),
    ("store.update(NUMBERS, lambda old: 1, identity=ONE, reason='a')", "return-value"),
    ("Descriptor('a', payload=int)", "type-var"),
    ("Descriptor('a', pyload=Numbers)", "call-overload"),
    ("rtstore.nothing()", "attr-defined"),
    ("RuntimeStore.open('x', seams=len)", "arg-type"),
]


def check_types(installed: Installed, program: Path, expected: int) -> str:
    """What mypy --strict says of a program, with nothing but the wheel to go by."""
    done = installed.run(
        *(sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull),
        *("--python-executable", installed.python, "--cache-dir", installed.folder / "types"),
        program,
        expected=expected,
    )
    return done.stdout


@pytest.mark.thorough
def test_types_hold_from_outside(installed: Installed) -> None:
    """A typed program that uses the installed package passes mypy --strict, and each mistake in
    another one is found: the types are not `Any`."""
    sample = installed.folder / "sample.py"
    sample.write_text(SAMPLE, encoding="utf-8")
    assert "Success" in check_types(installed, sample, 0)
    head = (
        "import rtstore; from pydantic import BaseModel\n"
        "from rtstore import AsyncRuntimeStore, EventKind, RunIdentity, RuntimeStore, StoreEvent\n"
        "from rtstore import Descriptor; from rtstore.testing import crash_at\n"
        "class Numbers(BaseModel): values: list[int]\n"
        "NUMBERS = Descriptor('numbers', payload=Numbers); ONE = RunIdentity(run_id='run-1')\n"
        "store = RuntimeStore.open('x')\n"
    )
    wrong = installed.folder / "wrong.py"
    wrong.write_text(head + "\n".join(line for line, _ in WRONG) + "\n", encoding="utf-8")
    said = check_types(installed, wrong, 1)
    for number, (_, code) in enumerate(WRONG, start=7):
        assert any(
            line.startswith(f"wrong.py:{number}:") and line.endswith(f"[{code}]")
            for line in said.splitlines()
        ), said


@pytest.mark.thorough
def test_earlier_imports_have_their_types(installed: Installed) -> None:
    """A typed program that imports every name as it once could passes mypy --strict, and the names
    are what they were: a class that it derives, an error that it catches."""
    program = installed.folder / "earlier.py"
    program.write_text(
        f"from rtstore import {', '.join(EARLIER_NAMES)}\n"
        "class Mine(FileSystem): ...\n"
        "def when(record: Receipt, found: BatchCommitted) -> str:\n"
        "    try:\n"
        "        return import_directory('x').team_name + record.receipt_id + found.batch_id\n"
        "    except LockTimeoutError as error:\n"
        "        return str(error.store)\n",
        encoding="utf-8",
    )
    said = check_types(installed, program, 1)
    assert said.splitlines()[:-1] == [
        'earlier.py:7: error: "LockTimeoutError" has no attribute "store"  [attr-defined]'
    ], said
