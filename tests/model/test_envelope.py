"""Bytes of store files: written the same every time, readable, and never a surprise to read."""

from __future__ import annotations

import json
import math
import socket
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, RootModel

from rtstore.errors import InvalidRequestError
from rtstore.model import envelope, json_data
from rtstore.model.envelope import EnvelopeError, content_hash, decode, encode
from rtstore.model.objects import PLAIN_JSON
from rtstore.model.payloads import LaunchStateData
from rtstore.model.records import BatchReason, InspectionFault
from tests.model.build import LEGACY, needs_legacy
from tests.support import NOON, NOON_TEXT, digest

ENVELOPED = [
    path
    for path in sorted(LEGACY.glob("team-*/**/*.json"))
    if json.loads(path.read_bytes()).keys() == {"schemaVersion", "updatedAt", "data"}
]

safe_text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | safe_text
json_without_fractions = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(safe_text, inner), max_leaves=20
)
json_values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(safe_text, inner),
    max_leaves=20,
)


def written(data: Any, *, payload: type[BaseModel] | None = None) -> bytes:
    """The file of some data, written at noon."""
    return encode(schema_version=1, data=data, store="test.store", payload=payload).at(NOON)


def refused(data: Any, *, payload: type[BaseModel] | None = None) -> InvalidRequestError:
    """The error that some data is refused with."""
    with pytest.raises(InvalidRequestError) as caught:
        written(data, payload=payload)
    assert caught.value.store == "test.store"
    return caught.value


# --- writing ------------------------------------------------------------------------------------


def test_the_layout_is_that_of_the_legacy_format() -> None:
    """Two spaces, one newline, letters as they are, escapes only where JSON demands them."""
    data = {
        "text": 'é "quoted" \\ / \u2028 \x7f \U0001f600 \n\t\x01',
        "empty": [{}, []],
        "number": -12,
        "fraction": 0.5,
        "yes": True,
        "no": None,
    }

    assert written(data) == (
        b"{\n"
        b'  "schemaVersion": 1,\n'
        b'  "updatedAt": "2026-04-21T12:00:00.000Z",\n'
        b'  "data": {\n'
        b'    "text": "\xc3\xa9 \\"quoted\\" \\\\ / \xe2\x80\xa8 \x7f \xf0\x9f\x98\x80'
        b' \\n\\t\\u0001",\n'
        b'    "empty": [\n'
        b"      {},\n"
        b"      []\n"
        b"    ],\n"
        b'    "number": -12,\n'
        b'    "fraction": 0.5,\n'
        b'    "yes": true,\n'
        b'    "no": null\n'
        b"  }\n"
        b"}\n"
    )


