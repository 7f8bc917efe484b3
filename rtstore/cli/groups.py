"""Groups of commands: listed in sections, and each loaded when it is called.

A command is the function `run` of a module: its parameters are the options, its docstring is the
help, and what it returns is the exit code.
"""

from __future__ import annotations

import importlib
import keyword
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from rtstore.cli.helps import LaidOut, laying_out_refusals
from rtstore.cli.reporting import reporting

_NO_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


class Command(LaidOut, TyperCommand):
    """A command whose errors are reported, and whose function returns the exit code.

    The parameters `directory` and `store_name` are what its messages are about.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the function, and exit with its exit code."""
        with reporting(as_json=ctx.params["as_json"]):
            code = super().invoke(ctx)
        raise typer.Exit(code)


class Listed(TyperCommand):
    """A command that is listed with its short help, and not loaded."""


class Sections(LaidOut, TyperGroup):
    """A group whose help lists its commands in sections, and which loads one when it is called."""

    package: ClassVar[str]
    """Where the modules of its commands are."""
    sections: ClassVar[Mapping[str, Mapping[str, str]]]
    """The commands by section, each with its short help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for section in self.sections.values():
            for name, short_help in section.items():
                if name not in self.commands:
                    self.add_command(Listed(name, short_help=short_help))

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """Return the context of a call. A wrong call is refused in the width of its reader."""
        with laying_out_refusals():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Call the command. A wrong call is refused in the width of its reader."""
        with laying_out_refusals():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as typer has it
        """Write the sections, with the names aligned across all of them."""
        width = max(map(len, self.commands))
        for title, section in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in section.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called, loaded."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and isinstance(command, Listed):
            with reporting(as_json="--json" in rest):
                command = _load(self.package, name)
        return name, command, rest


def _load(package: str, name: str) -> Any:
    module = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
    one = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    with _without_plugins():
        run = importlib.import_module(f"{package}.{module}").run
    one.command(name, cls=Command)(run)
    return typer.main.get_command(one)


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Let pydantic ask no plugin about the models that are built in the block.

    For the first model it reads what every installed package offers, and imports the plugins, which
    may take longer than the command. Models of the user are imported later, and have their plugins;
    processes that the command starts find the environment as it was.
    """
    before = os.environ.get(_NO_PLUGINS)
    os.environ[_NO_PLUGINS] = "__all__"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_PLUGINS]
        else:
            os.environ[_NO_PLUGINS] = before
