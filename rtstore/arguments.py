"""What callers pass to the facade, checked: each of the wrong kind is an `InvalidRequestError`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from rtstore.descriptors import Registry
from rtstore.draft import BatchRequest, StoreWrite, check_text
from rtstore.errors import InvalidRequestError
from rtstore.records import BatchReason, RunIdentity
from rtstore.trusted import trusted

Writes = Mapping[str, Any] | Iterable[tuple[str, Any]]
Choice = TypeVar("Choice", bound=StrEnum)
Kind = TypeVar("Kind")
Function = TypeVar("Function", bound=Callable[..., Any])

_TIMEOUT_S_MAX = 1e6


_IDENTITY = tuple(RunIdentity.model_fields)


def checked_identity(identity: RunIdentity) -> RunIdentity:
    """The run identity, if it is one."""
    if not isinstance(identity, RunIdentity):
        raise InvalidRequestError("identity", "must be a RunIdentity")
    for field in _IDENTITY:
        text = getattr(identity, field)
        if text is not None and not text.isascii():
            check_text(f"identity.{field}", text)
    return identity


def pairs(writes: Writes) -> list[tuple[str, Any]]:
    """What is to be written, store by store, from a mapping or from pairs."""
    try:
        items = writes.items() if isinstance(writes, Mapping) else writes
        return [(name, data) for name, data in items]
    except (TypeError, ValueError) as error:
        raise InvalidRequestError("writes", f"no mapping, and no pairs: {error}") from None


def member(kind: type[Choice], value: str, field: str) -> Choice:
    """The member of an enum that an argument names, or is."""
    if isinstance(value, kind):
        return value
    try:
        return kind(value)
    except ValueError:
        problem = f"{value!r} is not one of: {', '.join(kind)}"
        raise InvalidRequestError(field, problem) from None


def instance(kind: type[Kind], value: object, field: str) -> Kind:
    """An argument, if it is an object of the class."""
    if not isinstance(value, kind):
        raise InvalidRequestError(field, f"must be a {kind.__name__}, not {value!r:.80}")
    return value


def function(value: Function, field: str) -> Function:
    """An argument, if it can be called."""
    if not callable(value):
        raise InvalidRequestError(field, f"must be a function, not {value!r:.80}")
    return value


def plain_function(
    value: Callable[..., Any], field: str, why: str, *, store: str | None = None
) -> Callable[..., Any]:
    """A function that is no coroutine function. One in disguise is refused when it is called."""
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
    """Whether what is called would have to be awaited: a function, or an object with one."""
    called = getattr(value, "__call__", None)  # noqa: B004 - of an object, not whether it has one
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(called)


def path(value: object, field: str) -> Path:
    """The path that an argument names. An empty one is no path: that it would mean the working
    directory is hardly ever meant."""
    try:
        found = Path(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidRequestError(field, f"must be a path, not {value!r:.80}") from None
    if value == "":
        raise InvalidRequestError(field, "is empty; '.' is the working directory")
    if "\0" in str(found):
        raise InvalidRequestError(field, f"holds a null character: {str(found)!r:.80}")
    return found


def timeout_s(value: object, field: str) -> float:
    """A time-out in seconds, if it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequestError(field, f"must be a number of seconds, not {value!r:.80}")
    if not 0 <= value <= _TIMEOUT_S_MAX:  # not a number is neither
        raise InvalidRequestError(field, f"must be 0 to {_TIMEOUT_S_MAX:,.0f} seconds, not {value}")
    return value


def duration(value: object, field: str) -> timedelta:
    """Give a length of time that is not negative. Raises `InvalidRequestError`."""
    if not isinstance(value, timedelta) or value < timedelta(0):
        raise InvalidRequestError(field, f"must be a timedelta of zero or more, not {value!r:.80}")
    return value


def number(value: object, field: str, *, least: int = 0) -> int:
    """A whole number that the database can hold, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(field, f"must be a whole number, not {value!r:.80}")
    if not least <= value < 2**63:
        raise InvalidRequestError(field, f"must be {least} or more, not {value}")
    return value


def batch_request(
    team_name: str,
    registry: Registry,
    *,
    identity: RunIdentity,
    reason: BatchReason | str,
    writes: Writes,
) -> BatchRequest:
    """A batch of stores that are given by name. Raises `UnknownStoreError` too."""
    return trusted(
        BatchRequest,
        team_name=team_name,
        identity=checked_identity(identity),
        reason=member(BatchReason, reason, "reason"),
        writes=tuple(
            trusted(StoreWrite, descriptor=registry.get(name), data=data)
            for name, data in pairs(writes)
        ),
    )
