"""A broker that dies, hangs or goes away: nothing acknowledged is lost or repeated, and waits have an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient

from resources.bus import Bus
from resources.bus.kafka import KafkaBus, KafkaConfig
from resources.bus.kafka.cluster import Cluster, Topic
from resources.bus.kafka.metadata import PAUSE
from resources.errors import Rejected, Unavailable
from tests.contract.adapters import DEADLINE
from tests.contract.buses import numbered, numbers, read_all, take
from tests.servers.kafka import SESSION_TIMEOUT, Kafka
from tests.servers.session import need_kafka


def config(broker: Kafka, patience: float = 60.0) -> KafkaConfig:
    return KafkaConfig((broker.bootstrap,), request_timeout=min(5.0, patience), patience=patience)


@pytest.fixture
async def bus(broker: Kafka) -> AsyncIterator[Bus]:
    async with KafkaBus(config(broker)) as bus:
        yield bus


@contextmanager
def paused(broker: Kafka) -> Iterator[None]:
    broker.pause(1)
    try:
        yield
    finally:
        broker.resume(1)


async def test_publishers_and_readers_outlive_a_killed_broker(broker: Kafka, bus: Bus, name: str) -> None:
    """kill -9 in the middle of a load: every message is there once, in order, and nobody had to start again."""
    published = 0

    async def publish() -> None:
        nonlocal published
        for start in range(0, 4000, 10):
            await bus.publish(name, numbered(start, start + 10, key="k"))
            published = start

    async with bus.subscribe(name, group="g") as subscription:
        publishing = asyncio.create_task(publish())
        taken = await take(subscription, 500)
        await subscription.commit(taken[-1])
        broker.kill(1)
        broker.launch(1)
        await asyncio.to_thread(broker.await_ready, 1)
        async with asyncio.timeout(3 * DEADLINE):
            await publishing
            while len(taken) < 4000:
                taken += await subscription.receive()
        await subscription.commit(taken[-1])
        assert await subscription.receive(timeout=0.2) == []
    assert numbers(taken) == list(range(4000))
    assert await bus.committed(name, group="g") == await bus.end_offsets(name)


async def test_with_a_broker_away_what_waits_for_it_waits_and_new_topics_do_without(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all replicas of a partition away it has no leader, for longer than a request may take."""
    asked: list[float] = []
    ask = AIOKafkaClient._metadata_update

    async def counted(client: AIOKafkaClient, *about: object) -> object:
        asked.append(time.monotonic())
        return await ask(client, *about)

    monkeypatch.setattr(AIOKafkaClient, "_metadata_update", counted)
    need_kafka()
    with Kafka(tmp_path / "kafka", 3) as kafka:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(name, -1, -1, replica_assignments={0: [2]})])
        await admin.close()
        config = KafkaConfig(tuple(kafka.bootstrap.split(",")), request_timeout=1.0)
        async with KafkaBus(config) as bus:
            await bus.publish(name, numbered(0, 1))
            kafka.kill(2)
            publishing = asyncio.create_task(bus.publish(name, numbered(1, 2)))
            async with asyncio.timeout(SESSION_TIMEOUT + 5.0):
                await bus.publish(f"{name}-new", numbered(5, 6))
            await asyncio.sleep(SESSION_TIMEOUT + 2.0)
            assert not publishing.done()
            last = [moment for moment in asked if moment > time.monotonic() - 1.0]
            assert 1 <= len(last) <= 1.5 / PAUSE, "brokers in trouble must not be stormed with questions"
            kafka.launch(2)
            await asyncio.to_thread(kafka.await_ready, 2)
            async with asyncio.timeout(3 * DEADLINE):
                await publishing
            assert numbers(await read_all(bus, name)) == [0, 1]
            assert numbers(await read_all(bus, f"{name}-new")) == [5]


