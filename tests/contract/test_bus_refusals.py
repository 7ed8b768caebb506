"""The event bus's contract: bad input is refused, cancelling loses nothing, a closed bus says so."""

from __future__ import annotations

import asyncio

import pytest

from resources.bus import MAX_LABEL_BYTES, MAX_MESSAGE_BYTES, Bus, Delivery, Message
from resources.errors import Rejected
from tests.contract.adapters import DEADLINE
from tests.contract.buses import Opener, numbered, numbers, read_all, take


@pytest.mark.parametrize(
    "wrong",
    [
        Message(bytes(MAX_MESSAGE_BYTES + 1)),
        Message(b"", "\ud800"),
        Message(b"", "", {"a": "\ud800"}),
        Message(b"", "k" * (MAX_LABEL_BYTES + 1)),
        Message(b"", "", {"a": "x" * MAX_LABEL_BYTES}),
    ],
    ids=["too large", "key not text", "header not text", "key too large", "headers too large"],
)
async def test_a_wrong_message_rejects_its_whole_batch(bus: Bus, topic: str, wrong: Message) -> None:
    with pytest.raises(Rejected):
        await bus.publish(topic, [*numbered(0, 3), wrong, *numbered(3, 6)])
    assert topic not in await bus.topics()


@pytest.mark.parametrize("name", ["", "with space", "a/b", "x" * 250, ".."])
async def test_a_name_that_cannot_be_a_topic_is_rejected(bus: Bus, name: str) -> None:
    with pytest.raises(Rejected):
        await bus.publish(name, numbered(0, 1))
    with pytest.raises(Rejected):
        async with bus.subscribe(name, group="g"):
            pass


async def test_a_delivery_of_another_topic_cannot_be_committed(bus: Bus, topic: str) -> None:
    await bus.publish(f"{topic}-a", numbered(0, 1))
    (delivery,) = await read_all(bus, f"{topic}-a")
    async with bus.subscribe(f"{topic}-b", group="g") as subscription:
        with pytest.raises(Rejected):
            await subscription.commit(delivery)


async def test_a_cancelled_receive_loses_nothing(bus: Bus, topic: str) -> None:
    async with bus.subscribe(topic, group="g") as subscription:
        taken: list[Delivery] = []
        for number in range(50):
            receiving = asyncio.create_task(subscription.receive(limit=1))
            await bus.publish(topic, numbered(number, number + 1))
            for _ in range(number % 7):
                await asyncio.sleep(0)
            receiving.cancel()
            (result,) = await asyncio.gather(receiving, return_exceptions=True)
            if isinstance(result, list):
                taken += result
        taken += await take(subscription, 50 - len(taken))
    assert numbers(taken) == list(range(50))


async def test_a_cancelled_publish_happened_whole_or_not_at_all(bus: Bus, topic: str) -> None:
    for batch in range(40):
        publishing = asyncio.create_task(bus.publish(topic, numbered(batch * 10, batch * 10 + 10)))
        for _ in range(batch % 5):
            await asyncio.sleep(0)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    await bus.publish(topic, numbered(400, 410))
    seen = numbers(await read_all(bus, topic))
    assert seen == sorted(seen)
    assert all(seen.count(number // 10 * 10) == 1 for number in seen)
    assert len(seen) % 10 == 0


async def test_closing_twice_is_harmless_and_a_closed_bus_says_so(opener: Opener, topic: str) -> None:
    bus = opener()
    with pytest.raises(Rejected, match="not open"):
        await bus.topics()
    async with bus:
        await bus.publish(topic, numbered(0, 1))
        subscribed = bus.subscribe(topic, group="g")
        subscription = await subscribed.__aenter__()
        await take(subscription, 1)
        waiting = asyncio.create_task(subscription.receive(timeout=DEADLINE))
        await asyncio.sleep(0)
        await bus.__aexit__(None, None, None)
        with pytest.raises(Rejected, match="not open"):
            await waiting
        await subscribed.__aexit__(None, None, None)
    await bus.__aexit__(None, None, None)
    with pytest.raises(Rejected, match="not open"):
        await bus.publish(topic, numbered(1, 2))


async def test_a_subscription_that_was_left_cannot_be_used(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 1))
    async with bus.subscribe(topic, group="g") as subscription:
        taken = await take(subscription, 1)
    with pytest.raises(Rejected):
        await subscription.receive()
    with pytest.raises(Rejected):
        await subscription.commit(taken[0])


async def test_messages_and_commits_outlive_the_bus(opener: Opener, topic: str) -> None:
    async with opener() as bus:
        await bus.publish(topic, numbered(0, 4))
        async with bus.subscribe(topic, group="g") as subscription:
            await subscription.commit((await take(subscription, 4))[1])
    async with opener() as bus, bus.subscribe(topic, group="g") as subscription:
        assert numbers(await take(subscription, 2)) == [2, 3]
