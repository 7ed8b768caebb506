"""The workflow coordinator: announces work, starts the workers, follows their events, heals what hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import date

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
from streamforge_assets.workflow.healing import HealingPolicy
from streamforge_assets.workflow.states import WORKFLOWS, State, Workflow, new_suffix, new_workflow

log = logging.getLogger("streamforge.workflow")

TICK = 0.25
STOP_GRACE = 5.0
IMAGE = "registry.dmz.home/streamforge/{target}:v0.1.0"


class WorkflowFailed(StreamForgeError):
    """A worker failed for good, or too often. The message is its cause."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a workflow ended: `failures` are the sentences of the days that could not be loaded."""

    workflow: Workflow
    failures: dict[date, str]


@dataclass
class _Seat:
    """A place in the workflow that one worker at a time holds."""

    module: str
    target: str
    attempt: int = 0
    telemetry_id: str = ""
    heard: float = 0.0
    finished: bool = False
    failure: EventMessage | None = None


@dataclass
class Coordinator:
    """Runs workflows. Only the coordinator writes `queue-control`."""

    settings: Settings
    bus: Bus
    store: Store
    launcher: Launcher
    policy: HealingPolicy = field(init=False)

    def __post_init__(self) -> None:
        self.policy = HealingPolicy(self.settings.silence_limit, self.settings.worker_attempts)

    async def collect(
        self, dataset: Dataset, symbol: str, start: date, end: date, *, refresh: bool = False
    ) -> Outcome:
        """Bring the days [start, end) of one dataset and symbol into the store.

        Days that the store holds complete are not fetched again. A worker that falls silent or fails is
        replaced, up to the settings' limit, by one that goes on from what is stored.

        Raises:
            WorkflowFailed: when a worker cannot be replaced any more; what was stored stays.
            Unavailable: when the bus, the store or the launcher does not work.
        """
        workflow = new_workflow(dataset, symbol, start, end, self.settings.collection_template)
        run = _Run(self, workflow, dataset, refresh=refresh)
        await run.save("running")
        try:
            failures = await run.follow()
        except asyncio.CancelledError:
            await asyncio.shield(run.end("cancelled", "stopped before its end"))
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
        self._topic = f"{workflow.queue_id}-data"
        self._seats = [_Seat("arango_connector", "arango-connector"), _Seat(loader, "loader-producer")]
        self._failures: dict[date, str] = {}
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
        self.workflow = self.workflow.moved(state=state, **changes)
        document = self.workflow.model_dump(mode="json")
        await self._owner.store.put_document(WORKFLOWS, self.workflow.queue_id, document)

    async def end(self, state: State, message: str) -> None:
        """Stop what still runs, drop the data topic of a finished workflow, write the last state."""
        for seat in self._seats:
            if seat.telemetry_id:
                await self._owner.launcher.stop(seat.telemetry_id, grace=STOP_GRACE)
        if state != "failed":
            await self._owner.bus.delete(self._topic)
        await self.save(state, message=message, attempts={seat.module: seat.attempt for seat in self._seats})

    async def follow(self) -> dict[date, str]:
        """Start both workers and follow them to their last events."""
        async with contextlib.aclosing(self._events()) as events:
            for seat in self._seats:
                await self._start(seat)
            async for event in events:
                if event is not None:
                    self._hear(event)
                if all(seat.finished for seat in self._seats):
                    return self._failures
                for seat in self._seats:
                    await self._heal(seat)
        raise Unavailable("the event topic ended")

    async def _events(self) -> AsyncGenerator[EventMessage | None]:
        """This workflow's events as they come, and None at least every TICK seconds."""
        group = f"coordinator-{self.workflow.queue_id}"
        async with self._owner.bus.subscribe(EVENTS_TOPIC, group=group, start="latest") as events:
            while True:
                for delivery in await events.receive(timeout=TICK):
                    if delivery.message.key in {"", self.workflow.queue_id}:
                        event = _event_of(delivery.message, self.workflow.queue_id)
                        if event is not None:
                            yield event
                yield None

    async def _start(self, seat: _Seat) -> None:
        seat.attempt += 1
        seat.telemetry_id = f"{seat.target}__{new_suffix()}"
        seat.heard = time.monotonic()
        seat.failure = None
        job = replace(self._job, target=seat.target, telemetry_id=seat.telemetry_id, attempt=seat.attempt)
        await self._command("start", seat)
        await self._owner.launcher.start(WorkerSpec(seat.module, seat.telemetry_id, job.environment()))

    async def _command(self, command: Command, seat: _Seat) -> None:
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
        for seat in self._seats:
            if event.producer != seat.telemetry_id:
                continue
            seat.heard = time.monotonic()
            if event.status == "error":
                seat.failure = event
            elif event.finished:
                seat.finished = event.status == "finished"
                seat.failure = None if seat.finished else event
            extra = event.model_extra or {}
            if event.partition and extra.get("failed"):
                self._failures[event.partition] = event.message
            if seat.module == "arango_connector":
                self.workflow = self.workflow.model_copy(update={"records": event.records_written})

    async def _heal(self, seat: _Seat) -> None:
        if seat.finished:
            return
        failure = seat.failure
        verdict = self._owner.policy.judge(
            quiet=time.monotonic() - seat.heard,
            failed=failure is not None,
            retriable=failure is None or bool((failure.model_extra or {}).get("retriable", True)),
            attempt=seat.attempt,
        )
        if verdict == "healthy":
            return
        cause = failure.message if failure else f"no event for {self._owner.policy.silence:g} s"
        log.warning("%s: %s %s: %s", self.workflow.queue_id, seat.telemetry_id, verdict, cause)
        await self._owner.launcher.stop(seat.telemetry_id, grace=STOP_GRACE)
        if verdict == "give up":
            times = f" (started {seat.attempt} times)" if seat.attempt > 1 else ""
            raise WorkflowFailed(f"{seat.target} failed{times}: {cause}")
        await asyncio.sleep(self._owner.policy.delay(seat.attempt))
        await self._start(seat)


def _event_of(message: Message, queue_id: str) -> EventMessage | None:
    try:
        event = decode_event(message.value)
    except Rejected as error:
        log.warning("ignored: %s", error)
        return None
    return event if event.queue_id == queue_id else None
