"""`AsyncRuntimeStore` differs from `RuntimeStore`, and `AsyncRun` from `Run`, by `await` alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_overloads

import pytest

from rtstore import AsyncRun, AsyncRuntimeStore, Run, RuntimeStore
from tests.support import CHECKPOINT, IDENTITY, LEASES, new_directory
from tests.support.aio import run

PAIRS = ((RuntimeStore, AsyncRuntimeStore), (Run, AsyncRun))

ASYNC_ONLY = {
    "AsyncRuntimeStore.aclose": "the name that `contextlib.aclosing` calls",
    "AsyncRuntimeStore.sync_store": "the store that it runs the calls of",
    "AsyncRun.sync_run": "the run that it runs the calls of",
}
"""Names of the asyncio classes that the others lack, each with the reason."""

NOT_COROUTINES = {
    "AsyncRuntimeStore.open": "awaited, or entered with `async with` alone",
    "AsyncRuntimeStore.begin_run": "awaited, or entered with `async with` alone",
    "AsyncRuntimeStore.follow": "`async for` iterates over it",
}
"""Methods whose result is not only awaited, each with the way to use it."""

COPY_AT_THE_CALL = {
    f"{kind}.{name}"
    for kind in ("AsyncRuntimeStore", "AsyncRun")
    for name in ("write_batch", "update")
}
"""Plain functions that return a coroutine: what they were given is copied before it begins."""

AWAITED = {
    "Run": "Opening[AsyncRun]",
    "Self": "Opening[Self]",
    "Iterator[Batch]": "AsyncIterator[Batch]",
}
"""What stands for a result where it is not only awaited."""


def members(kind: type) -> dict[str, Any]:
    """The public methods and properties of a class, those of its bases included."""
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


def differences(plain: type, awaited: type) -> Iterator[str]:
    """What differs between the methods of the two classes beyond `await`."""
    ours, theirs = members(plain), members(awaited)
    for name in sorted(ours.keys() | theirs.keys()):
        where = f"{awaited.__name__}.{name}"
        either = ours.get(name, theirs.get(name))
        if where in ASYNC_ONLY or isinstance(either, property):  # an attribute in the other one
            continue
        if name not in ours or name not in theirs:
            yield f"{where} has no counterpart"
        elif callable(ours[name]):
            yield from _of_method(where, ours[name], theirs[name])


def _of_method(where: str, ours: Any, theirs: Any) -> Iterator[str]:
    expected, found = _signatures(ours), _signatures(theirs)
    if where in NOT_COROUTINES:
        expected = [_awaited(text) for text in expected]
    elif where in COPY_AT_THE_CALL:
        expected = [_coroutine(text) for text in expected]
        if inspect.iscoroutinefunction(theirs):
            yield f"{where} copies when it is awaited"
    elif not inspect.iscoroutinefunction(theirs):
        yield f"{where} is not awaited"
    if found != expected:
        yield f"{where} has another signature: {found}, not {expected}"


def _signatures(function: Any) -> list[str]:
    """The signature of a function, and those of its overloads, as text."""
    return [str(inspect.signature(item)) for item in (function, *get_overloads(function))]


def _coroutine(signature: str) -> str:
    head, _, result = signature.rpartition(" -> ")
    result = result.strip("'")
    return f"{head} -> {f'Coroutine[Any, Any, {result}]'!r}"


def _awaited(signature: str) -> str:
    head, _, result = signature.rpartition(" -> ")
    awaited = AWAITED[result.strip("'")]
    return f"{head} -> {awaited!r}"


@pytest.mark.parametrize(("plain", "awaited"), PAIRS)
def test_methods_differ_by_await_alone(plain: type, awaited: type) -> None:
    """The same methods, with the same parameters (names, kinds, defaults, types) and results."""
    assert list(differences(plain, awaited)) == []


def test_attributes_are_the_same(tmp_path: Path) -> None:
    """An open store and a run of it have the same attributes as those they are around."""
    directory = new_directory(tmp_path)
    with RuntimeStore.open(directory) as store:
        first = store.begin_run(IDENTITY, writes={LEASES: 1})
        plain = {"AsyncRuntimeStore": _attributes(store), "AsyncRun": _attributes(first)}
    awaited: dict[str, set[str]] = {}

    async def main(store: AsyncRuntimeStore) -> None:
        async with store.begin_run("run-2", keep="all", supersede=True) as second:
            awaited["AsyncRuntimeStore"] = _attributes(store)
            awaited["AsyncRun"] = _attributes(second)

    run(directory, main)
    more = {f"{kind}.{name}" for kind, names in awaited.items() for name in names - plain[kind]}
    assert more == set(ASYNC_ONLY)
    assert all(names <= awaited[kind] for kind, names in plain.items())


def _attributes(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_the_comparison_notices_a_difference() -> None:
    """A parameter more, another default, a method more, and one that is not awaited are found."""

    class Plain:
        def close(self, why: str = "") -> None: ...
        def read(self, name: str, *, at: int | None = None) -> None: ...
        def list(self) -> None: ...
        def gone(self) -> None: ...

    class Awaited:
        async def close(self, why: str = "done") -> None: ...
        async def read(self, name: str, at: int | None = None) -> None: ...
        def list(self) -> None: ...
        async def more(self) -> None: ...

    found = list(differences(Plain, Awaited))
    assert [text.split()[0] for text in found] == [
        f"Awaited.{name}" for name in ("close", "gone", "list", "more", "read")
    ]


def test_both_names_close(tmp_path: Path) -> None:
    """`close` and `aclose` close the store; the second call of either is harmless."""
    directory = new_directory(tmp_path)

    async def main(store: AsyncRuntimeStore) -> None:
        await store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 1})
        await store.close()
        await store.aclose()
        assert "(closed)" in repr(store)

    run(directory, main)
