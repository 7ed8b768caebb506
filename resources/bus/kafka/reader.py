"""Reading a topic: record batches are fetched ahead, within bounds, and decoded when they are asked for."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

from aiokafka import errors as kafka
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from resources.bus.kafka.cluster import BEGINNING, Cluster, Topic, check
from resources.bus.port import NO_HEADERS, Delivery, Gap, Message
from resources.errors import Rejected

log = logging.getLogger("streamforge.bus")

RECEIVE_BYTES: Final = 8_000_000
"""About how much one `take` returns; always at least one message."""

FETCH_BYTES: Final = 4_000_000
"""Largest answer to one fetch, except for a single larger record batch."""

AHEAD_BYTES: Final = 8_000_000
"""How much may wait, compressed, before no more is fetched."""

_WAIT_MS: Final = 500
_READ_UNCOMMITTED: Final = 0
_BROKERS_TIME: Final = 1
_new: Final[Any] = tuple.__new__


@dataclass(slots=True)
class _Fetched:
    """A record batch as it came, and the first offset in it that is wanted.

    Its records are decompressed when they are asked for; asking again goes on where it was.
    """

    partition: int
    position: int
    batch: Any
    size: int = 0
    _records: Iterator[Any] | None = None

    @property
    def records(self) -> Iterator[Any]:
        if self._records is None:
            self._records = chain(self.batch)  # the batch itself can be iterated only from its beginning
        return self._records


class Reader:
    """Fetches a topic's record batches from the positions on. One fetch is on its way to each broker at a time.

    What it holds is bounded: `AHEAD_BYTES` and one answer of each broker. `gaps` names what retention removed
    before it was read.
    """

    def __init__(self, cluster: Cluster, topic: Topic, positions: Mapping[int, int]) -> None:
        self._cluster = cluster
        self._topic = topic
        self._positions = dict(positions)
        self._ready: deque[_Fetched] = deque()
        self._held = 0
        self._fetches: dict[int, asyncio.Task[Any]] = {}
        self._lanes: dict[int, int] = {}
        self._room = asyncio.Event()
        self._room.set()
        self.gaps: list[Gap] = []

    @property
    def topic(self) -> Topic:
        """The topic as it was last seen."""
        return self._topic

    def behind(self, ends: Mapping[int, int]) -> bool:
        """Whether something before `ends` was not taken yet."""
        return bool(self._ready) or any(self._positions[partition] < end for partition, end in ends.items())

    def follow(self, topic: Topic) -> None:
        """Take note of new leaders, and read new partitions from their beginning."""
        self._topic = topic
        for partition in topic.leaders:
            self._positions.setdefault(partition, 0)

    async def fetch(self) -> bool:
        """Fetch once from each broker that has something, when there is room; return whether anything came.

        Raises aiokafka's errors, after which it may be called again. A cancelled fetch loses nothing.
        """
        await self._room.wait()
        self._start_fetches()
        if not self._fetches:
            raise kafka.LeaderNotAvailableError(self._topic.name)
        done, _ = await asyncio.wait(self._fetches.values(), return_when=asyncio.FIRST_COMPLETED)
        came = False
        for leader in [leader for leader, task in self._fetches.items() if task in done]:
            came |= await self._store(self._fetches.pop(leader).result())
        return came

    def take(self, limit: int) -> list[Delivery]:
        """Decode the next messages that have come, at most `limit` and about `RECEIVE_BYTES` of them."""
        taken: list[Delivery] = []
        size = 0
        while len(taken) < limit and size < RECEIVE_BYTES:
            if not self._ready:
                break
            size += self._decode(self._ready[0], limit, RECEIVE_BYTES - size, taken)
        return taken

    def close(self) -> None:
        """Fetch no more. What is on its way is let come in, so that its connection can be used again."""
        for leader, lane in self._lanes.items():
            task = self._fetches.get(leader)
            if task is None:
                self._cluster.give_back(lane)
            else:
                task.add_done_callback(partial(self._ended, lane))

    def _ended(self, lane: int, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # nobody waits for it any more
        self._cluster.give_back(lane)

    def _decode(self, fetched: _Fetched, limit: int, budget: int, taken: list[Delivery]) -> int:
        """Append the messages of a record batch, and return their size. Forgets the batch after its last one.

        The one loop that runs for every message of a busy reader: it makes the tuples without their constructors.
        """
        name, partition, position, batch = self._topic.name, fetched.partition, fetched.position, fetched.batch
        stamp = batch.max_timestamp / 1000 if batch.timestamp_type == _BROKERS_TIME else None
        room = limit - len(taken)
        size = 0
        for record in fetched.records:
            offset = record.offset
            if offset < position:  # a record batch comes whole, also when its middle was asked for
                continue
            value, key, headers = record.value, record.key, record.headers
            if value is None:
                value = b""
            texts = {title: _text(text) for title, text in headers} if headers else NO_HEADERS
            message = _new(Message, (value, _text(key) if key else "", texts))
            time = record.timestamp / 1000 if stamp is None else stamp
            taken.append(_new(Delivery, (name, partition, offset, time, message)))
            size += len(value)
            room -= 1
            if not room or size >= budget:
                return size
        self._ready.popleft()
        self._held -= fetched.size
        if self._held < AHEAD_BYTES:
            self._room.set()
        return size

    def _start_fetches(self) -> None:
        for leader in set(self._topic.leaders.values()) - set(self._fetches):
            if leader >= 0:
                wanted = [
                    (partition, self._positions[partition], FETCH_BYTES)
                    for partition, at in self._topic.leaders.items()
                    if at == leader
                ]
                request = FetchRequest(_WAIT_MS, 1, FETCH_BYTES, _READ_UNCOMMITTED, [(self._topic.name, wanted)])
                if leader not in self._lanes:
                    self._lanes[leader] = self._cluster.lane()
                sending = self._cluster.send(request, node=leader, lane=self._lanes[leader])
                self._fetches[leader] = asyncio.create_task(sending)

    async def _store(self, answer: Any) -> bool:
        came = False
        check(answer.error_code, self._topic.name)
        for _, partitions in answer.topics:
            for partition, error_code, *_, records in partitions:
                if error_code == kafka.OffsetOutOfRangeError.errno:
                    await self._pass_over(partition)
                    continue
                check(error_code, self._topic.name)
                came |= self._store_records(partition, records)
        return came

    def _store_records(self, partition: int, data: bytes | None) -> bool:
        records = MemoryRecords(data or b"")
        position = self._positions[partition]
        came = False
        while records.has_next():
            batch = records.next_batch()
            if not batch.validate_crc():
                raise Rejected(
                    f"partition {partition} of the topic {self._topic.name} is damaged at offset {position}; look"
                    " at the broker's disk"
                )
            if not batch.is_control_batch and batch.next_offset > position:
                self._ready.append(_Fetched(partition, position, batch))
                came = True
            position = max(position, batch.next_offset)
        self._positions[partition] = position
        if came and data:
            # All batches of an answer share its memory, which is free again after the last of them.
            self._ready[-1].size = len(data)
            self._held += len(data)
            if self._held >= AHEAD_BYTES:
                self._room.clear()
        return came

    async def _pass_over(self, partition: int) -> None:
        beginning = (await self._cluster.offsets(self._topic.name, BEGINNING)).get(partition, 0)
        self.gaps.append(Gap(self._topic.name, partition, self._positions[partition], beginning))
        log.warning(
            "messages %d to %d of partition %d of %s were removed by its retention before they were read",
            self._positions[partition],
            beginning - 1,
            partition,
            self._topic.name,
        )
        self._positions[partition] = beginning


def _text(value: bytes | None) -> str:
    # What others published need not be text; a reader must not stumble over it for ever.
    return value.decode("utf-8", "replace") if value else ""
