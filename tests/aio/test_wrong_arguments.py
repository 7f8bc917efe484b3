"""A wrong argument is refused by the store for asyncio in the words of the plain one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rtstore import AsyncRuntimeStore, RuntimeStore
from tests.store.test_bad_arguments import KINDS
from tests.support import IDENTITY, LEASES, options_of
from tests.support.aio import run, write


def _recover(store: Any, wrong: Any) -> Any:
    plan = getattr(store, "sync_store", store).plan_recovery()
    return store.recover(plan, rebuilders=wrong)


PARAMETERS: dict[str, Callable[[Any, Any], Any]] = {
    "snapshot": lambda store, wrong: store.snapshot(wrong),
    "recover(rebuilders)": _recover,
    "begin_run(rebuilders)": lambda store, wrong: store.begin_run(IDENTITY, rebuilders=wrong),
}
"""What the call takes from its caller on the loop, before a thread has the rest."""


def _said(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


async def _awaited(call: Callable[[], Awaitable[Any]]) -> str:
    try:
        await call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_wrong_argument_is_refused_as_by_the_plain_store(directory: Path, name: str) -> None:
    """One of each kind, also those that are false: none is taken for one that is left out."""

    async def main(store: AsyncRuntimeStore) -> None:
        await write(store, LEASES, [1])
        call = PARAMETERS[name]
        for wrong in KINDS:
            plainly = await asyncio.to_thread(_said, partial(call, store.sync_store, wrong))
            assert await _awaited(partial(call, store, wrong)) == plainly

    run(directory, main)


def test_wrong_descriptors_are_refused_as_by_the_plain_store(directory: Path) -> None:
    """Also what is no list, which the opening does not try to copy."""

    async def opened(wrong: Any) -> None:
        async with AsyncRuntimeStore.open(directory, **options_of(descriptors=wrong)):
            pass

    def opened_plainly(wrong: Any) -> None:
        RuntimeStore.open(directory, **options_of(descriptors=wrong)).close()

    for wrong in KINDS:
        assert asyncio.run(_awaited(partial(opened, wrong))) == _said(
            partial(opened_plainly, wrong)
        )
