"""A small runtime, as a program outside of the library would have it: three workers that pass
messages. It uses what `rtstore` offers and nothing behind it, and its types hold without a cast.

    python -m tests.testing.small_team DIR --run-id run-1
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import uuid
from datetime import UTC, datetime

from pydantic import BaseModel, Field

from rtstore import (
    AsyncRun,
    AsyncRuntimeStore,
    BatchReason,
    Criticality,
    Descriptor,
    Event,
    ReadinessCheck,
    RebuildRequest,
    RunIdentity,
    RuntimeStoreError,
    StartKind,
    StoreData,
)

log = logging.getLogger("team")
AGENTS = ("planner", "coder", "tester")


# -- payloads ------------------------------------------------------------------------------------
class Member(BaseModel):
    name: str
    role: str = "worker"
    alive: bool = False


class Roster(BaseModel):
    team: str
    run_id: str
    launched_at: datetime
    members: list[Member] = []
    stopped_at: datetime | None = None


class Message(BaseModel):
    key: str  # the idempotency key
    sender: str
    to: str
    body: str


class Mailbox(BaseModel):
    waiting: list[Message] = []


class Delivery(BaseModel):
    key: str
    to: str
    delivered_at: datetime


class Journal(BaseModel):
    deliveries: dict[str, Delivery] = {}


class Permission(BaseModel):
    id: str
    agent: str
    tool: str
    state: str = "pending"
    run_id: str


class Permissions(BaseModel):
    requests: dict[str, Permission] = {}


class Progress(BaseModel):
    steps: dict[str, int] = Field(default_factory=lambda: dict.fromkeys(AGENTS, 0))


class Notes(BaseModel):
    lines: list[str] = []


PROVIDER, SINK = Criticality.REBUILDABLE_FROM_PROVIDER, Criticality.DIAGNOSTIC_ONLY
ROSTER = Descriptor("team.roster", payload=Roster)
MAILBOX = Descriptor(
    "team.mailbox", payload=Mailbox, criticality=PROVIDER, rebuild_strategy="start_empty"
)
JOURNAL = Descriptor("team.journal", payload=Journal)
PERMISSIONS = Descriptor("team.permissions", payload=Permissions, rebuild_strategy="start_empty")
PROGRESS = Descriptor("team.progress", payload=Progress)
NOTES = Descriptor("team.notes", payload=Notes, criticality=SINK)
DESCRIPTORS = [ROSTER, MAILBOX, JOURNAL, PERMISSIONS, PROGRESS, NOTES]


def now() -> datetime:
    return datetime.now(UTC)


def start_empty(request: RebuildRequest) -> BaseModel:
    """The mailbox or the permissions, when the database has lost them too."""
    log.warning("rebuilding %s because %s", request.descriptor.schema_name, request.reason)
    return Mailbox() if request.descriptor == MAILBOX else Permissions()


class NotReadyError(Exception):
    pass


class Team:
    run: AsyncRun

    def __init__(self, store: AsyncRuntimeStore, identity: RunIdentity) -> None:
        self.store, self.identity = store, identity
        self.stop = asyncio.Event()
        self.seen: dict[str, int] = dict.fromkeys(AGENTS, 0)

    # -- start-up -------------------------------------------------------------------------------
    async def make_ready(self) -> ReadinessCheck:
        start = await self.store.start_state(self.identity)
        if start.kind is StartKind.REPAIR:
            await self.store.recover(start.plan, rebuilders={"start_empty": start_empty})
            start = await self.store.start_state(self.identity)
        if start.kind in (StartKind.REFUSE, StartKind.REPAIR):
            raise NotReadyError(start.why)
        run_id, members = self.identity.run_id, [Member(name=name) for name in AGENTS]
        roster = Roster(team="demo", run_id=run_id, launched_at=now(), members=members)
        kept = {MAILBOX: Mailbox(), JOURNAL: Journal(), PROGRESS: Progress(), NOTES: Notes()}
        writes = {item: data for item, data in kept.items() if item.schema_name in start.unwritten}
        # The permissions of a dead run are void; what is not given is taken over.
        writes |= {ROSTER: roster, PERMISSIONS: Permissions()}
        self.run = await self.store.begin_run(self.identity, writes=writes, keep="all")
        check = await self.run.check_readiness()
        if not check.ok:
            raise NotReadyError(f"{check.reason.value}: {list(check.diagnostics)}")
        return check

    # -- running ---------------------------------------------------------------------------------
    async def send(self, sender: str, to: str, body: str) -> None:
        key = f"{self.identity.run_id}:{uuid.uuid4()}"
        message = Message(key=key, sender=sender, to=to, body=body)
        await self.run.update(
            MAILBOX, lambda box: Mailbox(waiting=[*box.waiting, message]), reason="message_sent"
        )

    async def receive(self, agent: str) -> Message | None:
        taken: list[Message] = []

        def take(stores: StoreData) -> StoreData:
            box, journal = stores[MAILBOX], stores[JOURNAL]
            for message in [item for item in box.waiting if item.to == agent]:
                box.waiting.remove(message)
                if message.key not in journal.deliveries:  # else it was delivered before: drop it
                    delivery = Delivery(key=message.key, to=agent, delivered_at=now())
                    journal.deliveries[message.key] = delivery
                    taken.append(message)
                    break
            return stores

        await self.run.update([MAILBOX, JOURNAL], take, reason=BatchReason.DELIVERY_COMMIT)
        return taken[0] if taken else None

    async def ask(self, agent: str, tool: str) -> None:
        new_id, run_id = str(uuid.uuid4()), self.identity.run_id
        asked = Permission(id=new_id, agent=agent, tool=tool, run_id=run_id)
        await self.run.update(
            PERMISSIONS,
            lambda old: Permissions(requests=old.requests | {asked.id: asked}),
            reason="permission_asked",
        )
        while not self.stop.is_set():
            seen = await self.store.snapshot([PERMISSIONS])
            if seen[PERMISSIONS].data.requests[asked.id].state == "approved":
                return
            await self.store.wait(after=seen.high_watermark, timeout_s=0.5)

    async def approver(self) -> None:
        def approve(stores: StoreData) -> StoreData:
            for request in stores[PERMISSIONS].requests.values():
                request.state = "approved"
            return stores

        while not self.stop.is_set():
            seen = await self.store.snapshot([])
            await self.run.update([PERMISSIONS], approve, reason=BatchReason.PERMISSION_RECONCILE)
            await self.store.wait(after=seen.high_watermark, timeout_s=0.5)

    async def worker(self, name: str) -> None:
        others = [agent for agent in AGENTS if agent != name]
        while not self.stop.is_set():
            message = await self.receive(name)
            if message is None or random.random() < 0.3:
                await self.send(name, random.choice(others), f"step {self.seen[name]}")
            if random.random() < 0.1:
                await self.ask(name, "run-tests")
            self.seen[name] += 1
            await asyncio.sleep(random.random() * 0.03)

    async def checkpoints(self) -> None:
        while not self.stop.is_set():
            await self.checkpoint()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), 0.3)

    async def checkpoint(self) -> None:
        steps = dict(self.seen)
        await self.run.update(
            PROGRESS,
            lambda progress: Progress(steps=progress.steps | steps),
            reason=BatchReason.LAUNCH_CHECKPOINT,
        )

    async def mark(self, *, alive: bool) -> None:
        def change(roster: Roster) -> Roster:
            for member in roster.members:
                member.alive = alive
            roster.stopped_at = None if alive else now()
            return roster

        await self.run.update(ROSTER, change, reason="team_up" if alive else "team_down")

    async def work(self, seconds: float) -> None:
        """Leaving the block ends the run: as finished, or as failed after an exception."""
        async with self.run:
            self.seen = dict((await self.store.read(PROGRESS)).data.steps)
            await self.mark(alive=True)
            async with asyncio.TaskGroup() as group:
                for name in AGENTS:
                    group.create_task(self.worker(name))
                group.create_task(self.approver())
                group.create_task(self.checkpoints())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), seconds)
                self.stop.set()
            await self.checkpoint()
            await self.mark(alive=False)


def on_event(event: Event) -> None:
    if event.kind != "committed":
        log.warning("event %s: %s", event.kind, event.message)


async def start(directory: str, run_id: str, seconds: float) -> None:
    identity = RunIdentity(run_id=run_id, capability_snapshot_id="caps-1")
    async with AsyncRuntimeStore.open(
        directory, team_name="demo", descriptors=DESCRIPTORS, on_event=on_event
    ) as store:
        team = Team(store, identity)
        check = await team.make_ready()
        log.info("ready: %s", check.reason.value)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, team.stop.set)
        await team.work(seconds)
        log.info("stopped after %s", team.seen)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--run-id", default=f"run-{os.getpid()}")
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(start(arguments.directory, arguments.run_id, arguments.seconds))
    except NotReadyError as error:
        print("refused:", error, file=sys.stderr)
        return 1
    except RuntimeStoreError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
