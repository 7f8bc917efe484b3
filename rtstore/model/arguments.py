"""Check the arguments of callers. Each function here raises `InvalidRequestError` for a bad one."""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rtstore.errors import InvalidRequestError, shown
from rtstore.foreign import fails_again
from rtstore.model.records import BatchReason, Record, RunIdentity
from rtstore.model.times import Clock, to_utc_ms
from rtstore.model.words import WORD_FORM, is_word, known_or_own

Choice = TypeVar("Choice", bound=StrEnum)
Kind = TypeVar("Kind")
Function = TypeVar("Function", bound=Callable[..., Any])

_TIMEOUT_S_MAX = 1e6
NUMBER_MAX = 2**63 - 1
"""The largest whole number that the database can hold."""
WORDS_LENGTH_MAX = 500
"""The longest text that says why something was done: it stands in messages."""
_NAME_MAX = 255
"""What every usual system allows; some mean bytes, others characters."""

_NOT_IN_A_LINE = ("Cc", "Zl", "Zp")
"""Unicode categories: control characters, separators of lines and of paragraphs."""
_IDENTITY = tuple(RunIdentity.model_fields)


def checked_identity(identity: RunIdentity) -> RunIdentity:
    """Return a run identity of a caller: its texts are lines, which can be written as UTF-8."""
    if not isinstance(identity, RunIdentity):
        raise InvalidRequestError("identity", "must be a RunIdentity")
    for field in _IDENTITY:
        text = getattr(identity, field)
        if text is not None:
            check_line(f"identity.{field}", text)
    return identity


def member(kind: type[Choice], value: object, field: str) -> Choice:
    """Return the member of an enum that an argument names, or is."""
    if isinstance(value, kind):
        return value
    for choice in kind if isinstance(value, str) else ():
        if choice == value:
            return choice
    raise InvalidRequestError(field, f"{shown(value)} is not one of: {', '.join(kind)}")


def reason_name(value: object, field: str = "reason") -> str:
    """Return the reason of a batch: a known one, or a name of the runtime's own."""
    if not is_word(value):
        raise InvalidRequestError(field, f"{shown(value)} is not {WORD_FORM}")
    return known_or_own(BatchReason, value)


def instance(kind: type[Kind], value: object, field: str) -> Kind:
    """Return an argument that must be an instance of a class."""
    if not isinstance(value, kind):
        raise InvalidRequestError(field, f"must be a {kind.__name__}, not {shown(value)}")
    return value


def optional(kind: type[Kind], value: object, field: str) -> Kind | None:
    """Return an argument that is an object of the class, or None."""
    return None if value is None else instance(kind, value, field)


def flags(**values: object) -> None:
    """Check arguments that are true or false. None is neither."""
    for field, value in values.items():
        instance(bool, value, field)


def function(value: Function, field: str) -> Function:
    """Return an argument that must be callable."""
    if not callable(value):
        raise InvalidRequestError(field, f"must be a function, not {shown(value)}")
    return value


def optional_function(value: Function | None, field: str) -> Function | None:
    """Return an argument that can be called, or None."""
    return None if value is None else function(value, field)


def several(values: Iterable[Kind], field: str) -> list[Kind]:
    """Return the items of an argument that is a list of things. A text or a record is one thing."""
    given: object = values
    if isinstance(given, (str, bytes, Record)) or not isinstance(given, Iterable):
        raise InvalidRequestError(field, f"must be a list, not {shown(given)}")
    return list(values)


def plain_function(
    value: Callable[..., Any], field: str, why: str, *, store: str | None = None
) -> Callable[..., Any]:
    """Return a function that is no coroutine function; refuse an awaitable result in the call."""
    function(value, field)
    problem = f"must be a plain function: {why}"
    if is_coroutine_function(value):
        raise InvalidRequestError(field, problem, store=store)

    def plain(*arguments: Any) -> Any:
        result = value(*arguments)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise InvalidRequestError(field, problem, store=store)
        return result

    return plain


def is_coroutine_function(value: object) -> bool:
    """Return whether a function, or the `__call__` of an object, is a coroutine function."""
    called = getattr(value, "__call__", None)  # noqa: B004 - of an object, not whether it has one
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(called)


