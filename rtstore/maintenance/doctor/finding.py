"""What the doctor says: a finding for each check."""

from __future__ import annotations

from enum import StrEnum

from rtstore.model.records import Record, Suggestion


class Level(StrEnum):
    """The severity of a finding."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


class Check(StrEnum):
    """The subject of a check."""

    DATABASE = "database"
    BACKUP = "backup"
    """Looked at in a back-up only."""
    STORES = "stores"
    LOCK = "lock"
    ENGINE = "engine"
    FILE_SYSTEM = "file_system"
    SPACE = "space"
    PERMISSIONS = "permissions"
    SETTINGS = "settings"
    QUARANTINE = "quarantine"
    STRAY_FILES = "stray_files"
    SIZES = "sizes"
    CLOCK = "clock"


class Finding(Record):
    """The result of one check."""

    check: Check
    level: Level
    sentence: str
    ways: tuple[Suggestion, ...] = ()


class FindingBuilder:
    """Builds the findings of one check."""

    def __init__(self, check: Check) -> None:
        self._check = check

    def green(self, sentence: str) -> Finding:
        """Return a finding that all is as it should be."""
        return Finding(check=self._check, level=Level.GREEN, sentence=sentence)

    def yellow(self, sentence: str, *ways: Suggestion) -> Finding:
        """Return a finding that works, but that somebody should look at."""
        return Finding(check=self._check, level=Level.YELLOW, sentence=sentence, ways=ways)

    def red(self, sentence: str, *ways: Suggestion) -> Finding:
        """Return a finding that does not work, or will lose something."""
        return Finding(check=self._check, level=Level.RED, sentence=sentence, ways=ways)
