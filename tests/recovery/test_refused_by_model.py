"""What a runtime's own model refuses, a recovery leaves, and says who can settle it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from rtstore import Criticality, Descriptor, Owner, RebuildStrategy, RunIdentity, RuntimeStore


class Old(BaseModel):
    """What was accepted."""

    a: int


class New(BaseModel):
    """What is accepted now."""

    a: str


def _notes(model: type[BaseModel]) -> Descriptor:
    return Descriptor(
        schema_name="own.notes",
        schema_version=1,
        relative_path="notes.json",
        criticality=Criticality.READINESS_BLOCKING,
        owner=next(iter(Owner)),
        rebuild_strategy=RebuildStrategy.NONE,
        payload=model,
    )


def test_the_step_names_the_runtime_and_not_a_status_that_cannot_know(tmp_path: Path) -> None:
    """The commands know no models: to them the same store is ready."""
    identity = RunIdentity(run_id="r")
    with RuntimeStore.open(tmp_path, team_name="own", descriptors=[_notes(Old)]) as store:
        store.write_batch(
            identity=identity, reason="launch_checkpoint", writes={"own.notes": {"a": 1}}
        )
    with RuntimeStore.open(tmp_path, team_name="own", descriptors=[_notes(New)]) as store:
        (step,) = store.recover(store.plan_recovery()).steps
        assert step.detail is not None
        assert "The runtime must write the store again" in step.detail
        assert "rtstore revert" in step.detail
        assert "status" not in step.detail
        store.write_batch(
            identity=identity, reason="launch_checkpoint", writes={"own.notes": {"a": "x"}}
        )
        assert store.check_readiness().ok
