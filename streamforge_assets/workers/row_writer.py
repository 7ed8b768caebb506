"""The connector's hand for live rows: gathers them to batches by size and time."""

from __future__ import annotations

import time

from resources.bus.port import Delivery
from resources.live_rows import decode_row
from resources.metrics import BATCHES, RECORDS
from streamforge_assets.workers.documents import Document, store_writer, write_all
from streamforge_assets.workers.place import Place

BATCH_ROWS = 3000
BATCH_SECONDS = 0.5
"""A batch of live rows is written once it has so many, or its first row has waited so long."""


class RowWriter:
    """Live rows, gathered to batches. Of a batch only the documents that are wrong are set aside."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._write = store_writer(place.ports.store)
        self._documents: list[Document] = []
        self._first: dict[int, Delivery] = {}
        self._last: dict[int, Delivery] = {}
        self._since = 0.0

    @property
    def waiting(self) -> bool:
        """Whether there are rows that are not written yet."""
        return bool(self._documents)

    @property
    def full(self) -> bool:
        """Whether the batch may not grow any more."""
        return len(self._documents) >= BATCH_ROWS

    def due(self) -> bool:
        """Whether the batch is to be written now."""
        return self.full or (self.waiting and time.monotonic() - self._since >= BATCH_SECONDS)

    def add(self, delivery: Delivery) -> None:
        """Take a row in. Raises Rejected for a message that is none."""
        dataset, row = decode_row(delivery.message)
        if not self._documents:
            self._since = time.monotonic()
        self._documents.append(Document(dataset, row, delivery))
        self._first.setdefault(delivery.partition, delivery)
        self._last[delivery.partition] = delivery

    def skip(self, delivery: Delivery) -> None:
        """Have a message that was dealt with otherwise committed with the batch that waits."""
        self._last[delivery.partition] = delivery

    async def flush(self, *, commit: bool) -> None:
        """Write the batch, set aside what is wrong in it, and commit it unless a day before it is still open."""
        if not self._documents:
            return
        documents, self._documents = self._documents, []
        first, self._first = self._first, {}
        last, self._last = self._last, {}
        await self._place.require(*first.values())
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
