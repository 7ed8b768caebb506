"""What both history loaders share: days in order, files fetched ahead, pages published, a word on each day."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol

import pyarrow as pa

from resources.bus.port import Message
from resources.datasets import DAY, Partition
from resources.errors import Rejected, Unavailable
from resources.exchange.port import ArchiveFile
from resources.ledger import LedgerEntry
from resources.metrics import BATCHES, BYTES, RECORDS
from resources.pages import DayReport, day_message, encode_pages, end_message, reset_message
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.runtime import Ports, Reporter, log

DAYS_AHEAD = 4
"""Days that a loader may be ahead of what the connector has stored."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two looks at what is stored: each is a few requests to the brokers."""


@dataclass
class Day:
    """A day on its way: where its rows go, and the archive's file of it if there is one.

    `previous_last` is the position of the last row of the day before, where that is known to be the last;
    `last` is left by whoever loads this day, for the next. `published` rows are in so many `pages`.
    """

    partition: Partition
    file: ArchiveFile | None
    file_problem: str
    job: Job
    ports: Ports
    previous_last: int | None = None
    last: int | None = None
    published: int = 0
    pages: int = 0

    async def publish(self, rows: pa.Table) -> None:
        """Send rows to the connector."""
        meter = self.ports.meter
        with meter.stage("encode"):
            pages = await asyncio.to_thread(list, encode_pages(rows, self.partition, self.job.attempt, self.pages))
        if pages:
            with meter.stage("publish"):
                await self.ports.bus.publish(self.job.topic, pages)
            meter.add(BATCHES)
            meter.add(RECORDS, rows.num_rows)
            meter.add(BYTES, sum(len(page.value) for page in pages))
        self.published += rows.num_rows
        self.pages += len(pages)

    async def restart(self) -> None:
        """Take back what was published of this day."""
        await self.ports.bus.publish(self.job.topic, [reset_message(self.partition, self.job.attempt)])
        self.published = self.pages = 0

    async def archive_tables(self) -> AsyncIterator[pa.Table]:
        """The tables of the archive's file, parsed in a thread, one ahead. Raises Rejected as the file does."""
        if self.file is None:
            return
        tables = iter(self.file.tables())
        ahead = asyncio.ensure_future(asyncio.to_thread(next, tables, None))
        try:
            while (table := await ahead) is not None:
                ahead = asyncio.ensure_future(asyncio.to_thread(next, tables, None))
                yield table
        finally:
            ahead.cancel()
            with contextlib.suppress(asyncio.CancelledError, Rejected):
                await ahead


class LoadDay(Protocol):
    """Publishes the rows of one day and returns the loader's word on it, without the timing."""

    async def __call__(self, day: Day) -> DayReport: ...


async def load_days(job: Job, ports: Ports, reporter: Reporter, load_day: LoadDay) -> str:
    """Load every day of the job that is not stored complete already, oldest first.

    A day that cannot be loaded is reported with its sentence, and the others go on.
    """
    if job.more_routes:
        raise Rejected(f"a loader publishes to one topic; KAFKA_TOPIC names {len(job.routes)}")
    known = {entry.day: entry for entry in await _ledger(job, ports)}
    todo = [p for p in job.partitions if not await _is_done(p, known.get(p.day), job, ports)]
    for partition in set(job.partitions) - set(todo):
        await reporter.day_done(partition, "stored already", stored=True)
    limits = await _limits(job, ports) if todo else None
    last: Day | None = None
    async with (
        contextlib.aclosing(_Pace(job, ports, reporter.stop)) as pace,
        contextlib.aclosing(_days(todo, job, ports, known)) as arriving,
    ):
        async for day in arriving:
            if last is not None and last.partition.end == day.partition.start:
                day.previous_last = last.last
            last = day
            if reporter.stop.is_set():
                return f"Stopped before {day.partition.day}"
            began = time.perf_counter()
            report = await _load(day, load_day, limits)
            seconds = time.perf_counter() - began
            report = report.model_copy(update={"seconds": seconds, "replace": job.refresh, "pages": day.pages})
            await pace.publish(day_message(report, day.partition, job.attempt))
            reporter.records += day.published
    await ports.bus.publish(job.topic, [end_message(job.partitions[-1], job.attempt)])
    return f"Loaded {reporter.records} records of {len(todo)} days"


@dataclass(frozen=True, slots=True)
class _Limits:
    """Between which moments the symbol has data; None where the exchange could not be asked."""

    listed: datetime | None
    now: datetime | None


