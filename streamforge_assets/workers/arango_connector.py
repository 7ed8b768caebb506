"""The connector: writes a workflow's data topic to the store, day by day, and computes the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from resources.bus.port import Delivery, Message, Subscription
from resources.datasets import Dataset, Partition, parse_dataset
from resources.errors import Rejected
from resources.ledger import LedgerEntry, Span
from resources.pages import DayReport, decode_day, decode_page, page_partition
from resources.store.port import Ingest, Store, Stored
from streamforge_assets.market.completeness import IdScan, bounded, grid, missing_candles, subtract
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.runtime import Ports, Reporter, log

FOLLOWS_AN_END = 0.2


async def connect(job: Job, ports: Ports, reporter: Reporter) -> str:
    """Write days until the loader's end message. Commits an offset only after the day before it is stored."""
    writer = _DayWriter(job, ports, reporter)
    async with (
        contextlib.aclosing(writer),
        ports.bus.subscribe(job.topic, group=job.connector_group) as pages,
    ):
        while not reporter.stop.is_set():
            for delivery in await pages.receive(limit=64, timeout=FOLLOWS_AN_END):
                if await writer.take(delivery, pages):
                    return f"Wrote {reporter.records} records"
    return f"Stopped after {reporter.records} records"


class _DayWriter:
    """One open day at a time. A message of an older loader than the newest seen is ignored."""

    def __init__(self, job: Job, ports: Ports, reporter: Reporter) -> None:
        self._job = job
        self._ports = ports
        self._reporter = reporter
        self._attempt = 0
        self._open: tuple[Partition, Ingest] | None = None
        self._stack = contextlib.AsyncExitStack()
        self._pending_rows = 0

    async def aclose(self) -> None:
        await self._stack.aclose()
        self._open = None

    async def take(self, delivery: Delivery, pages: Subscription) -> bool:
        """Deal with one message; true when it was the last one."""
        message = delivery.message
        attempt = int(message.headers.get("attempt", "1"))
        if attempt < self._attempt:
            return False
        if attempt > self._attempt:
            await self.aclose()
            self._attempt = attempt
        kind = message.headers.get("kind")
        try:
            if kind == "end":
                return True
            if kind == "page":
                await self._append(message)
            elif kind == "reset":
                await self.aclose()
            elif kind == "day":
                await self._close_day(message)
                await pages.commit(delivery)
            else:
                raise Rejected(f"a data message is of the unknown kind {kind!r}")
        except Rejected as error:
            await self._set_aside(delivery, error)
        return False

    async def _append(self, message: Message) -> None:
        partition = page_partition(message)
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

    async def _close_day(self, message: Message) -> None:
        partition = page_partition(message)
        report = decode_day(message)
        if report.failure:
            await self.aclose()
            await self._reporter.day_done(partition.day, report.failure, failed=True)
            return
        began = time.perf_counter()
        ingest = await self._ingest(partition, replace=report.replace)
        stored = await ingest.commit()
        rows = self._pending_rows
        await self.aclose()
        entry = await assess(self._ports.store, stored, report)
        entry = entry.model_copy(update={"seconds": report.seconds + time.perf_counter() - began})
        await self._ports.store.record([entry])
        self._reporter.records += rows
        await self._reporter.day_done(partition.day, f"Wrote {rows} records", rows=rows)

    async def _set_aside(self, delivery: Delivery, error: Rejected) -> None:
        """Put a message that cannot be read into the dead-letter topic; the rest goes on."""
        headers = {
            **delivery.message.headers,
            "reason": str(error),
            "source-topic": delivery.topic,
            "source-partition": str(delivery.partition),
            "source-offset": str(delivery.offset),
        }
        aside = Message(delivery.message.value, delivery.message.key, headers)
        await self._ports.bus.publish(f"{delivery.topic}.dlq", [aside])
        await self._reporter.send("loading", f"Set a message aside: {error}", set_aside=1)


async def assess(store: Store, stored: Stored, report: DayReport) -> LedgerEntry:
    """Compute a partition's ledger entry from its stored rows and what the loader knows about its holes."""
    partition = stored.partition
    dataset = parse_dataset(partition.dataset)
    scan = _assess_candles if dataset.interval else _assess_trades
    entry = await scan(store, partition, dataset, report)
    return entry.model_copy(
        update={
            "source": report.source,
            "source_checksum": report.source_checksum,
            "bytes": stored.bytes,
            "seconds": report.seconds,
            "start_proof": report.start_proof,
            "end_proof": report.end_proof,
            "version": stored.version,
        }
    )


async def _assess_trades(store: Store, partition: Partition, _: Dataset, report: DayReport) -> LedgerEntry:
    ids = IdScan()
    first = last = None
    async for batch in store.scan(partition, ["trade_id", "time"]):
        if batch.num_rows:
            ids.feed(batch.column("trade_id").to_numpy())
            first = first or batch.column("time")[0].as_py()
            last = batch.column("time")[-1].as_py()
    missing = [span for span in (*ids.holes, *report.edge_missing) if span.count]
    return LedgerEntry(
        **_identity(partition),
        rows=ids.rows,
        expected=ids.rows + sum(span.count for span in missing),
        missing=bounded(sorted(missing, key=lambda span: span.first)),
        first_time=first,
        last_time=last,
        first_position=ids.first,
        last_position=ids.last,
    )


async def _assess_candles(store: Store, partition: Partition, dataset: Dataset, report: DayReport) -> LedgerEntry:
    batches = [batch async for batch in store.scan(partition, ["open_time"])]
    table = pa.Table.from_batches(batches) if batches else None
    times = table["open_time"].cast(pa.int64()).to_numpy() // 1000 if table else np.empty(0, np.int64)
    step = int(dataset.step.total_seconds() * 1000)
    gaps: list[Span] = missing_candles(times, partition, dataset)
    missing = subtract(gaps, report.explained, step)
    explained = [run for run in report.explained if len(subtract([run], gaps, step)) == 0]
    return LedgerEntry(
        **_identity(partition),
        rows=len(times),
        expected=len(grid(partition, dataset)),
        missing=bounded(missing),
        explained=bounded(explained),
        first_time=table["open_time"][0].as_py() if table and len(times) else None,
        last_time=table["open_time"][-1].as_py() if table and len(times) else None,
        first_position=int(times[0]) if len(times) else None,
        last_position=int(times[-1]) if len(times) else None,
    )


def _identity(partition: Partition) -> dict[str, object]:
    return {
        "dataset": partition.dataset,
        "symbol": partition.symbol,
        "day": partition.day,
        "written_at": datetime.now(UTC),
    }
