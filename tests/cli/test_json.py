"""`--json`: one document, the same shape every time, and every key of it told by `--help`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore import DATABASE_NAME
from rtstore.cli.app import Commands, QuarantineCommands
from rtstore.cli.commands.watch import _Watcher
from rtstore.control.schema import REVISIONS
from rtstore.model.records import Receipt
from tests.cli.commands import crashed_team, ready_team, run, run_process
from tests.cli.test_import import _copy
from tests.model.build import needs_legacy
from tests.upgrade.freeze import unpack

PLAN = {
    "planId",
    "teamName",
    "runId",
    "createdAt",
    "highWatermark",
    "manifestHealthy",
    "readinessImpact",
    "actions",
    "diagnostics",
}
BACKUP = {
    *("formatVersion", "path", "teamName", "revision", "highWatermark", "lastCommittedBatchId"),
    *("origin", "createdAt", "databaseHash", "files", "leftOut", "changed", "lanes"),
    "schemaProblem",
}
SHAPES = {
    "init": {"directory", "teamName", "created", "database", "highWatermark", "stores"},
    "import": {
        *("directory", "teamName", "changed", "importedAt", "highWatermark", "activeIdentity"),
        *("batches", "receipts", "stores", "controlFiles", "otherFiles", "notes", "dryRun"),
        *("endedRuns", "newerBatches"),
        *("lanes", "lanesOnly", "problem", "found", "imported", "skipped"),
    },
    "status": {
        *("directory", "teamName", "verdict", "readiness", "highWatermark", "activeIdentity"),
        *("run", "processAlive", "staleStores", "nothingCommitted"),
        *("expectedIdentity", "lastBatch", "openBatches", "newerFiles", "lockHolder"),
        *("stores", "unregistered", "outgrown", "next"),
        *("databaseBytes", "walBytes", "inTransaction", "below", "laneIndexes", "backup"),
        *("keepsBatches", "keepsContentsPerStore", "keepsContentBytes", "keepsDays", "thinsByAge"),
    },
    "status of a folder": {
        *("folder", "exitCode", "directories", "laneIndexes", "backups", "wasCutShort"),
    },
    "plan": {
        *("directory", "teamName", "verdict", "readiness", "expectedIdentity", "plan"),
        *("recovery", "next", "run", "processAlive", "staleStores", "nothingCommitted"),
    },
    "report": {"path", "bytes", "redacted", "directories"},
    "recover": {
        *("directory", "teamName", "dryRun", "upgrade", "runNumber", "plan", "steps"),
        *("removedFiles", "remaining", "verdict", "readiness", "next"),
    },
    "upgrade": {
        *("directory", "fromRevision", "toRevision", "revisions", "changed", "dryRun"),
        *("upgradedAt", "backup", "putBack", "removedRows", "batchId", "stores", "backups"),
        *("unregistered", "moved", "quarantined"),
    },
    "prune": {
        *("directory", "teamName", "dryRun", "keepsBatches", "keepsContentsPerStore"),
        *("keepsContentBytes", "keepsDays", "thinsByAge"),
        *("batches", "contents", "contentBytes", "batchesHeld", "contentsHeld"),
        *("batchesLeft", "contentsLeft"),
        *("databaseBytesBefore", "databaseBytesAfter", "unreturnableBytes", "next"),
    },
    "doctor": {"directory", "level", "findings", "stores"},
    "rebuild": {
        *("directory", "teamName", "problem", "keptAside", "batchId", "highWatermark"),
        *("activeIdentity", "stores", "lost", "notes", "next"),
    },
    "backup": BACKUP,
    "restore": BACKUP,
    "verify": BACKUP,
    "export": {
        *("directory", "teamName", "highWatermark", "controlFiles", "stores", "batches"),
        *(
            "setAside",
            "ownReasons",
            "leftOut",
            "notCommitted",
            "changed",
            "replaced",
            "lanesOnly",
            "problem",
            "lanes",
        ),
    },
    "runs": {"directory", "teamName", "activeRunId", "number", "runs", "next"},
    "end-run": {"directory", "teamName", "run", "processAlive", "next"},
    "log": {"directory", "teamName", "highWatermark", "batches"},
    "history": {"directory", "schemaName", "versions"},
    "show": {"directory", "note", "content"},
    "diff": {"directory", "schemaName", "before", "after", "differences"},
    "revert": {
        *("directory", "schemaName", "to", "batch", "undo", "contradictions", "verdict", "next"),
    },
    "adopt": {
        *(
            "directory",
            "schemaName",
            "batch",
            "modelWasChecked",
            "undo",
            "contradictions",
            "verdict",
            "next",
        ),
    },
    "quarantine list": {"directory", "teamName", "files", "unlisted"},
    "quarantine show": {"directory", "file", "content", "note"},
    "quarantine diff": {"directory", "file", "highWatermark", "note", "differences"},
    "quarantine restore": {"directory", "file", "verdict", "next"},
    "quarantine prune": {"directory", "dryRun", "files", "bytes"},
    "guide": {"topics", "text"},
    "demo": {
        *("directory", "database", "teamName", "batches", "kill", "crash", "runNumber", "steps"),
        *("outcome", "queries"),
    },
}
"""The keys of each document. They are a promise: new ones may come, none may go."""

OF_A_READY_TEAM = {
    "rebuild": ["--force"],
    "prune": ["--batches", "1"],
    "end-run": ["--why", "it hung"],
    "history": ["launch-state.json"],
    "show": ["launch-state.json"],
    "diff": ["opencode-delivery-journal.json", "1"],
    "revert": ["opencode-delivery-journal.json", "--to", "1"],
}
RECEIPT = {field.alias or name for name, field in Receipt.model_fields.items()} | {"mtimeMs"}
"""Documented with the record itself."""


def _document(command: str, parent: Path) -> Any:
    if command == "import":
        return run("import", _copy(parent, "team-a"), "--json").json()
    of_nothing: dict[str, list[str | Path]] = {
        "init": [parent / "new", "--team", "t"],
        "guide": ["backups"],
        "demo": [parent / "demo"],
    }
    if command in of_nothing:
        return run(command, *of_nothing[command], "--json").json()
    if command == "status of a folder":
        return _document_of_a_folder(parent)
    if command == "report":
        return run("report", crashed_team(parent), "-o", parent / "a.html", "--json").json()
    if command in OF_A_READY_TEAM:
        return run(command, ready_team(parent), *OF_A_READY_TEAM[command], "--json").json()
    if command == "upgrade":
        return run("upgrade", unpack(REVISIONS[0], parent), "--json").json()
    if command in ("backup", "restore", "verify"):
        words: dict[str, list[str | Path]] = {
            "backup": [ready_team(parent), parent / "backup"],
            "restore": [parent / "backup", parent / "restored"],
            "verify": [parent / "backup"],
        }
        if command != "backup":
            assert run("backup", *words["backup"]).code == 0
        return run(command, *words[command], "--json").json()
    if command == "adopt" or command.startswith("quarantine"):
        return _document_of_an_edit(command, parent)
    return run(command, crashed_team(parent), "--json").json()


def _document_of_a_folder(parent: Path) -> Any:
    (crashed_team(parent) / DATABASE_NAME).rename(parent / "gone")
    (parent / "crashed" / "lanes").mkdir()
    crashed_team(parent / "crashed" / "lanes")
    return run("status", parent, "--json").json()


def _document_of_an_edit(command: str, parent: Path) -> Any:
    directory = ready_team(parent)
    path = directory / "opencode-sessions.json"
    path.write_text(path.read_text() + "\n")
    if command == "adopt":
        return run("adopt", directory, path.name, "--json").json()
    run("recover", directory)
    words = {"quarantine list": [], "quarantine prune": ["--older-than", "0"]}.get(command, ["1"])
    return run(*command.split(), directory, *words, "--json").json()


def _keys(document: Any) -> Iterator[str]:
    if isinstance(document, list):
        for item in document:
            yield from _keys(item)
    elif isinstance(document, dict):
        for name, value in document.items():
            yield name
            of_a_difference = name in ("before", "after") and "path" in document
            if name != "data" and not of_a_difference:  # these are the runtime's own
                yield from _keys(value)


@pytest.mark.parametrize(
    "command",
    [pytest.param(name, marks=needs_legacy) if name == "import" else name for name in SHAPES],
)
def test_shape(tmp_path: Path, command: str) -> None:
    """The top level is as promised, and every key at any depth stands in the help of the command
    (a plan's in that of `plan`, an identity's in that of `status`)."""
    document = _document(command, tmp_path)
    assert set(document) == SHAPES[command]
    told = set()
    for name in (
        command.removesuffix(" of a folder"),
        "plan",
        "status",
        "backup",
        "log",
        "runs",
        "history",
        "diff",
        "quarantine list",
    ):
        told |= set(re.findall(r"\w+", run(*name.split(), "--help").out.split("JSON: ")[1]))
    states = {"committed", "failed"}  # how many batches are in them, where they are counted
    assert set(_keys(document)) - told - RECEIPT - states == set()


EVENTS = {
    "state": {
        *("event", "at", "directory", "teamName", "verdict", "readiness", "highWatermark"),
        *("activeIdentity", "openBatches", "next"),
    },
    "batch": {"event", "at", "batch", "stores"},
    "error": {"event", "at", "error"},
}
"""The keys of what `watch --json` prints, a document a line."""


def test_every_command_has_a_shape() -> None:
    """A new command is listed above; `watch` prints events."""
    names = {name for section in Commands.sections.values() for name in section}
    of_quarantine = {f"quarantine {name}" for name in QuarantineCommands.sections["Commands"]}
    assert names - {"quarantine", "watch"} | of_quarantine == SHAPES.keys() - {"status of a folder"}


def test_shape_of_events(tmp_path: Path) -> None:
    """Each kind of event is as promised, and every key of it stands in a help text."""
    watcher = _Watcher(crashed_team(tmp_path))
    seen = list(watcher.look())
    run("recover", tmp_path / "crashed")
    seen += watcher.look()
    (tmp_path / "crashed" / DATABASE_NAME).write_bytes(b"")
    seen += watcher.look()
    documents = [event.model_dump(mode="json", by_alias=True) for event in seen]
    assert {item["event"] for item in documents} == set(EVENTS)
    told = set()
    for name in ("watch", "plan", "status", "log"):
        told |= set(re.findall(r"\w+", run(name, "--help").out.split("JSON")[1]))
    for document in documents:
        assert set(document) == EVENTS[document["event"]]
        assert set(_keys(document)) - told - RECEIPT == set()


def test_a_plan_has_the_legacy_shape(tmp_path: Path) -> None:
    """Readers of legacy plans can read ours: its keys, and the high watermark."""
    assert set(_document("plan", tmp_path)["plan"]) == PLAN


def test_names_beyond_ascii(tmp_path: Path) -> None:
    """JSON is ASCII whatever the names are, so that it survives any locale; the terminal gets what
    it can show."""
    directory = ready_team(tmp_path).rename(tmp_path / "Zoë Ångström")
    environment = {"PYTHONIOENCODING": "ascii"}
    as_json = run_process("status", directory, "--json", environment=environment)
    assert as_json.out.isascii()
    assert as_json.json()["directory"] == str(directory)
    plain = run_process("status", directory, environment=environment)
    assert (plain.code, plain.err) == (0, "")
    assert "Zo\\xeb \\xc5ngstr\\xf6m" in plain.out
