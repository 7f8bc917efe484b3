"""The command `rtstore`: which commands there are, in which sections of its help.

With `--json`, standard output has exactly one JSON document: the report of the command, or on an
error `{"error": {"type", "message", "exitCode"}}`, where the type is the class of the exception.
(`watch` prints one document a line.) Keys are camelCase and stable; new keys may be added. The
message of an error goes to standard error with and without `--json`. A wrong option is refused
before `--json` is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from rtstore.cli.exits import ExitCode, exit_code_help
from rtstore.cli.groups import Sections

JSON_ERRORS = """\
An error goes to standard error; with --json, standard output then has
  {"error": {"type", "message", "exitCode"}}, unless the call is wrong"""


class Commands(Sections):
    """The commands of `rtstore`."""

    package = "rtstore.cli.commands"
    sections: ClassVar = {
        "Begin": {
            "demo": "A writer is killed; see what is left.",
            "init": "Make a runtime directory for a team.",
            "import": "Take over a file-only directory.",
            "guide": "The pages where things are looked up.",
        },
        "Look, and change nothing": {
            "status": "May the runtime start, and on what?",
            "watch": "The status, and each batch as it happens.",
            "runs": "The runs, newest first: how each ended, whether it lives.",
            "log": "The batches, newest first.",
            "plan": "What is wrong, and what to do.",
            "report": "A page that shows all of it, to look at or to send.",
            "doctor": "What is wrong here, and the way out.",
        },
        "Look back": {
            "history": "The versions of a store, newest first.",
            "show": "What a store holds, or held.",
            "diff": "What changed in a store.",
        },
        "Put right": {
            "recover": "Put right what can be.",
            "adopt": "Make a file changed by hand the truth.",
            "revert": "Write an earlier version of a store again.",
            "quarantine": "Files kept before they were lost.",
            "end-run": "End the active run from outside.",
            "rebuild": "A database beyond help: a new one from the files.",
        },
        "Look after": {
            "prune": "Drop old history, and give the space back.",
            "upgrade": "Bring an older database up to date.",
            "backup": "Copy one consistent state, while writers go on.",
            "verify": "Is this back-up sound?",
            "restore": "Make a new directory of a back-up.",
            "export": "Write what a file-only runtime reads.",
        },
    }


class QuarantineCommands(Sections):
    """The commands of `rtstore quarantine`. A directory alone is listed."""

    package = "rtstore.cli.commands.quarantine"
    sections: ClassVar = {
        "Commands": {
            "list": "The files that were kept.",
            "show": "One of them, with its content.",
            "diff": "What one of them would change.",
            "restore": "Put one back where it was.",
            "prune": "Drop those that are old, for good.",
        },
    }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called; `list`, where a directory is named instead."""
        first = args[0]
        named = [word for word in args if not word.startswith("-")]
        if first not in self.commands and named and (len(named) == 1 or Path(first).is_dir()):
            args = ["list", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=f"\b\nExit codes:\n{exit_code_help()}\n\n\b\n{JSON_ERRORS}",
)
app.add_typer(
    typer.Typer(cls=QuarantineCommands, rich_markup_mode=None, no_args_is_help=True),
    name="quarantine",
    help="Files that were kept before they were overwritten, moved or removed.\n\n"
    "rtstore quarantine DIR lists them.",
    short_help=Commands.sections["Put right"]["quarantine"],
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - the signature of an option's callback
    if wanted:
        from rtstore import __version__

        typer.echo(f"rtstore {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def rtstore(
    context: typer.Context,
    *,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """The state of an agent runtime: JSON files, made transactional by a SQLite database.

    Not sure where to start? rtstore demo. To look something up: rtstore guide
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.WRONG_CALL)
