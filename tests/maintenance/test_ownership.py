"""Root takes nothing from the user of a directory, and the user is told what root took before."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    KNOWN_DESCRIPTORS,
    BatchFailedError,
    Descriptor,
    InspectionState,
    OpenBatchError,
    RecoveryFailedError,
    RuntimeStore,
    StartKind,
    StorageError,
)
from rtstore.cli.exits import ExitCode
from rtstore.files import system
from rtstore.files.inspector import FileInspector
from rtstore.files.owners import closed_by_mode, may, owner
from rtstore.maintenance.doctor.finding import Level
from rtstore.maintenance.doctor.gather import examine
from rtstore.maintenance.doctor.judge import diagnose
from rtstore.testing import crash_at
from tests.cli.commands import run
from tests.support import FILE_OF, LEASES, LEDGER, TEAM, new_directory, write

USER, GROUP = 65_533, 65_532

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)


def as_user(act: Callable[[], object]) -> None:
    """Do something as another user, in a process of its own; nothing in it may raise."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(USER)
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def open_store(directory: Path, **options: Any) -> RuntimeStore:
    """Open the store; its ids are its own."""
    return RuntimeStore.open(directory, team_name=TEAM, **options)


def use(directory: Path, number: int) -> None:
    """Open, write, read."""
    with open_store(directory, lock_timeout_s=5) as store:
        write(store, LEASES, {"number": number})
        assert store.read(LEASES).data == {"number": number}


def owners(directory: Path) -> set[tuple[int, int]]:
    """Whose everything is."""
    found = [directory.lstat(), *(path.lstat() for path in directory.rglob("*"))]
    return {(each.st_uid, each.st_gid) for each in found}


def chown_all(directory: Path) -> None:
    """Give everything to the user."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, USER, GROUP)


LOG = Descriptor("own.log", relative_path="logs/log.json", criticality="diagnostic_only")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A runtime directory of the user's, where that user can get to. Everything that the user will
    do was done once before, so that nothing has to be imported then."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    try:
        directory = new_directory(top)
        use(directory, 0)
        (directory / FILE_OF[LEASES]).write_bytes(b"no JSON")
        use(directory, 1)
        shutil.rmtree(directory / "quarantine")
        chown_all(directory)
        as_user(lambda: use(directory, 2))
        yield directory
    finally:
        shutil.rmtree(top)


def _damaged(directory: Path) -> None:
    (directory / FILE_OF[LEASES]).write_bytes(b"no JSON")
    open_store(directory).close()


def _edited(directory: Path) -> None:
    with open_store(directory) as store:
        (directory / FILE_OF[LEASES]).write_bytes(b'{"by": "hand"}')
        write(store, LEASES, {"number": 3})


def _first_write_of_a_store(directory: Path) -> None:
    with open_store(directory) as store:
        write(store, LEDGER, {"number": 3})


def _lock_file_gone(directory: Path) -> None:
    (directory / "runtime-store.lock").unlink()
    _edited(directory)


def _backed_up(directory: Path) -> None:
    with open_store(directory) as store:
        store.back_up(directory.with_name("back-up"))
    assert owners(directory.with_name("back-up")) == {(0, 0)}  # that folder is root's


@pytest.mark.parametrize(
    "act", [_damaged, _edited, _first_write_of_a_store, _lock_file_gone, _backed_up]
)
def test_what_root_makes_is_the_users(directory: Path, act: Callable[[Path], None]) -> None:
    """Root recovers, writes, makes store files, quarantine and the lock file: the user goes on."""
    act(directory)
    assert owners(directory) == {(USER, GROUP)}
    as_user(lambda: use(directory, 4))


def test_a_directory_that_root_makes_in_the_users(directory: Path) -> None:
    """A whole new runtime directory, database included."""
    made = directory / "team-b"
    with RuntimeStore.open(made, team_name="team-b") as store:
        assert store.manifest().team_name == "team-b"
    assert owners(made) == {(USER, GROUP)}


def test_a_file_of_somebody_elses_stays_that(directory: Path) -> None:
    """The owner of a replaced file stays, as its mode does; but root's own is given back."""
    path = directory / FILE_OF[LEASES]
    os.chown(path, 12_345, 12_346)
    use(directory, 5)
    assert (path.stat().st_uid, path.stat().st_gid) == (12_345, 12_346)
    os.chown(path, 0, 0)
    use(directory, 6)
    assert (path.stat().st_uid, path.stat().st_gid) == (USER, GROUP)


def test_what_is_linked_elsewhere_is_not_given_away(tmp_path: Path) -> None:
    """A file of root's that the user has only linked into the directory stays root's."""
    folder = tmp_path / "users"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"root's")
    os.link(secret, folder / "runtime-store.lock")
    os.chown(folder, USER, GROUP)
    descriptor = os.open(folder / "runtime-store.lock", os.O_RDWR)
    try:
        system.give_to_owner_of(folder, descriptor)
    finally:
        os.close(descriptor)
    assert secret.stat().st_uid == 0


