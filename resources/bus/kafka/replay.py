"""Reading a topic from offsets of the caller's own up to its end, without a consumer group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from aiokafka import errors as kafka

from resources.bus.kafka.cluster import BEGINNING, END, Cluster, Topic
from resources.bus.kafka.reader import Reader
from resources.bus.kafka.subscription import deleted
from resources.bus.port import Delivery, Gap, Replay
from resources.errors import Rejected


class KafkaReplay(Replay):
    """What a topic held when it was opened, from offsets on. Only partitions with such messages are fetched."""

    def __init__(self, cluster: Cluster, topic: str, offsets: Mapping[int, int]) -> None:
        self._cluster = cluster
        self._name = topic
        self._positions = dict(offsets)
        self._ends: dict[int, int] = {}
        self._gaps: list[Gap] = []
        self._reader: Reader | None = None
        self._absent = 0
        self._closed = False

    async def open(self) -> None:
        """Find where the topic begins and ends, and where that leaves no choice, another place to begin."""
        topic = await self._cluster.topic(self._name)
        if topic is None:
            return
        firsts = await self._cluster.offsets(topic.name, BEGINNING)
        self._ends = await self._cluster.offsets(topic.name, END)
        asked, self._positions = self._positions, {}
        for partition, end in self._ends.items():
            first = min(firsts.get(partition, 0), end)
            start = asked.get(partition, first)
            if not first <= start <= end:
                self._gaps.append(Gap(self._name, partition, start, first))
                start = first
            self._positions[partition] = start
        wanted = self._wanted(topic)
        if wanted.leaders:
            self._reader = Reader(self._cluster, wanted, self._positions)

    def close(self) -> None:
        """Fetch no more."""
        self._closed = True
        if self._reader is not None:
            self._reader.close()

    @property
    def positions(self) -> Mapping[int, int]:
        return dict(self._positions)

    @property
    def ends(self) -> Mapping[int, int]:
        return dict(self._ends)

    @property
    def gaps(self) -> Sequence[Gap]:
        return (*self._gaps, *(self._reader.gaps if self._reader is not None else ()))

    async def receive(self, *, limit: int = 500) -> list[Delivery]:
        """Return the next messages, those of one partition in order; an empty list at the end."""
        if limit < 1:
            raise Rejected(f"at most {limit} messages cannot be received; ask for 1 or more")
        if self._closed:
            raise Rejected(f"this replay of {self._name} has been left; open it again")
        reader = self._reader
        if reader is None:
            return []
        while True:
            taken = reader.take(limit)
            for delivery in taken:
                self._positions[delivery.partition] = min(delivery.offset + 1, self._ends[delivery.partition])
            if wanted := [delivery for delivery in taken if delivery.offset < self._ends[delivery.partition]]:
                return wanted
            if not taken:
                if not reader.behind(self._ends):
                    # What compaction or a transaction's end left at the tail has no message to give.
                    self._positions |= self._ends
                    return []
                await self._cluster.persist(f"read the topic {self._name}", self._fetch)

    def _wanted(self, topic: Topic) -> Topic:
        unread = {
            partition: leader
            for partition, leader in topic.leaders.items()
            if self._positions.get(partition, 0) < self._ends.get(partition, 0)
        }
        return replace(topic, leaders=unread)

    async def _fetch(self) -> None:
        if self._closed or self._reader is None:
            raise Rejected(f"this replay of {self._name} has been left; open it again")
        try:
            if not await self._reader.fetch():
                await self._look_again(self._reader)
        except (kafka.KafkaError, TimeoutError):
            await self._look_again(self._reader)
            raise

    async def _look_again(self, reader: Reader) -> None:
        """Nothing came although there should be something: the leaders may have moved, or the topic is gone."""
        with suppress(kafka.KafkaError, TimeoutError):
            topic = await self._cluster.look(self._name)
            # A broker that has just started may not know every topic yet, so it is asked twice.
            self._absent = self._absent + 1 if topic is None else 0
            if self._absent > 1 or (topic is not None and topic.id != reader.topic.id):
                raise deleted(self._name, "a replay")
            if topic is not None:
                reader.follow(self._wanted(topic))
