"""Records without a second check: pydantic is for where data enters, not between functions here."""

from __future__ import annotations

from typing import Any, TypeVar

from rtstore.records import Record

AnyRecord = TypeVar("AnyRecord", bound=Record)

_set = object.__setattr__  # a frozen record refuses any other


def trusted(kind: type[AnyRecord], **values: Any) -> AnyRecord:
    """A record of values that this package has checked before, or made itself. Nothing is checked
    again, and nothing filled in: raises KeyError unless every field is given."""
    fields = kind.__pydantic_fields__
    record = kind.__new__(kind)
    _set(record, "__dict__", {name: values[name] for name in fields})
    _set(record, "__pydantic_fields_set__", set(fields))
    _set(record, "__pydantic_extra__", None)
    _set(record, "__pydantic_private__", None)
    return record
