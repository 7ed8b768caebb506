"""The connector's hand for pages of history: gathers them to whole days, and computes the ledger of each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from resources.bus.port import Delivery, Message
from resources.datasets import Partition
from resources.dead_letters import REPLAYED, SUFFIX
from resources.errors import Rejected
from resources.metrics import BATCHES, RECORDS
from resources.pages import DayReport, decode_day, decode_page, page_number, page_partition
from resources.store.port import Ingest
from streamforge_assets.workers.assessment import assess
from streamforge_assets.workers.place import Place
from streamforge_assets.workers.runtime import log


class DayWriter:
    """Pages of history: one open day at a time. A message of an older loader than the newest seen is ignored.

    A day counts only with all the pages that its loader has sent: ids that follow each other do not show that the
    first or the last ones are missing.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._job = place.job
        self._ports = place.ports
        self._attempt = place.job.fence
        self._open: tuple[Partition, Ingest] | None = None
        self._stack = contextlib.AsyncExitStack()
        self._pending_rows = 0
        self._pages: set[int] = set()

    @property
    def open(self) -> bool:
        """Whether a day has begun that is not stored yet."""
        return self._open is not None

    async def aclose(self) -> None:
        await self._stack.aclose()
        self._open = None
        self._pages.clear()

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
        if REPLAYED in message.headers:
            # In the middle of another day it would end that one, and pass for a day of its own.
            day = page_partition(message)
            raise Rejected(f"a {kind} that was set aside cannot be put back into its day; collect {day} again")
        await steps[kind]()
        return False

    async def _append(self, message: Message) -> None:
        partition, number = page_partition(message), page_number(message)
        with self._ports.meter.stage("write"):
            rows = await asyncio.to_thread(decode_page, message)
            ingest = await self._ingest(partition, replace=False)
            await ingest.append(rows)
        self._pending_rows += rows.num_rows
        if number is not None:
            self._pages.add(number)

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
        if failure := report.failure or self._incomplete(partition, report):
            await self.aclose()
            await reporter.day_done(partition, failure, failed=True)
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
        await reporter.day_done(partition, f"Wrote {rows} records", rows=rows)
        await self._place.commit(delivery)

    def _incomplete(self, partition: Partition, report: DayReport) -> str:
        """The sentence why the day cannot be stored; empty when all its pages are here."""
        mine = self._pages if self._open is not None and self._open[0] == partition else set()
        wanted = report.pages or 0
        lacking = wanted - sum(number < wanted for number in mine)
        if lacking <= 0:
            return ""
        return (
            f"{partition}: {lacking} of its {wanted} pages could not be used; collect it again, and"
            f" see {self._place.route.topic}{SUFFIX} for what was wrong"
        )


def _attempt_of(message: Message) -> int:
    try:
        return int(message.headers.get("attempt", "1"))
    except ValueError as error:
        raise Rejected(f"a data message does not say which loader sent it: {error}") from error
