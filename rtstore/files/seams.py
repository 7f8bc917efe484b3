"""`Seams`: where a store takes times, ids and files from. Tests pass others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from rtstore.files.system import FileSystem
from rtstore.model import arguments
from rtstore.model.ids import IdFactory, new_batch_id, new_plan_id, new_receipt_id
from rtstore.model.times import Clock, utc_now

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Seams:
    """What tests of a runtime replace: `RuntimeStore.open(..., seams=Seams(clock=StepClock()))`.

    What is not given is as in production. Threads that share the store call the functions at the
    same time. Raises `InvalidRequestError` for a value of the wrong type.
    """

    clock: Clock = utc_now
    """Returns the time, with its zone; called for every batch, plan and recovery."""
    batch_id_factory: IdFactory = new_batch_id
    """Returns a new id of a batch that its caller gave none."""
    receipt_id_factory: IdFactory = new_receipt_id
    """Returns a new id of a receipt."""
    plan_id_factory: IdFactory = new_plan_id
    """Returns a new id of a recovery plan."""
    fs: FileSystem = field(default_factory=FileSystem)
    """Reads and changes the files of the directory, but for the database and its lock."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name != "fs":
                arguments.function(getattr(self, item.name), item.name)
        arguments.instance(FileSystem, self.fs, "fs")


def takes_earlier_keywords(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function that takes `seams` take each of their fields as a keyword, too: programs that
    were written for an earlier version give them so."""
    names = {item.name for item in fields(Seams)}

    @wraps(function)
    def taking(*args: Arguments.args, **given: Arguments.kwargs) -> Result:
        earlier: dict[str, Any] = {name: given.pop(name) for name in names & given.keys()}
        if earlier:
            changed = {name: item for name, item in earlier.items() if item is not None}
            seams = cast("Seams | None", given.get("seams")) or Seams()
            cast("dict[str, Any]", given)["seams"] = replace(seams, **changed)
        return function(*args, **given)

    return taking
