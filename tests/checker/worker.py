"""One process of a life: threads that call, what the process does to itself, and its quiet end."""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rtstore import DATABASE_NAME, RuntimeStore, StopError
from tests.checker.caller import STORES, Alarm, Caller, Shared
from tests.checker.loop import LoopCaller

CHILD_S = 15.0
"""How long a forked child may take."""


def run_in_child(name: str, folder: Path, function: Callable[[], object]) -> int:
    """Fork; the child calls the function and ends, with 1 when it raised. Return its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        errors = os.open(folder / f"{name}.stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(errors, 2)
        faulthandler.enable(2)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
        warnings.simplefilter("ignore")
        function()
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def work(name: str, shared: Shared, quiet: Path) -> None:
    """Be a worker until the life is over and everybody has come to an end."""
    alarm = Alarm()
    first = Caller(f"{name}.main", shared, alarm)
    sys.setswitchinterval(first.random.choice((5e-3, 1e-4, 1e-6)))
    while not shared.objects and not shared.over():
        shared.objects += [
            opened
            for opened in (first.open() for _ in range(shared.mix.objects))
            if opened is not None
        ]
    callers = [Caller(f"{name}.t{number}", shared) for number in range(1, shared.mix.threads)]
    threads = [threading.Thread(target=live, args=(caller,), daemon=True) for caller in callers]
    if shared.mix.has("close", "drop"):
        exchanging = Caller(f"{name}.exchange", shared)
        threads.append(threading.Thread(target=keep_exchanging, args=(exchanging,), daemon=True))
    if shared.mix.loop:
        loop = LoopCaller(Caller(f"{name}.loop", shared))
        threads.append(threading.Thread(target=loop.run, daemon=True))
    for thread in threads:
        thread.start()
    live(first)
    for thread in threads:
        thread.join()
    for child in shared.children:
        wait_for_child(first, child)
    quiet.with_name(f"{name}.done").touch()
    while not quiet.exists():
        time.sleep(0.005)
    come_to_rest(first)


def live(caller: Caller) -> None:
    """Call at random until the life is over."""
    actions = _actions(caller)
    kinds, weights = list(actions), [weight for weight, _ in actions.values()]
    while not caller.shared.over():
        store = caller.pick()
        if store is None:
            time.sleep(0.01)
            continue
        kind = caller.random.choices(kinds, weights)[0]
        actions[kind][1](store)
        del store
        if caller.suspicious is not None:
            look_again(caller)


def _actions(caller: Caller) -> dict[str, tuple[float, Callable[[RuntimeStore], object]]]:
    mix = caller.mix
    actions: dict[str, tuple[float, Callable[[RuntimeStore], object]]] = {
        "write": (30, caller.write),
        "anonymous": (8, lambda store: caller.write(store, batch_id=False)),
        "update": (20, caller.update),
        "write_if": (4, caller.write_if),
        "retry": (4, caller.retry),
        "read": (20, caller.read),
        "snapshot": (6, caller.snapshot),
        "batches": (4, caller.list_batches),
        "batch": (8, caller.look_up),
        "plan": (2, caller.plan),
    }
    disturbing: dict[str, tuple[float, Callable[[RuntimeStore], object]]] = {
        "copy": (2.0, lambda _: copy_directory(caller)),
        "peek": (4.0, lambda _: peek(caller)),
        "fork": (4.0, lambda store: fork(caller, store)),
    }
    return actions | {name: found for name, found in disturbing.items() if mix.has(name)}


def look_again(caller: Caller) -> None:
    """Use an object whose call was interrupted: it must see what others commit, and write."""
    store, caller.suspicious = caller.suspicious, None
    caller.calm = True
    other = caller.pick()
    if store is not None and other is not None:
        caller.write(other, STORES[0])
        caller.read(store, STORES[0])
        caller.snapshot(store)
        caller.write(store, STORES[0])
    caller.suspicious, caller.calm = None, False


# --- what a process does to itself ----------------------------------------------------------------


def copy_directory(caller: Caller) -> None:
    """Copy the runtime directory, as a program that makes its own back-up."""
    target = caller.shared.scratch / f"copy-{caller.next_name()}"
    with suppress(shutil.Error, OSError):  # files come and go
        shutil.copytree(caller.shared.directory, target)
    shutil.rmtree(target, ignore_errors=True)


def peek(caller: Caller) -> None:
    """Read the files of the database."""
    for suffix in ("", "-shm", "-wal"):
        with suppress(FileNotFoundError):
            (caller.shared.directory / f"{DATABASE_NAME}{suffix}").read_bytes()


def keep_exchanging(caller: Caller) -> None:
    """Close, or drop, one object after the other, beside whatever the other threads do."""
    while not caller.shared.over():
        time.sleep(caller.random.choice((0.01, 0.05, 0.2, 0.5)))
        store = caller.pick()
        if store is not None:
            closes = caller.mix.has("close")
            if closes and caller.mix.has("drop"):
                closes = caller.random.random() < 0.5
            exchange(caller, store, close=closes)
            del store


def exchange(caller: Caller, store: RuntimeStore, *, close: bool) -> None:
    """Open another object, before or after one that others may be using is closed or dropped."""
    if caller.random.random() < 0.5:
        caller.replace(store, close=close)
    opened = caller.open()
    if opened is not None:
        caller.shared.objects.append(opened)
        caller.replace(store, close=close)
        del store
        gc.collect()


def fork(caller: Caller, store: RuntimeStore) -> None:
    """Fork, and have the child end, use what it inherited, or open a store of its own."""
    kind = caller.random.choice(("end", "inherited", "own", "own", "both"))
    name = f"{caller.next_name()}f"
    pid = os.fork()
    if pid == 0:
        try:
            be_child(caller, name, kind, store)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        finally:
            os._exit(0)
    caller.shared.children.append(pid)
    if caller.random.random() < 0.5:
        caller.shared.children.remove(pid)
        wait_for_child(caller, pid)


def be_child(parent: Caller, name: str, kind: str, store: RuntimeStore) -> None:
    """What a forked child does."""
    shared = Shared(
        parent.mix, parent.shared.directory, parent.shared.scratch, parent.journal,
        min(parent.shared.end, time.monotonic() + 1.0), parent.shared.patience_s,
    )  # fmt: skip
    child = Caller(name, shared)
    child.calm = True
    if kind in ("inherited", "both"):
        child.call("inherited write", lambda: store.write_batch(**child.arguments(
            child.facts_of_write())))  # fmt: skip
        child.call("inherited read", lambda: store.read(STORES[0]))
        if child.random.random() < 0.3:
            child.call("inherited close", store.close)
    if kind in ("own", "both"):
        opened = child.open()
        if opened is not None:
            shared.objects.append(opened)
            for _ in range(child.random.randint(1, 20)):
                if shared.over():
                    break
                time.sleep(child.random.choice((0, 0, 0.05)))
                child.write(opened)
                child.update(opened)
                child.read(opened)
            if child.random.random() < 0.7:
                child.call("close", opened.close)
    if child.random.random() < 0.5:
        parent.shared.objects.clear()
        del store
        gc.collect()


def wait_for_child(caller: Caller, pid: int) -> None:
    """Wait for a forked child; write down how it ended, or that it does not end."""
    end = time.monotonic() + CHILD_S
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            caller.journal.write("hang", name=f"child {pid} of {caller.name}")
            return
        time.sleep(0.002)
    if status:
        caller.journal.write("died", name=f"child {pid} of {caller.name}", status=status)


# --- the end ------------------------------------------------------------------------------------


def come_to_rest(caller: Caller) -> None:
    """Now that nobody else calls: every object works, or says that it does not. It may wait for
    others that try the same, for half of everybody's patience."""
    caller.calm = True
    for store in list(caller.shared.objects):
        end = time.monotonic() + caller.shared.patience_s / 2
        while not works(caller, store):
            if time.monotonic() > end:
                caller.journal.write("unusable", name=caller.name)
                break
            time.sleep(0.01)
    for store in list(caller.shared.objects):
        if not caller.mix.has("drop") or caller.random.random() < 0.7:
            caller.replace(store)
        del store
    caller.shared.objects.clear()
    caller.suspicious = None
    gc.collect()
    # What an exception interrupted at its closing is closed with the next object, at the latest.
    last = caller.open()
    if last is not None:
        caller.shared.objects.append(last)
        caller.replace(last)
        del last
    gc.collect()
    held = open_files(caller.shared.directory)
    if held:
        caller.journal.write("held", name=caller.name, files=held)


def open_files(directory: Path) -> list[str]:
    """What this process has open in a folder (Linux; elsewhere nothing is known)."""
    found = []
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(name for name in found if name.startswith(f"{directory}/"))


def works(caller: Caller, store: RuntimeStore) -> bool:
    """Whether an object writes and reads, or is closed for good."""
    stopped = False

    def write() -> object:
        nonlocal stopped
        try:
            return store.write_batch(**arguments)
        except StopError:
            stopped = True
            raise

    facts = caller.facts_of_write()
    arguments = caller.arguments(facts)
    written = caller.call("write", write, store, **facts)
    if stopped:
        return True
    caller.read(store)
    caller.snapshot(store)
    return written is not None
