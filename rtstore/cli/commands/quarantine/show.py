"""`rtstore quarantine show`: shows a quarantined file."""

from __future__ import annotations

from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, Directory, Wide
from rtstore.cli.output import Cell, page_of, when
from rtstore.cli.quarantine import QuarantineNumber, content_of, find_quarantined
from rtstore.cli.snapshot import open_to_look
from rtstore.model.records import QuarantinedFile, Record
from rtstore.model.times import utc_now


class ShowReport(Record):
    """What `rtstore quarantine show --json` prints."""

    directory: str
    file: QuarantinedFile
    content: str | None
    note: str | None


def run(
    directory: Directory,
    number: QuarantineNumber,
    *,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Show one file in quarantine, with its content. Changes nothing.

    \b
    JSON: directory, file (as in "quarantine list"), content or null (text; bytes that are no UTF-8
      as \\xNN), note or null (why the content is missing, or is not what was kept)
    """
    with open_to_look(directory) as store:
        file = find_quarantined(store, directory, number)
    content, note = content_of(directory, file)
    report = ShowReport(directory=str(directory), file=file, content=content, note=note)
    now, page = utc_now(), page_of(report, as_json=as_json, wide=wide)
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
            page.exact(line)
    return ExitCode.READY
