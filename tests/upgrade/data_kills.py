"""SIGKILL before every SQL statement and file operation of an upgrade of store data.

python -m tests.upgrade.data_kills
"""

from __future__ import annotations

from pathlib import Path

from rtstore import RuntimeStore
from tests.crash.children import Say
from tests.crash.probe import TracedFileSystem
from tests.crash.workers import workshop
from tests.support import IDENTITY, agree
from tests.upgrade.kills import kill_everywhere
from tests.upgrade.test_data import A, B, begin, descriptors, open_it


def opening(directory: Path, _say: Say, fs: TracedFileSystem) -> None:
    """Open it as the runtime of version 3 does."""
    open_it(directory, 3, fs=fs).close()


def one_by_one(directory: Path, _say: Say, fs: TracedFileSystem) -> None:
    """An upgrade as it must not be: each store in a batch of its own."""
    for number in (1, 2):
        known = descriptors(3)
        known[number % 2] = descriptors(1)[number % 2]
        open_it(directory, 3, descriptors=known, fs=fs).close()
        for path in (directory, directory.parent):
            fs.lstat(path)


def check(directory: Path) -> list[str]:
    """All stores are of one version; then the runtime opens it."""
    with open_it(directory, 3, upgrade=False) as store:
        versions = {store.read(name, verify=False).schema_version for name in (A, B)}
        problems = [] if len(versions) == 1 else [f"versions {versions}"]
    with open_it(directory, 3) as store:
        if store.read(A).data != {"values": [1], "count": 1} or store.read(B).schema_version != 3:
            problems.append("the data is not what it must be")
        reasons = [batch.reason for batch in store.batches()]
        if reasons.count("migration") != 1 or not agree(store):
            problems.append(f"batches {reasons}")
        if store.manifest().active_identity != IDENTITY:
            problems.append("the active identity was changed")
    with RuntimeStore.open(directory) as store:
        if store.descriptors.get(A).schema_version != 3:
            problems.append("the descriptors are not remembered")
    return problems


def main() -> None:
    """The command: a line of JSON for the upgrade, one for the control."""
    for name, act in (("data", opening), ("control", one_by_one)):
        with workshop() as workplace:
            tally = kill_everywhere(
                name, begin(workplace), act, check, stop_at_first=name == "control"
            )
        print(tally.line(name), flush=True)


if __name__ == "__main__":
    main()
