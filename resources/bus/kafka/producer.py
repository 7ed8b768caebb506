"""Publishing: whole batches, each acknowledged by a majority of replicas, in order for each partition."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.partitioner import murmur2

from resources.bus.checks import label_bytes
from resources.bus.kafka.cluster import Cluster, Topic
from resources.bus.kafka.errors import explained, final
from resources.bus.kafka.metadata import pace_metadata
from resources.bus.port import MAX_LABEL_BYTES, MAX_MESSAGE_BYTES, MESSAGE_OVERHEAD, Message
from resources.errors import Rejected, StreamForgeError, Unavailable

COMPRESSION: Final = "zstd"
"""Of trade pages, aiokafka's zstd makes a fifth at 400 MB/s; its lz4 works at level 9, a half at 28 MB/s."""

RECORD_BATCH_BYTES: Final = MAX_MESSAGE_BYTES + MAX_LABEL_BYTES + MESSAGE_OVERHEAD
"""Kafka appends a record batch whole or not at all, and takes one of 1,048,588 bytes by default."""

_LOOK_EVERY: Final = 0.5
_LOOK_LIMIT: Final = 1.0
_CLOSE_LIMIT: Final = 3.0
_GRACE: Final = 0.5


@dataclass(eq=False)
class _Batch:
    """What one `publish` has for one partition."""

    messages: Sequence[Message]
    size: int
    done: asyncio.Future[None]


