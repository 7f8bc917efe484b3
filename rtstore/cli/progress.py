"""A progress bar on a terminal, for slow operations; nothing elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE_S = 0.3
"""What is over sooner needs no bar."""

Told = Callable[[str, int, int], None]


@contextmanager
def progress_bar(*, quiet: bool = False, what: str | None = None) -> Iterator[Told | None]:
    """Yield a function that shows the progress of each step on standard error; None when standard
    error is not a terminal, or with `quiet`.

    Call the function with the name of the step, the amount that is done, and the amount of all.
    With `what` the bar only moves, for an operation that does not report its progress.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    columns = [TextColumn("{task.description}"), BarColumn()]
    if what is None:
        columns.append(MofNCompleteColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}
    if what is not None:
        bar.add_task(what, total=None)

    def tell(step: str, done: int, total: int) -> None:
        if step not in tasks:
            tasks[step] = bar.add_task(step, total=total)
        bar.update(tasks[step], completed=done, total=total)

    starting = threading.Timer(_PATIENCE_S, bar.start)
    starting.daemon = True
    starting.start()
    try:
        yield tell
    finally:
        starting.cancel()
        starting.join()
        bar.stop()
