"""A progress bar that follows `queue-events`, whoever does the work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import date

from tqdm.auto import tqdm

from resources.bus import open_bus
from resources.datasets import Partition
from resources.errors import Rejected, StreamForgeError, Unavailable
from resources.messages import EVENTS_TOPIC, EventMessage, decode_event
from resources.settings import Settings
from streamforge_assets.workflow.states import new_suffix

_SHARES = "{l_bar}{bar}| {n:.1f}/{total} models [{elapsed}<{remaining}{postfix}]"


@contextlib.asynccontextmanager
async def watch(settings: Settings, hear: Callable[[EventMessage], None]) -> AsyncIterator[None]:
    """Call `hear` for every event from now on, until the context is left."""
    async with (
        open_bus(settings) as bus,
        bus.subscribe(EVENTS_TOPIC, group=f"progress-{new_suffix()}", start="latest") as events,
    ):

        async def follow() -> None:
            while True:
                with contextlib.suppress(Unavailable):  # the work itself says so, if it cannot wait any longer
                    for delivery in await events.receive(timeout=0.5):
                        with contextlib.suppress(Rejected):  # the coordinator reports what cannot be read
                            hear(decode_event(delivery.message.value))

        task = asyncio.ensure_future(follow())
        try:
            yield
        finally:
            task.cancel()
            # Work that was done does not fail because nobody could watch it.
            with contextlib.suppress(asyncio.CancelledError, StreamForgeError):
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


class TrainingBar:
    """Counts models that are trained. Goes to stderr."""

    def __init__(self, models: int, *, shown: bool = True) -> None:
        self._done: dict[date, float] = {}
        self._bar = tqdm(
            total=models, unit="model", disable=not shown, dynamic_ncols=True, delay=0.2, bar_format=_SHARES
        )

    def hear(self, day: date, done: float) -> None:
        """The training of a day's model has come to `done`, 0 to 1."""
        self._done[day] = done
        self._bar.set_postfix_str(str(day), refresh=False)
        self._bar.update(sum(self._done.values()) - self._bar.n)

    def finish(self) -> None:
        """Close the bar."""
        self._bar.close()
