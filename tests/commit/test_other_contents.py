"""The id of a batch that was written before, with other contents: where they differ; what helps."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, computed_field

from rtstore import DELETED, Descriptor, Retention, RuntimeStore
from rtstore.errors import OtherContentsError
from tests.support import CHECKPOINT, IDENTITY, LEASES, LEDGER, SESSIONS, files_picture, open_store

SECONDS = count()
FIRST: dict[Any, Any] = {LEASES: {"a": 1, "b": [{"c/d": 2}, 3]}, LEDGER: [1]}


def write(store: RuntimeStore, writes: Mapping[Any, Any], batch_id: str | None = "job-1") -> Any:
    """Write a batch under an id."""
    return store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes, batch_id=batch_id)


def refusal(store: RuntimeStore, writes: Mapping[Any, Any]) -> OtherContentsError:
    """The error of a call under the id of the first; nothing has happened, and it can be sent."""
    before = files_picture(store.directory)
    with pytest.raises(OtherContentsError) as refused:
        write(store, writes)
    assert files_picture(store.directory) == before
    error = refused.value
    assert (error.field, error.batch_id, error.is_committed) == ("batch_id", "job-1", True)
    again = pickle.loads(pickle.dumps(error))
    assert (again.differing, str(again)) == (error.differing, str(error))
    return error


SAME_STORES: dict[str, tuple[Any, Mapping[str, Any], str]] = {
    "a value": ({"a": 2, "b": [{"c/d": 2}, 3]}, {LEASES: ("/a",)}, "at /a."),
    "values": (
        {"a": 1, "b": [{"c/d": 4}], "e": 5},
        {LEASES: ("/b/0/c~1d", "/b/1", "/e")},
        "at /b/0/c~1d, /b/1, /e.",
    ),
    "the order of keys": (
        {"b": [{"c/d": 2}, 3], "a": 1}, {LEASES: ()}, "(in the order of keys, or in the schema",
    ),
    "the whole": ([], {LEASES: ("",)}, "at its whole data."),
    "many": (
        {str(n): n for n in range(9)}, {LEASES: ("/a", "/b", "/0", "/1", "/2")}, "at /a, /b, /0",
    ),
    "a long name": ({**FIRST[LEASES], "x" * 99: 1}, {LEASES: ("/" + "x" * 99,)}, "xxx..."),
}  # fmt: skip


@pytest.mark.parametrize(("data", "differing", "words"), SAME_STORES.values(), ids=SAME_STORES)
def test_other_data_of_the_same_stores(
    store: RuntimeStore, data: Any, differing: Mapping[str, Any], words: str
) -> None:
    """The error names the first places. It may be the same batch: so nobody is told to write that
    again under another id."""
    write(store, FIRST)
    error = refusal(store, {LEASES: data, LEDGER: [1]})
    assert (error.differing, error.others) == (differing, ())
    said = str(error)
    assert f"job-1 was written before with other contents: {LEASES} " in said
    assert words in said
    assert "If this is the same batch, it is committed already: do not write it again" in said
    assert "batch('job-1') returns it" in said


OTHER_STORES: dict[str, tuple[Mapping[Any, Any], tuple[str, ...]]] = {
    "fewer": ({LEASES: FIRST[LEASES]}, (LEDGER,)),
    "more": ({**FIRST, SESSIONS: {}}, (SESSIONS,)),
    "others": ({LEASES: FIRST[LEASES], SESSIONS: {}}, (LEDGER, SESSIONS)),
    "a deletion": ({**FIRST, LEDGER: DELETED}, (LEDGER,)),
}


@pytest.mark.parametrize(("writes", "others"), OTHER_STORES.values(), ids=OTHER_STORES)
def test_other_stores(
    store: RuntimeStore, writes: Mapping[Any, Any], others: tuple[str, ...]
) -> None:
    """That is another batch: it needs an id of its own."""
    write(store, FIRST)
    error = refusal(store, writes)
    assert (error.differing, error.others) == ({}, tuple(sorted(others)))
    assert str(error).endswith("(in only one of the two). Take a new id")


def test_a_deletion_is_not_a_write(store: RuntimeStore) -> None:
    """The batch deleted a store, and the call writes it."""
    write(store, FIRST, None)
    write(store, {LEASES: DELETED})
    error = refusal(store, {LEASES: 1})
    assert (error.differing, error.others) == ({}, (LEASES,))


def test_many_stores_are_not_all_named(tmp_path: Path) -> None:
    """The first are; the error has them all."""
    names = [f"own.{letter}" for letter in "abcdefgh"]
    with open_store(tmp_path / "r", descriptors=list(map(Descriptor, names))) as store:
        write(store, dict.fromkeys(names, 1))
        error = refusal(store, dict.fromkeys(names, 2))
        assert list(error.differing) == names
        assert ", own.e at its whole data and 3 more. If" in str(error)


def test_contents_that_left_the_history(tmp_path: Path) -> None:
    """Their hash is enough to know that they differ."""
    retention = Retention(batches=None, contents_per_store=1)
    with open_store(tmp_path / "runtime", retention=retention) as store:
        write(store, FIRST)
        for number in range(5):
            write(store, {LEASES: number}, None)
        error = refusal(store, {LEASES: 4, LEDGER: [2]})
        assert error.differing == {LEASES: None, LEDGER: ("/0",)}
        assert f"{LEASES} (where, the history does not say any more), {LEDGER} at /0" in str(error)


# --- models that generate values ------------------------------------------------------------------


class Job(BaseModel):
    """Says when it was made."""

    name: str
    created: datetime = Field(
        default_factory=lambda: datetime(2026, 1, 1, second=next(SECONDS) % 60, tzinfo=UTC)
    )


class Seen(BaseModel):
    """Says how old it is."""

    name: str

    @computed_field
    def age(self) -> int:
        """Another number each time."""
        return next(SECONDS)


JOB, SEEN = Descriptor("own.job", payload=Job), Descriptor("own.seen", payload=Seen)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[RuntimeStore]:
    """A store of such models."""
    with open_store(tmp_path / "jobs", descriptors=[JOB, SEEN]) as store:
        yield store


def test_a_model_that_generates_a_value_makes_other_contents_of_the_same_json(
    jobs: RuntimeStore,
) -> None:
    """The error names the field. An object that was made once is the same each time."""
    write(jobs, {"own.job": {"name": "x"}})
    assert refusal(jobs, {"own.job": {"name": "x"}}).differing == {"own.job": ("/created",)}
    made = Job(name="y")
    first = write(jobs, {JOB: made}, "job-2")
    assert write(jobs, {JOB: made}, "job-2") == first


def test_a_model_that_computes_a_value_makes_other_contents_of_the_same_object(
    jobs: RuntimeStore,
) -> None:
    """Whoever repeats the call asks for the batch first."""
    made = Seen(name="x")
    first = write(jobs, {SEEN: made})
    assert refusal(jobs, {SEEN: made}).differing == {"own.seen": ("/age",)}
    assert jobs.batch("job-1") == first