class Producer:
    """Publishes to any topic through one idempotent producer, which is replaced when it has failed.

    The batches of one partition go out in the order of their `publish` calls. Those that wait at the same time
    share a record batch, so that many small publishes cost few requests.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.config = cluster.config
        self._cluster = cluster
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._line: _Line | None = None
        self._opening = asyncio.Lock()

    async def publish(self, topic: Topic, messages: Sequence[Message]) -> None:
        """Append the messages. Raises Unavailable when that is not confirmed in time: it may have happened."""
        loop = asyncio.get_running_loop()
        batches = []
        for partition, part in _by_partition(messages, len(topic.leaders)).items():
            batch = _Batch(part, sum(map(_size, part)), loop.create_future())
            self._lane(topic.name, partition).put(batch)
            batches.append(batch)
        waiting: set[asyncio.Future[None]] = {batch.done for batch in batches}
        deadline = loop.time() + self._cluster.config.patience
        try:
            while waiting:
                _, waiting = await asyncio.wait(waiting, timeout=min(_LOOK_EVERY, deadline - loop.time()))
                if waiting:
                    await self._check_on(topic, waiting, overdue=loop.time() >= deadline)
        except BaseException:
            for batch in batches:
                # One that is on its way goes on as a whole; one that is not is taken back by this.
                batch.done.cancel()
            raise
        for batch in batches:
            batch.done.result()

    def forget(self, topic: str) -> None:
        """Ask the brokers no more about a topic that was deleted."""
        if self._line is not None:
            self._line.forget(topic)

    async def close(self) -> None:
        """Send what is on its way, for a while, and end."""
        line, self._line = self._line, None
        if line is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_LIMIT):
                    await asyncio.gather(*(lane.idle() for lane in list(self._lanes.values())))
            line.fail(Rejected("the event bus was closed while a message was on its way"))
            await line.close()

    async def line(self, topic: str) -> _Line:
        """The producer in use. Makes one, to write to `topic`, when there is none that works."""
        async with self._opening:
            if self._line is None or self._line.retired:
                self._line = None
                self._line = await self._cluster.persist(f"write to the topic {topic}", self._open)
            return self._line

    def _lane(self, topic: str, partition: int) -> _Lane:
        key = (topic, partition)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self, topic, partition, lambda: self._lanes.pop(key, None))
        return lane

    async def _open(self) -> _Line:
        producer = AIOKafkaProducer(
            **self._cluster.config.client("producer"),
            enable_idempotence=True,
            acks="all",
            compression_type=COMPRESSION,
            max_batch_size=2 * RECORD_BATCH_BYTES,  # _Lane keeps to the true limit
        )
        # aiokafka gives up a batch without a leader after one request's time. Here `publish` has more patience:
        # only what nobody waits for any more, as after a cancellation, ends by this time.
        producer._message_accumulator._batch_ttl = 2 * self._cluster.config.patience  # noqa: SLF001
        pace_metadata(producer.client)
        line = _Line(producer)
        try:
            await producer.start()
        except BaseException:
            await line.close()
            raise
        return line

    async def _check_on(self, topic: Topic, waiting: set[asyncio.Future[None]], *, overdue: bool) -> None:
        """Give up what the broker does not confirm in time, or never will because the topic was deleted."""
        if overdue:
            problem = await self._cluster.reason(TimeoutError(), f"confirm messages for the topic {topic.name}")
        else:
            try:
                async with asyncio.timeout(_LOOK_LIMIT):
                    now = await self._cluster.look_everywhere(topic.name)
            except (TimeoutError, kafka.KafkaError):
                return
            if now is not None and now.id == topic.id:
                return
            problem = Unavailable(f"the topic {topic.name} was deleted while it was published to; publish again")
        if self._line is not None:
            # To its end: once the caller knows, nothing of it may still be sent, to a new topic of that name.
            await asyncio.shield(self._line.retire(problem))
            await asyncio.wait(waiting, timeout=_GRACE)
        if not all(one.done() for one in waiting):
            raise problem


class _Line:
    """An idempotent producer until its first failure: after that, what it sends next would be out of order."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.producer = producer
        self.broken: asyncio.Future[StreamForgeError] = asyncio.get_running_loop().create_future()
        self.retired = False
        self._topics: set[str] = set()
        self.confirming: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None

    async def send(self, topic: str, partition: int, records: Any) -> asyncio.Future[Any]:
        """Queue a record batch, and return what will tell that it is written. Raises aiokafka's errors."""
        if topic not in self._topics:
            self._topics.add(topic)
            # What aiokafka learnt of it on connecting it forgets with the next topic, unless it is told to follow.
            await self.producer.client.add_topic(topic)
        future: asyncio.Future[Any] = await self.producer.send_batch(records, topic, partition=partition)
        return future

    def forget(self, topic: str) -> None:
        """Stop following who leads the topic's partitions."""
        if topic in self._topics and not self.retired:
            self._topics.discard(topic)
            self.producer.client.set_topics(self._topics)

    def retire(self, error: StreamForgeError) -> asyncio.Task[None]:
        """Take nothing more; what is on its way may still be confirmed for a moment, then fails with `error`."""
        self.retired = True
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(error))
        return self._ending

    def fail(self, error: StreamForgeError) -> None:
        """Have all that is on its way fail with `error`."""
        self.retired = True
        if not self.broken.done():
            self.broken.set_result(error)

    async def close(self) -> None:
        """Close the connections, without waiting for what the brokers do not take."""
        # stop() waits for everything to be sent, which with an idempotent producer may be for ever.
        sending = self.producer._sender.sender_task  # noqa: SLF001
        self.producer._closed = True  # noqa: SLF001  # else it complains when it is forgotten
        if sending is not None:
            sending.cancel()
        with suppress(TimeoutError, kafka.KafkaError):
            async with asyncio.timeout(_CLOSE_LIMIT):
                await self.producer.client.close()
        if sending is not None:
            # Cancelled once, it waits for its requests; those wait for a connection that is closed now.
            sending.cancel()
            await asyncio.wait([sending], timeout=_GRACE)

    async def _end(self, error: StreamForgeError) -> None:
        if self.confirming:
            await asyncio.wait(set(self.confirming), timeout=_GRACE)
        self.fail(error)
        await self.close()


