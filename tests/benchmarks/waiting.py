"""Cases of waiting for a batch: how soon a waiter knows of it, and what waiting costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from tests.benchmarks.bench import Bench
from tests.benchmarks.children import Child
from tests.benchmarks.documents import descriptors, open_store
from tests.benchmarks.measure import Figure, Target, quantities

WAKE_MS, IDLE_PERCENT = 20.0, 0.2
"""What is aimed at: a median, and a share of one core."""
AIM = Target(1.0)


def wake_up(bench: Bench) -> Iterator[Figure]:
    """From a commit of another process to the return of `wait`; the median, and 99 of 100."""
    sizes = bench.sizes
    known = descriptors(1)
    delays = []
    with open_store(bench.directory / "rtstore", known) as store:
        arguments = (store.directory, len(known), 0, sizes.document_bytes)
        with Child("write-late", *arguments) as child:
            child.wait()
            for after in range(sizes.wakes):
                child.go(1)
                store.wait(after=after)
                woken_at = time.monotonic()
                delays.append(1e3 * max(0.0, woken_at - float(child.wait())))
    title, aim = "wait, a commit of another process", f"aim: {WAKE_MS:g} ms"
    yield quantities("wait", title, delays, aim, [WAKE_MS] * len(delays), unit="ms", target=AIM)
    last = sorted(delays)[99 * (len(delays) - 1) // 100]
    yield quantities("wait", f"{title}, 99 of 100", [last], aim, [WAKE_MS], unit="ms")


def idle(bench: Bench) -> Iterator[Figure]:
    """The processor time of a thread that waits while nothing is committed."""
    for read_only in (False, True):
        kind = "read-only" if read_only else "open for writing"
        directory = bench.directory / kind.replace(" ", "-")
        open_store(directory, descriptors(1)).close()
        with open_store(directory, None, read_only=read_only) as store:
            waiter = threading.Thread(target=store.wait, kwargs={"timeout_s": bench.sizes.idle_s})
            began_at, before = time.monotonic(), time.process_time()
            waiter.start()
            waiter.join()
            share = 100 * (time.process_time() - before) / (time.monotonic() - began_at)
        title, aim = f"wait, idle, {kind}", f"aim: {IDLE_PERCENT:g} %"
        yield quantities(
            "idle", title, [share], aim, [IDLE_PERCENT], unit="% of a core", target=AIM
        )
