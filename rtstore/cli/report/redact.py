"""Leaves the values out of a page: pure.

What stays: the names of stores, of their files and of keys, words and numbers of rtstore, times,
sizes, types, and the hashes of whole files. What goes: each value of a document; each text that may
quote one, such as an error or the reason of a quarantine; each name that a caller chose. Of names,
equal ones stay equal: `run 1` is the same run in the whole page.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from rtstore.cli.report.facts import Alias, Facts, Rule
from rtstore.model.records import Record

_OURS = re.compile(r"rtstore [a-z-]+\b")
AnyRecord = TypeVar("AnyRecord", bound=Record)


def redacted(facts: Facts) -> Facts:
    """Return the facts without values, and without names that callers chose."""
    return _Redaction().record(facts).model_copy(update={"redacted": True})


@cache
def rules_of(kind: type[Record]) -> dict[str, Rule | Alias | None]:
    """Return what becomes of the texts in each field of a record; None: it has no texts."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: _rule_in(hints[name]) for name in kind.model_fields}


def _rule_in(hint: Any) -> Rule | Alias | None:
    for part in (*getattr(hint, "__metadata__", ()), *map(_rule_in, get_args(hint))):
        if isinstance(part, Rule | Alias):
            return part
    return None


class _Redaction:
    """One page, with the numbers that its names have got."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, int]] = {}

    def record(self, record: AnyRecord) -> AnyRecord:
        values = {
            name: self._value(rule, getattr(record, name))
            for name, rule in rules_of(type(record)).items()
        }
        return record.model_copy(update=values)

    def _value(self, rule: Rule | Alias | None, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._value(rule, item) for item in value)
        if isinstance(value, Record):
            return self.record(value)
        if not isinstance(value, str) or isinstance(value, Enum):
            return value
        if rule is None:
            raise TypeError("a text without a rule")
        return self._text(rule, value)

    def _text(self, rule: Rule | Alias, text: str) -> str:
        if isinstance(rule, Alias):
            known = self._numbers.setdefault(rule.kind, {})
            return f"{rule.kind} {known.setdefault(text, len(known) + 1)}"
        if rule is Rule.KEEP:
            return text
        if rule is Rule.COMMAND:
            ours = _OURS.match(text)
            return f"{ours[0]} ..." if ours else "(left out: a command of the system)"
        return f"(left out: {len(text):,} characters)"
