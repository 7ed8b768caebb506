"""The event bus's contract: what is published arrives, whole and in order. The tests know only the port."""

from __future__ import annotations

import asyncio
import random
from typing import get_args

import pytest

from resources.bus import MAX_MESSAGE_BYTES, Bus, Message
from resources.errors import Rejected
from resources.settings import BusKind
from tests.contract.adapters import DEADLINE
from tests.contract.buses import BUSES, Opener, numbered, numbers, read_all, take


def test_every_bus_setting_has_a_contract_run() -> None:
    assert set(BUSES) == set(get_args(BusKind))


async def test_messages_arrive_whole_and_in_order(bus: Bus, topic: str) -> None:
    sent = [
        Message(b"one", "BTCUSDT", {"content-type": "application/json", "über": "naïve ✓"}),
        Message(b"", "", {}),
        Message(bytes(range(256)), "ключ\x00", {"empty": ""}),
        Message(b"x" * MAX_MESSAGE_BYTES),
        Message(random.Random(1).randbytes(MAX_MESSAGE_BYTES), "k" * 16_000, {"h": "v" * 16_000}),
    ]
    await bus.publish(topic, sent)
    received = await read_all(bus, topic)
    assert [delivery.message for delivery in received] == sent
    assert {delivery.topic for delivery in received} == {topic}
    assert [delivery.offset for delivery in received] == sorted({delivery.offset for delivery in received})
    assert all(delivery.timestamp > 1.6e9 for delivery in received)


async def test_a_waiting_subscription_gets_a_message_as_soon_as_it_is_published(
    opener: Opener, topic: str
) -> None:
    async with opener() as one, opener() as other, other.subscribe(topic, group="g") as subscription:
        waiting = asyncio.create_task(subscription.receive(timeout=DEADLINE))
        await asyncio.sleep(0)
        await one.publish(topic, numbered(0, 1))
        async with asyncio.timeout(DEADLINE / 2):
            assert numbers(await waiting) == [0]


async def test_a_subscription_to_a_topic_that_does_not_exist_waits_for_it(bus: Bus, topic: str) -> None:
    async with bus.subscribe(topic, group="g") as early, bus.subscribe(topic, group="h", start="latest") as latest:
        assert await early.receive(timeout=0) == []
        assert topic not in await bus.topics()
        await bus.publish(topic, numbered(0, 3))
        assert numbers(await take(early, 3)) == [0, 1, 2]
        assert numbers(await take(latest, 3)) == [0, 1, 2]


async def test_latest_skips_what_was_there_and_earliest_does_not(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 2))
    async with bus.subscribe(topic, group="l", start="latest") as late, bus.subscribe(topic, group="e") as early:
        await bus.publish(topic, numbered(2, 4))
        assert numbers(await take(late, 2)) == [2, 3]
        assert numbers(await take(early, 4)) == [0, 1, 2, 3]


async def test_receive_returns_nothing_after_its_timeout(bus: Bus, topic: str) -> None:
    loop = asyncio.get_running_loop()
    async with bus.subscribe(topic, group="g") as subscription:
        began = loop.time()
        assert await subscription.receive(timeout=0.1) == []
        assert 0.1 <= loop.time() - began < DEADLINE


async def test_receive_keeps_to_its_limits(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 10))
    async with bus.subscribe(topic, group="g") as subscription:
        assert numbers(await subscription.receive(limit=4)) == [0, 1, 2, 3]
        assert numbers(await take(subscription, 6, limit=1)) == [4, 5, 6, 7, 8, 9]
        with pytest.raises(Rejected):
            await subscription.receive(limit=0)
    await bus.publish(f"{topic}-large", [Message(bytes(MAX_MESSAGE_BYTES))] * 30)
    async with bus.subscribe(f"{topic}-large", group="g") as subscription:
        sizes: list[int] = []
        while sum(sizes) < 30:
            sizes.append(len(await take(subscription, 1)))
        assert max(sizes) <= 12


async def test_a_slow_reader_loses_nothing(bus: Bus, topic: str) -> None:
    async def publish() -> None:
        for start in range(0, 10_000, 100):
            await bus.publish(topic, numbered(start, start + 100))

    async with bus.subscribe(topic, group="g") as subscription:
        first = asyncio.create_task(publish())
        taken = await take(subscription, 10, limit=10)
        await first
        taken += await take(subscription, 10_000 - len(taken))
    assert numbers(taken) == list(range(10_000))


async def test_publishers_at_once_keep_the_order_of_each_key(bus: Bus, topic: str) -> None:
    async def publish(key: str) -> None:
        for start in range(0, 100, 5):
            await bus.publish(topic, numbered(start, start + 5, key=key))

    keys = ["", "a", "b", "c", "d"]
    await asyncio.gather(*map(publish, keys))
    received = await read_all(bus, topic)
    for key in keys:
        assert numbers([one for one in received if one.message.key == key]) == list(range(100))


async def test_a_batch_larger_than_the_bus_takes_at_once_arrives_in_order(bus: Bus, topic: str) -> None:
    sizes = random.Random(2)
    sent = [
        Message(sizes.randbytes(sizes.choice([10, 1_000, 300_000, MAX_MESSAGE_BYTES])), "k") for _ in range(40)
    ]
    await asyncio.gather(bus.publish(topic, sent), bus.publish(f"{topic}-other", numbered(0, 5_000)))
    assert [delivery.message for delivery in await read_all(bus, topic)] == sent
    assert numbers(await read_all(bus, f"{topic}-other")) == list(range(5_000))


async def test_topics_are_listed_sorted_and_kept_apart(bus: Bus, topic: str) -> None:
    names = [f"{topic}-b", f"{topic}.a", f"{topic}_c"]
    for number, name in enumerate(names):
        await bus.publish(name, numbered(number, number + 1))
    assert [name for name in await bus.topics() if name.startswith(topic)] == sorted(names)
    for number, name in enumerate(names):
        assert numbers(await read_all(bus, name)) == [number]


async def test_end_offsets_are_where_the_next_message_goes(bus: Bus, topic: str) -> None:
    assert await bus.end_offsets(topic) == {}
    await bus.publish(topic, numbered(0, 3, key="k"))
    ends = await bus.end_offsets(topic)
    await bus.publish(topic, numbered(3, 4, key="k"))
    last = (await read_all(bus, topic))[-1]
    assert ends[last.partition] == last.offset
    assert (await bus.end_offsets(topic))[last.partition] == last.offset + 1


async def test_an_empty_batch_publishes_nothing(bus: Bus, topic: str) -> None:
    await bus.publish(topic, [])
    assert topic not in await bus.topics()
