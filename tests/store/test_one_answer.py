"""Plan, readiness, start, reads and recoveries agree: what one calls good, no other refuses.

Each case is a store of some criticality and strategy, a policy about edits, and something that is
wrong. All are asked, then a recovery is run, and all are asked again.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from rtstore import (
    DATABASE_NAME,
    Criticality,
    DataUpgradeError,
    Descriptor,
    ForeignEdits,
    RebuildStrategy,
    RecoveryAction,
    RecoveryReport,
    RuntimeStore,
    RuntimeStoreError,
    StartKind,
    StartState,
    StoreFileChangedError,
)
from rtstore.model.decide import CONTENT_MISSING, ENTRY_MISSING
from tests.cli.walks import delete_contents
from tests.support.breadth import is_full, seed

MINE, OTHER = "my.queue", "my.other"
OWN_STRATEGY = "ask_the_scribe"
STRATEGIES = [*map(str, RebuildStrategy), OWN_STRATEGY]
CRITICALITIES = [
    item for item in Criticality if item is not Criticality.REBUILDABLE_FROM_CANONICAL_DESTINATION
]
"""Without the second of the two that differ only in the name of a rebuild."""
GOES_ON = (StartKind.NEW, StartKind.RESUME, StartKind.TAKE_OVER)


class Titled(BaseModel):
    """A model that the committed data does not pass, and the edits do."""

    title: str


class Wrong(NamedTuple):
    """Something that is wrong with a store, and how the program opens it."""

    spoil: Callable[[Path], object]
    options: Mapping[str, Any] = MappingProxyType({})
    is_written: bool = True


def file_of(directory: Path) -> Path:
    """The file of the store."""
    return directory / f"{MINE}.json"


def change(old: str, new: str) -> Callable[[Path], object]:
    """Edit the file."""

    def spoil(directory: Path) -> None:
        text = file_of(directory).read_text()
        assert old in text
        file_of(directory).write_text(text.replace(old, new))

    return spoil


def put(text: str) -> Callable[[Path], object]:
    """Write the file."""
    return lambda directory: file_of(directory).write_text(text)


def lose_content(directory: Path) -> None:
    """Delete the content of every store, and have that of the other one taken from its file."""
    delete_contents(directory)
    with RuntimeStore.open(directory, descriptors=[Descriptor(OTHER)]):
        pass


def lose_entry(directory: Path) -> None:
    """Take the entry out of the manifest."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
        raw.execute("DELETE FROM manifest_entries WHERE schema_name = ?", (MINE,))


def unlink(directory: Path) -> None:
    """Remove the file."""
    file_of(directory).unlink()


def link(directory: Path) -> None:
    """Put a symbolic link in the file's place."""
    path = file_of(directory)
    if path.exists():
        path.rename(path.with_name("elsewhere.json"))
    path.symlink_to("elsewhere.json")


def commit_newer(directory: Path) -> None:
    """Commit data of a newer program."""
    newer = [Descriptor(MINE, schema_version=9), Descriptor(OTHER)]
    with RuntimeStore.open(directory, descriptors=newer, upgrade=False) as store:
        store.begin_run("run-1b", writes={MINE: {"n": 1}}, keep="all").end()


