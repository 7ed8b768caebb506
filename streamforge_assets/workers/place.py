"""A connector's place in its topic: who may still write, what is committed, how much is left."""

from __future__ import annotations

import time

from resources.bus.port import Delivery, Subscription
from resources.dead_letters import set_aside
from resources.errors import Rejected, StreamForgeError
from resources.metrics import DEAD_LETTERS, LAG
from streamforge_assets.workers.job import Job
from streamforge_assets.workers.patience import Patience
from streamforge_assets.workers.runtime import Ports, Reporter

LAG_EVERY = 1.0


class Replaced(StreamForgeError):
    """Raised in a connector that was replaced. No fault of the data, and nothing to try again: it must end."""


class Place:
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
        """Raises Replaced when another connector has gone on from here: this one must not write any more."""
        committed = await self.ports.bus.committed(self.job.topic, group=self.job.connector_group)
        if committed.get(delivery.partition, 0) > delivery.offset:
            raise Replaced(f"{self.job.telemetry_id}: another connector has gone on from here; this one must end")

    async def commit(self, delivery: Delivery) -> None:
        """Record that everything up to `delivery` is written. Raises Replaced when the place was taken over."""
        try:
            await self._messages.commit(delivery)
        except Rejected as error:
            raise Replaced(str(error)) from error
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
