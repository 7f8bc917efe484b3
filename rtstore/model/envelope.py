"""Encode and decode store files, and hash their bytes.

A store file is an envelope: `{"schemaVersion": 1, "updatedAt": "...", "data": ...}`, in UTF-8,
indented by two spaces, with one newline at the end. Encoding is deterministic: the same data,
version and time give the same bytes. A retried batch is recognised by that.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from rtstore.errors import InvalidRequestError, shown
from rtstore.foreign import fails_again, origin_of, says_of_data
from rtstore.model import json_data
from rtstore.model.objects import PLAIN_JSON, first_other_class
from rtstore.model.payloads import PartialModel
from rtstore.model.records import InspectionFault
from rtstore.model.times import format_time, parse_time

AnyModel = TypeVar("AnyModel", bound=BaseModel)


_JSON = TypeAdapter[JsonValue](JsonValue, config=ConfigDict(allow_inf_nan=False))
"""Checks that data is JSON. It accepts some data that `PLAIN_JSON` refuses."""
_TIME_PLACEHOLDER = "0000-00-00T00:00:00.000Z"
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * (json_data.DIGITS_MAX + 1)


CONTENT_BYTES_MAX = 999_900_000
"""The largest content: a row of SQLite holds 1,000,000,000 bytes; the rest of it needs some."""
_CONTAINERS_LOOKED_AT = 8
_NAMES_SHOWN = 5


class Envelope(NamedTuple):
    """The three fields of a store file."""

    schema_version: int
    updated_at: str | None
    data: Any


class EnvelopeError(Exception):
    """The bytes of a store file are not an envelope; `fault` says why, as an inspection does."""

    def __init__(self, fault: InspectionFault, detail: str) -> None:
        self.fault = fault
        self.detail = detail
        super().__init__(f"{fault.value}: {detail}")


class EncodedStore:
    """A store file without its time, encoded before the writer lock is taken.

    The time of a batch is known only under the lock: the times of batches must rise in their order.
    The costly encoding must not happen there, so the time goes into a gap of fixed width.
    """

    __slots__ = ("_head", "_tail")

    def __init__(self, head: bytes, tail: bytes) -> None:
        self._head = head
        self._tail = tail

    @classmethod
    def exactly(cls, content: bytes) -> EncodedStore:
        """Return a file with exactly these bytes, which include a time: an adopted file."""
        return _ExactStore(content, b"")

    @property
    def size(self) -> int:
        """The size of the file, in bytes."""
        return len(self._head) + len(_TIME_PLACEHOLDER) + len(self._tail)

    def at(self, moment: datetime) -> bytes:
        """Return the bytes of the file with this time."""
        return self._head + format_time(moment).encode() + self._tail


class _ExactStore(EncodedStore):
    __slots__ = ()

    def at(self, moment: datetime) -> bytes:  # noqa: ARG002 - the bytes include a time
        return self._head


def written_at(content: bytes | None) -> datetime | None:
    """Return the time that a store file says it was written at, or None where it says none."""
    try:
        found = None if content is None else decode(content).updated_at
        return None if found is None else parse_time(found)
    except (EnvelopeError, ValueError):
        return None


def content_hash(content: bytes) -> str:
    """Return `sha256:<hex>` of the exact bytes of a file."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def hash_of_pieces(pieces: Iterable[bytes]) -> str:
    """Return the `content_hash` of bytes that come in pieces."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return "sha256:" + digest.hexdigest()


def encode(
    *,
    schema_version: int,
    data: object,
    store: str,
    payload: type[BaseModel] | None = None,
    stays: bool = False,
) -> EncodedStore:
    """Check data and encode it as a store file without its time.

    Raises `InvalidRequestError`, which names the place, when the data is not JSON (NaN, infinities,
    sets, tuples, bytes, lone surrogates, keys that are no strings, cycles), when it could not be
    read back (numbers of more than 4300 digits), when it is larger than SQLite holds, when the
    payload model refuses it, or when it is an object of another model. With a model, what an object
    of it dumps is written: the object that is given, or the one that the model makes of JSON (`"3"`
    for a number as 3, and unknown keys where the model keeps them). Without one, or with a
    `PartialModel`, JSON itself is: unknown keys and their order stay.

    Refused, too, is a dump of which the model makes an object that dumps otherwise, as it would
    change with each write; an object that holds one which would come back as one of another class;
    and a secret that pydantic would write as asterisks. None of these with `stays`, where the data
    is only checked, and stays in the bytes in which it was found.
    """
    given: BaseModel | None = None
    if isinstance(data, BaseModel):
        if payload is not None:
            refuse_other_model(data, store, payload, "data")
        given = data
        data = json_data.dump(given, store, warnings=payload is None, may_mask=stays)
    refuse_too_large(_least_size(data), store)
    plain = _plain(data, store)
    if payload is not None:
        plain = _as_dumped(plain, store, payload, given, stays=stays)
    document = {"schemaVersion": schema_version, "updatedAt": _TIME_PLACEHOLDER, "data": plain}
    try:
        encoded = pydantic_core.to_json(document, indent=2)
    except (pydantic_core.PydanticSerializationError, UnicodeEncodeError):
        _refuse_surrogate(plain, store)
    refuse_too_large(len(encoded), store)
    if len(encoded) >= len(_LONG_NUMBER) and _LONG_NUMBER in encoded.translate(_DIGITS_AS_ZEROS):
        _refuse_long_number(plain, store)
    head, _, tail = encoded.partition(_TIME_PLACEHOLDER.encode())
    return EncodedStore(head, tail + b"\n")


def refuse_other_model(data: object, store: str, payload: type[BaseModel], field: str) -> None:
    """Raise `InvalidRequestError` for data that is no object of the payload model, and for an
    object of a subclass with fields that the payload model would drop."""
    if not isinstance(data, payload):
        problem = f"must be a {payload.__name__}, not {shown(data)}"
        raise InvalidRequestError(field, problem, store=store)
    lost = () if type(data) is payload else _dropped(data, payload)
    if lost:
        problem = (
            f"must be a {payload.__name__} itself: its subclass {type(data).__name__} has fields "
            f"that {payload.__name__} lacks, and that would not be stored: {_some(lost)}"
        )
        raise InvalidRequestError(field, problem, store=store)


def _some(names: Sequence[str]) -> str:
    """Return names in words, and of many only how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _dropped(data: BaseModel, payload: type[BaseModel]) -> list[str]:
    """Return the fields of an object of a subclass that are written, and that the payload model
    drops or refuses."""
    if issubclass(payload, PartialModel) or payload.model_config.get("extra") == "allow":
        return []
    added = [
        name
        for name, field in type(data).model_fields.items()
        if name not in payload.model_fields and not field.exclude
    ]
    return added + list(data.__pydantic_extra__ or ())


