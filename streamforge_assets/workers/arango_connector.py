"""The connector: writes a workflow's data topic to the store, and computes the ledger of each day.

Pages of history are gathered to whole days, live rows to batches by size and time. Offsets are committed only
after the write, so one that dies loses nothing. Every write is an upsert, so what comes again changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from resources.bus.port import Delivery, Message, Subscription
from resources.datasets import Partition
from resources.dead_letters import set_aside
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.live_rows import decode_row
from resources.metrics import BATCHES, BYTES, DEAD_LETTERS, LAG, RECORDS
from resources.pages import decode_day, decode_page, page_partition
from resources.store.port import Ingest
from streamforge_assets.workers.assessment import assess
from streamforge_assets.workers.documents import Document, store_writer, write_all
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.patience import Patience
from streamforge_assets.workers.runtime import Ports, Reporter, log

FOLLOWS_AN_END = 0.2
LAG_EVERY = 1.0

BATCH_ROWS = 3000
BATCH_SECONDS = 0.5
"""A batch of live rows is written once it has so many, or its first row has waited so long."""


async def connect(job: Job, ports: Ports, reporter: Reporter) -> str:
    """Write what comes until the loader's end message, or until asked to stop.

    A bus or a store that does not answer is borne with for a while. What was not committed then comes again.
    """
    patience = Patience(ports.meter, reporter.stop)
    while True:
        try:
            return await _follow(job, ports, reporter, patience)
        except Unavailable as error:
            if reporter.stop.is_set():
                return f"Stopped after {reporter.records} records; the store or the bus does not answer: {error}"
            await patience.bear(error)


async def _follow(job: Job, ports: Ports, reporter: Reporter, patience: Patience) -> str:
    async with ports.bus.subscribe(job.topic, group=job.connector_group) as messages:
        place = _Place(job, ports, reporter, messages, patience)
        rows = _RowWriter(place)
        async with contextlib.aclosing(_DayWriter(place)) as days:
            while not reporter.stop.is_set():
                with ports.meter.stage("receive"):
                    deliveries = await messages.receive(limit=64 if days.open else 500, timeout=FOLLOWS_AN_END)
                for delivery in deliveries:
                    ports.meter.add(BYTES, len(delivery.message.value))
                    if await _take(delivery, place, days, rows):
                        return f"Wrote {reporter.records} records"
                if rows.due():
                    await rows.flush(commit=not days.open)
                await place.measure()
            await rows.flush(commit=not days.open)
    return f"Stopped after {reporter.records} records"


async def _take(delivery: Delivery, place: _Place, days: _DayWriter, rows: _RowWriter) -> bool:
    """Deal with one message; true when it was the last one."""
    kind = delivery.message.headers.get("kind")
    try:
        if kind == "row":
            rows.add(delivery)
            return False
        if rows.waiting:
            await rows.flush(commit=not days.open)
        return await days.take(delivery, kind)
    except Rejected as error:
        await place.set_aside(delivery, error)
    return False


class _Place:
    """A connector's place in its topic, and what it says about it."""

    def __init__(
        self, job: Job, ports: Ports, reporter: Reporter, messages: Subscription, patience: Patience
    ) -> None:
        self.job = job
        self.ports = ports
        self.reporter = reporter
        self.patience = patience
        self._messages = messages
        self._measured = 0.0

    async def require(self, delivery: Delivery) -> None:
        """Raises _Replaced when another connector has gone on from here: this one must not write any more."""
        committed = await self.ports.bus.committed(self.job.topic, group=self.job.connector_group)
        if committed.get(delivery.partition, 0) > delivery.offset:
            raise _Replaced(f"{self.job.telemetry_id}: another connector has gone on from here; this one must end")

    async def commit(self, delivery: Delivery) -> None:
        """Record that everything up to `delivery` is written. Raises _Replaced when the place was taken over."""
        try:
            await self._messages.commit(delivery)
        except Rejected as error:
            raise _Replaced(str(error)) from error
        self.patience.succeeded()

    async def set_aside(self, delivery: Delivery, error: Rejected) -> None:
        """Put a message that cannot be read or stored into the dead-letter topic; the rest goes on."""
        await set_aside(self.ports.bus, delivery, error, by=self.job.telemetry_id)
        self.ports.meter.add(DEAD_LETTERS)
        await self.reporter.send("loading", f"Set a message aside: {error}", set_aside=1)

    async def measure(self) -> None:
        """Keep the lag up to date: the messages that are in the topic and not committed."""
        now = time.monotonic()
        if now - self._measured < LAG_EVERY:
            return
        self._measured = now
        ends = await self.ports.bus.end_offsets(self.job.topic)
        done = await self.ports.bus.committed(self.job.topic, group=self.job.connector_group)
        lag = sum(max(0, end - done.get(partition, 0)) for partition, end in ends.items())
        self.reporter.lag = lag
        self.ports.meter.set(LAG, lag)


class _Replaced(StreamForgeError):
    """Raised in a connector that was replaced. No fault of the data, and nothing to try again: it must end."""


