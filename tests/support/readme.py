"""Runs what the README and the guide show, and compares or renews what they say was printed.

    python -m tests.support.readme              compare all of them
    python -m tests.support.readme backups      compare some: README, or a topic of the guide
    python -m tests.support.readme --renew      write the real output into them

A fenced block marked `console` holds commands (`$ ...`) with their output; those of a document are
run in order, in one fresh directory, with the environment of this interpreter. A page of the guide
finds there what `rtstore demo teams/demo` makes. A block marked `python` is
run as a program there, or, when its first line is a comment with the name of a file, written into
that file. A line `...` in a shown output stands for any number of lines. What changes
from run to run (ids, times, ages, sizes, temporary paths) is compared by its shape.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = tuple(sorted((ROOT / "rtstore" / "guide").glob("*.md")))
DEMO = "teams/demo"

_FENCE = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

_FILE = re.compile(r"# (\w+\.py)\n")

_SHAPES = [
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\b[0-9a-f]{4}…[0-9a-f]{4}\b"), "UUID"),
    (re.compile(r"sha256:[0-9a-f]{8,64}"), "HASH"),
    (re.compile(r"\.[0-9a-f]{32}\b"), ".DIGITS"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s|seconds?|min|minutes?) ago\b"), "AGE"),
    (re.compile(r"\b(just now|now)\b"), "AGE"),
    (re.compile(r"\b\d+(\.\d+)? (B|KiB|KB|MiB|bytes)\b"), "SIZE"),
    (re.compile(r"\bprocess \d+\b"), "process N"),
    (re.compile(r"\bpid \d+\b"), "pid N"),
    (re.compile(r"\bprocess_id=\d+\b"), "process_id=N"),
    (re.compile(r"\bin \d+\.\d+s\b"), "in TIME"),
    (re.compile(r"\bage_seconds = \d+\b"), "age_seconds = N"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"[─━═-]{3,}"), "---"),
]


@dataclass(frozen=True)
class Step:
    """One command or program of a document, where it is, and the output that it shows."""

    kind: str
    source: str
    shown: str
    document: Path
    line: int

    @property
    def where(self) -> str:
        """The place, as editors find it."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def steps(document: Path) -> list[Step]:
    """Everything that can be run, in order. The commands that install are left to `.ci/run`."""
    found = []
    text = document.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 2
        kind, body = fence.groups()
        if kind == "python":
            found.append(Step("python", body, "", document, line))
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            if "venv" not in command:
                found.append(Step("console", command, shown, document, line))
            line += part.count("\n")
    return found


def run(step: Step, directory: Path, binaries: Path = Path(sys.executable).parent) -> str:
    """Run one step with the programs of an environment; gives what it printed, errors included."""
    if step.source.startswith("sqlite3 ") and shutil.which("sqlite3") is None:
        return run_without_the_shell(step, directory)
    named = _FILE.match(step.source)
    if step.kind == "python" and named is not None:
        (directory / named.group(1)).write_text(step.source, encoding="utf-8")
        return ""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "PYTHONWARNINGS": "error",
    }
    if step.kind == "python":
        command = [str(binaries / "python"), "-c", step.source]
    else:
        command = ["bash", "-c", step.source]
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=120,
        check=False,
    )
    if step.kind == "python" and done.returncode != 0:
        raise AssertionError(f"{step.where}: the program failed:\n{done.stdout}")
    return done.stdout.replace(f"{directory.resolve()}/", "").replace(f"{directory}/", "")


def run_without_the_shell(step: Step, directory: Path) -> str:
    """Where the sqlite3 program is missing: the query must run and find something; what it printed
    is then taken to be what the document shows."""
    *_, database, query = shlex.split(step.source)
    connection = sqlite3.connect(directory / database)
    try:
        assert connection.execute(query).fetchall(), f"no rows: {step.source}"
    finally:
        connection.close()
    return step.shown


def shape(text: str) -> str:
    """The text with what changes from run to run replaced by its kind."""
    text = _masked(text)
    for pattern, kind in _SHAPES:
        text = pattern.sub(kind, text)
    return "\n".join(line.strip() for line in text.strip().splitlines())


_VARYING_COLUMNS = ("age_seconds", "database_bytes")


def _masked(text: str) -> str:
    """The text with the cells of columns that change from run to run replaced, in `-box` tables."""
    lines: list[str] = []
    varying: tuple[int, ...] = ()
    for line in text.splitlines():
        cells = line.split("│")
        if len(cells) > 1:
            names = [cell.strip() for cell in cells]
            if any(name in _VARYING_COLUMNS for name in names):
                varying = tuple(
                    place for place, name in enumerate(names) if name in _VARYING_COLUMNS
                )
            else:
                cells = ["N" if place in varying else cell for place, cell in enumerate(cells)]
        elif "┌" in line:
            varying = ()
        lines.append("│".join(cells))
    return "\n".join(lines)


def matches(shown: str, printed: str) -> bool:
    """Whether the output shown is the output printed; `...` stands for any lines."""
    pieces = [
        re.escape(piece.strip())
        for piece in re.split(r"^\.\.\.$", shape(shown), flags=re.MULTILINE)
    ]
    return re.fullmatch(r"\s*.*?\s*".join(pieces), shape(printed), re.DOTALL) is not None


def begin(document: Path, directory: Path, demonstrated: Path) -> None:
    """Make what a document finds in its fresh directory: a page of the guide what the demo left."""
    if document != README:
        shutil.copytree(demonstrated / DEMO, directory / DEMO)


def compare(document: Path, demonstrated: Path) -> list[tuple[Step, str]]:
    """Run a document; gives each step that printed something else, with what it printed."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        begin(document, directory, demonstrated)
        printed = [(step, run(step, directory)) for step in steps(document)]
    return [
        (step, text)
        for step, text in printed
        if step.kind == "console" and not matches(step.shown, text)
    ]


def main() -> int:
    """Compare, or renew with `--renew`."""
    named = [word for word in sys.argv[1:] if word != "--renew"]
    if unknown := set(named) - {document.stem for document in (README, *PAGES)}:
        sys.exit(f"no such document: {', '.join(sorted(unknown))}")
    wrong = 0
    with tempfile.TemporaryDirectory() as demonstrated:
        demo = Step("console", f"rtstore demo {DEMO}", "", README, 0)
        run(demo, Path(demonstrated))
        for document in (README, *PAGES):
            if named and document.stem not in named:
                continue
            renewed = document.read_text(encoding="utf-8")
            for step, printed in compare(document, Path(demonstrated)):
                wrong += 1
                sys.stdout.write(f"{step.where}: $ {step.source}\n{printed}\n")
                block = f"$ {step.source}\n{step.shown}"
                renewed = renewed.replace(block, f"$ {step.source}\n{printed.rstrip()}\n", 1)
            if "--renew" in sys.argv:
                document.write_text(renewed, encoding="utf-8")
    return 1 if wrong and "--renew" not in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
