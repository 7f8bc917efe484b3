"""What each action of a plan would do, in words: the steps of a dry run. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from rtstore.model.decide import CONTENT_MISSING, ENTRY_ALTERED, ENTRY_MISSING
from rtstore.model.records import (
    ActionKind,
    ActionOutcome,
    InspectionState,
    RecoveryAction,
    RecoveryStep,
)

STOPPING = (ActionKind.RESTORE_COMMITTED, ActionKind.QUARANTINE)
"""The actions that read a file before they replace it, and leave it if that fails."""

_REBUILD = "have the runtime rebuild the store, and write what it returns as a batch"
_INTENTIONS = {
    ActionKind.ROLL_FORWARD: "finish the batch from the log: the file gets what the batch writes",
    ActionKind.RESTORE_COMMITTED: (
        "put back what is committed; what the file holds is in the database"
    ),
    ActionKind.QUARANTINE: "move the file into quarantine, and put back what is committed",
    ActionKind.BLOCK_READINESS: "leave the file as it is, to a person or the runtime",
}
_INTENTIONS_FOR: dict[tuple[ActionKind, str | None], str] = {
    (ActionKind.RESTORE_COMMITTED, InspectionState.MISSING): (
        "write the file again, with what is committed"
    ),
    (ActionKind.RESTORE_COMMITTED, InspectionState.QUARANTINED): (
        "keep the damaged file in quarantine, unless the database has what it holds, and put back "
        "what is committed"
    ),
}
_INTENTIONS_WITHOUT_CONTENT = {
    ActionKind.RESTORE_COMMITTED: (
        "remove the file: nothing is committed, and a batch wrote what it holds"
    ),
    ActionKind.QUARANTINE: "move the file into quarantine; there is nothing to put back",
}

STOP_CLOSED = "stop at the file, which cannot be read: nobody knows whether it is what is committed"
STOP_SHUT = "stop at {}, where nothing can be written: {}"
STOP_AT_DIRECTORY = "stop at the folder: it is, or holds, another runtime directory"


class Found(NamedTuple):
    """What a dry run found at the file of an action's store."""

    stop: str | None = None
    """Why the action would stop, in words; else None."""
    edited_before: str | None = None
    """The store's former file, of which an edit would be copied to its file; else None."""


def _intention(action: RecoveryAction, in_database: Collection[str]) -> str:
    """Return what would become of a file, in words."""
    kind, reason = action.kind, action.reason
    if kind is ActionKind.BLOCK_READINESS and action.batch_id is not None:
        return "close the batch, which was imported unfinished, as failed; no file is touched"
    if reason == CONTENT_MISSING:
        return "take the lost content from the file into the database; the file stays as it is"
    if reason == ENTRY_MISSING:
        return "make its entry in the manifest again, as the batch that wrote it last left it"
    if reason == ENTRY_ALTERED:
        return "put its entry in the manifest right, as the batch that wrote it left it"
    if kind is ActionKind.QUARANTINE and reason == InspectionState.MISSING:
        return "do nothing: there is no file, and nothing to put back"
    if kind in _INTENTIONS_WITHOUT_CONTENT and action.schema_name not in in_database:
        return _INTENTIONS_WITHOUT_CONTENT[kind]
    return _INTENTIONS_FOR.get((kind, reason)) or _INTENTIONS.get(kind, _REBUILD)


def intended(action: RecoveryAction, in_database: Collection[str], found: Found) -> RecoveryStep:
    """Return the step of a dry run. `in_database` are the stores whose committed content is there
    to be put back."""
    intention = found.stop or _intention(action, in_database)
    if found.stop is None and found.edited_before is not None:
        intention = (
            f"copy the edit of its former file {found.edited_before} to this one: it is decided "
            "upon as any other edit then"
        )
    return RecoveryStep(
        action=action,
        outcome=ActionOutcome.SKIPPED,
        detail=f"dry run: would {intention}",
        intention=intention,
    )
