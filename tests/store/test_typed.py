"""Stores with a payload model: objects by descriptor, plain JSON by name, the same on disk."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, assert_type, cast

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    field_serializer,
    field_validator,
)

from rtstore import (
    AsyncRuntimeStore,
    Batch,
    ConflictError,
    ContentMissingError,
    Criticality,
    DataRefusedError,
    Descriptor,
    InvalidRequestError,
    RebuildRequest,
    RuntimeStore,
    Snapshot,
    StoreContent,
    StoreData,
    UnknownStoreError,
)
from rtstore.model.payloads import PartialModel
from tests.support import IDENTITY, files_picture, open_store


class Member(BaseModel):
    """One of a roster."""

    name: str
    steps: int = 0


class Roster(BaseModel):
    """Unknown keys are dropped, as pydantic does by itself."""

    members: list[Member] = []


class Open(BaseModel):
    """Unknown keys are kept, and names are camelCase on disk."""

    model_config = ConfigDict(extra="allow")

    run_id: int = Field(alias="runId")


class Strict(BaseModel):
    """Takes a time from JSON text only."""

    model_config = ConfigDict(strict=True)

    at: datetime
    n: int = 0


class Part(PartialModel):
    """Only a part of its data."""

    n: int = 0


class Inner(PartialModel):
    """Only a part of what is in a part."""

    m: int = 0


class Parts(PartialModel):
    """Only a part of its data, with others in it."""

    n: int = 0
    inner: list[Inner] = Field(default_factory=list)


class Odd(BaseModel):
    """Its dump is not what it accepts."""

    model_config = ConfigDict(extra="forbid")

    n: int = 0

    @computed_field
    def twice(self) -> int:
        """The double."""
        return self.n * 2


class Anything(BaseModel):
    """Its dump may be no JSON."""

    value: Any = None


class Half(BaseModel):
    """Writes bytes as base64, and takes them as they are."""

    model_config = ConfigDict(ser_json_bytes="base64")

    raw: bytes


class Number(RootModel[int | None]):
    """Takes JSON null."""


ROSTER = Descriptor("team.roster", payload=Roster)
OPEN = Descriptor("team.open", payload=Open)
STRICT = Descriptor("team.strict", payload=Strict)
PART = Descriptor("team.part", payload=Part)
PARTS = Descriptor("team.parts", payload=Parts)
ODD = Descriptor("team.odd", payload=Odd)
ANY = Descriptor("team.any", payload=Anything)
HALF = Descriptor("team.half", payload=Half)
NUMBER = Descriptor("team.number", payload=Number)
NOTES = Descriptor("team:notes")
ALL = [ROSTER, OPEN, STRICT, PART, PARTS, ODD, ANY, HALF, NUMBER, NOTES]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RuntimeStore]:
    """A store of a team with models, in which nothing was committed yet."""
    with open_store(tmp_path / "runtime", descriptors=ALL) as store:
        yield store


def write(store: RuntimeStore, key: Any, data: Any, **options: Any) -> Batch:
    """Write one store."""
    return store.write_batch(identity=IDENTITY, reason="test", writes={key: data}, **options)


def on_disk(store: RuntimeStore, descriptor: Descriptor) -> Any:
    """The data in the file of a store."""
    return json.loads((store.directory / descriptor.relative_path).read_bytes())["data"]


# --- descriptors in a line ------------------------------------------------------------------------


def test_a_descriptor_in_a_line() -> None:
    """What it leaves out blocks, throws nothing away, and is in a file of its name."""
    assert_type(ROSTER, Descriptor[Roster])
    assert_type(NOTES, Descriptor[Any])
    assert (NOTES.relative_path, NOTES.schema_version, NOTES.payload) == (
        "team+notes.json",
        1,
        None,
    )
    assert (NOTES.criticality, NOTES.owner) == (Criticality.READINESS_BLOCKING, "runtime")
    assert NOTES.rebuild_strategy == "none"
    assert Descriptor[Roster]("team.roster", payload=Roster) == ROSTER
    assert Descriptor(schema_name="team:notes") == NOTES


@pytest.mark.parametrize(
    ("arguments", "fields", "words"),
    [
        (["manifest"], {}, "relative_path (manifest): must be given for this store"),
        (["runtime-store.x"], {}, "is reserved for the store itself"),
        (["x" * 200], {}, "has a part of more than 180 bytes"),
        (["no name"], {}, "Descriptor.schema_name: String should match"),
        ([b"a.b"], {}, "Descriptor.schema_name: Input should be a valid string, not b'a.b'"),
        (
            ["a"],
            {"relative_path": b"a"},
            "Descriptor.relative_path: Input should be a valid string",
        ),
        ([], {}, "Descriptor.schema_name: Field required"),
        (["a"], {"schema_name": "b"}, "Descriptor.schema_name: is the only argument"),
        (["a", "b"], {}, "Descriptor.schema_name: is the only argument"),
        (["a"], {"schema_version": 2**63}, f"or equal to {2**63 - 1}, not {2**63}"),
        (
            ["a"],
            {"schema_version": 0},
            "schema_version: Input should be greater than or equal to 1",
        ),
        (["a"], {"schema_version": True}, "schema_version: Input should be a valid integer"),
        (["a"], {"owner": "Me"}, "Descriptor.owner: 'Me' is not a name of small letters, "),
        (["a"], {"relative_path": "/b"}, "relative_path: '/b' is not relative to the runtime"),
        (["a"], {"pyload": Roster}, "Descriptor.pyload: there is no such field"),
    ],
)
def test_a_line_that_makes_no_descriptor(
    arguments: list[Any], fields: dict[str, Any], words: str
) -> None:
    """Each is refused by name."""
    make: Callable[..., Descriptor] = Descriptor
    with pytest.raises(InvalidRequestError) as refused:
        make(*arguments, **fields)
    assert words in str(refused.value)


def test_every_field_is_described_where_it_is_defined() -> None:
    """An editor shows the text behind a field."""
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(Descriptor)).body
        if isinstance(node, ast.ClassDef)
    )
    described = {
        before.target.id
        for before, after in pairwise(body)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    assert described == set(Descriptor.model_fields)


# --- what is stored -------------------------------------------------------------------------------

NORMALISED: dict[str, tuple[Descriptor, Any, Any]] = {
    "a number as a text": (ROSTER, {"members": [{"name": "a", "steps": "3"}]},
                           {"members": [{"name": "a", "steps": 3}]}),
    "what has a default": (ROSTER, {}, {"members": []}),
    "unknown keys, dropped": (ROSTER, {"members": [], "more": 1}, {"members": []}),
    "unknown keys, kept": (OPEN, {"runId": "1", "more": "1"}, {"runId": 1, "more": "1"}),
    "strict types": (STRICT, {"at": "2026-04-21T12:00:00Z"},
                     {"at": "2026-04-21T12:00:00Z", "n": 0}),
    "a part of the data": (PART, {"n": 1, "more": [2]}, {"n": 1, "more": [2]}),
    "a part that leaves out": (PART, {"more": [2]}, {"more": [2]}),
}  # fmt: skip


@pytest.mark.parametrize(("descriptor", "data", "stored"), NORMALISED.values(), ids=NORMALISED)
def test_what_the_model_dumps_is_stored(
    store: RuntimeStore, descriptor: Descriptor, data: Any, stored: Any
) -> None:
    """By name and by descriptor, as JSON and as an object: the same bytes. The same call again is
    the same batch."""
    first = write(store, descriptor.schema_name, data, batch_id="one")
    assert on_disk(store, descriptor) == store.read(descriptor.schema_name).data == stored
    assert write(store, descriptor, data, batch_id="one") == first
    payload: Any = descriptor.payload
    model = payload.model_validate_json(json.dumps(data))
    assert store.read(descriptor).data == model
    if descriptor is not PART:
        assert write(store, descriptor, model, batch_id="one") == first


def test_an_update_by_name_is_normalised_too(store: RuntimeStore) -> None:
    """Plain JSON goes in, and what the model dumps comes out."""
    write(store, ROSTER, Roster())
    store.update(
        "team.roster",
        lambda data: {"members": [*data["members"], {"name": "a", "steps": "4"}]},
        identity=IDENTITY,
        reason="test",
    )
    assert on_disk(store, ROSTER) == {"members": [{"name": "a", "steps": 4}]}


# --- objects --------------------------------------------------------------------------------------


def join(roster: Roster) -> Roster:
    """One member more, in place."""
    roster.members.append(Member(name="ann"))
    return roster


def test_objects_by_descriptor(store: RuntimeStore) -> None:
    """Read, snapshot, update, earlier versions and runs: a `Roster` each time; by name JSON."""
    with store.begin_run("run-1", writes={ROSTER: Roster(), NOTES: ["x"], "team.part": {}}) as run:
        run.update(ROSTER, join, reason="somebody_came")
    content = store.read(ROSTER)
    assert_type(content, StoreContent[Roster])
    assert content.data == Roster(members=[Member(name="ann")])
    assert store.read(ROSTER, at=1).data == Roster()
    assert store.read("team.roster").data == content.data.model_dump()
    assert store.read(NOTES).data == ["x"]
    snapshot = store.snapshot([ROSTER, "team.part"])
    assert_type(snapshot[ROSTER].data, Roster)
    assert_type(snapshot.get(ROSTER), StoreContent[Roster] | None)
    assert_type(snapshot.data(ROSTER), Roster | None)
    assert snapshot[ROSTER] == content
    assert snapshot.data(ROSTER) == content.data
    assert (snapshot.data("team.part"), snapshot.get(NOTES)) == ({}, None)
    assert len(store.history(ROSTER)) == len(store.diff(ROSTER, 1).differences) + 1 == 2
    store.begin_run("run-2", keep=[ROSTER], rebuilders={PART: lambda request: request.data})
    store.revert(ROSTER, to=1)
    assert store.read(ROSTER).data == Roster()


def test_a_snapshot_has_the_names_of_stores(store: RuntimeStore) -> None:
    """`in` takes a name or a descriptor, and a rebuilder may ask so, too."""
    assert list(store.snapshot()) == []
    asked: list[bool] = []

    def rebuild(request: RebuildRequest) -> Part:
        asked.extend(key in request.committed for key in ("team.roster", ROSTER, NOTES))
        return Part()

    store.begin_run("run-1", writes={ROSTER: Roster(), "team.part": {}})
    store.begin_run("run-2", keep=[ROSTER], rebuilders={PART: rebuild})
    assert asked == [True, True, False]
    snapshot = store.snapshot()
    assert [key in snapshot for key in ("team.part", PART, "team:notes", "nowhere")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert sorted(snapshot) == sorted(snapshot.contents) == ["team.part", "team.roster"]
    assert len(snapshot) == 2
    lost = snapshot.model_copy(update={"lost": {"team.odd": 1}})
    with pytest.raises(ContentMissingError):
        ODD in lost  # noqa: B015


def move(data: StoreData) -> Mapping[Any, Any]:
    """Add a member, and touch nothing else."""
    assert_type(data[ROSTER], Roster)
    assert_type(data.get(PART), Part | None)
    assert data.get(OPEN) is None
    with pytest.raises(InvalidRequestError, match=r"team.open.*no committed content"):
        data[OPEN]
    return {**data, ROSTER: join(data[ROSTER])}


def test_several_stores_by_descriptor(store: RuntimeStore) -> None:
    """Objects under their descriptors beside JSON under its name. What a model would dump otherwise
    is not written when the function did not change it."""
    first = {ROSTER: Roster(), NOTES: ["x"], "team.part": {"n": 1, "own": 2}}
    with store.begin_run("run-1", writes=first) as run:
        batch = run.update([ROSTER, PART, "team:notes", OPEN], move, reason="moved")
        assert_type(batch, Batch | None)
        assert batch is not None
        assert [item.schema_name for item in batch.receipts] == ["team.roster"]
        assert store.read("team.part").data == {"n": 1, "own": 2}
        assert run.update([ROSTER, PART], lambda data: data, reason="nothing") is None
        version = {ROSTER: batch.high_watermark}
        run.write_batch("compared", {ROSTER: Roster()}, expected=version)
        with pytest.raises(ConflictError):
            run.write_batch("compared", {ROSTER: Roster()}, expected=version)


def test_json_null_that_is_committed(store: RuntimeStore) -> None:
    """A model that takes null has an object of it: that is not "nothing committed"."""
    store.begin_run("run-1", writes={ROSTER: Roster()})
    given: list[object] = []

    def count(number: Number) -> Number:
        given.append(number)
        return Number((number.root or 0) + 1)

    def count_in(data: StoreData) -> Mapping[Any, Any]:
        return {**data, NUMBER: count(data[NUMBER])}

    def nothing(data: StoreData) -> Mapping[Any, Any]:
        return {NUMBER: None}

    def null(data: StoreData) -> Mapping[Any, Any]:
        assert data.get(NUMBER) is None
        return {NUMBER: Number(None)}

    options: Any = {"identity": IDENTITY, "reason": "test"}
    with pytest.raises(InvalidRequestError, match="no committed content to change"):
        store.update(NUMBER, count, **options)
    first = store.update([NUMBER, ROSTER], null, **options)
    assert first is not None
    assert [item.schema_name for item in first.receipts] == ["team.number"]
    assert store.update([NUMBER], lambda data: data, **options) is None
    with pytest.raises(InvalidRequestError, match="returned None"):
        store.update([NUMBER], nothing, **options)
    store.update(NUMBER, count, **options)
    write(store, NUMBER, Number(None))
    store.update([NUMBER, ROSTER], count_in, **options)
    assert given == [Number(None), Number(None)]
    assert store.read(NUMBER).data == Number(1)
    write(store, "team.number", None)
    store.update("team.number", lambda data: 5 if data is None else 6, **options)
    assert store.read(NUMBER).data == Number(5)


def counted(parts: Parts) -> Parts:
    """Change what the model knows."""
    parts.n += 1
    parts.inner[0].m += 1
    return parts


def test_a_part_keeps_what_its_model_does_not_know(store: RuntimeStore) -> None:
    """As it is read and written back, and through updates of one store and of several."""
    first = {"own": {"z": 1}, "n": 1, "inner": [{"m": 1, "more": None}]}
    with store.begin_run("run-1", writes={"team.parts": first}) as run:
        run.write_batch("as_read", {PARTS: store.read(PARTS).data})
        assert on_disk(store, PARTS) == first
        run.update(PARTS, counted, reason="one")
        run.update([PARTS], lambda data: {PARTS: counted(data[PARTS])}, reason="several")
        assert on_disk(store, PARTS) == {**first, "n": 3, "inner": [{"m": 3, "more": None}]}


class Known(PartialModel):
    """A part of its data, in which another model knows all that it keeps."""

    roster: Roster = Roster()
    inner: Inner = Inner()


def test_what_of_a_part_another_model_does_not_know(store: RuntimeStore) -> None:
    """JSON is stored as it is. An object lacks the keys that the model inside of it does not keep,
    and so does what is written of it; those of a part that keeps them stay."""
    known = Descriptor("team.part", payload=Known)
    first = {"roster": {"members": [], "lost": 1}, "inner": {"m": 1, "kept": 2}, "own": 3}
    with open_store(store.directory.parent / "known", descriptors=[known]) as other:
        write(other, "team.part", first)
        other.update("team.part", lambda data: data, identity=IDENTITY, reason="by_name")
        assert on_disk(other, known) == first
        assert other.update([known], lambda data: data, identity=IDENTITY, reason="x") is None
        other.update(known, lambda data: data, identity=IDENTITY, reason="by_descriptor")
        assert on_disk(other, known) == {**first, "roster": {"members": []}}


def test_an_object_of_a_subclass_is_one_of_the_model(store: RuntimeStore) -> None:
    """By descriptor and by name."""

    class Named(Part):
        name: str = "a"

    for key in (PART, "team.part"):
        write(store, key, Named(n=1))
        assert on_disk(store, PART) == {"n": 1, "name": "a"}


class Named(Roster):
    """One field more than the model of the store."""

    name: str = "a"
    secret: str = Field("", exclude=True)


class Open2(Roster):
    """Keeps any other field, which the model of the store does not."""

    model_config = ConfigDict(extra="allow")


class Behaving(Roster):
    """Adds no field that is written."""

    hidden: str = Field("", exclude=True)

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.members)


def test_an_object_of_a_subclass_that_adds_no_field(store: RuntimeStore) -> None:
    """It is written as the model is."""
    for key in (ROSTER, "team.roster"):
        write(store, key, Behaving(members=[Member(name="a")]))
        assert store.read(ROSTER).data == Roster(members=[Member(name="a")])
    write(store, ROSTER, Open2())


def test_objects_on_a_loop(store: RuntimeStore) -> None:
    """The same, awaited."""

    async def main() -> Roster:
        shared = AsyncRuntimeStore(store)
        async with shared.begin_run("run-1", writes={ROSTER: Roster(), "team.part": {}}) as run:
            await asyncio.gather(*(run.update(ROSTER, join, reason="came") for _ in range(3)))
            await run.write_batch("parted", {PART: Part(n=2)})
        assert (await shared.snapshot([PART]))[PART].data == Part(n=2)
        found = (await shared.read(ROSTER)).data
        assert_type(found, Roster)
        return found

    assert len(asyncio.run(main()).members) == 3


# --- bad input ------------------------------------------------------------------------------------


def _mutated() -> Roster:
    roster = Roster(members=[Member(name="a")])
    roster.members[0].steps = "many"  # type: ignore[assignment]
    return roster


def _update(key: Any, change: Callable[[Any], Any]) -> Callable[[RuntimeStore], object]:
    return lambda store: store.update(key, change, identity=IDENTITY, reason="test")


BAD: dict[str, tuple[Callable[[RuntimeStore], object], str]] = {
    "data that the model refuses": (
        lambda s: write(s, "team.roster", {"members": [{}]}),
        "data.members[0].name (team.roster): Field required",
    ),
    "data that the model refuses in two places": (
        lambda s: write(s, "team.roster", {"members": [{}, {"steps": "x"}]}),
        "Field required (and 2 more: data.members[1].name, data.members[1].steps)",
    ),
    "data that the model refuses in many places": (
        lambda s: write(s, "team.roster", {"members": [{}] * 9}),
        ", data.members[4].name, data.members[5].name and 3 more)",
    ),
    "a rebuilder of nothing": (
        lambda s: s.begin_run("run-2", rebuilders={"nope": lambda _: None}),
        "'nope' is no store, and no strategy; the strategies are 'none', 'poll",
    ),
    "an object that was changed for the worse": (
        lambda s: write(s, ROSTER, _mutated()),
        "data.members[0].steps (team.roster): Roster does not accept what it dumps: Input should",
    ),
    "a text for a number of a strict model": (
        lambda s: write(s, STRICT, {"at": "2026-04-21T12:00:00Z", "n": "1"}),
        "data.n (team.strict): Input should be a valid integer",
    ),
    "the object of another model": (
        lambda s: write(s, ROSTER, Part()),
        "writes (team.roster): must be a Roster, not Part(n=0)",
    ),
    "the object of another model, by name": (
        lambda s: write(s, "team.roster", Part()),
        "data (team.roster): must be a Roster, not Part(n=0)",
    ),
    "a rebuilder's object of another model": (
        lambda s: s.begin_run("run-2", rebuilders={ROSTER: lambda _: Part()}),
        "data (team.roster): must be a Roster, not Part(n=0)",
    ),
    "an object of a subclass with another field": (
        lambda s: write(s, ROSTER, Named()),
        "subclass Named has fields that Roster lacks, and that would not be stored: name",
    ),
    "an object of a subclass, by name": (
        lambda s: write(s, "team.roster", Named()),
        "data (team.roster): must be a Roster itself: its subclass Named has fields",
    ),
    "an object of a subclass with more": (
        lambda s: write(s, ROSTER, Open2.model_validate({"other": 1})),
        "would not be stored: other",
    ),
    "a change to an object of a subclass": (
        _update(ROSTER, lambda _: Named()),
        "change (team.roster): must be a Roster itself",
    ),
    "a change of several to an object of a subclass": (
        _update([ROSTER], lambda _: {ROSTER: Named()}),
        "change (team.roster): must be a Roster itself",
    ),
    "a dump that is no JSON": (
        lambda s: write(s, ANY, Anything(value=object())),
        "data (team.any): Unable to serialize",
    ),
    "a key that is a set": (
        lambda s: write(s, ANY, Anything(value=[{"a": {frozenset({1}): 1}}])),
        "data.value[0].a (team.any): the key frozenset({1}) is refused: it must be a text, not fro",
    ),
    "a key with a set in it": (
        lambda s: write(s, ANY, Anything(value={"a": {(1, frozenset({2})): 1}})),
        "data.value.a (team.any): the key (1, frozenset({2})) is refused: it must be a text",
    ),
    "a key that is nothing pydantic knows": (
        lambda s: write(s, ANY, Anything(value={"a": ({range(3): 1},)})),
        "data.value.a[0] (team.any): the key range(0, 3) is refused: it must be a text, not range",
    ),
    "a dump that is no number": (
        lambda s: write(s, ANY, Anything(value=float("nan"))),
        "data.value (team.any): must be a finite number",
    ),
    "a dump that is not accepted": (
        lambda s: write(s, ODD, Odd(n=1)),
        "data.twice (team.odd): Odd does not accept what it dumps: Extra inputs are not permitted",
    ),
    "a dump of JSON that is not accepted": (
        lambda s: write(s, "team.odd", {"n": 1}),
        "data.twice (team.odd): Odd does not accept what it dumps: Extra inputs are not permitted",
    ),
    "a dump that comes back as another one": (
        lambda s: write(s, HALF, Half(raw=b"abc")),
        "data.raw (team.half): Half does not make the same again of what it dumps: 'YWJj' would",
    ),
    "JSON of which a dump comes back as another one": (
        lambda s: write(s, "team.half", {"raw": "abc"}),
        "data.raw (team.half): Half does not make the same again of what it dumps: 'YWJj' would",
    ),
    "a change to JSON": (
        _update(ROSTER, lambda roster: roster.model_dump()),
        "change (team.roster): must be a Roster, not {'members': []}",
    ),
    "a change to another model": (
        _update(ROSTER, lambda _: Part()),
        "change (team.roster): must be a Roster, not Part(n=0)",
    ),
    "a change to nothing": (_update(ROSTER, lambda _: None), "the function returned None"),
    "a change of nothing": (_update(PART, lambda part: part), "(team.part): no committed content"),
    "a change in place that is left out": (
        _update([ROSTER, "team:notes"], lambda data: {"team:notes": [join(data[ROSTER]).members]}),
        "change (team.roster): the function changed its data in place",
    ),
    "a change of several to JSON": (
        _update([ROSTER, NOTES], lambda data: {ROSTER: {"members": []}}),
        "change (team.roster): must be a Roster, not {'members': []}",
    ),
    "a change that returns a store twice": (
        _update([ROSTER, NOTES], lambda data: {**data, "team.roster": {}}),
        "change (team.roster): the function returned it twice",
    ),
    "a store and its name in a list": (
        _update([ROSTER, "team.roster"], dict),
        "store (team.roster): is in the list twice",
    ),
    "no change": (_update(ROSTER, 5), "change"),  # type: ignore[arg-type]
    "a store in it twice": (
        lambda s: s.write_batch(
            identity=IDENTITY, reason="test", writes={ROSTER: Roster(), "team.roster": {}}
        ),
        "the store is in the batch twice",
    ),
    "another descriptor of that name": (
        lambda s: s.read(Descriptor("team.roster", payload=Part)),
        "whose payload is <class 'tests.store.test_typed.Roster'>: pass this one to open",
    ),
    "another version": (
        lambda s: s.update(
            Descriptor("team.roster", payload=Roster, schema_version=2),
            join,
            identity=IDENTITY,
            reason="test",
        ),
        "whose schema_version is 1",
    ),
    "one descriptor, and no list": (
        lambda s: s.snapshot(cast("Any", ROSTER)),
        "stores: must be a list, not Descriptor(",
    ),
    "a store that a snapshot lacks": (
        lambda s: s.snapshot([PART])[ROSTER],
        "store (team.roster): no committed content in this snapshot",
    ),
    "a reason that is no name": (
        lambda s: s.write_batch(identity=IDENTITY, reason="It fell", writes={ROSTER: Roster()}),
        "reason: 'It fell' is not a name of small letters",
    ),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input(store: RuntimeStore, call: Callable[[RuntimeStore], object], words: str) -> None:
    """Each is refused by name, and nothing has happened."""
    write(store, ROSTER, Roster())
    before = files_picture(store.directory), store.manifest()
    with pytest.raises(InvalidRequestError) as refused:
        call(store)
    assert words in str(refused.value)
    assert (files_picture(store.directory), store.manifest()) == before


def test_an_unknown_descriptor(store: RuntimeStore) -> None:
    """One that the store was not opened with."""
    with pytest.raises(UnknownStoreError, match=r"unknown store 'team\.other'"):
        store.read(Descriptor("team.other", payload=Roster))


def test_committed_data_that_the_model_refuses(tmp_path: Path) -> None:
    """What was committed without the model, or under an older one: named by descriptor, whole by
    name, and written over at will."""
    before = [Descriptor("team.roster")]
    with open_store(tmp_path / "runtime", descriptors=before) as store:
        write(store, "team.roster", {"members": [{"steps": 1}]})
    with RuntimeStore.open(tmp_path / "runtime", descriptors=ALL) as store:
        calls: list[Callable[[], object]] = [
            lambda: store.read(ROSTER),
            lambda: store.read(ROSTER, at=1),
            lambda: store.snapshot()[ROSTER],
            lambda: store.update(ROSTER, join, identity=IDENTITY, reason="test"),
        ]
        for call in calls:
            with pytest.raises(DataRefusedError) as refused:
                call()
            assert (refused.value.store, refused.value.model) == ("team.roster", "Roster")
            assert refused.value.problem == "data.members[0].name: Field required"
            assert str(refused.value).endswith(
                "By its name, 'team.roster', it can be read and updated as plain JSON; what passes "
                "Roster can be written over it, unless a newer program wrote the file."
            )
        assert store.read("team.roster").data == {"members": [{"steps": 1}]}
        assert store.snapshot().data("team.roster") == {"members": [{"steps": 1}]}
        store.update(
            "team.roster",
            lambda data: {"members": [{"name": "a", **data["members"][0]}]},
            identity=IDENTITY,
            reason="test",
        )
        assert store.read(ROSTER).data.members == [Member(name="a", steps=1)]
        write(store, ROSTER, Roster())
        assert store.read(ROSTER).data == Roster()
        newer = ROSTER.model_copy(update={"schema_version": 2})
        taken: Snapshot = store.snapshot()
        with pytest.raises(DataRefusedError, match="is of schema version 1, and not of 2"):
            taken.get(newer)


def test_committed_data_of_which_the_model_makes_another_thing(tmp_path: Path) -> None:
    """What was committed before such a model is read, kept and left alone as it is. No update
    changes it in silence, neither by name nor by descriptor."""
    first = {"raw": "YWJj"}
    with open_store(tmp_path / "runtime", descriptors=[Descriptor("team.half"), NOTES]) as store:
        write(store, "team.half", first)
    with RuntimeStore.open(tmp_path / "runtime", descriptors=[HALF, NOTES]) as store:
        options: Any = {"identity": IDENTITY, "reason": "test"}
        for key in (HALF, "team.half"):
            with pytest.raises(InvalidRequestError, match="does not make the same again"):
                store.update(key, lambda data: data, **options)
            assert store.update([key, NOTES], lambda data: data, **options) is None
            assert store.update([key, NOTES], lambda data: {**data, NOTES: 1}, **options)
            write(store, NOTES, 2)
        store.begin_run("run-9", keep=[HALF], supersede=True)
        assert on_disk(store, HALF) == store.read("team.half").data == first
        assert store.read(HALF).data == Half(raw=b"YWJj")


class Renamed(BaseModel):
    """What became of `Roster`."""

    names: list[str]


def _names(data: Any) -> Any:
    return {"names": [member["name"] for member in data["members"]]}


RENAMED = Descriptor("team.roster", payload=Renamed, schema_version=2, upgrades={1: _names})


def refusal(call: Callable[[], object]) -> DataRefusedError:
    """How it is refused."""
    with pytest.raises(DataRefusedError) as refused:
        call()
    return refused.value


def test_an_earlier_version_of_an_older_schema(tmp_path: Path) -> None:
    """Nothing needs a recovery, and history is not updated: by name it is plain JSON, and `revert`
    brings it up. The version before it, of a model that was not accepted, is plain JSON."""
    with open_store(tmp_path / "runtime", descriptors=[ROSTER]) as store:
        write(store, ROSTER, Roster(members=[Member(name="a")]))
    with RuntimeStore.open(tmp_path / "runtime", descriptors=[RENAMED]) as store:
        error = refusal(lambda: store.read(RENAMED, at=1))
        first = store.batches()[0].batch_id
        assert str(error) == (
            f"store team.roster: what batch {first} wrote does not pass Renamed: it is of schema "
            "version 1, and not of 2. Nothing was changed. By its name, 'team.roster', it can be "
            "read as plain JSON; revert brings it to version 2, if the descriptor has the "
            "functions (upgrades={1: ...})."
        )
        facts = (error.found_version, error.wanted_version, error.earlier_batch_id)
        assert facts == (1, 2, first)
        assert store.read("team.roster", at=1).data == {"members": [{"name": "a", "steps": 0}]}
        write(store, RENAMED, Renamed(names=["b"]))
        store.revert(RENAMED, to=1)
        assert store.read(RENAMED).data == Renamed(names=["a"])
        assert store.read(RENAMED, at=4).data == Renamed(names=["a"])
    changed = RENAMED.model_copy(update={"payload": Roster})
    with RuntimeStore.open(tmp_path / "runtime", descriptors=[changed]) as store:
        write(store, changed, Roster())
        strict = ROSTER.model_copy(update={"payload": Strict, "schema_version": 2})
    with RuntimeStore.open(tmp_path / "runtime", descriptors=[strict]) as store:
        error = refusal(lambda: store.read(strict, at=2))
        assert error.earlier_batch_id is not None
        assert str(error).endswith(
            "Nothing was changed. By its name, 'team.roster', it can be read as plain JSON."
        )


def test_committed_data_of_another_schema_version(tmp_path: Path) -> None:
    """Newer data can only be read, by name; older data comes up when the directory is opened for
    writing. What the message says is true."""
    with open_store(tmp_path / "runtime", descriptors=[ROSTER]) as older:
        write(older, ROSTER, Roster(members=[Member(name="a")]))
        with RuntimeStore.open(tmp_path / "runtime", descriptors=[RENAMED], upgrade=False) as newer:
            error = refusal(lambda: newer.read(RENAMED))
            assert str(error).endswith(
                "By its name, 'team.roster', it can be read as plain JSON. Opening the directory "
                "for writing, without upgrade=False and recover=False, brings it to version 2, if "
                "the descriptor has the functions (upgrades={1: ...})."
            )
            assert newer.read("team.roster").data["members"]
        with RuntimeStore.open(tmp_path / "runtime", descriptors=[RENAMED]) as newer:
            assert newer.read(RENAMED).data == Renamed(names=["a"])
        error = refusal(lambda: older.read(ROSTER))
        assert (error.found_version, error.wanted_version, error.earlier_batch_id) == (2, 1, None)
        assert str(error).endswith(
            "By its name, 'team.roster', it can be read as plain JSON; only a program that knows "
            "its version can change it."
        )
        assert older.read("team.roster").data == {"names": ["a"]}


class Interrupted(BaseModel):
    """Its functions raise what is in `raises`, one of them at a time."""

    a: int = 0
    b: int = 0
    raises: ClassVar[tuple[str, BaseException] | None] = None

    @field_serializer("a")
    def dump_a(self, value: int) -> int:
        """Raise, or dump it."""
        return self._passed("serializer", value)

    @field_validator("b")
    @classmethod
    def check_b(cls, value: int) -> int:
        """Raise, or accept it."""
        return cls._passed("validator", value)

    @classmethod
    def _passed(cls, where: str, value: int) -> int:
        if cls.raises is not None and cls.raises[0] == where:
            raise cls.raises[1]
        return value


@pytest.mark.parametrize("where", ["serializer", "validator"])
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), MemoryError(), TimeoutError("too late")],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_in_a_function_of_a_model_that_says_nothing_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    """It passes unchanged, every time that it comes, and is not told as an error of the data; and
    nothing is written."""
    store_of = Descriptor("team.interrupted", payload=Interrupted)
    with open_store(tmp_path / "runtime", descriptors=[store_of]) as store:
        write(store, store_of, Interrupted())
        before = files_picture(store.directory)
        calls: list[Callable[[], object]] = [
            lambda: write(store, store_of, Interrupted.model_construct(a=1, b=2)),
            lambda: write(store, "team.interrupted", {"a": 1, "b": 2}),
            lambda: store.update(store_of, lambda data: data, identity=IDENTITY, reason="test"),
        ]
        if where == "validator":
            calls += [lambda: store.read(store_of), lambda: store.snapshot()[store_of]]
        monkeypatch.setattr(Interrupted, "raises", (where, error))
        for call in calls:
            with pytest.raises(type(error)) as caught:
                call()
            assert caught.value is error
        monkeypatch.undo()
        assert files_picture(store.directory) == before
        assert write(store, store_of, Interrupted()).high_watermark == 2
