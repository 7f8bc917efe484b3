"""The sections of the commands in `rtstore --help`, by purpose."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

SECTIONS = {
    "Begin": ("demo", "init", "import"),
    "Look, and change nothing": ("status", "watch", "log", "plan", "doctor"),
    "Look back": ("history", "show", "diff"),
    "Put right": ("recover", "adopt", "revert", "quarantine", "rebuild"),
    "Look after": ("prune", "upgrade", "backup", "verify", "restore", "export"),
}


class Sections(TyperGroup):
    """A group whose help lists its commands in sections."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as typer has it
        """Write the sections, with the names aligned across all of them."""
        width = max(map(len, self.commands))
        for title, names in SECTIONS.items():
            rows = [
                (name.ljust(width), self.commands[name].get_short_help_str(limit=200))
                for name in names
            ]
            with formatter.section(title):
                formatter.write_dl(rows)
