"""What each command prints for a reader of 80 and of 40 columns, and of a width nobody knows."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from rtstore.cli.app import Commands, QuarantineCommands
from rtstore.cli.layout import shortened, shortened_path, width_of
from rtstore.cli.output import Cell, Page
from rtstore.cli.width import reader_width
from tests.cli.commands import crashed_team, ready_team, run, words_of
from tests.cli.widths import COMMANDS, ON_A_TERMINAL, WIDTHS, file_of, printed
from tests.support import breadth

DATA = ("show", "diff", "quarantine show", "quarantine diff", "guide asyncio")
"""Commands that print what somebody wrote, or code to be copied, as it is."""


def outputs(width: int | None) -> dict[str, str]:
    """What the file says of each command."""
    parts = re.split(r"(?m)^\$ rtstore (.+)\n", file_of(width).read_text(encoding="utf-8"))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def words(text: str) -> set[str]:
    """The words of a text; headers are names in small letters elsewhere."""
    return set(text.lower().replace(",", "").split())


@pytest.mark.parametrize("width", breadth.params(WIDTHS, normal=[40]))
def test_each_command(width: int | None) -> None:
    """Byte by byte what is in the file, in a pipe and on a terminal; `python -m tests.cli.widths
    --renew` writes it anew."""
    assert printed(width) == file_of(width).read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 40])
def test_no_line_is_wider_than_its_reader(width: int) -> None:
    """But for one word that has no room, and for data. No line ends in a space."""
    for command, text in outputs(width).items():
        for line in text.splitlines():
            is_data = command.startswith(DATA)
            assert is_data or width_of(line) <= width or " " not in line.strip(" \\"), (
                command,
                line,
            )
            assert line == line.rstrip()


@pytest.mark.parametrize("width", [80, 40])
def test_no_word_is_broken(width: int) -> None:
    """Each word of a narrow page is one of the wide page; an id may be cut in its middle."""
    wide = outputs(None)
    for command, text in outputs(width).items():
        if command.endswith(ON_A_TERMINAL) or command in DATA:
            continue
        known = f"{wide[command]} {shortened_path(shortened(wide[command]))}"
        new = words(text) - words(known) - {"\\", "and", "more"}
        assert not {word for word in new if not word.isdigit()}, command


def test_every_command_is_shown() -> None:
    """Each command there is, but for `quarantine list`, which is `quarantine`."""
    shown = {" ".join(command.split()[:2]) for command in COMMANDS}
    names = {name for section in Commands.sections.values() for name in section}
    below = QuarantineCommands.sections["Commands"]
    assert names - {name.split()[0] for name in shown} == set()
    assert {f"quarantine {name}" for name in below} - shown == {"quarantine list"}


@pytest.mark.parametrize("width", [80, 40])
def test_a_terminal_shows_what_a_pipe_of_its_width_gets(width: int) -> None:
    """But for `show`, which says what it is, and `watch`, which draws one page anew."""
    others = {
        command.removesuffix(ON_A_TERMINAL).split()[0]
        for command in outputs(width)
        if command.endswith(ON_A_TERMINAL)
    }
    assert others == {"show", "watch"}


@pytest.mark.parametrize("width", [80, 40])
def test_each_help_fits(width: int) -> None:
    """No line is wider, no word is broken, and none is missing."""
    calls = [[name] for section in Commands.sections.values() for name in section]
    calls += [["quarantine", name] for name in QuarantineCommands.sections["Commands"]]
    for words_of_call in calls:
        text = run(*words_of_call, "--help", columns=width).out
        for line in text.splitlines():
            assert width_of(line) <= width or " " not in line.strip(), line
        assert text.split() == run(*words_of_call, "--help").out.split()


def test_the_doctor_fits(tmp_path: Path) -> None:
    """What is of this machine is laid out as well."""
    directory = crashed_team(tmp_path)
    for width in (80, 40):
        for line in run("doctor", directory, columns=width).out.splitlines():
            assert width_of(line) <= width or " " not in line.strip(" \\"), line


def test_wide_shows_everything(tmp_path: Path) -> None:
    """`--wide` prints for a narrow reader what is printed where nobody knows its width."""
    directory = ready_team(tmp_path)
    for command in ("log", "runs", "status"):
        wide = run(command, directory, "--wide", columns=40).out
        assert len(wide.splitlines()) == len(run(command, directory).out.splitlines())
        assert re.search(r"\bbatch-[0-9a-f-]{36}\b", wide)


def test_a_command_that_is_broken_runs() -> None:
    """Where it goes on below there is a backslash, and no word is broken that is quoted."""
    command = "rtstore end-run 'a team' --run-id run-1 --why \"it's gone, and $HOME\" --json"
    for width in range(10, 80, 7):
        stream = io.StringIO()
        Page(stream, width).line(Cell(command, "command"), indent=2)
        assert words_of(stream.getvalue()) == words_of(command)


def test_a_command_in_parentheses_that_is_broken_runs() -> None:
    """It stays whole where it has room in a line. Where it has not, its lines end in a backslash,
    and no other line does."""
    command = "rtstore history 'a (long) team' opencode.sessionStore --json"
    for intro in ("", "to look first: "):
        text = f"It goes back as far as it is kept ({intro}{command}), or (say force) begins."
        for width in range(30, 100, 3):
            stream = io.StringIO()
            Page(stream, width).line(text, indent=2)
            lines = stream.getvalue()
            assert all(width_of(line) <= width for line in lines.splitlines())
            begin, end = lines.index("rtstore"), lines.index("--json") + len("--json")
            assert words_of(lines[begin:end]) == words_of(command)
            assert "\\" not in lines[:begin] + lines[end:]
            if width - 4 >= len(f"({intro}{command}),"):
                assert command in lines


def test_a_command_of_the_system_in_parentheses_that_is_broken() -> None:
    """As those of ours: a backslash where it goes on."""
    command = "cp -p a-team/opencode-leases.json 'a (new) one' && mv 'a (new) one' a-team/leases"
    stream = io.StringIO()
    Page(stream, 50).line(f"Replace the link by what it points to ({command}).")
    lines = stream.getvalue()
    assert len(lines.splitlines()) > 2
    told = lines[lines.index("(") + 1 : lines.rindex(")")]
    assert shlex.split(told.replace("\\\n", "")) == shlex.split(command)


def test_where_no_ellipsis_can_be_written() -> None:
    """Two points stand for it, which can be typed as well."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Page(stream, 80).line("in batch-01dad0aa-5c00-7000-8000-a90874767476.")
    stream.seek(0)
    assert stream.read() == "in batch-01da..7476.\n"


def test_letters_that_take_two_columns() -> None:
    """They are counted as a terminal does, so that columns line up."""
    assert (width_of("チーム"), width_of("Zoë"), width_of("Zoe\u0308")) == (6, 3, 3)


def test_a_width_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is as if it were not known."""
    for columns in ("0", "-1", "wide", ""):
        monkeypatch.setenv("COLUMNS", columns)
        assert reader_width(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "72")
    assert reader_width(io.StringIO()) == 72
