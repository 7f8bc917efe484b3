"""What is promised names the tests behind it: the table of the guide, and the proof by cases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rtstore.commit import writer
from tests.support import CHECKOUT

TESTS = Path(__file__).parents[1]
_NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def _rows() -> list[str]:
    text = (CHECKOUT / "rtstore" / "guide" / "guarantees.md").read_text(encoding="utf-8")
    table = text.split("\n\n")[1]
    return table.strip().splitlines()[2:]


def _defines(path: Path, name: str) -> bool:
    return f"\ndef {name}(" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row.split("|")[1].strip())
def test_a_guarantee_names_a_test_that_exists(row: str) -> None:
    """The last column of each row is a test that is there."""
    named = _NAMED.search(row.split("|")[-2])
    assert named, row
    file, name = named.groups()
    assert _defines(TESTS / file, name), row


def test_each_case_of_the_proof_names_tests_that_exist() -> None:
    """What a crash leaves is said case by case, and each case ends with the tests behind it."""
    proof = str(writer.__doc__).split("What a crash leaves")[1].split("Errors while")[0]
    cases = proof.split("\n* ")[1:]
    assert len(cases) == 9
    for case in cases:
        named = re.search(r"\[([\w, ]+)\]\s*$", case)
        assert named, case
        for name in named[1].split(", "):
            assert any(_defines(path, name) for path in (TESTS / "crash").glob("test_*.py")), case
