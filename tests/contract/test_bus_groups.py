"""The event bus's contract: groups, their offsets, and what deleting a topic does to them."""

from __future__ import annotations

import asyncio

import pytest

from resources.bus import Bus, TakenOver
from resources.errors import Rejected
from tests.contract.adapters import DEADLINE
from tests.contract.buses import Opener, numbered, numbers, read_all, take


async def test_a_second_group_sees_every_message_again(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 5))
    for group in ("one", "two"):
        async with bus.subscribe(topic, group=group) as subscription:
            taken = await take(subscription, 5)
            assert numbers(taken) == [0, 1, 2, 3, 4]
            await subscription.commit(taken[-1])


async def test_uncommitted_messages_come_again_to_the_next_subscription_only(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 5))
    async with bus.subscribe(topic, group="g") as subscription:
        taken = await take(subscription, 5)
        await subscription.commit(taken[1])
        assert await subscription.receive(timeout=0.05) == []
    async with bus.subscribe(topic, group="g", start="latest") as subscription:
        assert numbers(await take(subscription, 3)) == [2, 3, 4]


async def test_a_commit_never_goes_back(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 5))
    assert await bus.committed(topic, group="g") == {}
    async with bus.subscribe(topic, group="g") as subscription:
        taken = await take(subscription, 5)
        await subscription.commit(taken[3])
        await subscription.commit(taken[0])
    assert await bus.committed(topic, group="g") == {taken[3].partition: taken[3].offset + 1}
    async with bus.subscribe(topic, group="g") as subscription:
        assert numbers(await take(subscription, 1)) == [4]


async def test_a_later_subscription_of_the_group_takes_over(opener: Opener, topic: str) -> None:
    """After a kill -9 the group must be readable at once, and a hung reader that wakes up must do no harm."""
    async with opener() as one, opener() as other, one.subscribe(topic, group="g") as earlier:
        await one.publish(topic, numbered(0, 4))
        taken = await take(earlier, 4)
        await earlier.commit(taken[0])
        waiting = asyncio.create_task(earlier.receive(timeout=DEADLINE))
        async with other.subscribe(topic, group="g") as later:
            with pytest.raises(TakenOver):
                await waiting
            with pytest.raises(TakenOver):
                await earlier.commit(taken[3])
            rest = await take(later, 3)
            assert numbers(rest) == [1, 2, 3]
            await later.commit(rest[-1])
        with pytest.raises(TakenOver):
            await earlier.receive(timeout=0)


# --- deleting


async def test_a_deleted_topic_starts_anew(bus: Bus, topic: str) -> None:
    await bus.publish(f"{topic}-other", numbered(0, 3))
    await bus.publish(topic, numbered(0, 300))
    async with bus.subscribe(topic, group="g") as subscription:
        await subscription.commit((await take(subscription, 300))[-1])
    await bus.delete(topic)
    assert topic not in await bus.topics()
    assert await bus.end_offsets(topic) == {}
    assert await bus.committed(topic, group="g") == {}
    await bus.publish(topic, numbered(7, 9))
    async with bus.subscribe(topic, group="g") as subscription:
        again = await take(subscription, 2)
    assert [(delivery.offset, number) for delivery, number in zip(again, numbers(again), strict=True)] == [
        (0, 7),
        (1, 8),
    ]
    await bus.publish(f"{topic}-other", numbered(3, 4))
    assert numbers(await read_all(bus, f"{topic}-other")) == [0, 1, 2, 3]


async def test_deleting_an_absent_topic_is_harmless(bus: Bus, topic: str) -> None:
    async with bus.subscribe(topic, group="g") as subscription:
        await bus.delete(topic)
        await bus.publish(topic, numbered(0, 1))
        assert numbers(await take(subscription, 1)) == [0]


async def test_deleting_a_topic_ends_its_subscriptions(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 1))
    async with bus.subscribe(topic, group="g") as subscription:
        taken = await take(subscription, 1)
        waiting = asyncio.create_task(subscription.receive(timeout=DEADLINE))
        await asyncio.sleep(0)
        await bus.delete(topic)
        with pytest.raises(Rejected, match="deleted"):
            await waiting
        await bus.publish(topic, numbered(0, 2))
        with pytest.raises(Rejected, match="deleted"):
            await subscription.commit(taken[0])
    assert await bus.committed(topic, group="g") == {}
