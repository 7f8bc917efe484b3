"""The benchmark command works: what it measures is nobody's business here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks.__main__ import CASES
from tests.benchmarks.bench import Bench
from tests.benchmarks.machine import file_system
from tests.benchmarks.measure import (
    Figure,
    Operation,
    Pace,
    Spread,
    Target,
    compare,
    quantities,
    race,
)
from tests.support import CHECKOUT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the benchmark command."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.benchmarks", *map(str, arguments)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.early
@pytest.mark.thorough
def test_every_case_runs_and_is_in_the_table_and_in_the_json(tmp_path: Path) -> None:
    """With tiny sizes all cases run to their end; each of their figures is printed with its floor,
    and is in the JSON with the facts that another run needs to be compared; nothing is left."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run("--smoke", "--json", tmp_path / "run.json", "--directory", scratch)
    assert done.returncode == 0, done.stderr
    assert list(scratch.iterdir()) == []

    found: dict[str, Any] = json.loads((tmp_path / "run.json").read_bytes())
    assert found["machine"]["cpu_count"] >= 1
    assert found["machine"]["platform"]
    assert {"python", "sqlite", "sqlalchemy", "pydantic", "rtstore"} <= found["versions"].keys()
    assert found["file_system"]
    assert found["kind"] == "smoke"

    not_counted = {"flushes"} if any("strace" in note for note in found["notes"]) else set()
    assert {figure["case"] for figure in found["figures"]} == CASES.keys() - not_counted
    for figure in found["figures"]:
        assert all(math.isfinite(number) for number in figure["ratio"].values()), figure
        assert figure["value"]["median"] > 0
        assert figure["subject"] in done.stdout
        assert f"/ {figure['against']}" in done.stdout
        assert figure["met"] is None or isinstance(figure["met"], bool)
    assert "missed" in done.stdout


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What the command says of a wrong call."""
    with pytest.raises(SystemExit) as ended:
        benchmarks.main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_case_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name is an error that says which there are, and nothing is measured."""
    said = refused(capsys, "wrtie")
    assert "no such case: wrtie" in said
    assert "write" in said


@pytest.mark.parametrize("option", ["--json", "--directory"])
@pytest.mark.parametrize("place", ["not-there/at-all", "file/below", "wrong-kind"])
def test_a_place_that_cannot_be_used_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, place: str
) -> None:
    """What cannot be written is said at once, and not after minutes of measuring."""
    (tmp_path / "file").write_text("")
    if option == "--json":
        (tmp_path / "wrong-kind").mkdir()
    else:
        (tmp_path / "wrong-kind").write_text("")
    said = refused(capsys, "flushes", "--smoke", option, tmp_path / place)
    assert f"error: {option}: {tmp_path / place} is no " in said


def test_an_interrupted_run_shows_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes of measuring are not lost with the rest: the figures so far are in the table and in
    the JSON, both say that the run did not end, and so does the exit code."""
    figure = quantities("done", "a subject", [1], "a floor", [2], unit="ms")

    def stops(bench: Bench) -> Iterator[Figure]:
        (bench.directory / "left").mkdir()
        yield figure
        raise KeyboardInterrupt

    monkeypatch.setattr(
        benchmarks, "CASES", {"done": lambda _: iter([figure]), "stops": stops, "never": stops}
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arguments = ["--smoke", "--json", str(tmp_path / "run.json"), "--directory", str(scratch)]
    assert benchmarks.main(arguments) == 130
    found = json.loads((tmp_path / "run.json").read_bytes())
    assert len(found["figures"]) == 2
    assert found["notes"] == ["interrupted in the case stops"]
    printed = capsys.readouterr().out
    assert "a subject" in printed
    assert "interrupted in the case stops" in printed
    assert list(scratch.iterdir()) == []


def test_contenders_take_turns() -> None:
    """The order of the turns is reversed every other round, and what happens before and after an
    operation is not in its time."""
    seen: list[str] = []

    def contender(name: str) -> Operation:
        return Operation(
            name,
            lambda: seen.append(name),
            prepare=lambda: seen.append("prepare"),
            cleanup=lambda: seen.append("cleanup"),
        )

    first, second = race([contender("a"), contender("b")], Pace(2, 2, 0), turn=2, warm_up=0)
    assert seen[::3] == ["prepare"] * 8
    assert seen[1::3] == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert seen[2::3] == ["cleanup"] * 8
    assert len(first.turns) == len(second.turns) == 2
    assert len(first.calls) == 4


def test_a_ratio_is_that_of_a_round() -> None:
    """What slows a whole round down does not change the ratio; the target is held against it."""
    ours, floor = race([Operation("a", lambda: 0)] * 2, Pace(3, 3, 0), turn=1)
    ours.turns, floor.turns = [2.0, 20.0, 3.0], [1.0, 10.0, 1.0]
    figure = compare("case", "subject", ours, "floor", floor, target=Target(2))
    assert figure.ratio == Spread(2.0, 2.0, 2.5, 2.0, 3.0, 3)
    assert figure.met is True
    missed: Figure = compare("case", "subject", ours, "floor", floor, target=Target(1.9))
    assert missed.met is False
    assert Target(8, at_least=True).met_by(8.1)
    assert not Target(8, at_least=True).met_by(7.9)


def test_the_file_system_is_that_of_the_directory(tmp_path: Path) -> None:
    """The innermost mount decides, and a name that begins alike is another directory."""
    assert file_system(Path("/proc/self")) in ("proc", "unknown")
    assert file_system(tmp_path) != "proc"
