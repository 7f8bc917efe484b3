"""What came of lives: counts of what was told, and the failures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.checker.journal import Call

KINDS = (
    "lies",
    "lost",
    "out of order",
    "stale reads",
    "hangs",
    "crashes",
    "foreign exceptions",
    "unusable",
    "left over",
)


@dataclass
class Verdict:
    """What became of one life, or of many."""

    lives: int = 0
    processes: int = 0
    told: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def fail(self, kind: str, text: str, *calls: Call) -> None:
        """Note a failure of a kind, with the calls that show it."""
        assert kind in KINDS
        self.failures.append((kind, "\n    ".join([text, *map(str, calls)])))

    def add(self, other: Verdict) -> None:
        """Count another one in."""
        self.lives += other.lives
        self.processes += other.processes
        self.told += other.told
        self.errors += other.errors
        self.failures += other.failures

    def counts(self) -> dict[str, int]:
        """How many failures of each kind."""
        found = Counter(kind for kind, _ in self.failures)
        return {kind: found[kind] for kind in KINDS}

    def details(self, most: int = 12) -> str:
        """The failures, a few of each kind in full."""
        shown: Counter[str] = Counter()
        lines = []
        for kind, text in self.failures:
            shown[kind] += 1
            if shown[kind] <= most:
                lines.append(f"{kind}: {text}")
        return "\n".join(lines)

    def summary(self, seed: int) -> str:
        """Everything in one line."""
        failures = ", ".join(f"{kind} {count}" for kind, count in self.counts().items())
        return (
            f"checker: seed {seed}, {self.lives} lives, {self.processes} processes, "
            f"{self.told.total()} calls: told committed {self.told['committed']}, "
            f"decided {self.told['decided']}, refused {self.told['refused']}, "
            f"unknown {self.told['unknown']}; {failures}"
        )
