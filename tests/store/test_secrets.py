"""Secrets in data: pydantic writes them as asterisks, so they are refused, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Secret, SecretBytes, SecretStr, field_serializer

from rtstore import (
    AsyncRuntimeStore,
    DataUpgradeError,
    Descriptor,
    InvalidRequestError,
    RuntimeStore,
)
from rtstore.model.payloads import PartialModel
from tests.support import IDENTITY, data_in, files_picture, open_store

MASK = "**********"


class Token(BaseModel):
    """Pydantic writes its token as asterisks."""

    token: SecretStr = SecretStr("")
    n: int = 0


class Shown(BaseModel):
    """Its serializer writes the token itself."""

    token: SecretStr
    note: str = MASK

    @field_serializer("token", when_used="json")
    def reveal(self, token: SecretStr) -> str:
        """The value."""
        return token.get_secret_value()


class PartOfToken(PartialModel):
    """Plain JSON is stored as it was given; an object is dumped."""

    token: SecretStr = SecretStr("")


class Day(Secret[date]):
    """Shown otherwise than other secrets."""

    def _display(self) -> str:
        return "****/**/**"


class Places(BaseModel):
    """Secrets in every place."""

    items: list[Token] = []
    by_name: dict[str, SecretBytes] = {}
    keys: dict[SecretStr, int] = {}
    several: set[SecretStr] = set()
    pairs: set[tuple[int, SecretStr]] = set()
    number: Secret[int] | None = None
    day: Day | None = None
    any: Any = None


TOKEN = Descriptor("s.token", payload=Token)
SHOWN = Descriptor("s.shown", payload=Shown)
PART = Descriptor("s.part", payload=PartOfToken)
PLACES = Descriptor("s.places", payload=Places)
PLAIN = Descriptor("s.plain")
ALL = [TOKEN, SHOWN, PART, PLACES, PLAIN]
HUNTER = {"token": "hunter2"}


def write(store: RuntimeStore, key: Any, data: Any) -> None:
    """One store."""
    store.write_batch(identity=IDENTITY, reason="test", writes={key: data})


def update(store: RuntimeStore, key: Any, change: Callable[[Any], Any]) -> object:
    """One store, or several."""
    return store.update(key, change, identity=IDENTITY, reason="test")


def by_hand(directory: Path, descriptor: Descriptor, before: str, after: str) -> None:
    """Edit a store file."""
    path = directory / descriptor.relative_path
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RuntimeStore]:
    """A store with a run, whose secrets are empty."""
    with open_store(tmp_path / "runtime", descriptors=ALL) as opened:
        write(opened, TOKEN, Token())
        yield opened


def begin(store: RuntimeStore, **arguments: Any) -> object:
    """Another run."""
    return store.begin_run("run-2", supersede=True, **arguments)


async def on_a_loop(store: RuntimeStore, key: Any, data: Any) -> None:
    """The write of one store, awaited."""
    shared = AsyncRuntimeStore(store)
    await shared.write_batch(identity=IDENTITY, reason="test", writes={key: data})


def hunter() -> SecretStr:
    """A secret."""
    return SecretStr("hunter2")


def change_in_place(data: Any) -> dict[Any, Any]:
    """Another secret, which is not returned."""
    data[TOKEN].token = hunter()
    return {}


LOST: dict[str, tuple[Callable[[RuntimeStore], object], str]] = {
    "an object": (lambda s: write(s, TOKEN, Token(token=hunter())), "data.token (s.token)"),
    "an object by name": (
        lambda s: write(s, "s.token", Token(token=hunter())),
        "data.token (s.token)",
    ),
    "plain data": (lambda s: write(s, "s.token", HUNTER), "data.token (s.token)"),
    "an object of a part": (
        lambda s: write(s, PART, PartOfToken(token=hunter())),
        "data.token (s.part)",
    ),
    "an object where there is no model": (
        lambda s: write(s, PLAIN, Token(token=hunter())),
        "data.token (s.plain)",
    ),
    "an update": (
        lambda s: update(s, TOKEN, lambda _: Token(token=hunter())),
        "data.token (s.token)",
    ),
    "an update by name": (lambda s: update(s, "s.token", lambda _: HUNTER), "data.token (s.token)"),
    "an update of several": (
        lambda s: update(s, [TOKEN, PLAIN], lambda _: {TOKEN: Token(token=hunter())}),
        "data.token (s.token)",
    ),
    "a change in place that is left out": (
        lambda s: update(s, [TOKEN, PLAIN], change_in_place),
        "data.token (s.token)",
    ),
    "the first contents of a run": (
        lambda s: begin(s, writes={TOKEN: Token(token=hunter())}),
        "data.token (s.token)",
    ),
    "a rebuilder": (lambda s: begin(s, rebuilders={TOKEN: lambda _: HUNTER}), "data.token"),
    "on a loop": (lambda s: asyncio.run(on_a_loop(s, TOKEN, HUNTER)), "data.token (s.token)"),
    "in a list": (
        lambda s: write(s, "s.places", {"items": [{}, HUNTER]}),
        "data.items[1].token (s.places)",
    ),
    "bytes": (lambda s: write(s, PLACES, {"by_name": {"a": "x"}}), "data.by_name.a (s.places)"),
    "a key": (lambda s: write(s, PLACES, {"keys": {"x": 1}}), "data.keys (s.places): a key is"),
    "in a set": (lambda s: write(s, PLACES, {"several": ["x", "y"]}), "data.several (s.places)"),
    "deep in a set": (lambda s: write(s, PLACES, {"pairs": [[1, "x"]]}), "data.pairs (s.places)"),
    "a number": (lambda s: write(s, PLACES, {"number": 3}), "data.number (s.places)"),
    "no number": (lambda s: write(s, PLACES, {"number": 0}), "data.number (s.places)"),
    "one with asterisks of its own": (
        lambda s: write(s, PLACES, {"day": "2026-04-21"}),
        "data.day (s.places)",
    ),
    "in any data": (lambda s: write(s, PLACES, Places(any={"a": hunter()})), "data.any.a"),
}


@pytest.mark.parametrize(("call", "words"), LOST.values(), ids=LOST)
def test_a_secret_that_would_be_lost(
    store: RuntimeStore, call: Callable[[RuntimeStore], object], words: str
) -> None:
    """It is refused by its place, with the way out, and nothing is written: neither the secret nor
    the asterisks; and the message does not hold the secret."""
    before = files_picture(store.directory), store.manifest()
    with pytest.raises(InvalidRequestError, match="secret") as refused:
        call(store)
    assert words in str(refused.value)
    assert "serializer" in refused.value.problem
    assert "hunter2" not in str(refused.value)
    assert (files_picture(store.directory), store.manifest()) == before


def test_a_secret_of_an_upgrade(tmp_path: Path) -> None:
    """What an upgrade function makes is refused as well, and the older data stays."""
    with open_store(tmp_path / "runtime", descriptors=[Descriptor("s.token")]) as store:
        write(store, "s.token", "hunter2")
    before = files_picture(tmp_path / "runtime")
    newer = Descriptor(
        "s.token", payload=Token, schema_version=2, upgrades={1: lambda text: {"token": text}}
    )
    with pytest.raises(DataUpgradeError, match=r"data\.token: a secret"):
        RuntimeStore.open(tmp_path / "runtime", descriptors=[newer])
    assert files_picture(tmp_path / "runtime") == before


def test_a_serializer_that_writes_the_value(store: RuntimeStore) -> None:
    """It keeps working: by object, by name, and through an update; a text of asterisks beside it is
    a text."""
    for key, data in ((SHOWN, Shown(token=hunter())), ("s.shown", HUNTER)):
        write(store, key, data)
        update(store, SHOWN, lambda shown: shown)
        assert store.read("s.shown").data == {"token": "hunter2", "note": MASK}
        assert store.read(SHOWN).data.token == hunter()


def test_what_is_no_loss(store: RuntimeStore) -> None:
    """Empty secrets, a secret that is ten asterisks (as an earlier version of this library wrote
    it), plain JSON of a part, and asterisks that are no secret."""
    write(store, TOKEN, Token(token=SecretStr(MASK)))
    update(store, TOKEN, lambda token: token)
    assert store.read(TOKEN).data.token.get_secret_value() == MASK
    write(store, PLACES, Places(by_name={"a": SecretBytes(b"")}, several={SecretStr("")}))
    write(store, "s.part", HUNTER)
    assert store.read(PART).data.token == hunter()
    write(store, PLAIN, {"token": MASK})


def test_data_that_stays_as_it_is(store: RuntimeStore) -> None:
    """A file with a secret can be adopted, and taken over by another run, byte for byte; and an
    update of several stores that leaves such a store alone goes on."""
    by_hand(store.directory, TOKEN, '"token": ""', '"token": "hunter2"')
    store.adopt(TOKEN)
    write(store, "s.part", HUNTER)
    for left_alone in (
        lambda data: {PLAIN: 1},
        lambda data: {**data, PLAIN: 2},
        lambda data: {TOKEN: data[TOKEN].model_copy(), PLAIN: 3},
    ):
        update(store, [TOKEN, PART, PLAIN], left_alone)
    assert update(store, ["s.token", "s.part"], lambda data: data) is None
    begin(store, keep="all")
    assert store.read(TOKEN).data.token == store.read(PART).data.token == hunter()
    assert data_in(store.directory / TOKEN.relative_path)["token"] == "hunter2"
    assert store.read(PLAIN).data == 3
