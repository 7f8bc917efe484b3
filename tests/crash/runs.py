"""Are the runs of a directory what their callers were promised?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from rtstore import Batch, RunRecord, RunState
from tests.crash.ledger import Ledger


def problems_of_runs(
    runs: Sequence[RunRecord], committed: Sequence[Batch], ledger: Ledger
) -> Iterator[str]:
    """What is wrong with the runs, the latest first, beside the committed batches in their order.

    A batch that upgrades data is of no run. No run writes after the next one began. One is active,
    or none; none is left half begun.
    """
    wrote = [batch.run_id for batch in committed if batch.run_id is not None]
    for before, after in pairwise(wrote):
        if before != after and after in wrote[: wrote.index(before)]:
            yield f"a batch of {after} was committed after {before} had begun"
    order = list(dict.fromkeys(wrote))
    known = [run.run_id for run in reversed(runs)]
    if known[len(known) - len(order) :] != order:  # batches of older ones may have been pruned
        yield f"the runs are {known}, and batches were committed by {order}"
    for number, run in enumerate(runs):
        later = runs[number - 1].run_id if number else None
        fits = {
            RunState.ACTIVE: later is None and run.run_id not in ledger.ended,
            RunState.ENDED: run.run_id in ledger.ending,
            RunState.SUPERSEDED: later is not None and run.superseded_by == later,
            RunState.BEGINNING: False,
        }
        if not fits[run.state] or (run.run_id in ledger.ended and run.state is not RunState.ENDED):
            yield f"{run.run_id} is {run.state} by {run.superseded_by}; {later} began after it"
