"""One client's connections to the brokers, and what may be asked of them about topics."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.admin import CreateTopicsRequest, DeleteTopicsRequest
from aiokafka.protocol.offset import OffsetRequest

from resources.bus.kafka.config import KafkaConfig
from resources.bus.kafka.errors import diagnosed, explained, final, quieten
from resources.bus.kafka.requests import TopicsRequest
from resources.bus.topics import MAX_REPLICAS, topic_rule
from resources.errors import StreamForgeError

T = TypeVar("T")

BEGINNING: Final = -2
END: Final = -1

_BACKOFF: Final = 0.05
_BACKOFF_LIMIT: Final = 1.0
_SECOND_LOOK: Final = 0.2
_READ_UNCOMMITTED: Final = 0
_FIRST_LANE: Final[int] = int(max(ConnectionGroup)) + 1


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the brokers know it. `id` tells it from another of the same name; `leaders` are broker ids."""

    name: str
    id: str
    leaders: Mapping[int, int]

    @property
    def settled(self) -> bool:
        """Whether each partition has a leader."""
        return all(leader >= 0 for leader in self.leaders.values())


class Cluster:
    """The connections. Every method repeats what may succeed later, up to the configured patience.

    Raises Rejected for what the brokers refuse and Unavailable when they do not answer, from every method.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self.config = config
        self._client: AIOKafkaClient | None = None
        self._free_lanes: list[int] = []
        self._lanes: int = _FIRST_LANE

    async def open(self) -> None:
        """Connect to one of the bootstrap brokers, in about `request_timeout` for each of them."""
        quieten()
        client = AIOKafkaClient(**self.config.client("bus"))
        try:
            await client.bootstrap()
        except kafka.KafkaError as error:
            await client.close()
            raise await diagnosed(self.config, "tell what there is") from error
        except BaseException:
            await client.close()
            raise
        self._client = client

    async def close(self) -> None:
        """Close all connections, in less than `request_timeout`. Closing twice is harmless."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.request_timeout):
                    await client.close()

    def lane(self) -> int:
        """A number for a connection of one's own, for requests that wait at the broker. Give it back."""
        if self._free_lanes:
            return self._free_lanes.pop()
        self._lanes += 1
        return self._lanes

    def give_back(self, lane: int) -> None:
        """Let another use the connection `lane`. Nothing may be waiting on it."""
        self._free_lanes.append(lane)

    async def send(self, request: Any, *, node: int | None = None, lane: int = ConnectionGroup.DEFAULT) -> Any:
        """Send one request, to any broker if `node` is None, and return its response. Raises aiokafka's errors."""
        client = self._opened()
        if node is None:
            node = client.get_random_node()
            if node is None:
                # A broker that its controller believes dead names none, not even itself, until it is back.
                await client.force_metadata_update()
                raise kafka.NoBrokersAvailable
        return await client.send(node, request, group=lane)

    async def coordinator(self, group: str) -> int:
        """The broker that keeps the offsets of the consumer group `group`. Raises aiokafka's errors."""
        return int(await self._opened().coordinator_lookup(CoordinationType.GROUP, group))

    async def persist(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make attempts until one succeeds or patience ends; `what` completes the sentence "could not ..."."""
        backoff = _BACKOFF
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.patience
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await attempt()
            except (kafka.KafkaError, NotImplementedError) as error:
                if final(error):
                    raise explained(self.config, error, what) from error
                if loop.time() + backoff > deadline:
                    raise await self.reason(error, what) from error
            except TimeoutError as error:
                raise await diagnosed(self.config, what) from error
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, _BACKOFF_LIMIT)

    async def reason(self, error: BaseException, what: str) -> StreamForgeError:
        """Why `what` did not succeed within patience, in one sentence, where `error` was the last obstacle."""
        if isinstance(error, kafka.BrokerResponseError):
            return explained(self.config, error, what)
        return await diagnosed(self.config, what)

    async def topic(self, name: str) -> Topic | None:
        """What `name` is now; None where there is no such topic."""
        return await self.persist(f"describe the topic {name}", lambda: self.look(name))

    async def look(self, name: str, *, node: int | None = None) -> Topic | None:
        """What `name` is to one broker. Raises aiokafka's errors."""
        for error_code, found, high, low, _, partitions, *_ in (await self._ask(name, node)).topics:
            if found == name:
                if error_code == kafka.UnknownTopicOrPartitionError.errno:
                    return None
                check(error_code, name)
                leaders = {partition: leader for _, partition, leader, *_ in partitions}
                return Topic(name, f"{high & _MASK:016x}{low & _MASK:016x}", dict(sorted(leaders.items())))
        return None

    async def look_everywhere(self, name: str) -> Topic | None:
        """What `name` is to the first broker that knows it. Raises aiokafka's errors.

        A broker that has just started may not know every topic yet, so each is asked, and a last one once more.
        """
        for broker in self._opened().cluster.brokers():
            with suppress(kafka.KafkaError):
                if (found := await self.look(name, node=broker.nodeId)) is not None:
                    return found
        await asyncio.sleep(_SECOND_LOOK)
        return await self.look(name)

    async def topics(self) -> list[str]:
        """The names of all topics that the user may know of, Kafka's own left out, sorted."""
        answer = await self.persist("list its topics", lambda: self._ask(None))
        return sorted(
            found for error_code, found, _, _, internal, *_ in answer.topics if not (internal or error_code)
        )

    async def create(self, name: str) -> Topic:
        """Make the topic as its rule says, unless it exists, and return it once it can be written to."""
        return await self.persist(f"create the topic {name}", lambda: self._create(name))

    async def delete(self, name: str) -> bool:
        """Remove the topic, and return whether there was one, once no broker that answers knows it any more."""
        return await self.persist(f"delete the topic {name}", lambda: self._delete(name))

    async def offsets(self, name: str, when: int) -> dict[int, int]:
        """The offset of each partition at its `BEGINNING` or `END`; empty without a topic."""
        return await self.persist(f"tell the offsets of the topic {name}", lambda: self._offsets(name, when))

    async def _create(self, name: str) -> Topic:
        rule = topic_rule(name)
        replicas = min(MAX_REPLICAS, len(self._opened().cluster.brokers()))
        wanted: Any = (name, rule.partitions, replicas, [], list(rule.config(replicas).items()))
        answer = await self.send(CreateTopicsRequest([wanted], self._limit_ms, False))
        for _, error_code, *_ in answer.topic_errors:
            if error_code == kafka.InvalidReplicationFactorError.errno:
                # A broker has gone, or is not back yet: another number of replicas will do, or the same one soon.
                await self._opened().force_metadata_update()
            if error_code != kafka.TopicAlreadyExistsError.errno:
                check(error_code, name)
        topic = await self.look(name)
        if topic is None or not topic.settled:
            raise kafka.LeaderNotAvailableError(name)
        return topic

    async def _delete(self, name: str) -> bool:
        old = await self.look(name)
        answer = await self.send(DeleteTopicsRequest([name], self._limit_ms))
        for _, error_code in answer.topic_error_codes:
            if error_code == kafka.UnknownTopicOrPartitionError.errno:
                return False
            check(error_code, name)
        for node in [broker.nodeId for broker in self._opened().cluster.brokers()]:
            with suppress(kafka.KafkaError):
                while old is not None and await self._knows(old, node):  # noqa: ASYNC110  # only asking tells
                    await asyncio.sleep(0.01)
        return True

    async def _knows(self, topic: Topic, node: int) -> bool:
        seen = await self.look(topic.name, node=node)
        return seen is not None and seen.id == topic.id

    async def _offsets(self, name: str, when: int) -> dict[int, int]:
        topic = await self.look_everywhere(name)
        if topic is None:
            return {}
        if not topic.settled:
            raise kafka.LeaderNotAvailableError(name)
        by_leader: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for partition, leader in topic.leaders.items():
            by_leader[leader].append((partition, when))
        found: dict[int, int] = {}
        for leader, wanted in by_leader.items():
            answer = await self.send(OffsetRequest(-1, _READ_UNCOMMITTED, [(name, wanted)]), node=leader)
            for _, partitions in answer.topics:
                for partition, error_code, _, offset in partitions:
                    check(error_code, name)
                    found[partition] = offset
        return dict(sorted(found.items()))

    async def _ask(self, name: str | None, node: int | None = None) -> Any:
        return await self.send(TopicsRequest(name), node=node)

    @property
    def _limit_ms(self) -> int:
        # The broker's answer must come before the connection is given up.
        return int(self.config.request_timeout * 750)

    def _opened(self) -> AIOKafkaClient:
        if self._client is None:
            raise kafka.NoBrokersAvailable
        return self._client


_MASK: Final = 2**64 - 1


def check(error_code: int, name: str) -> None:
    """Raise aiokafka's error for a response's code, unless it is none."""
    if error_code:
        raise kafka.for_code(error_code)(name)
