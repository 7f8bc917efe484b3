"""The README and the guide are true: what is in them runs, prints what they show, and is found."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtstore.cli.commands.guide import about, pages
from tests.support import readme
from tests.support.installed import Installed

README_LINES_MAX = 350
COLUMNS_MAX = 80
TOPICS = {page.stem: about(page.read_text(encoding="utf-8")) for page in readme.PAGES}
DOCUMENTS = pytest.mark.parametrize(
    "document", [readme.README, *readme.PAGES], ids=lambda path: path.stem
)
INSTALL_AND_DEMO = "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/rtstore demo"
INSTALL_AND_TEST = (
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest"
)


@pytest.mark.early
def test_every_command_and_program_prints_what_the_readme_shows(
    disk: Path, installed: Installed
) -> None:
    """All commands and programs of the README, run in order in a fresh directory with nothing but
    the installed wheel, print what it shows (ids, times and sizes compared by their shape)."""
    assert _run(readme.README, disk, installed) >= 8


@pytest.mark.thorough
@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.stem)
def test_every_page_of_the_guide_prints_what_it_shows(
    tmp_path: Path, installed: Installed, demonstrated: Path, page: Path
) -> None:
    """The same of each page, which needs nothing of the others: only what the demo left."""
    readme.begin(page, tmp_path, demonstrated)
    _run(page, tmp_path, installed)


def _run(document: Path, directory: Path, installed: Installed) -> int:
    ran = 0
    for step in readme.steps(document):
        printed = readme.run(step, directory, installed.bin)
        ran += 1
        if step.kind == "console":
            assert readme.matches(step.shown, printed), (
                f"{step.where}: $ {step.source}\nprinted:\n{printed}\n"
                f"To renew it: python -m tests.support.readme {document.stem} --renew"
            )
    return ran


@DOCUMENTS
def test_programs_import_public_names(document: Path) -> None:
    """What a document imports of the package is on the front door, or is offered by a module by
    topic: no program learns a name that is only kept for earlier ones."""
    for step in readme.steps(document):
        if step.kind != "python":
            continue
        for node in ast.walk(ast.parse(step.source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rtstore"):
                offered = importlib.import_module(node.module or "")
                names = getattr(offered, "__all__", vars(offered))
                assert {alias.name for alias in node.names} <= set(names), step.where


def test_the_comparison_notices_a_difference() -> None:
    """The check above is not vacuous: another word, or a line too many, is a mismatch."""
    assert readme.matches("a\n...\nz\n", "a\nb\nc\nz\n")
    assert not readme.matches("ready\n", "blocked\n")
    assert not readme.matches("a\nb\n", "a\n")
    assert readme.matches("12 B, 3 s ago", "9 B, 11 s ago")


# --- what is found where ------------------------------------------------------------------------


def test_the_readme_is_read() -> None:
    """It is short enough to be read, and lists every page of the guide with what it is about."""
    text = readme.README.read_text(encoding="utf-8")
    assert text.count("\n") <= README_LINES_MAX
    listed = re.findall(r"^- \[(\w+)\]\(rtstore/guide/(\w+)\.md\): (.*)$", text, re.MULTILINE)
    assert listed == [(topic, topic, about) for topic, about in TOPICS.items()]
    assert list(pages()) == list(TOPICS)


@DOCUMENTS
def test_links_lead_somewhere(document: Path) -> None:
    """Every link leads to a file that is there, and to a heading that is in it; one of a page says
    what to type, for a terminal follows no link."""
    text = document.read_text(encoding="utf-8")
    for words, target, anchor in re.findall(r"\[([^\]]+)\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        file = document.parent / target if target else document
        assert file.is_file(), target
        assert not anchor or anchor in _anchors(file.read_text(encoding="utf-8")), anchor
        assert document == readme.README or words == f"rtstore guide {file.stem}"


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_topics_that_are_named_exist() -> None:
    """Wherever a page of the guide is named, by a document or by the package, there is one."""
    files = [readme.README, *(readme.ROOT / "rtstore").rglob("*.py"), *readme.PAGES]
    named = {
        topic
        for file in files
        for topic in re.findall(r"rtstore guide ([a-z]\w+)", file.read_text(encoding="utf-8"))
    }
    assert named
    assert named <= set(TOPICS)


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.stem)
def test_a_page_fits_a_terminal(page: Path) -> None:
    """A page is called what its first line says, and no line of it is wider than a terminal, but
    for commands, which are copied, and tables, which are drawn."""
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}: ")
    lines = [line for line in text.splitlines() if not line.startswith(("$ ", "| "))]
    assert [line for line in lines if len(line) > COLUMNS_MAX] == []


def test_the_two_commands_are_in_the_readme_and_ci_runs_the_same() -> None:
    """The README shows exactly the two commands, and `.ci/run` installs and tests as it says."""
    text = readme.README.read_text(encoding="utf-8")
    assert f"$ {INSTALL_AND_DEMO}\n" in text
    assert f"$ {INSTALL_AND_TEST}\n" in text
    ci = (readme.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -q -e '.[dev]'" in ci
    assert re.search(r"(^|/)pytest(\s|$|\")", ci, re.MULTILINE)


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["{root}", "git+file://{root}", "rtstore @ file://{root}"])
def test_it_is_installed_as_a_dependency(tmp_path: Path, what: str) -> None:
    """The ways of the README to name it, a path and a repository, install the package with its
    guide and its migrations."""
    if what.startswith("git+") and not (readme.ROOT / ".git").exists():
        pytest.skip("this is no repository")
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(tmp_path)]
    subprocess.run([*command, what.format(root=readme.ROOT)], timeout=300, check=True)
    package = tmp_path / "rtstore"
    assert (package / "migrations" / "env.py").is_file()
    assert list((package / "guide").iterdir())


@pytest.mark.early
@pytest.mark.thorough
def test_the_first_command_works_on_a_fresh_machine(tmp_path: Path) -> None:
    """The README's first command, as it stands, in a copy of the tracked files: it makes the
    environment, installs, and the demo ends with a ready store."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=readme.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, listed):
        source, target = readme.ROOT / name, tmp_path / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    command = INSTALL_AND_DEMO.replace("python3", sys.executable, 1)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed by signal 9" in done.stdout
    assert "ready" in done.stdout.lower()
