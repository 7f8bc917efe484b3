"""A directory whose descriptors somebody deleted by hand: the commands say what is committed there
all the same, and what registers it again."""

from __future__ import annotations

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import InvalidRequestError, RuntimeStore, StartKind
from tests.cli.commands import run
from tests.support import (
    FILE_OF,
    LEASES,
    LEDGER,
    new_directory,
    open_store,
    plain_descriptor,
    write,
)


def forget(directory: Path) -> None:
    """Delete the descriptors, as somebody with a shell does."""
    path = directory / "runtime-store.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM store_descriptors")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with two known stores, and no descriptor."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, "first")
        write(store, LEDGER, "of the ledger")
    forget(directory)
    return directory


def test_the_doctor_names_the_stores(directory: Path) -> None:
    """And does not say that it looked at every file."""
    said = run("doctor", directory)
    assert LEASES in said.out
    assert LEDGER in said.out
    assert "no store file was looked at" in said.out
    assert "every store file" not in said.out


def test_nobody_calls_it_ready(directory: Path) -> None:
    """Though a file is empty and another gone, nobody looked: so no runtime may start, and no
    command says that it may."""
    (directory / FILE_OF[LEASES]).write_text("")
    (directory / FILE_OF[LEDGER]).unlink()
    with RuntimeStore.open(directory) as store:
        check = store.check_readiness()
        assert not check.ok
        (said,) = check.diagnostics
        assert LEASES in said
        start = store.start_state("run-2")
        assert start.kind is StartKind.REFUSE
        assert start.why.startswith(f"{said}. Run: rtstore upgrade {directory} --descriptors ")
    for command in ("status", "recover", "doctor"):
        assert run(command, directory).code == 1
    assert run("status", directory, "--json").json()["verdict"] == "blocked"
    assert "Writer lock        free" in run("status", directory).out


def test_what_status_names_registers_them_again(directory: Path) -> None:
    """Where all of them are known ones, it is a command."""
    said = run("status", directory)
    assert "no store is looked after here" in said.out
    (line,) = (it.strip() for it in said.out.splitlines() if it.strip().startswith("rtstore up"))
    assert line in run("doctor", directory).out
    assert run(*shlex.split(line)[1:]).code == 0
    with RuntimeStore.open(directory) as store:
        assert store.read(LEASES).data == "first"
    assert "no store is looked after" not in run("status", directory).out


def test_an_unknown_store_is_not_answered_with_an_empty_list(directory: Path) -> None:
    """It is said why there is none to name."""
    said = run("show", directory, "nope")
    assert said.code == 2
    assert said.err.strip().endswith("rtstore status says what is committed")
    assert "There are:" not in said.err


def test_a_runtime_is_told_that_it_named_no_store(directory: Path) -> None:
    """A run cannot keep what no descriptor names."""
    with (
        RuntimeStore.open(directory) as store,
        pytest.raises(InvalidRequestError, match="no descriptor names is not kept"),
    ):
        store.begin_run("run-2", keep="all", supersede=True)


def test_stores_of_a_runtime_are_for_the_runtime(tmp_path: Path) -> None:
    """No command knows where it has its descriptors."""
    directory = tmp_path / "runtime"
    with open_store(directory, descriptors=[plain_descriptor("own.a", "a.json")]) as store:
        write(store, "own.a", 1)
    forget(directory)
    for command in ("status", "doctor"):
        said = run(command, directory)
        assert "the runtime must open the directory with its descriptors" in said.out
        assert "--descriptors MODULE:NAME" in said.out


def test_one_store_without_a_descriptor_is_not_every_store(directory: Path) -> None:
    """The doctor says of the others that they are as committed, and names this one."""
    with RuntimeStore.open(directory, descriptors=[plain_descriptor("own.b", "b.json")]) as store:
        write(store, "own.b", 1)
        (said_by_plan,) = store.plan_recovery().diagnostics
        assert "that no descriptor names are not looked after" in said_by_plan
        assert LEASES in said_by_plan
        assert store.check_readiness().ok
    said = run("doctor", directory)
    assert "every store file that a descriptor names is what is committed" in said.out
    assert LEASES in said.out
