"""Reads a point in the history of a store, as it is typed: by the shortest name that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from rtstore.cli.views import Named, last_batch_of_run, named_like, run_is_known
from rtstore.errors import InvalidRequestError
from rtstore.history.versions import At
from rtstore.model.arguments import check_text
from rtstore.model.times import to_utc_ms, utc_now
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore

AT = (
    "a high watermark (300), an age (5m), a time (2026-04-21T12:00:00Z), a run (its end), or a "
    "batch id, which may be shortened (01a2..7476)"
)
"""What a point may be, for the help of options."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]|$)")
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(s|min|m|h|d|w)")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LEFT_OUT = re.compile(r"…|\.\.+")
_LEAST = 4
"""Fewer letters are no shortened id."""
_CANDIDATES_MAX = 5


def point_of(store: RuntimeStore, text: str, field: str = "--at") -> At:
    """Return the point in time that was typed.

    Digits alone are a high watermark. The id of a batch is that batch, the id of a run the last
    batch of that run. A text that begins like a date is a time (UTC, unless it names another zone);
    a number with a unit is an age. Everything else is the beginning or the end of an id, or both;
    that of a batch may lack its `batch-`.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    check_text(field, text)
    if store.batch(text) is not None:
        return text
    if run_is_known(store, text):
        return _end_of_run(store, text, field)
    moment = _moment(text, field)
    if moment is not None:
        return moment
    found = _only_one(named_like(store, *_patterns(text), _CANDIDATES_MAX), text, field)
    if found is None:
        raise InvalidRequestError(
            field,
            f"{text!r} is not {AT}. Nothing on record has such an id (what was pruned is not on "
            f"record): rtstore log {shell_word(store.directory)}",
        )
    return _end_of_run(store, found.id, field) if found.is_run else found.id


@contextmanager
def named(**options: str) -> Iterator[None]:
    """Let what the library says of a point in time, by the name of its argument, be said of the
    option that it was typed as."""
    try:
        yield
    except InvalidRequestError as error:
        if error.field not in options:
            raise
        raise InvalidRequestError(options[error.field], error.problem, store=error.store) from None


def run_of(store: RuntimeStore, text: str, field: str = "--run-id") -> str:
    """Return the id of the run that was typed, which may be shortened. Raises
    `InvalidRequestError` when there never was one, or there were several."""
    if run_is_known(store, check_text(field, text)):
        return text
    found = named_like(store, *_patterns(text), _CANDIDATES_MAX, only_runs=True)
    run = _only_one(found, text, field)
    if run is None:
        raise InvalidRequestError(
            field,
            f"there never was a run {text!r} here. Those that there are: "
            f"rtstore runs {shell_word(store.directory)}",
        )
    return run.id


def _moment(text: str, field: str) -> datetime | None:
    age = _AGE.fullmatch(text)
    try:
        if age is not None:
            return utc_now() - timedelta(seconds=float(age[1]) * _UNITS[age[2]])
        if _TIME.match(text) is None:
            return None
        moment = datetime.fromisoformat(text)
        return to_utc_ms(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(field, f"{text!r} is no time: {error}") from None


def _end_of_run(store: RuntimeStore, run_id: str, field: str) -> str:
    batch_id = last_batch_of_run(store, run_id)
    if batch_id is None:
        raise InvalidRequestError(field, f"no committed batch of run {run_id} is on record")
    return batch_id


def _patterns(text: str) -> tuple[str, str]:
    """Return what SQLite's GLOB takes: one pattern or two, of the letters that were typed."""
    begin, *rest = _LEFT_OUT.split(text, maxsplit=1)
    if len(begin) + sum(map(len, rest)) < _LEAST:
        return "", ""
    if rest and begin and rest[0]:
        pattern = f"{_literal(begin)}*{_literal(rest[0])}"
        return pattern, pattern
    either = begin or rest[0]
    beginning, ending = f"{_literal(either)}*", f"*{_literal(either)}"
    if rest:
        return (beginning, beginning) if begin else (ending, ending)
    return beginning, ending


def _literal(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


def _only_one(found: Sequence[Named], text: str, field: str) -> Named | None:
    if len(found) < 2:
        return found[0] if found else None
    more = found[0].matches - len(found)
    candidates = [*(each.in_words for each in found), *([f"and {more} more"] if more else [])]
    raise InvalidRequestError(
        field,
        f"{text!r} is short for {found[0].matches}: {', '.join(candidates)}. Give more letters, or "
        "the high watermark",
    )