def _least_size(data: object) -> int:
    """Return a lower bound of the size of data in bytes, from the texts in its first containers.
    Far too large data is refused by it before it is copied and encoded."""
    size, pending = 0, [data]
    for _ in range(_CONTAINERS_LOOKED_AT):
        if not pending:
            break
        found = pending.pop()
        if isinstance(found, str):
            size += len(found)
        elif isinstance(found, (dict, list)):
            for value in found.values() if isinstance(found, dict) else found:
                kind = type(value)  # faster than `isinstance`, where most are neither
                if kind is str:
                    size += len(value)
                elif (kind is dict or kind is list) and len(pending) < _CONTAINERS_LOOKED_AT:
                    pending.append(value)
    return size


def refuse_too_large(size: int, store: str) -> None:
    """Raise `InvalidRequestError` for a store that would have more bytes than SQLite holds."""
    if size > CONTENT_BYTES_MAX:
        raise InvalidRequestError(
            "data",
            f"the store would have {size:,} bytes or more, and a store holds at most "
            f"{CONTENT_BYTES_MAX:,}: a database of SQLite takes no larger value. Split it over "
            "several stores, or keep its large parts in files of their own",
            store=store,
        )


def _plain(data: object, store: str) -> object:
    """Return a copy of JSON data. Raises `InvalidRequestError` when it is not JSON."""
    try:
        return PLAIN_JSON.validate_python(data)
    except ValidationError:
        try:
            return _JSON.validate_python(data, strict=True)
        except ValidationError as error:
            problem = json_data.first_problem(data) or _first_problem(error)
            raise InvalidRequestError(*problem, store=store) from None


