"""The event bus on Kafka: the port's verbs, put together from connections, producer and subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from resources.bus.checks import check_message, check_name
from resources.bus.kafka.cluster import END, Cluster, Topic
from resources.bus.kafka.config import KafkaConfig
from resources.bus.kafka.group import committed
from resources.bus.kafka.producer import Producer
from resources.bus.kafka.replay import KafkaReplay
from resources.bus.kafka.subscription import KafkaSubscription, deleted
from resources.bus.port import Bus, Message, Replay, Start, Subscription
from resources.errors import Rejected


class KafkaBus(Bus):
    """A bus on the brokers that `config` names, for any number of processes on any machines.

    Durable means: what `publish` returned from is written by a majority of the replicas; the loss of fewer brokers
    than that loses nothing. Topics are made as `resources/bus/topics.py` says, with their first message.

    A group of the port is, at the brokers, a group `<group>:<topic>`. A later subscription takes over at once from
    an earlier one that died or hangs; an earlier one that lives learns of it within about two seconds, and its
    commits are refused from then on. Everything that fails is repeated until `config.patience` ends. What a broker
    that does not answer was sent before may still be carried out.

    The brokers should have `group.initial.rebalance.delay.ms=0`: with Kafka's default, each group's first
    subscription takes three seconds.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._cluster: Cluster | None = None
        self._producer: Producer | None = None
        self._topics: dict[str, Topic] = {}
        self._subscriptions: set[KafkaSubscription] = set()

    async def __aenter__(self) -> Self:
        if self._cluster is not None:
            raise Rejected(f"the event bus at {self._config.addresses} is open already; make another one")
        cluster = Cluster(self._config)
        await cluster.open()
        self._cluster, self._producer = cluster, Producer(cluster)
        return self

    async def __aexit__(self, *exc: object) -> None:
        cluster, producer = self._cluster, self._producer
        self._cluster = self._producer = None
        self._topics.clear()
        for subscription in self._subscriptions:
            subscription.end(self._not_open())
        if cluster is not None and producer is not None:
            # A cancelled close still closes.
            await asyncio.shield(asyncio.create_task(_close(cluster, producer)))

    async def publish(self, topic: str, batch: Sequence[Message]) -> None:
        """Append `batch` to `topic`, in order for each key. Durable on return."""
        check_name("topic", topic)
        batch = tuple(batch)
        for message in batch:
            check_message(topic, message)
        if batch:
            cluster, producer = self._opened()
            known = self._topics.get(topic) or await cluster.topic(topic)
            if known is None or not known.settled:
                known = await cluster.create(topic)
            self._topics[topic] = known
            try:
                await producer.publish(known, batch)
            except BaseException:
                self._topics.pop(topic, None)
                raise

    def subscribe(
        self, topic: str, *, group: str, start: Start = "earliest"
    ) -> AbstractAsyncContextManager[Subscription]:
        """Open the group's place in `topic`, taking it over from the group's earlier subscription, if any."""
        check_name("topic", topic)
        check_name("group", group)
        return self._subscribed(topic, group, start)

    @asynccontextmanager
    async def replay(self, topic: str, offsets: Mapping[int, int]) -> AsyncIterator[Replay]:
        """Open `topic` at offsets of the caller's own, up to its present end, without a consumer group."""
        check_name("topic", topic)
        cluster, _ = self._opened()
        replay = KafkaReplay(cluster, topic, offsets)
        try:
            await replay.open()
            yield replay
        finally:
            replay.close()

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """Return, for each partition, the offset that the next message will get; empty without a topic."""
        cluster, _ = self._opened()
        return await cluster.offsets(topic, END)

    async def committed(self, topic: str, *, group: str) -> Mapping[int, int]:
        """Return, for each partition, the offset after the last committed one; empty without a commit."""
        cluster, _ = self._opened()
        found = await cluster.topic(topic)
        return {} if found is None else await committed(cluster, group, found)

    async def topics(self) -> list[str]:
        """Return the names of the topics that exist and that the user may know of, sorted."""
        cluster, _ = self._opened()
        return await cluster.topics()

    async def delete(self, topic: str) -> None:
        """Remove a topic, its messages and its groups' offsets, at every broker that answers."""
        cluster, _ = self._opened()
        self._topics.pop(topic, None)
        existed = await cluster.delete(topic)
        if self._producer is not None:
            self._producer.forget(topic)
        if existed:
            for subscription in self._subscriptions:
                if subscription.topic == topic:
                    subscription.end(deleted(topic, "a group"))

    @asynccontextmanager
    async def _subscribed(self, topic: str, group: str, start: Start) -> AsyncIterator[Subscription]:
        cluster, _ = self._opened()
        subscription = KafkaSubscription(cluster, topic, group, start)
        self._subscriptions.add(subscription)
        try:
            await subscription.open()
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            await subscription.close()

    def _opened(self) -> tuple[Cluster, Producer]:
        if self._cluster is None or self._producer is None:
            raise self._not_open()
        return self._cluster, self._producer

    def _not_open(self) -> Rejected:
        return Rejected(f"the event bus at {self._config.addresses} is not open; use it inside `async with`")


async def _close(cluster: Cluster, producer: Producer) -> None:
    try:
        await producer.close()
    finally:
        await cluster.close()