class _RowWriter:
    """Live rows, gathered to batches. Of a batch only the documents that are wrong are set aside."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._write = store_writer(place.ports.store)
        self._documents: list[Document] = []
        self._last: dict[int, Delivery] = {}
        self._since = 0.0

    @property
    def waiting(self) -> bool:
        """Whether there are rows that are not written yet."""
        return bool(self._documents)

    def due(self) -> bool:
        """Whether the batch is to be written now."""
        full = len(self._documents) >= BATCH_ROWS
        return self.waiting and (full or time.monotonic() - self._since >= BATCH_SECONDS)

    def add(self, delivery: Delivery) -> None:
        """Take a row in. Raises Rejected for a message that is none."""
        dataset, row = decode_row(delivery.message)
        if not self._documents:
            self._since = time.monotonic()
        self._documents.append(Document(dataset, row, delivery))
        self._last[delivery.partition] = delivery

    async def flush(self, *, commit: bool) -> None:
        """Write the batch, set aside what is wrong in it, and commit it unless a day before it is still open."""
        if not self._documents:
            return
        documents, self._documents = self._documents, []
        last, self._last = self._last, {}
        await self._place.require(documents[0].delivery)
        with self._place.ports.meter.stage("write"):
            wrong = await write_all(documents, self._write, self._place.patience)
        for document, error in wrong:
            await self._place.set_aside(document.delivery, error)
        self._place.reporter.records += len(documents) - len(wrong)
        self._place.ports.meter.add(RECORDS, len(documents) - len(wrong))
        self._place.ports.meter.add(BATCHES)
        if commit:
            for delivery in last.values():
                await self._place.commit(delivery)


class _DayWriter:
    """Pages of history: one open day at a time. A message of an older loader than the newest seen is ignored."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._job = place.job
        self._ports = place.ports
        self._attempt = place.job.fence
        self._open: tuple[Partition, Ingest] | None = None
        self._stack = contextlib.AsyncExitStack()
        self._pending_rows = 0

    @property
    def open(self) -> bool:
        """Whether a day has begun that is not stored yet."""
        return self._open is not None

    async def aclose(self) -> None:
        await self._stack.aclose()
        self._open = None

    async def take(self, delivery: Delivery, kind: str | None) -> bool:
        """Deal with one message; true when it was the last one. Raises Rejected when it cannot be read."""
        message = delivery.message
        attempt = _attempt_of(message)
        if attempt < self._attempt:
            return False
        if attempt > self._attempt:
            await self.aclose()
            self._attempt = attempt
        if kind == "end":
            return True
        steps: dict[str | None, Callable[[], Awaitable[None]]] = {
            "page": lambda: self._append(message),
            "reset": self.aclose,
            "day": lambda: self._close_day(delivery),
        }
        if kind not in steps:
            raise Rejected(f"a data message is of the unknown kind {kind!r}")
        await steps[kind]()
        return False

    async def _append(self, message: Message) -> None:
        partition = page_partition(message)
        with self._ports.meter.stage("write"):
            rows = await asyncio.to_thread(decode_page, message)
            ingest = await self._ingest(partition, replace=False)
            await ingest.append(rows)
        self._pending_rows += rows.num_rows

    async def _ingest(self, partition: Partition, *, replace: bool) -> Ingest:
        if self._open is not None and self._open[0] != partition:
            log.warning("%s was left unfinished by its loader", self._open[0])
            await self.aclose()
        if self._open is None:
            self._stack = contextlib.AsyncExitStack()
            replace = replace or self._job.refresh
            ingest = await self._stack.enter_async_context(self._ports.store.ingest(partition, replace=replace))
            self._open = (partition, ingest)
            self._pending_rows = 0
        return self._open[1]

    async def _close_day(self, delivery: Delivery) -> None:
        partition = page_partition(delivery.message)
        report = decode_day(delivery.message)
        reporter = self._place.reporter
        if report.failure:
            await self.aclose()
            await reporter.day_done(partition.day, report.failure, failed=True)
            await self._place.commit(delivery)
            return
        await self._place.require(delivery)
        began = time.perf_counter()
        with self._ports.meter.stage("commit"):
            ingest = await self._ingest(partition, replace=report.replace)
            stored = await ingest.commit()
        rows = self._pending_rows
        await self.aclose()
        with self._ports.meter.stage("examine"):
            entry = await assess(self._ports.store, stored, report)
            entry = entry.model_copy(update={"seconds": report.seconds + time.perf_counter() - began})
            await self._ports.store.record([entry])
        self._ports.meter.add(RECORDS, rows)
        self._ports.meter.add(BATCHES)
        reporter.records += rows
        await reporter.day_done(partition.day, f"Wrote {rows} records", rows=rows)
        await self._place.commit(delivery)


def _attempt_of(message: Message) -> int:
    try:
        return int(message.headers.get("attempt", "1"))
    except ValueError as error:
        raise Rejected(f"a data message does not say which loader sent it: {error}") from error


if __name__ == "__main__":
    from streamforge_assets.workers.main import main

    main(connect)