def test_what_its_owner_closed(directory: Path) -> None:
    """What the owner's own bits keep from the owner is told from what is only read-only, or is
    somebody else's."""
    names = ("closed", "read_only", "other", "folder", "link", "gone")
    for name in names[:3]:
        (directory / name).touch()
    (directory / "folder").mkdir()
    (directory / "link").symlink_to("closed")
    chown_all(directory)
    os.chown(directory / "link", USER, GROUP, follow_symlinks=False)
    os.chown(directory / "other", 0, 0)
    for name, mode in (("closed", 0o066), ("read_only", 0o400), ("other", 0), ("folder", 0o500)):
        (directory / name).chmod(mode)

    def looked_at() -> None:
        assert list(closed_by_mode(directory, names)) == ["closed", "folder"]

    as_user(looked_at)
    assert list(closed_by_mode(directory, names)) == []  # nothing is closed to root


@pytest.mark.parametrize(("mode", "is_told"), [(0o777, False), (0o1777, True)])
def test_a_file_of_somebody_elses_in_a_shared_folder(
    directory: Path, mode: int, *, is_told: bool
) -> None:
    """A batch replaces it, whatever its own mode is: the doctor tells of it only where the folder
    is sticky, and nobody may replace what is another's."""
    with RuntimeStore.open(directory, descriptors=[*KNOWN_DESCRIPTORS, LOG]) as store:
        write(store, LOG.schema_name, 1)
    chown_all(directory)
    os.chown(directory / LOG.relative_path, 0, 0)
    (directory / LOG.relative_path).chmod(0o644)
    os.chown(directory / "logs", 0, 0)
    (directory / "logs").chmod(mode)

    def look() -> None:
        found = "of another user" in run("doctor", directory).out
        assert found is is_told
        with RuntimeStore.open(directory) as store:
            if is_told:
                with pytest.raises(BatchFailedError):
                    write(store, LOG.schema_name, 2)
            else:
                write(store, LOG.schema_name, 2)

    as_user(look)


