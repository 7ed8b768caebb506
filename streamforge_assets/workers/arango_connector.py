"""The connector: writes data topics to the store, each into its collection, and computes the ledger of each day.

Pages of history are gathered to whole days, live rows to batches by size and time. Offsets are committed only
after the write, so one that dies loses nothing. Every write is an upsert, so what comes again changes nothing.

A workflow has one topic. KAFKA_TOPIC and COLLECTION_NAME may name several, in pairs; all are served at the same
time and none waits for another.
"""

from __future__ import annotations

import asyncio
import contextlib

from resources.bus.port import Delivery
from resources.errors import Rejected, Unavailable
from resources.metrics import BYTES
from streamforge_assets.workers.day_writer import DayWriter
from streamforge_assets.workers.job import Job, Route
from streamforge_assets.workers.patience import Patience
from streamforge_assets.workers.place import Lags, Place
from streamforge_assets.workers.row_writer import RowWriter
from streamforge_assets.workers.runtime import Ports, Reporter

FOLLOWS_AN_END = 0.2


async def connect(job: Job, ports: Ports, reporter: Reporter) -> str:
    """Write what comes until every topic's end message, or until asked to stop.

    A bus or a store that does not answer is borne with for a while. What was not committed then comes again. A
    topic that cannot be served any longer ends the others too: whoever replaces this connector goes on with all.
    """
    lags = Lags(job, ports, reporter)
    try:
        async with asyncio.TaskGroup() as group:
            topics = [group.create_task(_serve(route, job, ports, reporter, lags)) for route in job.routes]
    except BaseExceptionGroup as failures:
        # One cause is what a reader needs; the other topics were only ended with it.
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
    stops = [stop for topic in topics if (stop := topic.result()) is not None]
    if not stops:
        return f"Wrote {reporter.records} records"
    trouble = next((f"; {stop}" for stop in stops if stop), "")
    return f"Stopped after {reporter.records} records{trouble}"


async def _serve(route: Route, job: Job, ports: Ports, reporter: Reporter, lags: Lags) -> str | None:
    """Write one topic. None when its end message came; else a stop came first, and in which trouble, if any."""
    patience = Patience(ports.meter, reporter.stop)
    while True:
        try:
            async with ports.bus.subscribe(route.topic, group=job.connector_group) as messages:
                place = Place(route, job, ports, reporter, messages, patience, lags)
                async with place.measured():
                    ended = await _follow(place)
        except Unavailable as error:
            if reporter.stop.is_set():
                return f"the store or the bus does not answer: {error}"
            await patience.bear(error)
            continue
        if ended:
            lags.tell(route.topic, 0)
        return None if ended else ""


async def _follow(place: Place) -> bool:
    """Deal with what comes; true when the end message came, false when a stop came first."""
    ports, stop = place.ports, place.reporter.stop
    rows = RowWriter(place)
    async with contextlib.aclosing(DayWriter(place)) as days:
        while not stop.is_set():
            with ports.meter.stage("receive"):
                deliveries = await place.receive(limit=64 if days.open else 500, timeout=FOLLOWS_AN_END)
            for delivery in deliveries:
                ports.meter.add(BYTES, len(delivery.message.value))
                if await _take(delivery, place, days, rows):
                    return True
            if rows.due():
                await rows.flush(commit=not days.open)
        await rows.flush(commit=not days.open)
    return False


async def _take(delivery: Delivery, place: Place, days: DayWriter, rows: RowWriter) -> bool:
    """Deal with one message; true when it was the last one."""
    kind = delivery.message.headers.get("kind")
    try:
        if kind == "row":
            rows.add(delivery)
            if rows.full:
                await rows.flush(commit=not days.open)
            return False
        if rows.waiting:
            await rows.flush(commit=not days.open)
        return await days.take(delivery, kind)
    except Rejected as error:
        await place.require(delivery)
        await place.set_aside(delivery, error)
        if rows.waiting:
            rows.skip(delivery)
        elif not days.open:
            await place.commit(delivery)
    return False


if __name__ == "__main__":
    from streamforge_assets.workers.main import main

    main(connect)
