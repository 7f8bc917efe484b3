"""Shell completion: stores, batches, runs and quarantined files of the directory typed before.

Reads as `rtstore status` does, so it changes nothing. Where nothing can be read, nothing is
completed. It never fails: the command itself reports errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rtstore.control.history import StoreVersion
    from rtstore.store import RuntimeStore

Choices = list[tuple[str, str]]
"""What can be typed, each with a word about it."""

_BATCHES = 50


def stores(context: typer.Context, incomplete: str) -> Choices:
    """Return the stores of the directory, by name, or by file when a file name was begun."""
    with _opened(context) as store:
        if store is None:
            return []
        named = [(item.schema_name, item.relative_path) for item in store.descriptors]
        filed = [(path, name) for name, path in named]
        by_name = [choice for choice in named if choice[0].startswith(incomplete)]
        return by_name or [choice for choice in filed if choice[0].startswith(incomplete)]


def versions(context: typer.Context, incomplete: str) -> Choices:
    """Return the batches that wrote the store which is typed already, newest first."""
    with _opened(context) as store:
        if store is None:
            return []
        from rtstore.cli.output import ago
        from rtstore.cli.snapshot import schema_name_of
        from rtstore.errors import RuntimeStoreError
        from rtstore.model.times import utc_now

        try:
            name = schema_name_of(store, _typed(context, "store_name", 1))
            found = store.history(name, limit=_BATCHES)
        except RuntimeStoreError:
            return []
        now = utc_now()
        return [
            (handle, f"{version.reason}, {ago(version.written_at, now)}")
            for version in reversed(found)
            for handle in _handles(version, incomplete)[:1]
        ]


def _handles(version: StoreVersion, incomplete: str) -> list[str]:
    """Return what of a version goes on as was typed: its high watermark, or its id."""
    at = version.high_watermark
    handles = [*([] if at is None else [str(at)]), version.batch_id]
    return [handle for handle in handles if handle.startswith(incomplete)]


def known_runs(context: typer.Context, incomplete: str) -> Choices:
    """Return the ids of the runs, newest first."""
    with _opened(context) as store:
        if store is None:
            return []
        found = [run for run in store.runs() if run.run_id.startswith(incomplete)]
        return [(run.run_id, str(run.state)) for run in found[:_BATCHES]]


def active_run(context: typer.Context, incomplete: str) -> Choices:
    """Return the id of the active run."""
    with _opened(context) as store:
        if store is None:
            return []
        return [
            (run.run_id, "the active run")
            for run in store.runs()
            if run.state == "active" and run.run_id.startswith(incomplete)
        ]


def quarantined(context: typer.Context, incomplete: str) -> Choices:
    """Return the numbers of the files in quarantine."""
    with _opened(context) as store:
        if store is None:
            return []
        return [
            (str(file.quarantine_number), file.relative_path)
            for file in store.quarantined_files()
            if str(file.quarantine_number).startswith(incomplete)
        ]


@contextmanager
def _opened(context: typer.Context) -> Iterator[RuntimeStore | None]:
    from rtstore.cli.snapshot import open_to_look
    from rtstore.errors import RuntimeStoreError

    try:
        opened = open_to_look(Path(_typed(context, "directory", 0)))
        store = opened.__enter__()
    except (OSError, RuntimeStoreError):
        yield None
        return
    try:
        yield store
    finally:
        store.close()


def _typed(context: typer.Context, name: str, position: int) -> str:
    """Return an argument that is typed already. While the value of an option is being typed, the
    arguments are not parsed yet."""
    value = context.params.get(name)
    if value is None:
        return context.args[position] if position < len(context.args) else ""
    return str(value)