CAPABLE = """
import sys
from pathlib import Path
from rtstore.files.owners import closed_by_mode, is_immutable, not_changeable
folder = Path(sys.argv[1])
assert not is_immutable(folder / "shut")
assert not [*closed_by_mode(folder, ["shut"]), *not_changeable(folder, ["shut"])]
(folder / "shut" / "made").touch()
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")
def test_what_a_capability_allows_is_not_called_closed(tmp_path: Path) -> None:
    """A container may let another user than root write whatever the modes are; `access` alone asks
    what the user could do without that."""
    (tmp_path / "shut").mkdir(mode=0o500)
    user = ["setpriv", f"--reuid={USER}", f"--regid={GROUP}", "--clear-groups"]
    able = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    done = subprocess.run(
        [*user, *able, sys.executable, "-c", CAPABLE, tmp_path],
        check=False,
        capture_output=True,
        text=True,
    )
    if "setpriv" in done.stderr:
        pytest.skip("capabilities cannot be given here")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_effective_user_is_asked(tmp_path: Path) -> None:
    """A process may have given up its rights for a while (`seteuid`)."""
    (tmp_path / "shut").mkdir(mode=0o700)
    assert may(tmp_path / "shut", os.W_OK)

    pid = os.fork()
    if pid == 0:
        os.seteuid(USER)
        os._exit(may(tmp_path / "shut", os.W_OK))
    assert os.waitpid(pid, 0)[1] == 0


def _shut(directory: Path, how: str) -> str:
    """Keep the user from writing in the folder of a store; return the command that helps."""
    folder = directory / "logs"
    if how == "owner":
        os.chown(folder, 0, 0)
        folder.chmod(0o755)
        return f"sudo chown -R {owner(directory)} {directory}"
    folder.chmod(int(how, 8))
    return f"chmod u+rwx {folder}"


def test_who_must_finish_a_batch_in_a_shut_folder_is_told(directory: Path) -> None:
    """A write that comes upon the batch of a dead writer there, an opening and a recovery name what
    opens the folder; then the batch is finished."""
    with RuntimeStore.open(directory, descriptors=[*KNOWN_DESCRIPTORS, LOG]) as store:
        write(store, LOG.schema_name, 1)
    with crash_at("after-log"), RuntimeStore.open(directory) as store:
        write(store, LOG.schema_name, 2)
    chown_all(directory)
    command = _shut(directory, "0500")

    def refused() -> None:
        with (
            RuntimeStore.open(directory, recover=False) as store,
            pytest.raises(OpenBatchError, match=re.escape(command)),
        ):
            write(store, LOG.schema_name, 3)
        with pytest.raises(RecoveryFailedError, match=re.escape(command)):
            RuntimeStore.open(directory)
        assert command in run("recover", directory).out

    as_user(refused)
    subprocess.run(command.split(), check=True)
    with RuntimeStore.open(directory) as store:
        assert store.read(LOG).data == 2


def test_a_diagnostic_file_that_its_user_may_not_read(directory: Path) -> None:
    """The start goes on without it, and is not told that a recovery helps: none can read it."""
    with RuntimeStore.open(directory, descriptors=[*KNOWN_DESCRIPTORS, LOG]) as store:
        write(store, LOG.schema_name, 1)
    chown_all(directory)
    (directory / LOG.relative_path).chmod(0)

    def told() -> None:
        with RuntimeStore.open(directory, descriptors=[LOG]) as store:
            why = store.start_state("run-9").why
            assert f"the file of {LOG.schema_name} cannot be read, and is left out" in why
            assert "a recovery" not in why

    as_user(told)


@pytest.mark.parametrize("how", ["owner", "0500", pytest.param("0000", marks=pytest.mark.thorough)])
def test_a_folder_of_stores_that_its_user_may_not_write(directory: Path, how: str) -> None:
    """Nobody calls that well: the failed batch, the plan, the start state, the doctor and a
    recovery name what helps; the batch is undone as a whole, also where it keeps a store there."""
    with RuntimeStore.open(directory, descriptors=[*KNOWN_DESCRIPTORS, LOG]) as store:
        write(store, LOG.schema_name, 1)
    chown_all(directory)
    command = _shut(directory, how)

    def refused() -> None:
        with open_store(directory) as store:
            start = store.start_state("run-9")
            assert f"{LOG.schema_name} cannot be written" in str(start.readiness.diagnostics)
            assert start.kind is StartKind.REFUSE
            assert start.why.endswith(f"Run: {command}")
            if how != "0000":
                first = {LEASES: {"number": 9}}
                with pytest.raises(BatchFailedError) as told:
                    store.begin_run("run-9", writes=first, keep="all", supersede=True)
                assert told.value.undone
                assert command.split()[1] in str(told.value)
                assert str(directory / "logs") in str(told.value)
                assert store.read(LEASES).data == {"number": 2}
                assert store.read(LOG).data == 1
        told_by_all = [run(name, directory) for name in ("doctor", "status", "recover")]
        assert [it.code for it in told_by_all] == [ExitCode.NOT_READY] * 3
        for it in told_by_all:
            assert command in it.out
        red = [item for item in diagnose(examine(directory)) if item.level is Level.RED]
        assert any("logs" in item.sentence for item in red)

    as_user(refused)
    with open_store(directory) as store:  # root may write
        assert "cannot be written" not in str(store.check_readiness().diagnostics)
    if how == "owner":
        chown_all(directory)
    else:
        subprocess.run(command.split(), check=True)
    as_user(lambda: use(directory, 9))


OTHER = 65_531


def _share(directory: Path) -> None:
    """Let a group write, of which this user is, too: the files are another user's."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, OTHER, GROUP)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    os.chown(directory, 0, GROUP)


def test_a_shut_folder_is_named_before_the_file_in_it(directory: Path) -> None:
    """Whoever owns the file, it is replaced in its folder: that one's owner is in the way."""
    with RuntimeStore.open(directory, descriptors=[*KNOWN_DESCRIPTORS, LOG]) as store:
        write(store, LOG.schema_name, 1)
    chown_all(directory)
    for path in (directory / "logs", directory / LOG.relative_path):
        os.chown(path, 0, 0)
        path.chmod(0o755)

    def refused() -> None:
        command = f"sudo chown -R {USER}:{GROUP} {directory / 'logs'}"
        with (
            open_store(directory) as store,
            pytest.raises(BatchFailedError, match=f"{re.escape(command)}[^/]"),
        ):
            write(store, LOG.schema_name, 2)

    as_user(refused)


def test_the_runtime_asks_what_it_may_write_itself(directory: Path) -> None:
    """Where files are another user's, and may be written but for one folder, the start is
    refused."""
    with RuntimeStore.open(directory, descriptors=[*KNOWN_DESCRIPTORS, LOG]) as store:
        write(store, LOG.schema_name, 1)
    _share(directory)
    (directory / "logs").chmod(0o2755)

    def refused() -> None:
        os.umask(0o002)
        with open_store(directory) as store:
            write(store, LEASES, {"number": 5})
            with pytest.raises(BatchFailedError, match="Run it as that user") as failed:
                write(store, LOG.schema_name, 2)
            assert "chown" not in str(failed.value)
            start = store.start_state("run-9")
            assert start.kind is StartKind.REFUSE
            assert "logs belongs to another user" in start.why
            assert f"What helps: run this as {OTHER}:{GROUP}" in start.why
            assert not start.readiness.ok

    as_user(refused)


