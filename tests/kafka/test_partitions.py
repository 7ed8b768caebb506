"""Topics with several partitions, and messages that others wrote."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import psutil
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from resources.bus import MAX_MESSAGE_BYTES, Bus, Message
from resources.bus.kafka import KafkaBus, KafkaConfig
from resources.bus.topics import topic_rule
from tests.contract.buses import numbered, numbers, read_all, take

KEYS = [f"key-{number}" for number in range(12)]


@pytest.fixture
async def bus(address: str) -> AsyncIterator[Bus]:
    async with KafkaBus(KafkaConfig((address,))) as bus:
        yield bus


@pytest.fixture
async def admin(address: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=address)
    await client.start()
    yield client
    await client.close()


async def publish_keys(bus: Bus, topic: str, start: int, stop: int) -> None:
    await bus.publish(topic, [one for key in KEYS for one in numbered(start, stop, key=key)])


async def test_each_key_keeps_its_order_in_a_partition_of_its_own(
    bus: Bus, admin: AIOKafkaAdminClient, name: str
) -> None:
    await admin.create_topics([NewTopic(name, 4, 1)])
    for start in range(0, 100, 10):
        await publish_keys(bus, name, start, start + 10)
    received = await read_all(bus, name)
    assert len({one.partition for one in received}) == 4
    for key in KEYS:
        of_key = [one for one in received if one.message.key == key]
        assert numbers(of_key) == list(range(100))
        assert len({one.partition for one in of_key}) == 1


async def test_a_key_goes_where_javas_clients_put_it(bus: Bus, admin: AIOKafkaAdminClient, name: str) -> None:
    """What another client wrote with a key must not be overtaken by what we write with it."""
    await admin.create_topics([NewTopic(name, 10, 1)])
    # From the tests of Kafka's own Utils.murmur2: the hashes of these keys, made positive, modulo 10.
    for key, partition in {"21": (-973932308 & 0x7FFFFFFF) % 10, "foobar": (-790332482 & 0x7FFFFFFF) % 10}.items():
        await bus.publish(name, numbered(0, 1, key=key))
        assert (await bus.end_offsets(name))[partition] == 1


async def test_a_commit_covers_what_was_given_before_in_every_partition(
    bus: Bus, admin: AIOKafkaAdminClient, name: str
) -> None:
    """A worker commits the last message it dealt with: what came before it, from all partitions, is dealt with."""
    await admin.create_topics([NewTopic(name, 4, 1)])
    await publish_keys(bus, name, 0, 10)
    async with bus.subscribe(name, group="g") as subscription:
        taken = await take(subscription, 120, limit=7)
        await subscription.commit(taken[69])
    async with bus.subscribe(name, group="g") as subscription:
        rest = await take(subscription, 50)
        assert {(one.partition, one.offset) for one in rest} == {(one.partition, one.offset) for one in taken[70:]}
        assert await subscription.receive(timeout=0.2) == []
        await subscription.commit(rest[-1])
    assert await bus.committed(name, group="g") == {
        partition: end for partition, end in (await bus.end_offsets(name)).items() if end
    }


async def test_messages_of_others_are_read_whatever_they_hold(bus: Bus, address: str, name: str) -> None:
    await bus.publish(name, numbered(0, 1))
    async with AIOKafkaProducer(bootstrap_servers=address) as producer:
        await producer.send_and_wait(name, None, b"\xff\xfekey", headers=[("h", b"\xff"), ("none", None)])
        await producer.send_and_wait(name, b"plain")
    _, tombstone, plain = await read_all(bus, name)
    assert tombstone.message == (b"", "\ufffd\ufffdkey", {"h": "\ufffd", "none": ""})
    assert plain.message.value == b"plain"


async def test_what_retention_removed_is_passed_over_and_said(
    bus: Bus, admin: AIOKafkaAdminClient, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader that was away for longer than messages are kept must go on, and its operator learn of the gap."""
    await bus.publish(name, numbered(0, 10))
    async with bus.subscribe(name, group="g") as subscription:
        await subscription.commit((await take(subscription, 2, limit=2))[-1])
    await admin.delete_records({TopicPartition(name, 0): RecordsToDelete(before_offset=5)})
    async with bus.subscribe(name, group="g") as subscription:
        assert numbers(await take(subscription, 5)) == [5, 6, 7, 8, 9]
    assert f"messages 2 to 4 of partition 0 of {name} were removed" in caplog.text


@pytest.mark.parametrize("topic", ["queue-events", "wf-{}-data", "wf-{}-data.dlq"])
async def test_a_topic_is_made_as_the_table_says(
    bus: Bus, admin: AIOKafkaAdminClient, name: str, topic: str
) -> None:
    topic = topic.format(name)
    await bus.publish(topic, numbered(0, 1))
    rule = topic_rule(topic)
    (described,) = await admin.describe_topics([topic])
    assert len(described["partitions"]) == rule.partitions
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    found = {entry[0]: entry[1] for entry in answer.resources[0][4]}
    assert found.items() >= rule.config(1).items()


async def test_a_reader_that_stalls_holds_little(bus: Bus, name: str) -> None:
    """A worker that waits for its store must not be filled up by what others publish meanwhile."""
    chance = random.Random(3)
    page = Message(chance.randbytes(MAX_MESSAGE_BYTES), "k")
    for _ in range(8):
        await bus.publish(name, [page] * 10)
    before = psutil.Process().memory_info().rss
    async with bus.subscribe(name, group="g") as subscription:
        taken = await take(subscription, 1, limit=1)
        for _ in range(10):  # as long as it takes to fetch all 80 MB, if nothing held it back
            await asyncio.sleep(0.1)
        assert psutil.Process().memory_info().rss - before < 40_000_000
        taken += await take(subscription, 79)
    assert [one.offset for one in taken] == list(range(80))