def path(value: object, field: str) -> Path:
    """Return an argument as a path. Refuse an empty one: it would mean the working directory, which
    is rarely intended."""
    try:
        found = Path(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidRequestError(field, f"must be a path, not {shown(value)}") from None
    if value == "":
        raise InvalidRequestError(field, "is empty; '.' is the working directory")
    try:
        str(found).encode("utf-8", "surrogateescape")  # as names that are no UTF-8 are read
    except UnicodeEncodeError:
        problem = f"holds a lone surrogate, so no file has that name: {shown(str(found))}"
        raise InvalidRequestError(field, problem) from None
    if "\0" in str(found):
        raise InvalidRequestError(field, f"holds a null character: {shown(str(found))}")
    longest = max(map(len, found.parts), default=0)
    if longest > _NAME_MAX:
        problem = f"holds a name of {longest:,} characters; a file has at most {_NAME_MAX}"
        raise InvalidRequestError(field, problem)
    return found


def timeout_s(value: object, field: str) -> float:
    """Return a time-out in seconds, from 0 to 1,000,000."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequestError(field, f"must be a number of seconds, not {shown(value)}")
    if not 0 <= value <= _TIMEOUT_S_MAX:  # not a number is neither
        raise InvalidRequestError(
            field, f"must be 0 to {_TIMEOUT_S_MAX:,.0f} seconds, not {shown(value)}"
        )
    return value


def duration(value: object, field: str) -> timedelta:
    """Return a `timedelta` of zero or more."""
    if not isinstance(value, timedelta) or value < timedelta(0):
        raise InvalidRequestError(field, f"must be a timedelta of zero or more, not {shown(value)}")
    return value


def number(value: object, field: str, *, least: int = 0) -> int:
    """Return a whole number from `least` to the largest that the database can hold."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(field, f"must be a whole number, not {shown(value)}")
    if value < least:
        raise InvalidRequestError(field, f"must be {least} or more, not {shown(value)}")
    if value > NUMBER_MAX:
        raise InvalidRequestError(field, f"must be {NUMBER_MAX} or less, not {shown(value)}")
    return value


def check_id(field: str, value: object) -> str:
    """Return an id to look for: a text that is not blank and has a UTF-8 form. An id that an import
    took over, or an earlier version wrote, may hold control characters."""
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"an id is a text, not {shown(value)}")
    if not value.strip():
        raise InvalidRequestError(field, "an id is not empty")
    return check_text(field, value)


def check_new_id(field: str, value: object) -> str:
    """Return an id that is about to be written: a line that is not blank."""
    return check_line(field, check_id(field, value))


def reason_in_words(value: object, field: str) -> str:
    """Return why something was done: a line that is not blank, and not too long for messages."""
    text = check_line(field, value)
    if not text.strip():
        raise InvalidRequestError(field, "must say why, and is empty")
    if len(text) > WORDS_LENGTH_MAX:
        problem = f"has {len(text):,} characters, and may have {WORDS_LENGTH_MAX}"
        raise InvalidRequestError(field, problem)
    return text


def time_of(clock: Clock) -> datetime:
    """Return the time of a caller's clock, in UTC milliseconds. Refuse a result that is no time, or
    has no time zone, or is none in UTC."""
    try:
        return to_utc_ms(clock())
    except (AttributeError, TypeError, ValueError) as error:
        if not fails_again(lambda: to_utc_ms(clock()), AttributeError, TypeError):
            raise
        raise InvalidRequestError("clock", str(error)) from error


def checked_clock(clock: Clock) -> Clock:
    """Return a clock that refuses what `time_of` refuses. It is asked once, so that a wrong one is
    refused before anything is done."""
    checked = partial(time_of, clock)
    checked()
    return checked


def check_text(field: str, value: object) -> str:
    """Return a text that comes from outside. Refuse a lone surrogate: UTF-8 cannot carry one."""
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"must be a text, not {shown(value)}")
    if not value.isascii() and any(0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise InvalidRequestError(field, f"{value[:80]!a} holds a lone surrogate")
    return value


def check_line(field: str, value: object) -> str:
    """Return a text that comes from outside and stands in one line of a page or a command. Refuse
    control characters, the null character among them, and what else ends a line."""
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return value
    text = check_text(field, value)
    for char in text:
        if unicodedata.category(char) in _NOT_IN_A_LINE:
            problem = f"holds the control character {char!a}; it must be one line of plain text"
            raise InvalidRequestError(field, problem)
    return text


def in_a_line(text: str) -> str:
    """Return a text as `check_line` accepts it: without line ends, and with `?` for other control
    characters and lone surrogates."""
    plain = " ".join(text.encode("utf-8", "replace").decode().split())
    return "".join("?" if unicodedata.category(char) in _NOT_IN_A_LINE else char for char in plain)