@dataclass(eq=False)
class _Lane:
    """The batches for one partition, one after another."""

    owner: Producer
    topic: str
    partition: int
    forget: Any
    waiting: deque[_Batch] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None
    settling: set[asyncio.Task[None]] = field(default_factory=set)

    def put(self, batch: _Batch) -> None:
        self.waiting.append(batch)
        if self.task is None:
            self.task = asyncio.create_task(self._run())

    async def idle(self) -> None:
        """Wait until everything was sent or has failed."""
        while self.task is not None or self.settling:
            await asyncio.wait({*self.settling, *([self.task] if self.task else [])})

    async def _run(self) -> None:
        taken: list[_Batch] = []
        last: _Line | None = None
        try:
            while self.waiting:
                line = await self.owner.line(self.topic)
                if line is not last and self.settling:
                    await asyncio.wait(self.settling)  # what the former line has must come first, or fail
                last, taken = line, self._take()
                if taken:
                    await self._send(line, taken)
                    taken = []
        except BaseException as error:  # noqa: BLE001  # whoever waits must learn of it, whatever it is
            problem = error if isinstance(error, StreamForgeError) else Unavailable(f"publishing ended: {error!r}")
            for batch in [*taken, *self.waiting]:
                _settle(batch, problem)
            self.waiting.clear()
        finally:
            self.task = None
            if not self.settling:
                self.forget()

    def _take(self) -> list[_Batch]:
        """Whole batches that fit one record batch together, or a single larger one."""
        taken: list[_Batch] = []
        size = 0
        while self.waiting and (not taken or size + self.waiting[0].size <= RECORD_BATCH_BYTES):
            batch = self.waiting.popleft()
            if not batch.done.cancelled():
                taken.append(batch)
                size += batch.size
        return taken

    async def _send(self, line: _Line, batches: list[_Batch]) -> None:
        """Hand the batches to the producer, in order; their confirmation is awaited beside the next ones."""
        sent: list[asyncio.Future[Any]] = []
        problem: StreamForgeError | None = None
        try:
            for part in _record_batches(message for batch in batches for message in batch.messages):
                sent.append(await self._queue(line, part))  # noqa: PERF401  # what was sent counts also when one fails
        except (StreamForgeError, kafka.KafkaError) as error:
            problem = self._explained(error)
            line.retire(problem)
        settling = asyncio.create_task(self._confirm(line, batches, sent, problem))
        for tasks in (self.settling, line.confirming):
            tasks.add(settling)
        settling.add_done_callback(line.confirming.discard)
        settling.add_done_callback(self._settled)

    async def _queue(self, line: _Line, messages: Sequence[Message]) -> asyncio.Future[Any]:
        builder = line.producer.create_batch()
        for message in messages:
            headers = [(name, text.encode()) for name, text in message.headers.items()]
            key = message.key.encode() if message.key else None
            if builder.append(timestamp=None, key=key, value=message.value, headers=headers) is None:
                raise AssertionError("a record batch was sized wrongly")
        while not line.broken.done():
            with suppress(kafka.KafkaTimeoutError, kafka.UnknownTopicOrPartitionError):
                return await line.send(self.topic, self.partition, builder)
        raise line.broken.result()

    async def _confirm(
        self,
        line: _Line,
        batches: list[_Batch],
        sent: list[asyncio.Future[Any]],
        problem: StreamForgeError | None,
    ) -> None:
        """Wait for the brokers' word on a record batch, or a large batch's several."""
        for future in sent:
            await asyncio.wait({future, line.broken}, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                problem = problem or line.broken.result()
            elif (error := future.exception()) is not None:
                problem = problem or self._explained(error)
                line.retire(problem)
        for batch in batches:
            _settle(batch, problem)

    def _explained(self, error: BaseException) -> StreamForgeError:
        what = f"write to the topic {self.topic}" if final(error) else f"take messages for the topic {self.topic}"
        return explained(self.owner.config, error, what)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self.settling.discard(task)
        if not self.settling and self.task is None:
            self.forget()


def _settle(batch: _Batch, problem: StreamForgeError | None) -> None:
    if batch.done.done():
        return
    if problem is None:
        batch.done.set_result(None)
    else:
        batch.done.set_exception(problem)


def _by_partition(messages: Sequence[Message], partitions: int) -> dict[int, Sequence[Message]]:
    if partitions == 1:
        return {0: messages}
    parts: dict[int, list[Message]] = {}
    for message in messages:
        # As Java's clients do, so that theirs and ours put a key into the same partition.
        parts.setdefault(_hash(message.key) % partitions, []).append(message)
    return dict(parts)


@lru_cache(maxsize=4096)
def _hash(key: str) -> int:
    return int(murmur2(key.encode())) & 0x7FFF_FFFF


def _record_batches(messages: Iterator[Message]) -> Iterator[list[Message]]:
    part: list[Message] = []
    size = 0
    for message in messages:
        more = _size(message)
        if part and size + more > RECORD_BATCH_BYTES:
            yield part
            part, size = [], 0
        part.append(message)
        size += more
    if part:
        yield part


def _size(message: Message) -> int:
    labels = label_bytes(message) if message.headers else len(message.key.encode())
    return len(message.value) + labels + MESSAGE_OVERHEAD
