"""Other libraries that keep state in SQLite, where they are installed (the extra `bench`).

They promise other things: diskcache flushes no value file, and no commit either unless it is told
to; langgraph's checkpointer writes no files, and all channels of a checkpoint as one value; DBOS
writes none either: it keeps what a step of a workflow returned, and a workflow has more to write.
"""

from __future__ import annotations

import importlib
import json
import sqlite3
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.benchmarks.floors import dumps

DISKCACHE, LANGGRAPH, DBOS = "diskcache", "langgraph-checkpoint-sqlite", "dbos"
ALL = (DISKCACHE, LANGGRAPH, DBOS)
INSTALL = "pip install -e '.[bench]'"


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


class DiskCache:
    """diskcache with every value in a file of its own, JSON as `json` writes it."""

    def __init__(self, directory: Path, *, flush: bool) -> None:
        module: Any = importlib.import_module("diskcache")
        self._cache = module.Cache(
            str(directory),
            disk_min_file_size=0,
            cull_limit=0,
            sqlite_synchronous=2 if flush else 1,
        )

    def write(self, documents: Mapping[str, Any]) -> None:
        """Set all documents in one transaction."""
        with self._cache.transact():
            for name, document in documents.items():
                self._cache.set(name, dumps(document))

    def read(self, name: str) -> Any:
        """One document."""
        return json.loads(self._cache.get(name))

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()


class Langgraph:
    """langgraph's checkpointer for SQLite; each document is a channel of the checkpoint."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._base: Any = importlib.import_module("langgraph.checkpoint.base")
        module: Any = importlib.import_module("langgraph.checkpoint.sqlite")
        self._connection = sqlite3.connect(directory / "state.sqlite3", check_same_thread=False)
        self._saver = module.SqliteSaver(self._connection)
        self._saver.setup()
        self._config: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
        self._step = 0

    def write(self, documents: Mapping[str, Any]) -> None:
        """Put one checkpoint that holds all documents."""
        self._step += 1
        checkpoint = self._base.empty_checkpoint()
        checkpoint["channel_values"] = dict(documents)
        checkpoint["channel_versions"] = dict.fromkeys(documents, self._step)
        metadata = {"source": "loop", "step": self._step, "parents": {}}
        self._config = self._saver.put(
            self._config, checkpoint, metadata, checkpoint["channel_versions"]
        )

    def read(self, name: str) -> Any:
        """One document of the last checkpoint, which is read whole."""
        latest = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
        return self._saver.get_tuple(latest).checkpoint["channel_values"][name]

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


class Dbos:
    """DBOS on SQLite; a batch is a workflow with one step, which returns all documents.

    A process has one DBOS at a time.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        module: Any = importlib.import_module("dbos")
        self._dbos = module.DBOS
        self._dbos.destroy(destroy_registry=True)
        database = f"sqlite:///{directory / 'state.sqlite3'}"
        self._dbos(
            config={
                "name": "benchmarks",
                "system_database_url": database,
                "run_admin_server": False,
                "log_level": "ERROR",
            }
        )
        step = self._dbos.step()(_same)

        def save(documents: dict[str, Any]) -> Any:
            return step(documents)

        self._save: Any = self._dbos.workflow()(save)
        self._dbos.launch()
        self._workflow = ""
        self._set_id: Any = module.SetWorkflowID

    def write(self, documents: Mapping[str, Any]) -> None:
        """Run a workflow that keeps all documents."""
        self._workflow = str(uuid.uuid4())
        with self._set_id(self._workflow):
            self._save(dict(documents))

    def read(self, name: str) -> Any:
        """One document of the last workflow, whose result is read whole."""
        return self._dbos.retrieve_workflow(self._workflow).get_result()[name]

    def close(self) -> None:
        """End DBOS in this process."""
        self._dbos.destroy(destroy_registry=True)


def _same(documents: dict[str, Any]) -> dict[str, Any]:
    return documents


Peer = DiskCache | Langgraph | Dbos


def available(directory: Path) -> list[tuple[str, Peer]]:
    """The peers that are installed, each with its name, in directories of their own."""
    found: list[tuple[str, Peer]] = []
    if version_of(DISKCACHE):
        found.append(("diskcache", DiskCache(directory / "diskcache", flush=False)))
        found.append(("diskcache, FULL", DiskCache(directory / "diskcache-full", flush=True)))
    if version_of(LANGGRAPH):
        found.append(("langgraph checkpoint", Langgraph(directory / "langgraph")))
    if version_of(DBOS):
        found.append(("DBOS workflow of one step", Dbos(directory / "dbos")))
    return found
