"""The workflow coordinator: announces work, starts the workers, follows their events, heals what hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from resources.bus.port import Bus, Message
from resources.datasets import Dataset
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.launcher.port import Launcher, WorkerSpec
from resources.messages import (
    CONTROL_TOPIC,
    EVENTS_TOPIC,
    Command,
    ControlMessage,
    EventMessage,
    decode_event,
    encode,
    time_range,
)
from resources.settings import Settings
from resources.store.port import Store
from streamforge_assets.workers.job import Job
from streamforge_assets.workflow.healing import HealingPolicy, policy_of
from streamforge_assets.workflow.seats import Seat
from streamforge_assets.workflow.states import (
    OVER,
    STOP_REQUESTS,
    WORKFLOWS,
    Incident,
    State,
    Workflow,
    new_suffix,
    new_workflow,
)
from streamforge_assets.workflow.takeover import take_over, tell_workers_to_stop, this_process

log = logging.getLogger("streamforge.workflow")

TICK = 0.25
LOOK = 1.0
SHOW = 2.0
STOP_GRACE = 5.0
SILENT_GRACE = 1.0
"""A worker that has been silent for so long will hardly tidy up; waiting for it would only delay its successor."""
IMAGE = "registry.dmz.home/streamforge/{target}:v0.1.0"


class WorkflowFailed(StreamForgeError):
    """A worker failed for good, or too often. The message is its cause."""


class WorkflowStopped(StreamForgeError):
    """Somebody asked for the workflow to be stopped. What was stored stays."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a workflow ended: `failures` are the sentences of the days that could not be loaded."""

    workflow: Workflow
    failures: dict[date, str]


@dataclass
class Coordinator:
    """Runs workflows. Only the coordinator writes `queue-control`."""

    settings: Settings
    bus: Bus
    store: Store
    launcher: Launcher
    policy: HealingPolicy = field(init=False)

    def __post_init__(self) -> None:
        self.policy = policy_of(self.settings)

    async def collect(
        self,
        dataset: Dataset,
        symbol: str,
        start: date,
        end: date,
        *,
        refresh: bool = False,
        run_id: str = "",
        backfill: str = "",
    ) -> Outcome:
        """Bring the days [start, end) of one dataset and symbol into the store.

        Days that the store holds complete are not fetched again. A workflow with the same days whose coordinator
        is gone is ended: this one takes over. A worker that falls silent or fails is replaced, up to the settings'
        limit, by one that goes on from what is stored. `run_id` is the Dagster run that asked for it,
        `backfill` the backfill that the run is part of.

        Raises:
            WorkflowFailed: when a worker cannot be replaced any more; what was stored stays.
            WorkflowStopped: when a stop was asked for (STOP_REQUESTS).
            Unavailable: when the bus, the store or the launcher does not work.
        """
        template = self.settings.collection_template
        workflow = new_workflow(dataset, symbol, start, end, template, run_id=run_id, backfill=backfill)
        events_from = dict(await self.bus.end_offsets(EVENTS_TOPIC))
        workflow = workflow.moved(coordinator=this_process(), events_from=events_from)
        await take_over(self.store, self.bus, workflow)
        run = _Run(self, workflow, dataset, refresh=refresh)
        await run.save("running")
        try:
            failures = await run.follow()
        except asyncio.CancelledError:
            await asyncio.shield(run.end("cancelled", "stopped before its end"))
            raise
        except WorkflowStopped as error:
            await run.end("cancelled", str(error))
            raise
        except StreamForgeError as error:
            await run.end("failed", str(error))
            raise
        await run.end("finished", "")
        return Outcome(run.workflow, failures)