async def _limits(job: Job, ports: Ports) -> _Limits:
    try:
        return _Limits(await ports.exchange.first_trade(job.symbol), await ports.exchange.now())
    except Unavailable:
        return _Limits(None, None)


async def _load(day: Day, load_day: LoadDay, limits: _Limits | None) -> DayReport:
    partition = day.partition
    if limits and limits.now and partition.end > limits.now:
        return DayReport(failure=f"{partition.day} is not over on the exchange; ask for it tomorrow")
    if limits and limits.listed and partition.end <= limits.listed:
        first = limits.listed.date()
        return DayReport(failure=f"{partition.symbol} was listed on {first}; ask from that day on")
    try:
        return await load_day(day)
    except Rejected as error:
        return DayReport(failure=f"{partition}: {error}")


async def _ledger(job: Job, ports: Ports) -> list[LedgerEntry]:
    start = job.start - DAY
    return await ports.store.ledger(job.dataset.name, job.symbol, start, job.end)


async def _is_done(partition: Partition, entry: LedgerEntry | None, job: Job, ports: Ports) -> bool:
    if entry is None or not entry.complete:
        return False
    if not job.refresh:
        return True
    published = await ports.exchange.archive_checksum(job.dataset, partition.symbol, partition.day)
    return published is not None and published == entry.source_checksum and not entry.accepted_by


async def _days(
    todo: Sequence[Partition], job: Job, ports: Ports, known: dict[date, LedgerEntry]
) -> AsyncGenerator[Day]:
    """The days to load, in order, each with its archive file; the next files are fetched meanwhile."""
    waiting: deque[tuple[Partition, _File]] = deque()
    coming = iter(todo)
    try:
        while True:
            for partition in coming:
                waiting.append((partition, _File(partition, job, ports)))
                if len(waiting) > ports.settings.downloads:
                    break
            if not waiting:
                return
            partition, fetched = waiting.popleft()
            try:
                await fetched.ready()
                before = known.get(partition.day - DAY)
                previous = before.last_position if before and before.complete else None
                yield Day(partition, fetched.file, fetched.problem, job, ports, previous)
            finally:
                await fetched.close()
    finally:
        for _, fetched in waiting:
            await fetched.close()


class _File:
    """An archive file that is being fetched; `close` ends or removes it."""

    def __init__(self, partition: Partition, job: Job, ports: Ports) -> None:
        self.file: ArchiveFile | None = None
        self.problem = ""
        self._partition = partition
        self._meter = ports.meter
        self._stack = contextlib.AsyncExitStack()
        self._opening = ports.exchange.archive_file(job.dataset, partition.symbol, partition.day)
        self._task = asyncio.ensure_future(self._fetch())

    async def _fetch(self) -> None:
        try:
            self.file = await self._stack.enter_async_context(self._opening)
        except (Rejected, Unavailable) as error:
            # REST is the second source; only if it fails too is this the day's failure.
            self.problem = str(error)
            log.warning("%s: the archive's file cannot be used: %s", self._partition, error)

    async def ready(self) -> None:
        """Wait until it is there, or cannot be had.

        In short steps, because a large file on a slow line is no standstill: the exchange's client has its own
        limits for a server that falls silent.
        """
        while not self._task.done():
            with self._meter.stage("fetch"):
                await asyncio.wait([self._task], timeout=LONGEST_PAUSE)
        await self._task

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._stack.aclose()


@dataclass
class _Pace:
    """Keeps the loader at most DAYS_AHEAD days ahead of the connector, so that the bus stays small."""

    job: Job
    ports: Ports
    stop: asyncio.Event
    ends: deque[asyncio.Task[int]] = field(default_factory=deque)

    async def publish(self, message: Message) -> None:
        """Close a day, and wait while too many of those before it are not stored."""
        await self.ports.bus.publish(self.job.topic, [message])
        # Beside the next day's work: on a slow network each question takes long. A late answer is a later offset.
        self.ends.append(asyncio.create_task(self._end()))
        pause = FIRST_PAUSE
        while len(self.ends) > DAYS_AHEAD and not self.stop.is_set():
            with self.ports.meter.stage("wait"):
                if await self._stored() >= await self.ends[0]:
                    self.ends.popleft()
                    pause = FIRST_PAUSE
                else:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)

    async def aclose(self) -> None:
        """Ask for nothing more."""
        for asking in self.ends:
            asking.cancel()
        await asyncio.gather(*self.ends, return_exceptions=True)

    async def _end(self) -> int:
        return sum((await self.ports.bus.end_offsets(self.job.topic)).values())

    async def _stored(self) -> int:
        return sum((await self.ports.bus.committed(self.job.topic, group=self.job.connector_group)).values())
