"""A group's place in a topic: what it reads, what it has committed, and when it must end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiokafka import errors as kafka

from resources.bus.kafka.cluster import BEGINNING, END, Cluster, Topic
from resources.bus.kafka.errors import explained, final
from resources.bus.kafka.group import Membership
from resources.bus.kafka.reader import Reader
from resources.bus.port import Delivery, Start, Subscription
from resources.errors import Rejected, StreamForgeError

BEAT: Final = 1.0
"""Seconds between two signs of life, and so about how soon a holder learns that its place is lost."""

_ABSENT_POLL: Final = (0.05, 0.5)
_RETRY: Final = 0.2
_LEAVE_LIMIT: Final = 2.0


@dataclass(slots=True)
class _Run:
    """Neighbouring messages of one partition, as they were given."""

    partition: int
    first: int
    last: int


class KafkaSubscription(Subscription):
    """A group's place in a topic. A cancelled `receive` loses nothing: the next one returns the same messages.

    It keeps the place by a heartbeat, which also looks whether the topic is still the same. When another takes the
    place or the topic is deleted, it knows after about a second or two, and its commits are refused at once.
    """

    def __init__(self, cluster: Cluster, topic: str, group: str, start: Start) -> None:
        self.topic = topic
        self._cluster = cluster
        self._group = group
        self._start: Start = start
        self._place = Membership(cluster, group, topic)
        self._reader: Reader | None = None
        self._committed: dict[int, int] = {}
        self._given: deque[_Run] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._end: StreamForgeError | None = None
        self._trouble: tuple[float, BaseException] | None = None

    async def open(self) -> None:
        """Take the place and find where it begins."""
        await self._place.join()
        topic = await self._cluster.topic(self.topic)
        if topic is not None:
            await self._cluster.persist(f"read {self.topic}", lambda: self._begin(topic, self._start))
        self._tasks = [asyncio.create_task(self._guarded(work)) for work in (self._beat, self._fetch)]

    async def close(self) -> None:
        """Give the place up. What cannot be said to the brokers now is harmless: the next one takes it over."""
        lost = self._end is not None
        self.end(Rejected(f"this subscription to {self.topic} has been left; subscribe again"))
        for task in self._tasks:
            task.cancel()
        if self._reader is not None:
            self._reader.close()
        if not lost:
            with suppress(StreamForgeError, kafka.KafkaError, TimeoutError):
                async with asyncio.timeout(_LEAVE_LIMIT):
                    await self._place.leave()

    def end(self, reason: StreamForgeError) -> None:
        """Have `receive` and `commit` raise `reason` from now on, unless they already raise another."""
        if self._end is None:
            self._end = reason
        self._news.set()

    async def receive(self, *, limit: int = 500, timeout: float = 1.0) -> list[Delivery]:
        """Return the next messages, those of one partition in order."""
        if limit < 1:
            raise Rejected(f"at most {limit} messages cannot be received; ask for 1 or more")
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            self._news.clear()
            self._check_open()
            if self._reader is not None and (taken := self._reader.take(limit)):
                self._note(taken)
                return taken
            await self._check_trouble()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                return []

    async def commit(self, delivery: Delivery) -> None:
        """Record that everything up to `delivery` is dealt with, in every partition."""
        self._check_open()
        if delivery.topic != self.topic:
            raise Rejected(f"a message of {delivery.topic} cannot be committed to {self.topic}")
        if self._reader is None:
            raise Rejected(f"a message of {delivery.topic} cannot be committed: there is no such topic")
        ends = {
            partition: offset
            for partition, offset in covered(self._given, delivery).items()
            if offset > self._committed.get(partition, 0)
        }
        if ends:
            try:
                await self._place.commit(self._reader.topic, ends)
            except Rejected as error:
                self.end(error)
                raise
            self._committed |= ends

    def _check_open(self) -> None:
        if self._end is not None:
            raise self._end

    async def _check_trouble(self) -> None:
        if self._trouble is not None:
            since, error = self._trouble
            if asyncio.get_running_loop().time() - since > self._cluster.config.patience:
                self._trouble = None  # it is said once; then patience begins anew
                raise await self._cluster.reason(error, f"give messages of the topic {self.topic}") from error

    def _note(self, taken: Sequence[Delivery]) -> None:
        """Keep in which order the partitions' messages were given: a commit covers all before it."""
        if self._reader is not None and len(self._reader.topic.leaders) == 1:
            return
        for delivery in taken:
            last = self._given[-1] if self._given else None
            if last is not None and last.partition == delivery.partition:
                last.last = delivery.offset
            else:
                self._given.append(_Run(delivery.partition, delivery.offset, delivery.offset))

    async def _begin(self, topic: Topic, start: Start) -> None:
        self._committed = await self._place.committed(topic)
        begins = (
            {}
            if set(self._committed) == set(topic.leaders)
            else await self._cluster.offsets(topic.name, BEGINNING if start == "earliest" else END)
        )
        positions = {**begins, **self._committed}
        if not set(topic.leaders) <= set(positions):
            raise kafka.UnknownTopicOrPartitionError(self.topic)  # not known everywhere yet, or not any more
        self._reader = Reader(self._cluster, topic, positions)

    async def _guarded(self, work: object) -> None:
        """Run one of the two tasks for as long as the place is held; whatever ends it is told to the caller."""
        try:
            await work()  # type: ignore[operator]
        except StreamForgeError as error:
            self.end(error)
        except Exception as error:  # noqa: BLE001  # a reader must not wait for a task that has died
            self.end(Rejected(f"reading {self.topic} as {self._group} ended: {error!r}"))

    async def _beat(self) -> None:
        absent = 0
        while True:
            await asyncio.sleep(BEAT)
            try:
                await self._place.beat()
                if self._reader is not None:
                    now = await self._cluster.look(self.topic)
                    # A broker that has just started may not know every topic yet, so it is asked twice.
                    absent = absent + 1 if now is None else 0
                    if absent > 1 or (now is not None and now.id != self._reader.topic.id):
                        raise deleted(self.topic, self._group)
                    if now is not None:
                        self._reader.follow(now)
            except kafka.KafkaError as error:
                self._judge(error)

    async def _fetch(self) -> None:
        pause = _ABSENT_POLL[0]
        while True:
            try:
                if self._reader is None:
                    topic = await self._cluster.look(self.topic)
                    if topic is None or not topic.settled:
                        await asyncio.sleep(pause)
                        pause = min(1.5 * pause, _ABSENT_POLL[1])
                        continue
                    # All of a topic that did not exist is new, whatever `start` says.
                    await self._begin(topic, "earliest")
                elif await self._reader.fetch():
                    self._news.set()
                self._trouble = None
            except (kafka.KafkaError, TimeoutError) as error:
                self._judge(error)
                await asyncio.sleep(_RETRY)
                await self._look_again()

    async def _look_again(self) -> None:
        """After a failed fetch: the leaders may have moved."""
        with suppress(kafka.KafkaError, TimeoutError):
            topic = await self._cluster.look(self.topic)
            if self._reader is not None and topic is not None and topic.id == self._reader.topic.id:
                self._reader.follow(topic)

    def _judge(self, error: BaseException) -> None:
        """End for what can never succeed; else remember since when it does not."""
        if final(error):
            raise explained(self._cluster.config, error, f"read the topic {self.topic}") from error
        since = self._trouble[0] if self._trouble else asyncio.get_running_loop().time()
        self._trouble = (since, error)


def covered(given: deque[_Run], delivery: Delivery) -> dict[int, int]:
    """The offset of the next message in each partition, once `delivery` and all given before it are dealt with.

    Forgets what it covers: `given` holds the messages that were not, in the order in which they were given.
    """
    ends = {delivery.partition: delivery.offset + 1}
    position = next(
        (
            number
            for number, run in enumerate(given)
            if run.partition == delivery.partition and run.first <= delivery.offset <= run.last
        ),
        None,
    )
    if position is not None:
        for _ in range(position):
            run = given.popleft()
            ends[run.partition] = max(ends.get(run.partition, 0), run.last + 1)
        given[0].first = delivery.offset + 1
        if given[0].first > given[0].last:
            given.popleft()
    return ends


def deleted(topic: str, group: str) -> Rejected:
    """The error of a subscription whose topic was deleted."""
    return Rejected(f"the topic {topic} was deleted while {group} read it; subscribe again")
