"""On a terminal: colours and fitted tables; elsewhere, and with NO_COLOR, neither."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rtstore.cli.commands.guide import pages
from tests.cli.commands import crashed_team, ready_team, run
from tests.cli.terminals import on_terminal, run_on_terminal
from tests.support import breadth

ESCAPE = "\x1b"


@pytest.mark.parametrize("width", breadth.params([60, 80, 120, 220], normal=[80, 220]))
def test_tables_fit(tmp_path: Path, width: int) -> None:
    """Every table fits the terminal; the state of each store is there at any width, and a wide one
    has everything."""
    directory = ready_team(tmp_path)
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(width, "status", directory))
    table = text.split("\n\n")[1].splitlines()
    assert all(len(line) <= width for line in table)
    assert sum("as committed" in line for line in table) == 10
    assert ("opencode-host-leases.json" in text) == (width >= 120)
    assert ("WRITTEN BY" in table[0]) == (width == 220)


def test_a_terminal_shows_what_a_pipe_of_its_width_gets(tmp_path: Path) -> None:
    """The same lines, without the colours."""
    directory = crashed_team(tmp_path)
    piped = run("plan", directory, columns=44).out
    printed = on_terminal(44, "plan", directory, NO_COLOR="1")
    plan = re.compile(r"plan-\w+…\w+")
    assert plan.sub("PLAN", printed) == plan.sub("PLAN", piped)


def test_show_on_a_terminal(tmp_path: Path) -> None:
    """With what it is; a pipe gets the data alone."""
    printed = on_terminal(60, "show", ready_team(tmp_path), "opencode.sessionStore", NO_COLOR="1")
    assert "High watermark  1\n" in printed
    assert '\n      "memberName": "alice",\n' in printed


def test_colours(tmp_path: Path) -> None:
    """A terminal gets colours: red for what blocks."""
    printed = on_terminal(120, "status", crashed_team(tmp_path))
    assert f"{ESCAPE}[1;31mblocked (runtime_store_recovery_required){ESCAPE}[0m" in printed


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_no_colours(tmp_path: Path, name: str) -> None:
    """NO_COLOR and a dumb terminal are honoured: not one escape sequence."""
    value = {"NO_COLOR": "1", "TERM": "dumb"}[name]
    printed = on_terminal(120, "status", crashed_team(tmp_path), **{name: value})
    assert "blocked" in printed
    assert ESCAPE not in printed


@pytest.mark.thorough
def test_demo_on_a_terminal(tmp_path: Path) -> None:
    """The demo reads the same on a terminal."""
    printed = on_terminal(100, "demo", tmp_path / "demo", NO_COLOR="1")
    assert "killed by signal 9 after 2 of 4 files" in printed
    assert "ready (runtime_store_manifest_valid)" in printed
    assert "Half a batch" in printed


@pytest.mark.thorough
def test_the_guide_on_a_terminal() -> None:
    """A page is drawn in eighty columns at most, and narrower where its reader is, in a pipe of
    that width, too: no marks of markdown, no word broken, commands whole."""
    for topic, page in pages().items():
        code = re.findall(r"```\w*\n(.*?)```", page, re.DOTALL)
        prose = re.sub(r"```.*?```", " ", page, flags=re.DOTALL)
        marks = re.compile(r"^\| what happens|\[(.+?)\]\(.+?\)|[`|*\\]|^#+ |^- |---", re.MULTILINE)
        expected = [*marks.sub(r"\1", prose).split(), *" ".join(code).split()]
        lines_of_code = "".join(code).splitlines()
        for width in (200, 80, 60, 40):
            drawn = run("guide", topic, columns=width).out
            for line in drawn.splitlines():
                fits = len(line) <= min(80, width)
                assert fits or line in lines_of_code or " " not in line.strip(), (topic, line)
            text = " ".join(drawn.split())
            assert [word for word in expected if word not in text] == [], (topic, width)
        assert run_on_terminal("guide", topic, columns=60) == run("guide", topic, columns=60).out


def test_watch_on_a_terminal(tmp_path: Path) -> None:
    """One page that is drawn anew: how it is, the newest batches, what to run; it leaves the cursor
    as it was. A terminal that can do nothing gets lines."""
    directory = crashed_team(tmp_path)
    printed = on_terminal(80, "watch", directory, "--interval", "0.1", "--for", "0.5")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    assert "Readiness          blocked (runtime_store_recovery_required)" in text
    assert "rtstore recover" in text
    assert "no batch since this watch began" in text
    assert printed.count(f"{ESCAPE}[?25l") == printed.count(f"{ESCAPE}[?25h") == 1
    plain = on_terminal(80, "watch", directory, "--for", "0", TERM="dumb")
    assert ESCAPE not in plain
    assert "blocked" in plain


@pytest.mark.thorough
def test_a_folder_on_a_terminal(tmp_path: Path) -> None:
    """What is wrong with each directory stays at any width; the rest as far as it fits."""
    crashed_team(tmp_path).rename(tmp_path / "a")
    ready_team(tmp_path).rename(tmp_path / "b")
    shown = {}
    for width in (60, 100, 200):
        printed = on_terminal(width, "status", tmp_path, NO_COLOR="1")
        table = printed.split("\n\n")[1].splitlines()
        assert all(len(line) <= width or " " not in line.strip() for line in table)
        assert "blocked" in printed
        shown[width] = table[0]
    assert "WRITER LOCK" in shown[200]
    assert "WHY" in shown[200]
