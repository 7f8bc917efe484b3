"""What a store file may hold that nobody meant it to."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from tests.support import breadth

VALID = (
    '{\n  "schemaVersion": 1,\n  "updatedAt": "2026-04-21T12:00:00.000Z",\n'
    '  "data": {"sessions": [{"memberName": "Zoë"}]}\n}\n'
).encode()
"""A small valid file, for every store that is tried."""

DEEP = 100_000
MEGABYTE = 1 << 20

Input = tuple[str, bytes]


def truncated() -> Iterator[Input]:
    """The small file cut at every length."""
    for length in range(len(VALID)):
        yield f"{length} bytes of {len(VALID)}", VALID[:length]


def noise() -> Iterator[Input]:
    """Random bytes, and the small file with random bytes changed, put in, and taken out."""
    dice = random.Random(20260421)
    for number in range(breadth.drawn(40)):
        yield f"random bytes {number}", dice.randbytes(dice.randrange(1, 400))
    for number in range(breadth.drawn(40)):
        content = bytearray(VALID)
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(content))
            way = dice.randrange(3)
            if way == 0:
                content[at] = dice.randrange(256)
            elif way == 1:
                content[at:at] = dice.randbytes(dice.randrange(1, 5))
            else:
                del content[at : at + dice.randrange(1, 5)]
        yield f"changed bytes {number}", bytes(content)


def encodings() -> Iterator[Input]:
    """The small file as another program may have encoded it."""
    text = VALID.decode()
    names = "utf-16 utf-16-le utf-16-be utf-32 utf-32-le utf-32-be utf-8-sig utf-7 latin-1 cp1252 "
    for name in (names + "cp500 mac-roman gb18030").split():
        yield name, text.encode(name)
    yield "carriage returns", VALID.replace(b"\n", b"\r\n")
    yield "an overlong slash", VALID.replace(b"Z", b"\xc0\xaf")
    yield "a surrogate in UTF-8", VALID.replace(b"Z", b"\xed\xa0\x80")
    yield "a NUL", VALID.replace(b"Z", b"\0")
    yield "NULs after the end", VALID + bytes(4096)
    yield "NULs only", bytes(4096)


def _envelope(**keys: str) -> bytes:
    texts = {"schemaVersion": "1", "updatedAt": '"2026-04-21T12:00:00.000Z"', "data": "{}"} | keys
    return ("{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}\n").encode()


def documents() -> Iterator[Input]:
    """JSON that is no envelope, an odd one, or hardly JSON."""
    for text in (
        "",
        " \n",
        "null",
        "0",
        '""',
        "[]",
        "{}",
        "true",
        '{"schemaVersion": 1}',
        '{"data": {}}',
        '[{"schemaVersion": 1}]',
        '{"schemaVersion": 1,}',
        "{'a': 1}",
    ):
        yield f"the document {text!r}", text.encode()
    for version in (
        "0",
        "-1",
        "2",
        "1.0",
        "1e0",
        "1e400",
        "true",
        "null",
        '"1"',
        "[1]",
        "1" * 30,
        "-" + "1" * 30,
        "9223372036854775808",
        "1" * 5000,
    ):
        yield f"version {version[:20]}", _envelope(schemaVersion=version)
    for time in ("0", "null", '""', '"yesterday"', '{"$date": 0}', '"' + "2" * 10_000 + '"'):
        yield f"time {time[:20]}", _envelope(updatedAt=time)
    for data in (
        "NaN",
        "Infinity",
        "-Infinity",
        '{"a": NaN}',
        "1e400",
        "-1e400",
        "1e-400",
        "1" * 4300,
        "1" * 4301,
        "1" * 100_000,
        '{"n": ' + "9" * 5000 + "}",
        "1." + "1" * 9999,
        r'"\ud800"',
        r'{"\udfff": 1}',
        r'"\u0000"',
        r'{"\u0000": 0}',
        r'{"sessions": "\ud800"}',
        '{"sessions": [{"memberName": 5}]}',
        '{"sessions": [[]]}',
        '{"sessions": null}',
        r'{"sessions": [{"memberName": "\ud800"}]}',
        '{"__proto__": {"a": 1}}',
        json.dumps({f"key {n}": n for n in range(20_000)}),
        json.dumps(["x"] * 50_000),
        json.dumps("x" * MEGABYTE),
        json.dumps({"k" * MEGABYTE: 1}),
    ):
        yield f"data {data[:24]}", _envelope(data=data)
    yield "a version twice", _envelope().replace(b"{", b'{"schemaVersion": 99, ', 1)
    yield "a newer version last", _envelope()[:-2] + b', "schemaVersion": 99}\n'
    yield "data twice", _envelope()[:-2] + b', "data": {"sessions": 1}}\n'
    yield "two documents", _envelope() + _envelope()
    yield "a comment", b"// mine\n" + _envelope()
    yield "rubbish after it", _envelope() + b"<<<<<<< HEAD\n"


def deep() -> Iterator[Input]:
    """JSON nested so deeply that it exhausts whoever reads it by recursion."""
    lists, objects = "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "0" + "}" * DEEP
    for name, text in (("lists", lists), ("objects", objects), ("open lists", "[" * DEEP)):
        yield name, text.encode()
        yield f"{name} as data", _envelope(data=text)
    for depth in (50, 190, 200, 260, 500, 950, 1100, 5_000):
        yield f"{depth} lists", _envelope(data="[" * depth + "]" * depth)
        yield f"{depth} objects", _envelope(data='{"a":' * depth + "0" + "}" * depth)
        yield (
            f"{depth} in sessions",
            _envelope(
                data='{"sessions": [{"memberName": "a", "x": ' + "[" * depth + "]" * depth + "}]}"
            ),
        )


def large() -> Iterator[Input]:
    """64 MB: one text, and nothing but NULs."""
    yield "64 MB of text", _envelope(data='{"text": "' + "x" * (64 * MEGABYTE) + '"}')
    yield "64 MB of NULs", bytes(64 * MEGABYTE)
