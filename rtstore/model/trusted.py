"""Records without a second check: pydantic is for where data enters, not between functions here."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from rtstore.model.records import Record

AnyRecord = TypeVar("AnyRecord", bound=Record)

_set = object.__setattr__  # a frozen record refuses any other


@cache
def _names(kind: type[Record]) -> tuple[str, ...]:
    return tuple(kind.model_fields)


def trusted(kind: type[AnyRecord], **values: Any) -> AnyRecord:
    """A record of values that this package has checked before, or made itself. Nothing is checked
    again, and nothing filled in: raises KeyError unless every field is given."""
    names = _names(kind)
    record = kind.__new__(kind)
    # The order is that of the fields, in which they are shown and dumped.
    in_order = values if tuple(values) == names else {name: values[name] for name in names}
    _set(record, "__dict__", in_order)
    _set(record, "__pydantic_fields_set__", set(names))
    _set(record, "__pydantic_extra__", None)
    _set(record, "__pydantic_private__", None)
    return record