class _Run:
    """One workflow on its way."""

    def __init__(self, owner: Coordinator, workflow: Workflow, dataset: Dataset, *, refresh: bool) -> None:
        loader = "loader_api_candles" if dataset.interval else "loader_api_trades"
        self.workflow = workflow
        self._owner = owner
        self._topic = workflow.data_topic
        self._connector = Seat("arango_connector", "arango-connector")
        self._loader = Seat(loader, "loader-producer")
        self._seats = [self._connector, self._loader]
        self._failures: dict[date, str] = {}
        self._healing: dict[str, list[tuple[str, float]]] = {}  # by successor: who was replaced, noticed when
        self._looked = self._shown = self._asked = 0.0
        self._showing: asyncio.Task[None] | None = None
        self._job = Job(
            queue_id=workflow.queue_id,
            target="",
            telemetry_id="",
            dataset=dataset,
            symbol=workflow.symbol,
            start=workflow.start,
            end=workflow.end,
            topic=self._topic,
            collection=workflow.collection,
            refresh=refresh,
        )

    async def save(self, state: State, **changes: object) -> None:
        attempts = {seat.module: seat.attempt for seat in self._seats}
        records = self._connector.records
        self.workflow = self.workflow.moved(state=state, attempts=attempts, records=records, **changes)
        document = self.workflow.model_dump(mode="json")
        await self._owner.store.put_document(WORKFLOWS, self.workflow.queue_id, document)

    def _show(self) -> None:
        """Show in the document that all goes on, beside the work: whoever hangs may hold up the store as well."""
        if self._showing is None or self._showing.done():
            self._shown = time.monotonic()
            self._showing = asyncio.create_task(self._save_running())

    async def _save_running(self) -> None:
        try:
            await self.save("running")
        except StreamForgeError as error:
            log.warning("%s: its state cannot be shown, and is later: %s", self.workflow.queue_id, error)

    async def end(self, state: State, message: str) -> None:
        """Stop what still runs, drop the data topic unless the workflow failed, write the last state.

        Workers of whom nobody knows, such as one that hung and was replaced, are told to end: one that wakes up
        and publishes would make the topic anew. Should it be faster than the message, `self_healing` removes that.

        Whoever ended the workflow before, because this coordinator seemed to be gone, has written the last state.
        """
        for seat in self._seats:
            if seat.telemetry_id:
                await self._owner.launcher.stop(seat.telemetry_id, grace=STOP_GRACE)
        if state != "failed":
            await tell_workers_to_stop(self._owner.bus, self.workflow)
            await self._owner.bus.delete(self._topic)
        if self._showing is not None:
            await asyncio.wait([self._showing])
        document = await self._owner.store.document(WORKFLOWS, self.workflow.queue_id)
        if document is None or document["state"] not in OVER:
            await self.save(state, message=message)
        await self._owner.store.delete_document(STOP_REQUESTS, self.workflow.queue_id)

    async def follow(self) -> dict[date, str]:
        """Start both workers and follow them to their last events."""
        async with contextlib.aclosing(self._events()) as events:
            await anext(events)  # from now on no event can be missed
            for seat in self._seats:
                await self._start(seat)
            async for event in events:
                if event is not None:
                    self._hear(event)
                if all(seat.finished for seat in self._seats):
                    return self._failures
                await self._look()
                await self._mistrust_silence()
                for seat in self._seats:
                    await self._heal(seat)
        raise Unavailable("the event topic ended")

    async def _events(self) -> AsyncGenerator[EventMessage | None]:
        """None once subscribed; then this workflow's events as they come, and None at least every TICK seconds."""
        group = f"coordinator-{self.workflow.queue_id}"
        async with self._owner.bus.subscribe(EVENTS_TOPIC, group=group, start="latest") as events:
            yield None
            while True:
                for delivery in await events.receive(timeout=TICK):
                    if delivery.message.key in {"", self.workflow.queue_id}:
                        event = _event_of(delivery.message, self.workflow.queue_id)
                        if event is not None:
                            yield event
                yield None

    async def _look(self) -> None:
        """Once a second: see which workers live, obey a wish to stop, show in the document that all goes on."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        states = await self._owner.launcher.states()
        for seat in self._seats:
            seat.see(states.get(seat.telemetry_id), now=now)
        await self._obey()
        if now - self._shown >= SHOW:
            self._show()

    async def _obey(self) -> None:
        wish = await self._owner.store.document(STOP_REQUESTS, self.workflow.queue_id)
        if wish is not None:
            raise WorkflowStopped(f"stopped by {wish.get('by', 'somebody')}")

    async def _mistrust_silence(self) -> None:
        """Before silence is held against a worker, make sure that the bus would have carried its word.

        The time in which the bus does not answer says nothing about the workers; they get the whole limit anew.
        """
        asked, policy = time.monotonic(), self._owner.policy
        limits = {seat.module: policy.silence_limit(seat.status) for seat in self._seats if seat.works}
        quiet = [s for s in self._seats if s.health(now=asked).quiet > limits.get(s.module, math.inf) / 2]
        if not quiet or asked - self._asked < LOOK:
            return
        await self._owner.bus.end_offsets(EVENTS_TOPIC)
        self._asked = now = time.monotonic()
        if now - asked >= max(LOOK, policy.silence / 4):
            log.warning("%s: the bus did not answer for %.0f s", self.workflow.queue_id, now - asked)
            for seat in self._seats:
                seat.excuse(now=now)

    async def _start(self, seat: Seat) -> None:
        seat.take(f"{seat.target}__{new_suffix()}", now=time.monotonic())
        job = replace(
            self._job,
            target=seat.target,
            telemetry_id=seat.telemetry_id,
            attempt=seat.attempt,
            fence=self._loader.attempt if seat is self._connector else 0,
        )
        await self._command("start", seat)
        await self._owner.launcher.start(WorkerSpec(seat.module, seat.telemetry_id, job.environment()))

    async def _command(self, command: Command, seat: Seat) -> None:
        message = ControlMessage(
            command=command,
            queue_id=self.workflow.queue_id,
            target=seat.target,
            symbol=self.workflow.symbol,
            type=self._job.dataset.api_type,
            time_range=time_range(self.workflow.start, self.workflow.end),
            kafka_topic=self._topic,
            collection_name=self.workflow.collection,
            telemetry_id=seat.telemetry_id,
            image=IMAGE.format(target=seat.target),
        )
        await self._owner.bus.publish(CONTROL_TOPIC, [Message(encode(message), self.workflow.queue_id)])

    def _hear(self, event: EventMessage) -> None:
        """Take in an event. One of a worker that was replaced is ignored."""
        now = time.monotonic()
        if not any(seat.hear(event, now=now) for seat in self._seats if seat.vacant_until is None):
            return
        for worker, noticed in self._healing.pop(event.producer, ()):
            self.workflow = self.workflow.healed(worker, now - noticed)
        extra = event.model_extra or {}
        if event.partition and not extra.get("stored"):
            self._loader.tries = 1  # the connector tells of the day, but the loader has brought it
        if event.partition and extra.get("failed"):
            self._failures[event.partition] = event.message

    async def _heal(self, seat: Seat) -> None:
        """Replace a worker that failed or hangs, in two steps: the wait between them must not hold up others."""
        now, policy = time.monotonic(), self._owner.policy
        if seat.finished:
            return
        if seat.vacant_until is not None:
            if now >= seat.vacant_until:
                await self._succeed(seat)
            return
        verdict = policy.judge(seat.health(now=now))
        if verdict == "healthy":
            return
        # Whoever wants the workflow to end may have told its workers too: that is nothing to heal.
        await self._obey()
        cause = seat.cause(now=now, silence_limit=policy.silence_limit(seat.status))
        log.warning("%s: %s %s: %s", self.workflow.queue_id, seat.telemetry_id, verdict, cause)
        incident = Incident(at=datetime.now(UTC), worker=seat.telemetry_id, attempt=seat.attempt, cause=cause)
        self.workflow = self.workflow.moved(history=(*self.workflow.history, incident))
        # Before anything is written, because the worker may hold a lock of the store. Raises when the worker
        # cannot be proven gone: two of one kind must never work at once.
        silent = not seat.health(now=now).failed
        await self._owner.launcher.stop(seat.telemetry_id, grace=SILENT_GRACE if silent else STOP_GRACE)
        self._show()
        if verdict == "give up":
            times = f" (started {seat.tries} times)" if seat.tries > 1 else ""
            raise WorkflowFailed(f"{seat.target} failed{times}: {cause}")
        # For one that is not gone, whatever was proven: should it wake up, it ends before it does anything more.
        await self._command("stop", seat)
        self._healing[seat.telemetry_id] = [*self._healing.pop(seat.telemetry_id, ()), (seat.telemetry_id, now)]
        seat.vacate(until=time.monotonic() + policy.delay(seat.tries, chance=random.random()))

    async def _succeed(self, seat: Seat) -> None:
        """Start the successor of the worker that was replaced."""
        replaced = self._healing.pop(seat.telemetry_id, [])
        await self._start(seat)
        self._healing[seat.telemetry_id] = replaced


def _event_of(message: Message, queue_id: str) -> EventMessage | None:
    try:
        event = decode_event(message.value)
    except Rejected as error:
        log.warning("ignored: %s", error)
        return None
    return event if event.queue_id == queue_id else None
