"""The options of the expected run identity, which several commands take."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer

from rtstore.cli.exits import ExitCode

RunId = Annotated[
    str | None,
    typer.Option(
        "--run-id",
        metavar="ID",
        help="The run that the stores should belong to. What is not given of the expected "
        "identity is taken from the manifest's active identity.",
    ),
]
CapabilitySnapshotId = Annotated[
    str | None,
    typer.Option(
        "--capability-snapshot-id", metavar="ID", help="The expected capability snapshot; '': none."
    ),
]
BehaviorFingerprint = Annotated[
    str | None,
    typer.Option(
        "--behavior-fingerprint", metavar="TEXT", help="The expected fingerprint; '': none."
    ),
]


class Expected(NamedTuple):
    """The parts of the expected identity that were given; None: as the manifest has it."""

    run_id: str | None = None
    capability_snapshot_id: str | None = None
    behavior_fingerprint: str | None = None


AS_IT_IS = Expected()


def takes_identity(run: Callable[..., ExitCode]) -> Callable[..., ExitCode]:
    """Give a command the options of the identity. Its function gets them as one argument,
    `expected`, after the directory."""

    def with_options(
        *,
        run_id: RunId = None,
        capability_snapshot_id: CapabilitySnapshotId = None,
        behavior_fingerprint: BehaviorFingerprint = None,
        **others: Any,
    ) -> ExitCode:
        expected = Expected(run_id, capability_snapshot_id, behavior_fingerprint)
        return run(expected=expected, **others)

    own = inspect.signature(run, eval_str=True).parameters.values()
    options = inspect.signature(with_options, eval_str=True).parameters.values()
    first = [each for each in own if each.kind is not each.KEYWORD_ONLY and each.name != "expected"]
    last = [each for each in own if each.kind is each.KEYWORD_ONLY]
    added = [each for each in options if each.kind is each.KEYWORD_ONLY]
    with_options.__doc__ = run.__doc__
    with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*first, *added, *last]
    )
    return with_options