@given(json_without_fractions)
def test_the_bytes_are_those_of_any_plain_json_writer(data: Any) -> None:
    """Indented JSON is indented JSON: another writer with the same layout gives the same bytes."""
    document = {"schemaVersion": 1, "updatedAt": NOON_TEXT, "data": data}

    assert written(data) == (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


@given(json_values)
def test_what_was_written_reads_back_the_same(data: Any) -> None:
    """Reading gives the data that was written, fractions to the last bit."""
    envelope = decode(written(data))

    assert envelope.data == data
    assert (envelope.schema_version, envelope.updated_at) == (1, NOON_TEXT)


def test_the_same_data_gives_the_same_bytes_and_another_time_only_another_time() -> None:
    """A retried batch is recognised by its bytes, so nothing but data and time is in them."""
    data = {"b": 1, "a": [NOON_TEXT, "0000-00-00T00:00:00.000Z"]}
    encoded = encode(schema_version=3, data=data, store="test.store")
    later = NOON + timedelta(milliseconds=1)

    assert encoded.at(NOON) == encode(schema_version=3, data=data, store="test.store").at(NOON)
    assert encoded.at(later) != encoded.at(NOON)
    assert decode(encoded.at(later)).data == data
    assert list(decode(encoded.at(NOON)).data) == ["b", "a"]


def test_the_hash_is_that_of_the_exact_bytes() -> None:
    """A hash is `sha256:` and the digest of the whole file."""
    content = written({"a": 1})

    assert content_hash(content) == digest(content)


@needs_legacy
@pytest.mark.parametrize("path", ENVELOPED, ids=lambda path: "/".join(path.parts[-3:]))
def test_legacy_files_survive_a_round_trip(path: Path) -> None:
    """An enveloped file of the legacy format, written again with its own time, is the same file."""
    content = path.read_bytes()
    envelope = decode(content)
    again = encode(schema_version=envelope.schema_version, data=envelope.data, store="legacy")

    rewritten = again.at(datetime.fromisoformat(str(envelope.updated_at)))
    assert rewritten == content.rstrip(b"\n") + b"\n"


# --- data that is not JSON ----------------------------------------------------------------------


def _cycle() -> list[Any]:
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    return cycle


def _nested(depth: int) -> Any:
    data: Any = 1
    for _ in range(depth):
        data = [data]
    return data


class Odd(BaseModel):
    """A model that holds what JSON cannot."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: object


class Measure(BaseModel):
    """A model with a number that may be none."""

    values: list[float]


class Open(BaseModel):
    """A model that holds anything, and whatever else it is given."""

    model_config = ConfigDict(extra="allow")
    thing: Any = None


class Member(BaseModel):
    """A model that may be in a set."""

    model_config = ConfigDict(frozen=True)
    name: str | None
    score: Any = 0


class Members(BaseModel):
    """A model with a set of models, which only JSON makes a list of."""

    members: set[Member]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        pytest.param(math.nan, "data", id="NaN"),
        pytest.param({"a": [1, math.inf]}, "data.a[1]", id="infinity"),
        pytest.param({"a": {"b": -math.inf}}, "data.a.b", id="minus infinity"),
        pytest.param({"tags": {1, 2}}, "data.tags", id="set"),
        pytest.param({"pair": (1, 2)}, "data.pair", id="tuple"),
        pytest.param([b"bytes"], "data[0]", id="bytes"),
        pytest.param({"at": NOON}, "data.at", id="datetime"),
        pytest.param({"a": object()}, "data.a", id="object"),
        pytest.param({"a": ["\ud800"]}, "data.a[0]", id="lone surrogate in a value"),
        pytest.param({"a": {"x\udfff": 1}}, "data.a.'x\\udfff'", id="lone surrogate in a key"),
        pytest.param({"a": {"\ud800": "\ud800"}}, "data.a", id="lone surrogate in both"),
        pytest.param({"a": {1: 2}}, "data.a", id="number as a key"),
        pytest.param({"text": "9" * 5000, "n": [10**4300]}, "data.n[0]", id="long text beside"),
        pytest.param({None: 2}, "data", id="None as a key"),
        pytest.param({"a": {("x",): 2}}, "data.a", id="tuple as a key"),
        pytest.param(_cycle(), "data", id="cycle"),
        pytest.param(_nested(300), "data[0][0]", id="nested 300 deep"),
        pytest.param({"n": 10**4300}, "data.n", id="number of 4301 digits"),
        pytest.param([-(10**5000)], "data[0]", id="negative number of 5001 digits"),
        pytest.param(Odd(thing=object()), "data", id="model with an object"),
        pytest.param(Measure(values=[1.0, math.nan]), "data.values[1]", id="model with NaN"),
        pytest.param({"m": Measure(values=[1.0])}, "data.m", id="model inside of plain data"),
        pytest.param(Open(thing=math.nan), "data.thing", id="model with NaN for anything"),
        pytest.param(Open(thing={"a": [0, -math.inf]}), "data.thing.a[1]", id="model, deep inside"),
        pytest.param(Open(thing=(1, math.nan)), "data.thing[1]", id="model with NaN in a tuple"),
        pytest.param(Open(thing={0.5, math.inf}), "data.thing", id="model with infinity in a set"),
        pytest.param(Open(thing=Open(thing=math.nan)), "data.thing.thing", id="model in a model"),
        pytest.param(Open(score=math.nan), "data.score", id="model with NaN as an extra field"),
        pytest.param(Open(thing={1: 2, "1": 3}), "data.thing", id="model with keys alike in JSON"),
        pytest.param(RootModel[Any](math.nan), "data", id="model that is NaN"),
        pytest.param(
            Members(members={Member(name="a", score=math.nan)}), "data", id="set of models with NaN"
        ),
    ],
)
def test_data_that_is_not_json_is_refused_with_its_place(data: Any, field: str) -> None:
    """What cannot be read back as it was given is refused, and the error says where it is."""
    error = refused(data)

    assert error.field.startswith(field)
    assert error.problem
    str(error).encode()
    assert len(str(error)) < 1000


def test_data_that_is_nested_100_000_deep_is_refused_with_its_place() -> None:
    """The same of what takes too long to be made before it is needed."""
    test_data_that_is_not_json_is_refused_with_its_place(_nested(100_000), "data[0][0]")


def test_a_model_is_written_by_its_own_rules() -> None:
    """What is not JSON is what the model makes of it; a null that it holds is a null."""
    thing = {"at": NOON, "pair": (1, None), "none": None, "raw": b"raw", 7: {2}}
    plain = {"at": "2026-04-21T12:00:00Z", "pair": [1, None], "none": None, "raw": "raw", "7": [2]}

    assert decode(written(Open(thing=thing))).data == {"thing": plain}
    members = Members(members={Member(name=None)})
    assert decode(written(members)).data == {"members": [{"name": None, "score": 0}]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"a": b"raw"}, "of type bytes"),
        ({"a": (1, 2)}, "of type tuple"),
        ({"a": {1, 2}}, "of type set"),
        ({"a": NOON}, "of type datetime"),
        ({None: 1}, "the key None is refused: it must be a text, not NoneType"),
        ({True: 1}, "the key True is refused: it must be a text, not bool"),
        ({1.5: 1}, "the key 1.5 is refused: it must be a text, not float"),
        (_nested(254), "is nested deeper than 253"),
        (_nested(300), "is nested deeper than 253"),
        (_cycle(), "a part of"),
    ],
)
def test_what_is_refused_is_named_as_what_it_is(data: Any, words: str) -> None:
    """Its type, or how deep it may be: no guess at what the caller sees."""
    error = refused(data)

    assert words in error.problem
    assert len(str(error)) < 250


class Hidden:
    """Something that pydantic cannot write."""


def _cyclic_object() -> dict[str, Any]:
    cycle: dict[str, Any] = {"n": 1}
    cycle["again"] = [cycle]
    return cycle


def _wide_cycle() -> list[Any]:
    """Many objects, each of which holds all of them."""
    every: list[Any] = []
    every += [{"every": every, "number": number} for number in range(300)]
    return every


def _shared() -> Any:
    """A list with more places than anybody could look at."""
    data: Any = [1]
    for _ in range(120):
        data = [data, {"again": data}]
    return data


@pytest.mark.parametrize(
    "hold", [lambda data: Open(thing=data), lambda data: Open.model_validate({"extra": data})]
)
@pytest.mark.parametrize("cycle", [_cyclic_object, _wide_cycle, _cycle])
def test_an_object_with_data_in_itself_in_an_open_field_is_refused(
    hold: Callable[[Any], Open], cycle: Callable[[], Any]
) -> None:
    """Pydantic leaves it in what it dumps for Python, so a search there must come to an end."""
    error = refused(hold(cycle()))

    assert "itself a part of" in error.problem
    assert error.field.startswith("data.")
    assert len(error.field) <= 80


def test_a_key_that_cannot_be_written_is_named_in_data_in_itself() -> None:
    """It is the first thing to mend, and is found behind the cycle."""
    cycle = _cyclic_object()
    cycle["later"] = {(1, Hidden()): 1}

    assert "is refused: it must be a text" in refused(Open(thing=cycle)).problem


def test_data_in_an_open_field_may_be_as_deep_as_memory_allows_to_be_refused() -> None:
    """The search goes as deep as data may be, and makes no text of each place on its way."""
    assert "nested deeper than 253" in refused(Open(thing=_nested(100_000))).problem


def test_what_is_no_json_is_found_in_what_is_shared_many_times() -> None:
    """What is in several places is looked at a few times, not once for each of them."""
    problem = json_data.first_problem([_shared(), math.nan])

    assert problem is not None
    assert problem[0] == "data[1]"


def test_a_long_key_is_not_repeated_for_each_value_below_it() -> None:
    """A place becomes text when it is named."""
    below: list[Any] = [0] * 10_000
    tracemalloc.start()
    try:
        problem = refused({"k" * 50_000: [*below, "\ud800"]})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert "lone surrogate" in problem.problem
    assert peak < 50_000_000


def test_the_deepest_nesting_and_the_longest_number_that_pass_can_be_read_back() -> None:
    """The limits of writing lie within those of reading."""
    depth = next(depth for depth in range(1000) if _is_refused(_nested(depth + 1)))

    assert depth > 100
    assert decode(written(_nested(depth))).data == _nested(depth)
    longest = {"n": 10**4300 - 1, "text": "9" * 5000}
    assert decode(written(longest)).data == longest


def _is_refused(data: Any) -> bool:
    try:
        written(data)
    except InvalidRequestError:
        return True
    return False


@given(json_values)
def test_the_quick_check_gives_what_the_thorough_one_gives(data: Any) -> None:
    """A copy of the data, equal to it and of the same types."""
    quick = PLAIN_JSON.validate_python(data)
    assert repr(quick) == repr(envelope._JSON.validate_python(data, strict=True)) == repr(data)


@pytest.mark.parametrize(
    "data",
    [
        OrderedDict(b=1, a=[2]),
        {"reason": BatchReason.LAUNCH_CHECKPOINT},
        {"port": socket.SOCK_STREAM},
        {"text": type("Text", (str,), {})("text")},
        [True, {"list": type("List", (list,), {})([1, None])}],
    ],
)
def test_data_of_types_made_from_those_of_json_is_written_as_what_it_is(data: Any) -> None:
    """The quick check knows the types themselves; the thorough one decides about others."""
    try:
        plain = envelope._JSON.validate_python(data, strict=True)
    except ValueError:
        refused(data)
    else:
        assert written(data) == written(json.loads(json.dumps(plain)))


def test_a_key_that_is_no_string_is_named_as_a_key() -> None:
    """Its place is that of the object, for it has none of its own."""
    error = refused({"a": [{7: 1}]})

    assert error.field == "data.a[0]"
    assert "the key 7 is refused" in error.problem


def test_what_the_payload_model_refuses_is_named_down_to_the_member() -> None:
    """The place of the first problem is in the error, and how many more there are."""
    data = {
        "teamName": "team-a",
        "runId": 7,
        "members": [{"name": "Builder"}, {"name": None}],
    }

    error = refused(data, payload=LaunchStateData)

    assert error.field == "data.runId"
    assert "and 1 more" in error.problem


def test_the_data_is_written_and_not_the_models_idea_of_it() -> None:
    """Unknown keys and their order are kept; defaults of the payload model are not added."""
    data = {"zeta": 1, "runId": None, "teamName": "team-a", "alpha": {"kept": True}}

    found = decode(written(data, payload=LaunchStateData)).data

    assert found == data
    assert list(found) == list(data)


def test_a_pydantic_model_is_written_under_its_aliases() -> None:
    """Data may be given as a model; consumers read camelCase."""
    data = LaunchStateData(team_name="team-a", run_id="run-1")

    found = decode(written(data, payload=LaunchStateData)).data

    assert (found["teamName"], found["runId"]) == ("team-a", "run-1")


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", InspectionFault.INVALID_JSON),
        (b"\xef\xbb\xbf{}", InspectionFault.INVALID_JSON),
        (b"\xff\xfe{}", InspectionFault.INVALID_JSON),
        (b'{"schemaVersion": NaN}', InspectionFault.INVALID_JSON),
        (b'{"schemaVersion": 1, "data": -Infinity}', InspectionFault.INVALID_JSON),
        (b'{"schemaVersion": 1}trailing', InspectionFault.INVALID_JSON),
        (b"[" * 100_000, InspectionFault.INVALID_JSON),
        (b'{"schemaVersion": ' + b"9" * 5000 + b"}", InspectionFault.INVALID_JSON),
        (b"[]", InspectionFault.INVALID_ENVELOPE),
        (b"null", InspectionFault.INVALID_ENVELOPE),
        (b"{}", InspectionFault.INVALID_ENVELOPE),
        (b'{"schemaVersion": true}', InspectionFault.INVALID_ENVELOPE),
        (b'{"schemaVersion": 1.0}', InspectionFault.INVALID_ENVELOPE),
        (b'{"schemaVersion": 1e999}', InspectionFault.INVALID_ENVELOPE),
        (b'{"schemaVersion": "1"}', InspectionFault.INVALID_ENVELOPE),
    ],
)
def test_bytes_that_are_no_envelope_have_one_word_for_it(
    content: bytes, fault: InspectionFault
) -> None:
    """What is no JSON and what is no envelope are told apart, and nothing else is raised."""
    with pytest.raises(EnvelopeError) as caught:
        decode(content)

    assert caught.value.fault is fault
    assert len(caught.value.detail) <= 200


@pytest.mark.parametrize(
    ("content", "version", "data"),
    [
        (b'{"schemaVersion": 1}', 1, None),
        (b'{"schemaVersion": -3, "data": []}', -3, []),
        (b'{"schemaVersion": 1, "updatedAt": 5, "data": 1e999}', 1, math.inf),
        (b'\t{"data": "\\ud800", "more": 1, "schemaVersion": 1}\r\n', 1, "\ud800"),
    ],
)
def test_odd_envelopes_are_read_as_far_as_they_make_sense(
    content: bytes, version: int, data: Any
) -> None:
    """Reading judges the envelope only; what is in it is the payload model's business."""
    envelope = decode(content)

    assert (envelope.schema_version, envelope.data, envelope.updated_at) == (version, data, None)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b'{"schemaVersion": 1, "data": {"n": 1, "n": 2}}', "'n'"),
        (b'{"schemaVersion": 1, "data": {"n": 1, "n": 1}}', "'n'"),
        (b'{"schemaVersion": 1, "data": [[{"a": {"x": 1, "\\u0078": 2}}]]}', "'x'"),
        (b'{"schemaVersion": 1, "data": 5, "data": 6}', "'data'"),
        (b'{"schemaVersion": 1, "schemaVersion": 2, "data": 1}', "'schemaVersion'"),
        (b'{"schemaVersion": 1, "data": {"": 1, "b": 2, "": 3}}', "''"),
        (b'{"schemaVersion": 1, "data": {"\\ud800": 1, "\\ud800": 3}}', "'\\ud800'"),
    ],
)
def test_an_object_with_a_key_twice_is_no_json(content: bytes, key: str) -> None:
    """One reader takes the first value, and another one the last. The reason names the key."""
    with pytest.raises(EnvelopeError) as caught:
        decode(content)

    assert caught.value.fault is InspectionFault.INVALID_JSON
    assert caught.value.detail == f"an object has the key {key} twice"
    envelope.decode_own(content)  # what is committed is read


def test_the_same_key_in_two_objects_is_json() -> None:
    """Only one object with it twice is refused."""
    content = b'{"schemaVersion": 1, "data": [{"n": {"n": 1}}, {"n": 2}]}'
    assert decode(content).data == [{"n": {"n": 1}}, {"n": 2}]


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(content: bytes) -> None:
    """Reading hostile bytes gives an envelope or an `EnvelopeError`."""
    _decode_or_refuse(content)


@given(
    json_values,
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=5),
    st.integers(0, 400),
)
def test_mutated_envelopes_never_raise_anything_else(
    data: Any, changes: list[tuple[int, bytes]], kept: int
) -> None:
    """Neither do envelopes that were cut short, overwritten or spliced."""
    content = bytearray(written(data))
    for place, patch in changes:
        content[place : place + len(patch)] = patch
    _decode_or_refuse(bytes(content))
    _decode_or_refuse(bytes(content[:kept]))


def _decode_or_refuse(content: bytes) -> None:
    with suppress(EnvelopeError):
        assert isinstance(decode(content).schema_version, int)
