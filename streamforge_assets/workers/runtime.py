"""What every worker does besides its work: obey `queue-control`, report on `queue-events`, stop cleanly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from resources.bus.port import Bus, Message, Subscription
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.exchange.port import Exchange
from resources.messages import (
    CONTROL_TOPIC,
    EVENTS_TOPIC,
    ControlMessage,
    EventMessage,
    Status,
    decode_control,
    encode,
)
from resources.settings import Settings
from resources.store.port import Store
from streamforge_assets.workers.job import Job

log = logging.getLogger("streamforge.worker")

HEARTBEAT = 5.0
"""Longest time, in seconds, between two events of a live worker."""

START_LIMIT = 60.0
LAST_EVENT_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world of a worker."""

    settings: Settings
    bus: Bus
    store: Store
    exchange: Exchange


@dataclass
class Reporter:
    """Sends a worker's events and keeps its totals. `stop` is set once the worker is asked to end."""

    bus: Bus
    job: Job
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    records: int = 0
    watermark: str = ""

    async def send(self, status: Status, message: str, *, finished: bool = False, **more: Any) -> None:
        """Publish one event with the totals so far. `more` are optional fields of the event."""
        event = EventMessage(
            queue_id=self.job.queue_id,
            producer=self.job.telemetry_id,
            symbol=self.job.symbol,
            type=self.job.dataset.api_type,
            status=status,
            message=message,
            records_written=self.records,
            finished=finished,
            **({"watermark": self.watermark} if self.watermark else {}),
            **more,
        )
        await self.bus.publish(EVENTS_TOPIC, [Message(encode(event), self.job.queue_id)])

    async def day_done(self, day: date, message: str, **more: Any) -> None:
        """Report that a day is dealt with."""
        self.watermark = day.isoformat()
        await self.send("loading", message, partition=day, **more)


Work = Callable[[Job, Ports, Reporter], Awaitable[str]]
"""A worker's own part. Returns its last message. Ends early, with what is whole, once `reporter.stop` is set."""


async def run_worker(job: Job, ports: Ports, work: Work) -> None:
    """Run one worker from its `start` to its last event.

    Waits for its own `start` on `queue-control` (own consumer group, from the earliest message, because the
    command may be older than the worker), then works until done, stopped (by command or by cancellation,
    which is how a launcher says SIGTERM) or failed. The last event is sent in every case.

    Raises:
        StreamForgeError: whatever ended the work, after it was reported.
    """
    reporter = Reporter(ports.bus, job)
    try:
        async with ports.bus.subscribe(CONTROL_TOPIC, group=job.telemetry_id) as commands:
            await asyncio.wait_for(_own_start(commands, job), START_LIMIT)
            await reporter.send("started", f"{job.target} works on {job.symbol} from {job.start} to {job.end}")
            message = await _work(job, ports, work, reporter, commands)
        status: Status = "interrupted" if reporter.stop.is_set() else "finished"
        await reporter.send(status, message, finished=True)
    except asyncio.CancelledError:
        await _last_event(reporter, "interrupted", "stopped by the launcher")
        raise
    except TimeoutError as error:
        await _last_event(reporter, "error", f"no start command came within {START_LIMIT:.0f} s")
        raise Unavailable(f"{job.telemetry_id}: no start command came within {START_LIMIT:.0f} s") from error
    except StreamForgeError as error:
        await _last_event(reporter, "error", str(error), retriable=not isinstance(error, Rejected))
        raise
    except Exception as error:
        await _last_event(reporter, "error", f"{type(error).__name__}: {error}", retriable=True)
        raise


async def _work(job: Job, ports: Ports, work: Work, reporter: Reporter, commands: Subscription) -> str:
    try:
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(_obey(commands, job, reporter)),
                group.create_task(_beat(reporter, ports.settings)),
            ]
            try:
                return await work(job, ports, reporter)
            finally:
                for helper in helpers:
                    helper.cancel()
    except BaseExceptionGroup as failures:
        # One cause is what a reader needs; the helpers only fail together with it.
        raise failures.exceptions[0] from failures.exceptions[0].__cause__


async def _last_event(reporter: Reporter, status: Status, message: str, **more: Any) -> None:
    sending = asyncio.ensure_future(reporter.send(status, message, finished=True, **more))
    try:
        await asyncio.wait_for(asyncio.shield(sending), LAST_EVENT_LIMIT)
    except (TimeoutError, StreamForgeError) as error:
        # The coordinator sees the silence; the cause itself is in the log and in the raised exception.
        log.warning("%s could not report '%s': %s", reporter.job.telemetry_id, message, error)


async def _own_start(commands: Subscription, job: Job) -> None:
    while True:
        for command in await _commands(commands, job):
            if command.command == "start":
                return


async def _obey(commands: Subscription, job: Job, reporter: Reporter) -> None:
    while True:
        for command in await _commands(commands, job):
            if command.command == "ping":
                await reporter.send("pong", "alive")
            elif command.command == "stop":
                reporter.stop.set()


async def _beat(reporter: Reporter, settings: Settings) -> None:
    while True:
        await asyncio.sleep(min(HEARTBEAT, settings.silence_limit / 3))
        await reporter.send("loading", f"{reporter.records} records")


async def _commands(commands: Subscription, job: Job) -> list[ControlMessage]:
    """The commands for this worker among the next messages; those of others are passed over."""
    mine: list[ControlMessage] = []
    for delivery in await commands.receive(limit=5000):
        if delivery.message.key not in {"", job.queue_id}:
            continue
        try:
            command = decode_control(delivery.message.value)
        except Rejected as error:
            log.warning("ignored: %s", error)
            continue
        addressed = command.queue_id == job.queue_id and command.target == job.target
        if addressed and command.telemetry_id in {"", job.telemetry_id}:
            mine.append(command)
    return mine
