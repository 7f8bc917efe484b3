"""What a store does about store files that somebody else changed."""

from __future__ import annotations

from enum import StrEnum

from rtstore.errors import InvalidRequestError
from rtstore.model.arguments import member


class ForeignEdits(StrEnum):
    """What `read`, `update`, `revert` and the kept stores of `begin_run` do about a store file that
    is not what is committed, because somebody else changed it.

    A batch of `write_batch` replaces such a file in any case. It is copied to quarantine first.
    Plans and readiness report it in any case.
    """

    RAISE = "raise"
    """Raise `StoreFileChangedError`, and change nothing."""
    IGNORE = "ignore"
    """Use what is committed. When the file is overwritten, it is copied to quarantine first."""
    ADOPT = "adopt"
    """Commit the file as it is, in a batch of its own, as `adopt` does, and go on from that. Raise
    `StoreFileChangedError` for a file that is missing, does not pass the checks of a write, or is
    no edit: it holds what a batch wrote, or is not the store's file any more."""


def checked_edits(value: ForeignEdits | str, *, read_only: bool) -> ForeignEdits:
    """Return the policy that an argument names. Raises `InvalidRequestError`."""
    found = member(ForeignEdits, value, "foreign_edits")
    if read_only and found is ForeignEdits.ADOPT:
        problem = "a store that is opened read-only cannot adopt a file: 'raise' or 'ignore'"
        raise InvalidRequestError("foreign_edits", problem)
    return found