async def test_a_broker_that_does_not_know_a_topic_yet_is_not_believed(
    broker: Kafka, bus: Bus, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that has just started answers before it has learnt of every topic."""
    await bus.publish(name, numbered(0, 3))
    look, asked = Cluster.look, 0

    async def forgetful(self: Cluster, topic: str, *, node: int | None = None) -> Topic | None:
        nonlocal asked
        asked += topic == name
        return None if topic == name and asked in {2, 3, 4, 5} else await look(self, topic, node=node)

    monkeypatch.setattr(Cluster, "look", forgetful)
    async with bus.subscribe(name, group="g") as subscription, asyncio.timeout(DEADLINE):
        assert numbers(await take(subscription, 3)) == [0, 1, 2]


async def test_a_broker_that_hangs_is_unavailable_within_patience(broker: Kafka, name: str) -> None:
    async with KafkaBus(config(broker, patience=1.0)) as bus:
        await bus.publish(name, numbered(0, 1))
        async with bus.subscribe(name, group="g") as subscription:
            await subscription.commit((await take(subscription, 1))[0])
            with paused(broker):
                began = time.monotonic()
                for call in (
                    bus.publish(name, numbered(1, 2)),
                    bus.end_offsets(name),
                    subscription.receive(timeout=DEADLINE),
                ):
                    with pytest.raises(
                        Unavailable, match=f"Kafka at {broker.bootstrap} does not answer"
                    ) as refused:
                        await call
                    assert "\n" not in str(refused.value)
                assert time.monotonic() - began < DEADLINE
            # What was not confirmed may have been written all the same; publishing goes on, and so does reading.
            await bus.publish(name, numbered(2, 3))
            taken = await take(subscription, 1)
            while numbers(taken)[-1] != 2:
                taken += await subscription.receive()
            assert numbers(taken) in ([2], [1, 2])


async def test_a_call_that_waits_for_a_broker_can_be_cancelled(broker: Kafka, bus: Bus, name: str) -> None:
    await bus.publish(name, numbered(0, 1))
    async with bus.subscribe(name, group="g") as subscription:
        await take(subscription, 1)
        with paused(broker):
            for call in (bus.publish(name, numbered(1, 2)), bus.topics(), subscription.receive(timeout=DEADLINE)):
                waiting = asyncio.create_task(call)
                await asyncio.sleep(0.1)
                waiting.cancel()
                async with asyncio.timeout(1):
                    await asyncio.wait([waiting])
                assert waiting.cancelled()
    async with asyncio.timeout(DEADLINE):
        await bus.publish(name, numbered(2, 3))


async def test_a_bus_closes_while_its_broker_hangs(broker: Kafka, name: str) -> None:
    bus = KafkaBus(config(broker))
    await bus.__aenter__()
    await bus.publish(name, numbered(0, 1))
    with paused(broker):
        publishing = asyncio.create_task(bus.publish(name, numbered(1, 2)))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(DEADLINE):
            await bus.__aexit__(None, None, None)
            with pytest.raises(Rejected, match="closed"):
                await publishing


async def test_a_bus_opened_while_its_broker_comes_back_finds_it(broker: Kafka, name: str) -> None:
    """A broker that its controller believed dead names no brokers at first; who asked then must ask again."""
    with paused(broker):
        await asyncio.sleep(1.7 * SESSION_TIMEOUT)
    async with asyncio.timeout(DEADLINE), KafkaBus(config(broker)) as bus:
        await bus.publish(name, numbered(0, 1))
        assert numbers(await read_all(bus, name)) == [0]


async def test_opening_a_bus_without_a_broker_says_where_it_should_be() -> None:
    with pytest.raises(Unavailable, match=r"nothing listens at 127\.0\.0\.1:9, where Kafka should be"):
        async with KafkaBus(KafkaConfig(("127.0.0.1:9",))):
            pass
    with pytest.raises(Unavailable, match=r"the host of Kafka's address no-such-host\.invalid:9092 is not known"):
        async with KafkaBus(KafkaConfig(("no-such-host.invalid:9092",))):
            pass


async def test_a_topic_deleted_by_another_process_ends_its_readers(broker: Kafka, bus: Bus, name: str) -> None:
    await bus.publish(name, numbered(0, 3))
    async with KafkaBus(config(broker)) as other, other.subscribe(name, group="g") as subscription:
        taken = await take(subscription, 3)
        await bus.delete(name)
        await bus.publish(name, numbered(7, 8))
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(Rejected, match="deleted"):
                await take(subscription, 1000)
        with pytest.raises(Rejected, match="deleted"):
            await subscription.commit(taken[-1])
        # What another had learnt of the old topic does not keep it from publishing to the new one.
        await other.publish(name, numbered(8, 9))
    assert numbers(await read_all(bus, name, group="g")) == [7, 8]


async def test_publishing_to_a_topic_that_another_deleted_makes_it_anew(
    broker: Kafka, bus: Bus, name: str
) -> None:
    """A coordinator deletes a cancelled workflow's data while its loader still works, which must not hang."""
    async with KafkaBus(config(broker)) as other:
        await other.publish(name, numbered(0, 1))
        await bus.delete(name)
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(Unavailable, match="was deleted while it was published to"):
                await other.publish(name, numbered(1, 2))
            await other.publish(name, numbered(1, 2))
    assert numbers(await read_all(bus, name)) == [1]
