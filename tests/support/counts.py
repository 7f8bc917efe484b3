"""What the tests counted, added up over all of them, and said at the end of a run.

Tests run in several processes. What one of them counts goes along with its report, as a property,
so the process that prints the summary hears of all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

_PROPERTY = "counts"


class Counts:
    """Where a test puts what it counted, and what else is to be said of it."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def add(self, subject: str, **numbers: int) -> None:
        """Count something of a subject; its line shows the sums, in the order of their names'
        first appearance."""
        self._node.user_properties.append((_PROPERTY, [subject, numbers]))

    def say(self, subject: str, line: str) -> None:
        """Say a line below the sums of a subject."""
        self._node.user_properties.append((_PROPERTY, [subject, line]))


class Summary:
    """The counts of all reports."""

    def __init__(self) -> None:
        self.sums: dict[str, Counter[str]] = defaultdict(Counter)
        self.lines: dict[str, list[str]] = defaultdict(list)

    def hear(self, properties: Iterable[tuple[str, Any]]) -> None:
        """Take the properties of one report into account."""
        for name, value in properties:
            if name != _PROPERTY:
                continue
            subject, what = value
            if isinstance(what, str):
                self.lines[subject].append(what)
            else:
                for word, number in what.items():
                    self.sums[subject][word] += number

    def told(self) -> Iterator[str]:
        """One line for each subject, with the lines that belong to it."""
        for subject in sorted(self.sums.keys() | self.lines.keys()):
            sums = self.sums[subject]
            numbers = ", ".join(f"{word.replace('_', ' ')} {sums[word]:,}" for word in sums)
            yield f"{subject}: {numbers}" if numbers else f"{subject}:"
            for line in self.lines[subject]:
                yield f"  {line}"
