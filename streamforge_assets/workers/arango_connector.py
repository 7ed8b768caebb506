"""The connector: writes a workflow's data topic to the store, and computes the ledger of each day.

Pages of history are gathered to whole days, live rows to batches by size and time. Offsets are committed only
after the write, so one that dies loses nothing. Every write is an upsert, so what comes again changes nothing.
"""

from __future__ import annotations

import contextlib

from resources.bus.port import Delivery
from resources.errors import Rejected, Unavailable
from resources.metrics import BYTES
from streamforge_assets.workers.day_writer import DayWriter
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.patience import Patience
from streamforge_assets.workers.place import Place
from streamforge_assets.workers.row_writer import RowWriter
from streamforge_assets.workers.runtime import Ports, Reporter

FOLLOWS_AN_END = 0.2


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
        place = Place(job, ports, reporter, messages, patience)
        rows = RowWriter(place)
        async with contextlib.aclosing(DayWriter(place)) as days:
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


async def _take(delivery: Delivery, place: Place, days: DayWriter, rows: RowWriter) -> bool:
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


if __name__ == "__main__":
    from streamforge_assets.workers.main import main

    main(connect)
