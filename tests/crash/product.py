"""Scenarios made from their parts: how large a group is, what is kept, which stores, what is done.

A list of scenarios is a sum: it has what its authors thought of. Losses were found where two things
met that nobody had put side by side, so here everything meets everything. A scenario is known by
its name, which says what it is made of: `group-write.of5.one.keeps1c2b`.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rtstore import Retention
from rtstore.model.descriptors import HOST_LEASES, LAUNCH_STATE, SESSION_STORE
from tests.crash import steps as stages
from tests.crash.children import Say
from tests.crash.client import FILES, LANE, Caller, Options, gone
from tests.crash.ledger import Foreign
from tests.crash.scenarios import SCENARIOS, Scenario

WRITTEN = (SESSION_STORE, HOST_LEASES, LAUNCH_STATE)
"""The stores that are written; the lane is what a person edits, and what is of an older version."""
OLD_LANE = "base-1"
MANY = 6
"""Batches one after the other: more than any small retention keeps."""


class Keeps(NamedTuple):
    """What a retention keeps; None for all of it."""

    contents: int | None
    batches: int | None
    thins: bool = False

    def __str__(self) -> str:
        thinned = "-thin" if self.thins else ""
        return f"keeps{self.contents or '-'}c{self.batches or '-'}b{thinned}"

    @property
    def retention(self) -> Retention:
        """As it is given to a store."""
        return Retention(
            contents_per_store=self.contents, batches=self.batches, thin_by_age=self.thins
        )


class Recipe(NamedTuple):
    """What a scenario is made of."""

    steps: tuple[str, ...]
    """What is done, in this order; see `STEPS`."""
    group: int
    """How many batches share a flush."""
    stores: str
    """Which stores a batch writes; see `STORES`."""
    keeps: Keeps

    def __str__(self) -> str:
        return f"{'-'.join(self.steps)}.of{self.group}.{self.stores}.{self.keeps}"

    def batch(self, number: int) -> tuple[str, ...]:
        """The stores of a batch."""
        return STORES[self.stores](number)


def _act(recipe: Recipe) -> stages.Act:
    def act(caller: Caller) -> None:
        caller.open()
        for step in recipe.steps:
            STEPS[step](caller, recipe)

    return act


# --- what is done -------------------------------------------------------------------------------


def _write(caller: Caller, recipe: Recipe) -> None:
    caller.write(*recipe.batch(0))


def _many(caller: Caller, recipe: Recipe) -> None:
    for number in range(MANY):
        caller.write(*recipe.batch(number))


def _update(caller: Caller, _: Recipe) -> None:
    caller.update(SESSION_STORE)
    caller.update(SESSION_STORE)


def _group(caller: Caller, recipe: Recipe) -> None:
    caller.write_together(*[recipe.batch(number) for number in range(recipe.group)])


def _delete(caller: Caller, recipe: Recipe) -> None:
    """A group that deletes what it writes, or writes what it deletes."""
    every = [gone(name) for name in recipe.batch(0)]
    pairs = [(LANE, *every), recipe.batch(0), (LAUNCH_STATE, gone(LANE))]
    caller.write_together((LANE,), *[pairs[number % 3] for number in range(recipe.group)])


def _away(caller: Caller, _: Recipe) -> None:
    caller.write(SESSION_STORE, HOST_LEASES)
    caller.update_away(HOST_LEASES, beside=SESSION_STORE)


def _adopt(caller: Caller, _: Recipe) -> None:
    data = json.loads(stages.edited(LANE, "by hand"))["data"]
    caller.adopt(LANE, data)


def _revert(caller: Caller, _: Recipe) -> None:
    caller.revert(SESSION_STORE, "base-3")


def _prune(caller: Caller, _: Recipe) -> None:
    caller.prune(stages.SHORT_HISTORY.retention)


def _recover(caller: Caller, _: Recipe) -> None:
    caller.recover()


def _reopen(caller: Caller, _: Recipe) -> None:
    caller.close()
    caller.open()


def _another(caller: Caller, recipe: Recipe) -> None:
    """Another object has the directory open beside the first, and writes."""
    other = caller.beside()
    try:
        other.write(*recipe.batch(1))
    finally:
        other.close()


def _nothing(_: Caller, __: Recipe) -> None:
    """What the opening does is all."""


STEPS: dict[str, Callable[[Caller, Recipe], None]] = {
    "write": _write,
    "many": _many,
    "update": _update,
    "group": _group,
    "delete": _delete,
    "away": _away,
    "adopt": _adopt,
    "revert": _revert,
    "prune": _prune,
    "recover": _recover,
    "reopen": _reopen,
    "another": _another,
    "import": _nothing,
    "upgrade": _nothing,
}

STORES: dict[str, Callable[[int], tuple[str, ...]]] = {
    "one": lambda _: (SESSION_STORE,),
    "turns": lambda number: (WRITTEN[number % len(WRITTEN)],),
    "all": lambda _: WRITTEN,
}

GROUPS = (1, 2, 5)
KEPT = (
    Keeps(1, 2),
    Keeps(1, None),
    Keeps(2, 2),
    Keeps(2, 2, thins=True),
    Keeps(3, 3),
    Keeps(50, 1_000),
)

DONE: tuple[tuple[str, ...], ...] = (
    ("group",),
    ("many", "group"),
    ("group", "write", "reopen"),
    ("update", "group", "update"),
    ("another", "group", "another"),
    ("adopt", "group", "adopt"),
    ("write", "revert", "group"),
    ("group", "prune", "write"),
    ("recover", "group", "write"),
    ("import", "group", "write"),
    ("upgrade", "group", "write"),
    ("prune", "group", "many"),
    ("delete", "group", "away"),
    ("away", "many", "prune"),
    ("delete", "reopen", "another"),
    ("import", "away", "delete"),
)
"""What is done, in one scenario each."""


# --- making scenarios ---------------------------------------------------------------------------


def _build(recipe: Recipe) -> stages.Build:
    """A beginning in which a history has begun, and which has what the steps are for."""
    options = Options(retention=recipe.keeps.retention)

    def build(directory: Path, say: Say) -> None:
        if "import" in recipe.steps:
            stages.of_the_legacy_format(directory, say)
            return
        builder = stages.Builder(directory, say, options)
        builder.batches(
            (LANE,), (LAUNCH_STATE, HOST_LEASES), (SESSION_STORE,), (SESSION_STORE, LAUNCH_STATE)
        )
        if "adopt" in recipe.steps:
            builder.by_hand(LANE, stages.edited(LANE, "by hand"))
        if "recover" in recipe.steps:
            builder.by_hand(LAUNCH_STATE, stages.edited(LAUNCH_STATE, "by hand"))
            builder.by_hand(SESSION_STORE, stages.edited(SESSION_STORE, "newer", version=2))
            (directory / FILES[LANE]).write_bytes(b'{"schemaVersion": 1, "data": {"cut of')
            say(Foreign(FILES[LANE], b'{"schemaVersion": 1, "data": {"cut of'))

    return build


def make(recipe: Recipe) -> Scenario:
    """The scenario of a recipe."""
    imports = "import" in recipe.steps
    return Scenario(
        str(recipe),
        _build(recipe),
        _act(recipe),
        options=Options(
            retention=recipe.keeps.retention,
            takes_over=imports,
            lane_version=2 if "upgrade" in recipe.steps else 1,
        ),
        opens=imports or "upgrade" in recipe.steps,
        recover_first="recover" in recipe.steps,
        beside=frozenset({"manifest.json", "opencode-runtime-receipts.json"} if imports else ()),
        batches_kept=1 if "prune" in recipe.steps else recipe.keeps.batches,
    )


def every() -> Iterator[Recipe]:
    """The whole product."""
    for steps, group, stores, keeps in itertools.product(DONE, GROUPS, STORES, KEPT):
        yield Recipe(steps, group, stores, keeps)


PRODUCT = {str(recipe): recipe for recipe in every()}
"""By name."""


def drawn(number: int, seed: int) -> Sequence[str]:
    """Names of some scenarios, so that each thing that is done comes up before any comes twice, and
    each other part as often as the others."""
    dice = random.Random(seed)
    found: list[str] = []
    decks: dict[str, list[object]] = {}

    def draw(part: str, cards: Sequence[object]) -> object:
        deck = decks.setdefault(part, [])
        if not deck:
            deck.extend(dice.sample(cards, len(cards)))
        return deck.pop()

    while len(found) < min(number, len(PRODUCT)):
        steps = draw("steps", DONE)
        recipe = Recipe(
            steps,  # type: ignore[arg-type]
            draw("group", GROUPS),  # type: ignore[arg-type]
            draw("stores", list(STORES)),  # type: ignore[arg-type]
            draw("keeps", KEPT),  # type: ignore[arg-type]
        )
        if str(recipe) not in found:
            found.append(str(recipe))
    return found


def scenario_of(name: str) -> Scenario:
    """The scenario of that name: one that somebody thought of, or one of the product."""
    return SCENARIOS[name] if name in SCENARIOS else make(PRODUCT[name])