def both(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    """Several steps."""

    def spoil(directory: Path) -> None:
        for step in steps:
            step(directory)

    return spoil


def _titled(data: dict[str, Any]) -> dict[str, Any]:
    return {"title": data["title"]}


EDIT = change('"n": 1', '"title": "edited"')
BAD_EDIT = change('"n": 1', '"n": 2')
NEWER = change('Version": 1', 'Version": 9')
AT_1 = change('Version": 9', 'Version": 1')
AT_2 = change('Version": 1', 'Version": 2')
REFUSING: dict[str, Any] = {"payload": Titled}
FAILING: dict[str, Any] = {"schema_version": 2, "payload": Titled, "upgrades": {1: _titled}}
NO_STEP: dict[str, Any] = {"schema_version": 2, "payload": Titled}
TORN = put('{"schema')

WRONG = {
    "nothing": Wrong(lambda _: None),
    "missing": Wrong(unlink),
    "torn": Wrong(TORN),
    "edited": Wrong(EDIT),
    "edited and not adoptable": Wrong(change('"n": 1', '"n": "\\ud800"')),
    "newer": Wrong(NEWER),
    "newer and committed": Wrong(commit_newer),
    "newer and committed, edited": Wrong(both(commit_newer, EDIT, AT_1)),
    "a link": Wrong(link),
    "content lost": Wrong(lose_content),
    "content lost, missing": Wrong(both(lose_content, unlink)),
    "content lost, torn": Wrong(both(lose_content, TORN)),
    "content lost, edited": Wrong(both(lose_content, EDIT)),
    "content lost, newer": Wrong(both(lose_content, NEWER)),
    "content lost, a link": Wrong(both(lose_content, link)),
    "entry lost": Wrong(lose_entry),
    "entry lost, missing": Wrong(both(lose_entry, unlink)),
    "entry lost, torn": Wrong(both(lose_entry, TORN)),
    "entry lost, edited": Wrong(both(lose_entry, EDIT)),
    "model refuses": Wrong(lambda _: None, REFUSING),
    "model refuses, missing": Wrong(unlink, REFUSING),
    "model refuses, torn": Wrong(TORN, REFUSING),
    "model refuses, edited": Wrong(EDIT, REFUSING),
    "model refuses, edited badly": Wrong(BAD_EDIT, REFUSING),
    "model refuses, newer": Wrong(NEWER, REFUSING),
    "model refuses, content lost": Wrong(lose_content, REFUSING),
    "model refuses, entry lost": Wrong(lose_entry, REFUSING),
    "upgrade fails": Wrong(lambda _: None, FAILING),
    "upgrade fails, missing": Wrong(unlink, FAILING),
    "upgrade fails, torn": Wrong(TORN, FAILING),
    "upgrade fails, edited": Wrong(EDIT, FAILING),
    "upgrade fails, edited badly": Wrong(BAD_EDIT, FAILING),
    "upgrade fails, edited and newer": Wrong(
        both(EDIT, change('Version": 1', 'Version": 2')), FAILING
    ),
    "upgrade fails, content lost": Wrong(lose_content, FAILING),
    "no step, edited": Wrong(EDIT, NO_STEP),
    "no step, edited to 2": Wrong(both(EDIT, AT_2), NO_STEP),
    "never written": Wrong(lambda _: None, is_written=False),
    "never written, a file": Wrong(put('{"schemaVersion": 1, "data": 7}'), is_written=False),
    "never written, torn": Wrong(TORN, is_written=False),
    "never written, newer": Wrong(put('{"schemaVersion": 9, "data": 7}'), is_written=False),
    "never written, a link": Wrong(link, is_written=False),
}


class Case(NamedTuple):
    """A store, a policy, and what is wrong."""

    wrong: str
    mine: Descriptor
    edits: ForeignEdits

    def open(self, directory: Path, **options: Any) -> RuntimeStore:
        """Open a directory as the program of the case."""
        return RuntimeStore.open(
            directory,
            team_name="team-a",
            descriptors=[self.mine, Descriptor(OTHER)],
            foreign_edits=self.edits,
            **options,
        )

    @property
    def rebuilders(self) -> dict[str, Any]:
        """The functions of the runtime."""
        strategy = str(self.mine.rebuild_strategy)
        return {strategy: lambda _: {"title": "rebuilt"}} if strategy in REBUILDING else {}

    @property
    def is_diagnostic(self) -> bool:
        return self.mine.criticality is Criticality.DIAGNOSTIC_ONLY


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Directories of a run that has ended: with the store written, and without."""
    found = {}
    for is_written in (True, False):
        directory = tmp_path_factory.mktemp("made") / "state"
        descriptors = [Descriptor(MINE), Descriptor(OTHER)]
        writes = {OTHER: 1, **({MINE: {"n": 1}} if is_written else {})}
        with RuntimeStore.open(directory, team_name="team-a", descriptors=descriptors) as store:
            store.begin_run("run-1", writes=writes).end()
        found[is_written] = directory
    return found


REBUILDING = (
    RebuildStrategy.POLL_OPENCODE_PROVIDER,
    RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS,
    RebuildStrategy.RERUN_CAPABILITY_DISCOVERY,
    OWN_STRATEGY,
)
"""The strategies for which the runtime has a function."""


class Answers(NamedTuple):
    """What everybody says of a directory."""

    start: StartState
    mine: RecoveryAction
    is_ready: bool
    unreadable: str | None
    """Why a read of the store raises."""

    @property
    def goes_on(self) -> bool:
        return self.start.kind in GOES_ON

    @property
    def says(self) -> str:
        return f"{self.start.kind} ({self.start.why})"

    @property
    def waits(self) -> bool:
        """Whether the answer says that the data is of an older version."""
        return "older schema version" in self.start.why


def ask(case: Case, store: RuntimeStore) -> Answers:
    """Ask everybody, the read last: it may adopt an edit."""
    plan, check = store.assess()
    start = store.start_state("run-2")
    assert start.readiness == check
    (mine,) = [item for item in plan.actions if item.schema_name == MINE]
    unreadable = None
    try:
        # Data that waits for its upgrade is read by its name.
        store.read(MINE if "older schema version" in start.why else case.mine)
    except RuntimeStoreError as error:
        unreadable = f"{type(error).__name__}: {error}"
    return Answers(start, mine, check.ok, unreadable)


def about_readiness(case: Case, found: Answers) -> Iterator[str]:
    """Yield where plan, readiness and start contradict each other."""
    start, plan = found.start, found.start.plan
    may_be_repaired = case.is_diagnostic and start.kind is StartKind.REPAIR
    if found.is_ready and not (found.goes_on or may_be_repaired):
        yield f"ready, and {found.says}"
    if plan.manifest_healthy and not (found.is_ready and found.goes_on):
        yield f"nothing to do, and {start.readiness.reason}, {found.says}"
    is_edits = case.edits is not ForeignEdits.RAISE  # readiness reports them in any case
    if found.goes_on and not (found.is_ready or is_edits or start.unwritten):
        yield f"{found.says}, and not ready: {start.readiness.diagnostics}"
    if case.is_diagnostic and found.mine.reason not in (CONTENT_MISSING, ENTRY_MISSING):
        if not found.is_ready:
            yield f"a diagnostic store, and not ready: {start.readiness.diagnostics}"
        if start.kind is StartKind.REFUSE:
            yield f"a diagnostic store, and {found.says}"


def about_reads(case: Case, found: Answers) -> Iterator[str]:
    """Yield where a read contradicts the others."""
    start = found.start
    is_left_out = case.is_diagnostic and MINE in start.why
    if found.unreadable is None or MINE in start.unwritten:
        return
    if found.goes_on and not is_left_out:
        yield f"{found.says}, and a read raises {found.unreadable}"
    if start.plan.manifest_healthy and MINE not in start.unwritten:
        yield f"nothing to do, and a read raises {found.unreadable}"


def about_beginning(case: Case, store: RuntimeStore, found: Answers) -> Iterator[str]:
    """Begin a run as the answer says; yield how that fails."""
    writes = {name: {"title": "first"} for name in found.start.unwritten}
    if case.is_diagnostic:
        writes.pop(MINE, None)
    try:
        store.begin_run("run-2", keep="all", writes=writes)
    except RuntimeStoreError as error:
        is_told = found.waits and isinstance(error, DataUpgradeError)
        if case.is_diagnostic or not is_told:
            yield f"{found.says}, and it cannot begin: {type(error).__name__}: {error}"
        return
    again = store.start_state("run-2")
    if again.kind is not StartKind.RESUME:
        yield f"begun, and then {again.kind} ({again.why})"


def about_recovery(before: Answers, after: Answers, report: RecoveryReport) -> Iterator[str]:
    """Yield where what is said after a recovery contradicts what was said before it."""
    did = "; ".join(f"{item.action.kind} {item.outcome}: {item.detail}" for item in report.steps)
    told = f"{before.says}, recovered [{did}], and then {after.says}"
    kinds = before.start.kind, after.start.kind
    if before.is_ready and not after.is_ready:
        yield f"ready, and not after a recovery: {told}"
    if kinds == (StartKind.REPAIR, StartKind.REPAIR) and before.mine == after.mine:
        yield told
    # A recovery moves away what a newer program wrote, and the edit that would be adopted.
    is_newer = before.start.why.startswith(f"{MINE} was written by a newer program")
    is_link = "symbolic link" in before.start.why
    if kinds[0] is StartKind.REFUSE is not kinds[1] and not (is_newer or is_link):
        yield told
    if before.goes_on and not after.goes_on and "this store adopts it" not in before.start.why:
        yield told


def about_opening(case: Case, directory: Path, before: Answers) -> Iterator[str]:
    """Yield where an opening that does all it may contradicts what was said before it."""
    try:
        with case.open(directory) as store:
            found = ask(case, store)
            yield from about_readiness(case, found)
            yield from about_reads(case, found)
            if found.goes_on:
                yield from about_beginning(case, store, found)
    except RuntimeStoreError as error:
        is_upgrade = isinstance(error, DataUpgradeError | StoreFileChangedError)
        is_told = "nor can its file be adopted" in "".join(getattr(error, "__notes__", []))
        if not is_upgrade or ("this store adopts it" in before.start.why and not is_told):
            yield f"{before.says}, and it cannot be opened: {error}"


def contradictions(case: Case, directory: Path) -> Iterator[str]:
    """Yield how the answers contradict each other, in several lives of one directory."""
    copy = directory.with_name(f"{directory.name} copy")

    def anew() -> RuntimeStore:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(directory, copy, symlinks=True)
        return case.open(copy, recover=False, upgrade=False)

    with anew() as store:
        before = ask(case, store)
        yield from about_readiness(case, before)
        yield from about_reads(case, before)
    if before.goes_on:
        with anew() as store:
            yield from about_beginning(case, store, before)
    with anew() as store:
        report = store.recover(store.plan_recovery(), rebuilders=case.rebuilders)
        after = ask(case, store)
        for said in (*about_readiness(case, after), *about_reads(case, after)):
            yield f"after a recovery: {said}"
        yield from about_recovery(before, after, report)
        if after.goes_on:
            for said in about_beginning(case, store, after):
                yield f"after a recovery: {said}"
    shutil.rmtree(copy)
    for said in about_opening(case, directory, before):
        yield f"opened: {said}"


def every_case(wrong: str) -> list[Case]:
    """Every kind of store and every policy."""
    return [
        Case(
            wrong,
            Descriptor(
                MINE,
                criticality=criticality,
                rebuild_strategy=strategy,
                **WRONG[wrong].options,
            ),
            edits,
        )
        for criticality in CRITICALITIES
        for strategy in STRATEGIES
        for edits in ForeignEdits
    ]


def drawn_cases(wrong: str) -> list[Case]:
    """One store that the runtime needs, and one that it does not."""
    draw = random.Random(f"{seed()} {wrong}")
    cases = every_case(wrong)
    return [
        draw.choice([case for case in cases if case.is_diagnostic == is_diagnostic])
        for is_diagnostic in (False, True)
    ]


def more_cases(wrong: str) -> list[Case]:
    """Six of them; all in full."""
    cases = every_case(wrong)
    return cases if is_full() else random.Random(f"{seed()} more {wrong}").sample(cases, 6)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "cases", [drawn_cases, pytest.param(more_cases, marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_one_calls_good_no_other_refuses(
    wrong: str, cases: Callable[[str], list[Case]], made: dict[bool, Path], tmp_path: Path
) -> None:
    """Whatever the store is, and whatever is done about edits."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(made[WRONG[wrong].is_written], spoilt)
    WRONG[wrong].spoil(spoilt)
    said = []
    for case in cases(wrong):
        directory = tmp_path / "state"
        shutil.copytree(spoilt, directory, symlinks=True)
        about = f"{case.mine.criticality}, {case.mine.rebuild_strategy}, {case.edits}"
        said += [f"{about}: {item}" for item in contradictions(case, directory)]
        shutil.rmtree(directory)
    assert not said, "\n".join(said)
