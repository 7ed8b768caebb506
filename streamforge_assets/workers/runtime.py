"""What every worker does besides its work: obey `queue-control`, report on `queue-events`, stop cleanly."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from resources.bus.port import Bus, Message, Start, Subscription, TakenOver
from resources.datasets import Partition, parse_dataset
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
from resources.metrics import ERRORS, LAST_EVENT, Meter
from resources.settings import Settings
from resources.store.port import Store
from streamforge_assets.workers.job import Job

log = logging.getLogger("streamforge.worker")

HEARTBEAT = 5.0
"""Longest time, in seconds, between two events of a live worker."""

START_LIMIT = 60.0
OWN_START_POLL = 0.25
LAST_EVENT_LIMIT = 10.0


class Replaced(StreamForgeError):
    """Raised in a worker that was replaced. No fault of the data, and nothing to try again: it must end."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world of a worker."""

    settings: Settings
    bus: Bus
    store: Store
    exchange: Exchange
    meter: Meter = field(default_factory=Meter)


@dataclass
class Reporter:
    """Sends a worker's events and keeps its totals. `stop` is set once the worker is asked to end."""

    bus: Bus
    job: Job
    meter: Meter
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    records: int = 0
    watermark: str = ""
    lag: int | None = None

    async def send(
        self, status: Status, message: str, *, finished: bool = False, about: Partition | None = None, **more: Any
    ) -> None:
        """Publish one event with the totals so far.

        Args:
            status: of the worker.
            message: for whoever follows it.
            finished: this is its last event.
            about: the partition that the event completes; without one it speaks of the whole job.
            more: optional fields of the event.
        """
        if self.watermark:
            more["watermark"] = self.watermark
        if self.lag is not None:
            more["lag"] = self.lag
        event = EventMessage(
            queue_id=self.job.queue_id,
            producer=self.job.telemetry_id,
            symbol=about.symbol if about else self.job.symbol,
            type=(parse_dataset(about.dataset) if about else self.job.dataset).api_type,
            partition=about.day if about else None,
            status=status,
            message=message,
            records_written=self.records,
            finished=finished,
            **more,
        )
        await self.bus.publish(EVENTS_TOPIC, [Message(encode(event), self.job.queue_id)])
        self.meter.set(LAST_EVENT, event.timestamp)
        log.info("%s", message, extra={"status": status, "records": self.records})

    async def day_done(self, partition: Partition, message: str, **more: Any) -> None:
        """Report that a day is dealt with, in the name of its own dataset and symbol."""
        # The watermark goes with the job's symbol and type, so a day of another dataset does not move it.
        if (partition.dataset, partition.symbol) == (self.job.dataset.name, self.job.symbol):
            self.watermark = partition.day.isoformat()
        if more.get("failed"):
            self.meter.add(ERRORS)
        await self.send("loading", message, about=partition, **more)


Work = Callable[[Job, Ports, Reporter], Awaitable[str]]
"""A worker's own part. Returns its last message. Ends early, with what is whole, once `reporter.stop` is set."""


async def run_worker(
    job: Job,
    ports: Ports,
    work: Work,
    *,
    stop: asyncio.Event | None = None,
    start_limit: float = START_LIMIT,
    commands_from: Start = "earliest",
) -> None:
    """Run one worker from its `start` to its last event.

    Waits for its own `start` on `queue-control` (own consumer group, from the earliest message, because the
    command may be older than the worker), then works until done, stopped (by command, by `stop`, or by
    cancellation, which does not wait for the batch at hand) or failed. The last event is sent in every case but
    one: a second process of the same worker, as a cluster starts when it believes a machine dead, takes the
    commands over and speaks under the name of both from then on.

    Args:
        job: what to do.
        ports: the outside world.
        work: does it.
        stop: set by whoever else may ask for a stop.
        start_limit: seconds to wait for the `start`; 0 begins without one.
        commands_from: `latest` for a worker that nobody announced: older commands meant somebody else.

    Raises:
        Replaced: another process is this worker now.
        StreamForgeError: whatever ended the work, after it was reported.
    """
    reporter = Reporter(ports.bus, job, ports.meter, stop or asyncio.Event())
    try:
        async with ports.bus.subscribe(CONTROL_TOPIC, group=job.telemetry_id, start=commands_from) as commands:
            if await _own_start(commands, job, reporter, start_limit):
                await reporter.send("started", f"{job.target} works on {job.symbol} from {job.start} to {job.end}")
                message = await _work(job, ports, work, reporter, commands)
            else:
                message = "Stopped before it was started"
        status: Status = "interrupted" if reporter.stop.is_set() else "finished"
        await reporter.send(status, message, finished=True)
    except asyncio.CancelledError:
        await _last_event(reporter, "interrupted", "stopped by the launcher")
        raise
    except TakenOver as error:
        raise Replaced(str(error)) from error
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
    if status == "error":
        reporter.meter.add(ERRORS)
    sending = asyncio.ensure_future(reporter.send(status, message, finished=True, **more))
    try:
        await asyncio.wait_for(asyncio.shield(sending), LAST_EVENT_LIMIT)
    except (TimeoutError, StreamForgeError) as error:
        # The coordinator sees the silence; the cause itself is in the log and in the raised exception.
        log.warning("%s could not report '%s': %s", reporter.job.telemetry_id, message, error)


async def _own_start(commands: Subscription, job: Job, reporter: Reporter, limit: float) -> bool:
    """Wait for the own `start`; false when the worker is asked to stop before.

    Raises Unavailable when nothing comes within `limit` seconds.
    """
    if limit == 0:
        return True
    deadline = time.monotonic() + limit
    while not reporter.stop.is_set():
        started = False
        for command in await _commands(commands, job, timeout=OWN_START_POLL):
            started = started or command.command == "start"
            await _carry_out(command, reporter)
        if started:
            return not reporter.stop.is_set()
        if time.monotonic() > deadline:
            raise Unavailable(f"{job.telemetry_id}: no start command came within {limit:.0f} s")
    return False


async def _obey(commands: Subscription, job: Job, reporter: Reporter) -> None:
    while True:
        for command in await _commands(commands, job, timeout=1.0):
            await _carry_out(command, reporter)


async def _carry_out(command: ControlMessage, reporter: Reporter) -> None:
    if command.command == "ping":
        await reporter.send("pong", "alive")
    elif command.command == "stop":
        reporter.stop.set()


async def _beat(reporter: Reporter, settings: Settings) -> None:
    """Say that the worker lives, for as long as its work does.

    Raises Unavailable for work that stands still, such as a write to a disk that does not answer: the heartbeat
    alone would keep it from being replaced for ever. Waiting for others is done in short steps, so it is none.
    """
    while True:
        await asyncio.sleep(min(HEARTBEAT, settings.silence_limit / 3))
        still = reporter.meter.standstill()
        where = f"{still:.0f} s ({', '.join(reporter.meter.stages) or 'in no stage'})"
        if still >= settings.stall_limit:
            raise Unavailable(f"{reporter.job.telemetry_id} has stood still for {where}")
        since = f", nothing new for {where}" if still >= settings.silence_limit else ""
        await reporter.send("loading", f"{reporter.records} records{since}")


async def _commands(commands: Subscription, job: Job, *, timeout: float) -> list[ControlMessage]:
    """The commands for this worker among the next messages; those of others are passed over."""
    mine: list[ControlMessage] = []
    for delivery in await commands.receive(limit=5000, timeout=timeout):
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