def _as_dumped(
    plain: object,
    store: str,
    payload: type[BaseModel],
    given: BaseModel | None,
    *,
    stays: bool,
) -> object:
    """Return JSON data as an object of its model dumps it. `given` is the object that the data was
    dumped of, if it was one. Raises `InvalidRequestError` when the model refuses the data, or what
    it dumped itself, or makes another object of that."""
    model = _accepted(plain, store, payload, None if given is None else type(given))
    is_object = given is not None
    if given is None:
        if issubclass(payload, PartialModel):
            return plain
        dumped = _plain(json_data.dump(model, store, may_mask=stays), store)
        if dumped == plain:
            return dumped
        given, plain = model, dumped
        model = _accepted(plain, store, payload, payload)
        is_object = False
    if not stays:
        _refuse_other_dump(plain, store, given, model)
        if is_object:
            _refuse_other_class(store, given, model)
    return plain


def _refuse_other_dump(dumped: object, store: str, given: BaseModel, read_back: BaseModel) -> None:
    """Raise `InvalidRequestError` when what is read back of a dump is another object than the one
    that was dumped. Of equal objects the dumps may differ in what is computed anew each time."""
    again = json_data.dump(read_back, store, known=dumped)
    if again == dumped or json_data.are_same_object(given, read_back):
        return
    place, difference = json_data.first_difference(dumped, again)
    problem = (
        f"{type(read_back).__name__} does not make the same again of what it dumps: {difference}. "
        "Its validators must give what its serializers wrote: bytes need val_json_bytes as "
        "ser_json_bytes, an object of a subclass a field of that class, and what was assigned the "
        "type of its field"
    )
    raise InvalidRequestError(place, problem, store=store)


def _refuse_other_class(store: str, given: BaseModel, read_back: BaseModel) -> None:
    """Raise `InvalidRequestError` when an object of a model, or of a dataclass, inside of an object
    comes back as one of another class: their JSON is the same, and their classes are not."""
    found = first_other_class(given, read_back)
    if found is not None:
        problem = (
            f"a {found.given.__name__} would come back as a {found.read_back.__name__}: nothing in "
            "its JSON says which it was. Give the field the class itself, or a union that has a "
            "discriminator (Field(discriminator=...))"
        )
        raise InvalidRequestError(found.place, problem, store=store)


def _accepted(
    data: object, store: str, payload: type[BaseModel], dumped_by: type[BaseModel] | None
) -> BaseModel:
    """Return data as an object of its payload model. Raises `InvalidRequestError`, which names the
    place, when the model refuses it."""
    validate = partial(_validated, data, payload)
    try:
        return validate()
    except ValidationError as error:
        if not fails_again(validate):
            raise origin_of(error) from None
        place, problem = _first_problem(error)
        if dumped_by is not None:
            who = "it" if dumped_by is payload else dumped_by.__name__
            problem = f"{payload.__name__} does not accept what {who} dumps: {problem}"
        raise InvalidRequestError(place, problem, store=store) from None


def _validated(data: object, payload: type[AnyModel]) -> AnyModel:
    """Return JSON data as an object of a model. A strict model takes a time, an enum or a tuple
    from text only."""
    try:
        return payload.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as first:
        try:
            text = pydantic_core.to_json(data)
            return payload.model_validate_json(text, by_alias=True, by_name=False)
        except ValidationError as error:
            if error.error_count() < first.error_count():  # the rest was no error of JSON
                raise error from None
        except (pydantic_core.PydanticSerializationError, UnicodeEncodeError):
            pass
        raise


def decode(content: bytes) -> Envelope:
    """Decode the bytes of a store file. Raises `EnvelopeError`, whatever the bytes are: also for an
    object with a key twice, which SQLite and Python would read as two different things."""
    return _decoded(content, _STRICT)


def _decoded(content: bytes, decoder: json.JSONDecoder) -> Envelope:
    try:
        document = _document_of(content, decoder)
    except (ValueError, RecursionError) as error:
        if not fails_again(partial(_document_of, content, decoder), RecursionError):
            raise
        raise EnvelopeError(InspectionFault.INVALID_JSON, str(error)[:200]) from None
    return _envelope_of(document)


def _document_of(content: bytes, decoder: json.JSONDecoder) -> object:
    return decoder.decode(content.decode("utf-8"))


def refuse_key_twice(content: bytes) -> None:
    """Raise ValueError, which names the key, when an object in a JSON text has a key twice."""
    _document_of(content, _STRICT)


def decode_own(content: bytes) -> Envelope:
    """Decode bytes that are committed, faster than `decode`. Bytes that the fast parser refuses (an
    adopted file may hold them) go to the parser of `decode`."""
    try:
        document = pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError:
        if not fails_again(partial(pydantic_core.from_json, content, allow_inf_nan=False)):
            raise
        return _decoded(content, _DECODER)
    return _envelope_of(document)


