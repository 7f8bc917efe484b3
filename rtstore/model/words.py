"""The words of a runtime: names for why it writes, for its parts, for how stores are rebuilt."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from rtstore.errors import shown

WORD_LENGTH_MAX = 64
WORD_FORM = (
    f"a name of small letters, digits and _, a letter first, at most {WORD_LENGTH_MAX} characters"
)
_WORD = re.compile(r"[a-z][a-z0-9_]*")


def is_word(value: object) -> bool:
    """Return whether a value is a text of the form that a word has."""
    return (
        isinstance(value, str)
        and len(value) <= WORD_LENGTH_MAX
        and _WORD.fullmatch(value) is not None
    )


def known_or_own(kind: type[StrEnum], value: object) -> str:
    """Return the member of an enum that a word names, or a word of the runtime's own as plain text.
    Raises ValueError for what is no word."""
    if isinstance(value, kind):
        return value
    if not is_word(value):
        raise ValueError(f"{shown(value)} is not {WORD_FORM}")
    word = str(value)
    found = kind._value2member_map_.get(word)
    return found if isinstance(found, kind) else word


def word_of(kind: type[StrEnum]) -> Callable[[object], str]:
    """Return the function that validates a field of a record: `known_or_own` of one enum."""
    return lambda value: known_or_own(kind, value)
