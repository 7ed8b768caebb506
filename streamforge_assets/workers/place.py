"""A connector's place in a topic: who may still write, what is committed, how much is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from resources.bus.port import Delivery, Subscription, TakenOver
from resources.dead_letters import set_aside
from resources.errors import Rejected, StreamForgeError
from resources.metrics import DEAD_LETTERS, LAG
from streamforge_assets.workers.job import Job, Route
from streamforge_assets.workers.patience import Patience
from streamforge_assets.workers.runtime import Ports, Replaced, Reporter, log

LAG_EVERY = 1.0


class Lags:
    """What each topic still holds. The connector reports the sum, once all of them were measured."""

    def __init__(self, job: Job, ports: Ports, reporter: Reporter) -> None:
        self._lags: dict[str, int | None] = {route.topic: None for route in job.routes}
        self._ports = ports
        self._reporter = reporter

    def tell(self, topic: str, lag: int) -> None:
        """Take in how many messages of a topic are not dealt with."""
        self._lags[topic] = lag
        known = [one for one in self._lags.values() if one is not None]
        if len(known) == len(self._lags):
            self._reporter.lag = sum(known)
            self._ports.meter.set(LAG, sum(known))


class Place:
    """A connector's place in one of its topics, and what it says about it."""

    def __init__(
        self,
        route: Route,
        job: Job,
        ports: Ports,
        reporter: Reporter,
        messages: Subscription,
        patience: Patience,
        lags: Lags,
    ) -> None:
        self.route = route
        self.job = job
        self.ports = ports
        self.reporter = reporter
        self.patience = patience
        self._messages = messages
        self._lags = lags

    async def receive(self, *, limit: int, timeout: float) -> list[Delivery]:
        """The next messages, as the subscription gives them. Raises Replaced when the place was taken over."""
        try:
            return await self._messages.receive(limit=limit, timeout=timeout)
        except TakenOver as error:
            raise Replaced(str(error)) from error

    async def require(self, *deliveries: Delivery) -> None:
        """Raises Replaced when another connector has gone on from here: this one must not write any more.

        `deliveries` are the first ones of each partition that are to be written.
        """
        committed = await self.ports.bus.committed(self.route.topic, group=self.job.connector_group)
        if any(committed.get(one.partition, 0) > one.offset for one in deliveries):
            raise Replaced(
                f"{self.job.telemetry_id}: another connector has gone on from here in {self.route.topic};"
                " this one must end"
            )

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
        await self.reporter.send("loading", f"Set a message of {delivery.topic} aside: {error}", set_aside=1)

    @contextlib.asynccontextmanager
    async def measured(self) -> AsyncIterator[None]:
        """Keep the lag up to date beside the work: on a slow network each question takes long."""
        measuring = asyncio.create_task(self._keep_measuring())
        try:
            yield
        finally:
            measuring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await measuring

    async def _keep_measuring(self) -> None:
        while True:
            try:
                await self._measure()
            except StreamForgeError as error:  # whoever does the work meets it as well, and deals with it
                log.warning("the lag of %s is not known: %s", self.route.topic, error)
            await asyncio.sleep(LAG_EVERY)

    async def _measure(self) -> None:
        """Count the messages that are in the topic and not committed."""
        ends = await self.ports.bus.end_offsets(self.route.topic)
        done = await self.ports.bus.committed(self.route.topic, group=self.job.connector_group)
        lag = sum(max(0, end - done.get(partition, 0)) for partition, end in ends.items())
        self._lags.tell(self.route.topic, lag)
