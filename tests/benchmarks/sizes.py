"""How much of everything a run measures."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.measure import Pace


@dataclass(frozen=True)
class Sizes:
    """The sizes of one kind of run."""

    pace: Pace
    turn: int
    """Calls in a turn of what takes about a millisecond."""
    slow_turn: int
    """Calls in a turn of what takes tens of milliseconds."""
    warm_up: int
    """Batches before a race of writers: more than the contents that retention keeps of a store."""
    history_turn: int
    """Batches in a turn beside a long history: enough for a checkpoint of the WAL in each."""
    document_bytes: int
    large_document_bytes: int
    stores: int
    many_stores: int
    histories: tuple[int, ...]
    callers: tuple[int, ...]
    batches_per_turn: int
    """Batches that all callers together write in a turn."""
    batches_per_caller: int
    """How many of them a caller writes at least: with fewer, groups that are not full yet, or no
    longer, would be most of the turn of many callers."""
    longer_flushes_ms: tuple[int, ...]
    """By how much flushes are held up, to see what many callers gain on other disks."""
    processes: int
    size_batches: tuple[int, int]
    import_rounds: int
    flush_batches: int
    tail_batches: int
    """Batches whose slowest are looked at."""
    scale: tuple[int, int]
    """Stores of a small and of a large batch."""
    scale_turns: int
    update_bytes: int
    """A large document, of which an update changes little."""
    command_rounds: int
    back_up_bytes: int
    """Contents in the history of the directory that is backed up."""
    wal_batches: int
    """Batches beside a reader that stays in its transaction."""
    wal_document_bytes: int
    wakes: int
    """How often a waiter is woken by a commit of another process."""
    idle_s: float
    """How long an idle waiter is measured."""


FULL = Sizes(
    pace=Pace(rounds_min=9, rounds_max=60, budget_s=8),
    turn=20,
    slow_turn=3,
    warm_up=60,
    history_turn=100,
    document_bytes=2_048,
    large_document_bytes=1_000_000,
    stores=10,
    many_stores=1_000,
    histories=(0, 10_000, 100_000, 1_000_000),
    callers=(1, 8, 64),
    batches_per_turn=192,
    batches_per_caller=30,
    longer_flushes_ms=(1, 4),
    processes=4,
    size_batches=(1_000, 100_000),
    import_rounds=15,
    flush_batches=200,
    tail_batches=20_000,
    scale=(1_000, 12_000),
    scale_turns=5,
    update_bytes=1_500_000,
    command_rounds=15,
    back_up_bytes=1_000_000_000,
    wal_batches=1_500,
    wal_document_bytes=20_000,
    wakes=300,
    idle_s=60,
)

QUICK = Sizes(
    pace=Pace(rounds_min=5, rounds_max=30, budget_s=2),
    turn=10,
    slow_turn=2,
    warm_up=60,
    history_turn=60,
    document_bytes=2_048,
    large_document_bytes=1_000_000,
    stores=10,
    many_stores=1_000,
    histories=(0, 10_000, 100_000),
    callers=(1, 8, 64),
    batches_per_turn=128,
    batches_per_caller=15,
    longer_flushes_ms=(4,),
    processes=4,
    size_batches=(1_000, 10_000),
    import_rounds=7,
    flush_batches=100,
    tail_batches=5_000,
    scale=(1_000, 12_000),
    scale_turns=3,
    update_bytes=1_500_000,
    command_rounds=7,
    back_up_bytes=100_000_000,
    wal_batches=300,
    wal_document_bytes=20_000,
    wakes=60,
    idle_s=10,
)
"""For a look in between: less of everything, and no history of a million."""

SMOKE = Sizes(
    pace=Pace(rounds_min=2, rounds_max=2, budget_s=0),
    turn=2,
    slow_turn=1,
    warm_up=2,
    history_turn=2,
    document_bytes=300,
    large_document_bytes=20_000,
    stores=3,
    many_stores=6,
    histories=(0, 30),
    callers=(1, 2),
    batches_per_turn=4,
    batches_per_caller=1,
    longer_flushes_ms=(1,),
    processes=2,
    size_batches=(5, 10),
    import_rounds=1,
    flush_batches=4,
    tail_batches=10,
    scale=(2, 4),
    scale_turns=1,
    update_bytes=20_000,
    command_rounds=1,
    back_up_bytes=100_000,
    wal_batches=3,
    wal_document_bytes=300,
    wakes=3,
    idle_s=0.05,
)
"""Sees only whether everything runs; its figures mean nothing."""
