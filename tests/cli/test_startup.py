"""The command before it does anything: help, version, what it loads."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

from rtstore import __version__
from rtstore.cli import main, streams
from rtstore.cli.app import Commands, QuarantineCommands, app
from rtstore.cli.exits import ExitCode
from rtstore.cli.groups import Sections
from tests.cli.commands import CHECKOUT, ready_team, run, run_process

SECTIONS = Commands.sections
COMMANDS = tuple(name for names in SECTIONS.values() for name in names if name != "quarantine")
QUARANTINE = tuple(QuarantineCommands.sections["Commands"])
HEAVY = ("sqlalchemy", "alembic", "sqlite3", "pydantic", "rtstore.control", "rtstore.store")

_LOADED_BY_HELP = """
import sys, types
if sys.argv[1] == "alone":  # the command without the front door of the package
    package = types.ModuleType("rtstore")
    package.__path__ = ["rtstore"]
    sys.modules["rtstore"] = package
before = set(sys.modules)
from rtstore.cli import main
sys.argv = ["rtstore", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
print(*sorted(set(sys.modules) - before), file=sys.stderr)
"""


_LOADED_BY_STATUS = """
import sys
from rtstore.cli import main
sys.argv = ["rtstore", "status", sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code
print(*sys.modules, file=sys.stderr)
"""


def test_status_loads_only_what_it_needs(tmp_path: Path) -> None:
    """Whoever looks does not wait for imports, back-ups, rebuilds, revisions and the doctor."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED_BY_STATUS, ready_team(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(done.stderr.split())
    assert "rtstore.cli.folder" in loaded
    commands = {name for name in loaded if name.startswith("rtstore.cli.commands.")}
    assert commands == {"rtstore.cli.commands.status"}
    spared = (
        "alembic",
        "jinja2",
        "rtstore.aio",
        "rtstore.cli.demo",
        "rtstore.cli.report",
        "rtstore.testing",
        "rich",
        "rtstore.maintenance.backup",
        "rtstore.maintenance.doctor",
        "rtstore.legacy",
        "rtstore.maintenance.rebuild_database",
    )
    assert [name for name in spared if name in loaded] == []


_PLUGIN = """
import sys
print("loaded", file=sys.stderr)

class Plugin:
    def new_schema_validator(self, *args, **options):
        return None, None, None

plugin = Plugin()
"""
_PLUGINS_OF_MODELS = """
import os, sys
import rtstore
if sys.argv[1] == "command":
    from rtstore.cli import main
    sys.argv = ["rtstore", "status", sys.argv[2]]
    try:
        main()
    except SystemExit as end:
        assert not end.code
else:
    rtstore.RuntimeStore.open(sys.argv[2]).close()
print("before", os.environ.get("PYDANTIC_DISABLE_PLUGINS"), file=sys.stderr)
import pydantic
class Model(pydantic.BaseModel):  # of the user
    pass
"""


@pytest.mark.parametrize("disabled", [None, "another"])
def test_a_command_does_not_wait_for_plugins_of_pydantic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disabled: str | None
) -> None:
    """Its own models are built without the plugins that are installed. Models that are made later
    have them, and the environment is as it was. The control: a program that opens a store."""
    place = tmp_path / "plugins"
    (place / "observer-1.dist-info").mkdir(parents=True)
    (place / "observer.py").write_text(_PLUGIN)
    (place / "observer-1.dist-info" / "METADATA").write_text("Name: observer\nVersion: 1\n")
    (place / "observer-1.dist-info" / "entry_points.txt").write_text(
        "[pydantic]\nobserver = observer:plugin\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), str(CHECKOUT)]))
    monkeypatch.delenv("PYDANTIC_DISABLE_PLUGINS", raising=False)
    if disabled:
        monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", disabled)
    team = ready_team(tmp_path)
    said = {}
    for how in ("command", "library"):
        done = subprocess.run(
            [sys.executable, "-c", _PLUGINS_OF_MODELS, how, team],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        said[how] = done.stderr.splitlines()
    assert said["command"] == [f"before {disabled}", "loaded"]
    assert said["library"] == ["loaded", f"before {disabled}"]


_GARBAGE_LOOKED_FOR = """
import gc, sys
from rtstore.cli import main
looks = []
gc.callbacks.append(lambda phase, info: looks.append(phase))
sys.argv = ["rtstore", "status", sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code
print(looks.count("start"), gc.get_freeze_count(), len(gc.get_objects()), file=sys.stderr)
"""


def test_a_command_does_not_look_for_garbage(tmp_path: Path) -> None:
    """Nearly all that a command makes is what it loads. To look through it again and again,
    and once more at the end, took nearly a third of the time of a command."""
    done = subprocess.run(
        [sys.executable, "-c", _GARBAGE_LOOKED_FOR, ready_team(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    looks, left_alone, others = map(int, done.stderr.split())
    assert looks <= 2
    assert left_alone > 100 * others


def _loaded_by_help(how: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED_BY_HELP, how],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stderr.split())


def test_help_of_the_command_loads_no_database_layer() -> None:
    """What the command itself imports before a subcommand runs is names and help texts only."""
    loaded = _loaded_by_help("alone")
    assert "rtstore.cli.app" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_help_loads_no_database_layer() -> None:
    """`rtstore --help` answers without waiting for sqlalchemy, the front door included, and loads
    no command that it lists."""
    loaded = _loaded_by_help("whole")
    assert [name for name in HEAVY if name in loaded] == []
    assert [name for name in loaded if name.startswith("rtstore.cli.commands")] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """Each subcommand is listed, says what it does, and tells the keys of its JSON."""
    assert re.search(rf"^  {command} +\w", run("--help").out, re.MULTILINE)
    result = run(command, "--help")
    assert result.code == 0
    assert "--json" in result.out
    assert re.search(r"\n  JSON[:,] ", result.out)


def test_every_command_is_in_one_section_of_the_help() -> None:
    """None is left out, none is told twice; and each says whether it takes JSON."""
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = run("--help").out
    for title, names in SECTIONS.items():
        section = text.split(f"\n{title}:\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines()] == list(names)
    for name in QUARANTINE:
        assert "\n  JSON: " in run("quarantine", name, "--help").out


@pytest.mark.parametrize("group", [Commands, QuarantineCommands])
def test_every_module_of_commands_is_listed(group: type[Sections]) -> None:
    """A command that nobody listed could not be called."""
    found = pkgutil.iter_modules(importlib.import_module(group.package).__path__)
    listed = {name for names in group.sections.values() for name in names}
    assert {module.name.rstrip("_").replace("_", "-") for module in found} == listed


def test_a_command_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens while a command is loaded ends as what happens while it runs."""
    problem: BaseException = OSError(24, "Too many open files")

    def fail(name: str) -> None:
        raise problem

    monkeypatch.setattr("rtstore.cli.groups.importlib.import_module", fail)
    result = run("log", ".", "--json")
    assert result.code == ExitCode.RETRY_LATER
    assert result.json()["error"]["exitCode"] == ExitCode.RETRY_LATER
    problem = KeyboardInterrupt()
    result = run("log", ".")
    assert (result.code, result.err) == (ExitCode.INTERRUPTED, "")


@pytest.mark.parametrize("moment", ["take_over", "run"])
def test_an_interrupt_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    """Control-C in the first moments, when nothing is loaded, ends as it does in a command: with
    130 and a word, without a traceback."""

    def interrupt(_: object = None) -> int:
        if moment == "run":
            return ExitCode.INTERRUPTED
        raise KeyboardInterrupt

    monkeypatch.setattr(streams, "take_over", lambda: None)
    monkeypatch.setattr(streams, moment, interrupt)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda _: None)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "rtstore: interrupted\n"


def test_help_shows_every_exit_code() -> None:
    """The codes that programs rely on are written where people look first."""
    shown = dict(re.findall(r"^ +(\d+)  (\S.*)$", run("--help").out, re.MULTILINE))
    assert shown == {str(code.value): code.meaning for code in ExitCode}
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 5, 130]


def test_help_is_plain_where_there_is_no_terminal() -> None:
    """No boxes, no colours."""
    text = "".join(run(*command, "--help").out for command in ((), *((name,) for name in COMMANDS)))
    assert text.isascii()
    assert "\x1b" not in text


def test_version() -> None:
    """`--version` says which rtstore this is, and is a command in a process like any other."""
    result = run_process("--version")
    assert (result.code, result.out, result.err) == (0, f"rtstore {__version__}\n", "")


def test_the_entry_point_is_the_command() -> None:
    """What pip installs as `rtstore` is what these tests run."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"rtstore": "rtstore.cli:main"}


def test_nothing_at_all_is_a_wrong_call_with_help() -> None:
    """`rtstore` alone shows what there is."""
    result = run()
    assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
    assert "\nLook, and change nothing:\n" in result.err