def test_who_shares_a_directory_is_told_that_one_user_must_use_it(directory: Path) -> None:
    """rtstore makes its files for one user: nobody is told to take them from another one."""
    _share(directory)
    (directory / "runtime-store.sqlite3").chmod(0o600)

    def told() -> None:
        found = run("doctor", directory).out
        assert f"run this as {OTHER}:{GROUP}" in found
        assert "chown" not in found
        with pytest.raises(StorageError, match="Run it as that user") as caught:
            use(directory, 3)
        assert "chown" not in str(caught.value)

    as_user(told)


def test_a_directory_of_root_with_the_files_of_a_user(directory: Path) -> None:
    """The user of the database is the one who runs it, and may make no file there: nobody calls
    that ready."""
    os.chown(directory, 0, 0)
    directory.chmod(0o755)

    def told() -> None:
        for name in ("status", "doctor"):
            found = run(name, directory)
            assert found.code == ExitCode.NOT_READY
            assert f"sudo chown -R {USER}:{GROUP} {directory}" in found.out

    as_user(told)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("runtime-store.lock", 0o444),
        ("runtime-store.sqlite3", 0o444),
        ("runtime-store.sqlite3", 0),
        (".", 0o555),
    ],
)
def test_the_mode_of_what_every_write_needs(directory: Path, name: str, mode: int) -> None:
    """A store that is open refuses the start, and each error names the command."""
    path = directory / name
    command = f"chmod u+rw{'x' if path.is_dir() else ''} {path}"

    def refused() -> None:
        with open_store(directory) as store:
            path.chmod(mode)
            start = store.start_state("run-9")
            assert start.kind is StartKind.REFUSE
            assert start.why.endswith(f"Run: {command}")
        with pytest.raises((StorageError, BatchFailedError), match=re.escape(command)):
            use(directory, 3)

    as_user(refused)
    path.chmod(0o700)


@pytest.mark.parametrize("name", ["logs", "quarantine"])
def test_a_dry_run_foresees_a_shut_folder(directory: Path, name: str) -> None:
    """What the real run fails at, and nothing where that folder is not needed."""
    with RuntimeStore.open(directory, descriptors=[*KNOWN_DESCRIPTORS, LOG]) as store:
        write(store, LOG.schema_name, 1)
    (directory / "quarantine").mkdir(mode=0o700, exist_ok=True)
    (directory / LOG.relative_path).write_text('{"by": "hand"}')
    (directory / FILE_OF[LEASES]).unlink()
    chown_all(directory)
    (directory / name).chmod(0o500)

    def looked() -> None:
        with RuntimeStore.open(directory, read_only=True) as store:
            plan = store.plan_recovery()
            steps = store.recover(plan, dry_run=True).steps
            details = {step.action.schema_name: str(step.intention) for step in steps}
            assert details[LOG.schema_name].startswith(f"stop at {directory / name}, ")
            assert not details[LEASES].startswith("stop at")
        with open_store(directory, recover=False) as store:
            done = {step.action.schema_name: step.outcome for step in store.recover(plan).steps}
            assert (done[LOG.schema_name], done[LEASES]) == ("failed", "done")

    as_user(looked)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "name", ["runtime-store.sqlite3", "runtime-store.lock", FILE_OF[LEASES], "quarantine", "."]
)
def test_errors_name_the_command(directory: Path, name: str) -> None:
    """What root took before, by whatever means: the error says whose it is, and how to get it."""
    path = directory / name
    if name == "quarantine":
        path.mkdir()
        (directory / FILE_OF[LEASES]).write_bytes(b"no JSON")
    os.chown(path, 0, 0)
    path.chmod(0o700 if stat.S_ISDIR(path.stat().st_mode) else 0o600)

    def refused() -> None:
        with pytest.raises(StorageError) as caught:
            use(directory, 7)
        deep = "-R " if path.is_dir() else ""
        assert f"sudo chown {deep}{USER}:{GROUP} {directory / name}" in str(caught.value)
        assert f"{directory / name} belongs to root (uid 0)" in str(caught.value)

    as_user(refused)
    if name == FILE_OF[LEASES]:

        def looked_at() -> None:
            with open_store(directory, recover=False) as store:
                inspector = FileInspector(directory)
                entry = store.manifest().entry(LEASES)
                found = inspector.inspect(store.descriptors.get(LEASES), entry)
                assert found.state is InspectionState.QUARANTINED
                assert f"sudo chown {USER}:{GROUP}" in str(found.detail)

        as_user(looked_at)
    os.chown(path, USER, GROUP)
    as_user(lambda: use(directory, 8))
