"""`rtstore quarantine show`: shows a quarantined file."""

from __future__ import annotations

from pathlib import Path

from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, Directory
from rtstore.cli.output import Cell, page_of, when
from rtstore.cli.quarantine import QuarantineNumber, find_quarantined
from rtstore.cli.snapshot import open_to_look
from rtstore.errors import UnsafePathError
from rtstore.files.quarantine import quarantined_path
from rtstore.files.system import FileSystem
from rtstore.model.envelope import content_hash
from rtstore.model.records import QuarantinedFile, Record
from rtstore.model.times import utc_now


class ShowReport(Record):
    """What `rtstore quarantine show --json` prints."""

    directory: str
    file: QuarantinedFile
    content: str | None
    note: str | None


def run(directory: Directory, number: QuarantineNumber, *, as_json: AsJson = False) -> ExitCode:
    """Show one file in quarantine, with its content. Changes nothing.

    \b
    JSON: directory, file (as in "quarantine list"), content or null (text; bytes that are no UTF-8
      as \\xNN), note or null (why the content is missing, or is not what was kept)
    """
    with open_to_look(directory) as store:
        file = find_quarantined(store, directory, number)
    content, note = _content(directory, file)
    report = ShowReport(directory=str(directory), file=file, content=content, note=note)
    now, page = utc_now(), page_of(report, as_json=as_json)
    page.facts(
        [
            ("Number", str(number)),
            ("Store", file.schema_name or "-"),
            ("Was at", file.relative_path),
            ("Is at", file.quarantine_path),
            ("Why", file.reason),
            ("Kept", when(file.quarantined_at, now)),
            ("Put back", when(file.restored_at, now) if file.restored_at else "never"),
        ]
    )
    if note is not None:
        page.line(Cell(note, "warn"))
    if content is not None:
        page.gap()
        for line in content.splitlines():
            page.line(line)
    return ExitCode.READY


def _content(directory: Path, file: QuarantinedFile) -> tuple[str | None, str | None]:
    """Return the content as text, and what is wrong with it, if anything."""
    if file.content_hash is None:
        return None, "it was no regular file, and was moved as it was"
    try:
        content, _ = FileSystem().read(quarantined_path(directory, file.quarantine_path))
    except UnsafePathError as error:
        return None, f"its row was changed: {error}"
    except OSError as error:
        return None, f"it cannot be read: {error}"
    note = None
    if content_hash(content) != file.content_hash:
        note = "it was changed since it was kept"
    return content.decode("utf-8", "backslashreplace"), note
