"""Other processes of Python that begin with the library loaded.

A new interpreter takes half a second of a processor to load it. These are forked from a process
that has loaded it, has one thread and never opens a store. What a test says of a fresh interpreter,
of its end or of the command line needs `child` or `run_process` instead.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType

CHECKOUT = Path(__file__).parents[2]
LOADED = ["alembic.command", "rtstore.aio", "rtstore.store", "tests.control.build", "tests.support"]
HEAD = "import sys\ndef say(*words): print(*words, flush=True)\ndef wait(): sys.stdin.readline()\n"


class Forked:
    """A script in a process of its own, with what a test uses of `subprocess.Popen`."""

    def __init__(self, script: str, *arguments: str | Path) -> None:
        given, to_give = os.pipe()
        to_hear, said = os.pipe()
        with Connection(given, writable=False) as its_in, Connection(said, readable=False) as out:
            words = [str(argument) for argument in arguments]
            self._process = _context().Process(
                target=_live, args=(HEAD + script, words, dict(os.environ), its_in, out)
            )
            self.stdin, self.stdout = os.fdopen(to_give, "w"), os.fdopen(to_hear)
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it lives."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end; return its exit code, or None when it lives on."""
        self._process.join(timeout)
        return self._process.exitcode

    def kill(self) -> None:
        """End it with SIGKILL, unless it has ended."""
        if self.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """Kill it, and let go of what is ours of it."""
        self.kill()
        self._process.join()
        self._process.close()
        self.stdout.close()
        with suppress(BrokenPipeError):
            self.stdin.close()


@contextmanager
def forked(script: str, *arguments: str | Path) -> Iterator[Forked]:
    """Run a script in a forked process; killed at the end.

    It speaks to the test with `say(...)`, and `wait()` blocks until the test answers or is gone.
    """
    process = Forked(script, *arguments)
    try:
        yield process
    finally:
        process.close()


def printed_by(script: str, *arguments: str | Path) -> str:
    """Run a script in a forked process to its end; return what it printed."""
    with forked(script, *arguments) as process:
        printed = process.stdout.read()
        assert process.wait(60) == 0
        return printed


@cache
def _context() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHECKOUT), before)))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _live(
    script: str, words: list[str], environment: dict[str, str], given: Connection, said: Connection
) -> None:
    """The life of a process: what `python -c` does with a script."""
    with given, said:
        os.dup2(given.fileno(), 0)
        os.dup2(said.fileno(), 1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(CHECKOUT)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.argv = ["-c", *words]
    module = sys.modules["__main__"] = ModuleType("__main__")
    try:
        exec(compile(script, "<string>", "exec"), vars(module))
    finally:
        atexit._run_exitfuncs()