def _envelope_of(document: object) -> Envelope:
    if not isinstance(document, dict):
        raise EnvelopeError(InspectionFault.INVALID_ENVELOPE, "the file is not a JSON object")
    version = document.get("schemaVersion")
    if not isinstance(version, int) or isinstance(version, bool):
        raise EnvelopeError(InspectionFault.INVALID_ENVELOPE, "schemaVersion is not an integer")
    updated_at = document.get("updatedAt")
    return Envelope(
        schema_version=version,
        updated_at=updated_at if isinstance(updated_at, str) else None,
        data=document.get("data"),
    )


def payload_problem(data: object, payload: type[BaseModel] | None) -> str | None:
    """Return where and why a payload model refuses data that was read, or None when it accepts it.

    Any exception of a validator of the runtime counts as a refusal, too.
    """
    found = None if payload is None else as_payload(data, payload)
    return found if isinstance(found, str) else None


def as_payload(data: object, payload: type[AnyModel]) -> AnyModel | str:
    """Return data that was read as an object of its payload model; or where and why the model
    refuses it, as `payload_problem`."""
    validate = partial(_validated, data, payload)
    try:
        return validate()
    except ValidationError as error:
        if not fails_again(validate, Exception):
            raise origin_of(error) from None
        return ": ".join(_first_problem(error))
    except RecursionError:
        return "data: nested too deeply"
    except Exception as error:
        if not (says_of_data(error) and fails_again(validate, Exception)):
            raise
        return f"data: {type(error).__name__}: {error}"


def _first_problem(error: ValidationError) -> tuple[str, str]:
    """Return the place of the first problem, and that problem, with the places of others."""
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    place, key = _place_of(error, first)
    problem = first["msg"] if key is None else f"the key {key!r} is refused: {first['msg']}"
    if others:
        places = list(dict.fromkeys(_place_of(error, other)[0][:80] for other in others))
        problem += f" (and {len(others)} more: {_some(places)})"
    return place, problem


def _place_of(error: ValidationError, problem: ErrorDetails) -> tuple[str, int | str | None]:
    """Return the place of a problem, and the key there if the problem is with that."""
    place, key = list(problem["loc"]), None
    is_key = bool(place) and place[-1] == "[key]"
    if is_key:
        place.pop()
    # The JSON validator inserts the names of its branches ("dict", "list") between the keys.
    if error.title.startswith("json-or-python"):
        place = [part for index, part in enumerate(place) if index % 2 == 1]
    if is_key:
        key = place.pop()
    path = "data" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place)
    return path, key


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raises ValueError when it has a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counted = Counter(key for key, _ in pairs)
        raise ValueError(f"an object has the key {shown(counted.most_common(1)[0][0])} twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)


def _refuse_surrogate(data: object, store: str) -> NoReturn:
    """Raise an error that names the place of a text that cannot be written as UTF-8."""
    for place, value in _places(data):
        if isinstance(value, str) and any(0xD800 <= ord(char) <= 0xDFFF for char in value):
            problem = "the text holds a lone surrogate, which UTF-8 cannot carry"
            raise InvalidRequestError(_readable(place), problem, store=store)
    other = json_data.first_problem(data) or ("data", "cannot be written as JSON")
    raise InvalidRequestError(*other, store=store)


def _refuse_long_number(data: object, store: str) -> None:
    """Raise an error that names the place of a number that could not be read back, if there is one.
    A long text of digits can be read back."""
    problem = json_data.first_problem(data)
    if problem is not None:
        raise InvalidRequestError(*problem, store=store)


def _places(data: object) -> Iterator[tuple[json_data.Place, object]]:
    """Yield every key and every value in JSON data, each with its place."""
    pending: list[tuple[json_data.Place, object]] = [(json_data.TOP, data)]
    while pending:
        place, value = pending.pop()
        yield place, value
        if isinstance(value, dict):
            pending.extend((json_data.Place(place, f".{key!a}"), key) for key in value)
            pending.extend((json_data.Place(place, f".{key}"), item) for key, item in value.items())
        elif isinstance(value, list):
            pending.extend(
                (json_data.Place(place, f"[{index}]"), item) for index, item in enumerate(value)
            )


def _readable(place: json_data.Place) -> str:
    """Return a place as text that can be written in any encoding."""
    return str(place).encode("ascii", "backslashreplace").decode()
