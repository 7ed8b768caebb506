"""A progress bar that follows `queue-events`, whoever does the work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

from tqdm.auto import tqdm

from resources.bus import open_bus
from resources.datasets import Partition
from resources.errors import Rejected
from resources.messages import EVENTS_TOPIC, EventMessage, decode_event
from resources.settings import Settings
from streamforge_assets.workflow.states import new_suffix


@contextlib.asynccontextmanager
async def watch(settings: Settings, hear: Callable[[EventMessage], None]) -> AsyncIterator[None]:
    """Call `hear` for every event from now on, until the context is left."""
    async with (
        open_bus(settings) as bus,
        bus.subscribe(EVENTS_TOPIC, group=f"progress-{new_suffix()}", start="latest") as events,
    ):

        async def follow() -> None:
            while True:
                for delivery in await events.receive(timeout=0.5):
                    with contextlib.suppress(Rejected):  # the coordinator reports messages that cannot be read
                        hear(decode_event(delivery.message.value))

        task = asyncio.ensure_future(follow())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class PartitionBar:
    """Counts partitions that are dealt with; shows rate, time left, and rows so far. Goes to stderr."""

    def __init__(self, partitions: Iterable[Partition], *, shown: bool = True) -> None:
        self._open = set(partitions)
        self.rows = 0
        # The delay keeps an empty bar away from the sentence of a request that is refused.
        self._bar = tqdm(total=len(self._open), unit="partition", disable=not shown, dynamic_ncols=True, delay=0.2)

    def hear(self, event: EventMessage) -> None:
        """Take in one event of a worker."""
        if event.partition is None:
            return
        partition = Partition(event.type.removeprefix("api_"), event.symbol, event.partition)
        if partition in self._open:
            self._open.discard(partition)
            self.rows += int((event.model_extra or {}).get("rows", 0))
            self._bar.set_postfix_str(f"{self.rows:,} rows, {event.symbol} {event.partition}", refresh=False)
            self._bar.update()

    def show(self, done: int) -> None:
        """Move the bar to `done` partitions, for work that is counted elsewhere."""
        self._bar.update(max(0, done - int(self._bar.n)))

    def finish(self, *, complete: bool) -> None:
        """Close the bar; filled up when everything is done."""
        if complete:
            self._bar.update((self._bar.total or 0) - int(self._bar.n))
            self._open.clear()
        self._bar.close()
