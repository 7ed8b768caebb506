"""The event bus's contract between processes: they publish at once, and are killed in the middle."""

from __future__ import annotations

import asyncio
import multiprocessing.process
import os
import signal

from resources.bus import Message
from tests.contract.adapters import DEADLINE
from tests.contract.adapters import forkserver as _processes
from tests.contract.buses import Opener, numbered, numbers, read_all, take


async def _publish_batches(opener: Opener, topic: str, key: str, batches: int, size: int, filler: int) -> None:
    async with opener() as bus:
        for batch in range(batches):
            await bus.publish(
                topic, [Message(f"{batch * size + i}".encode().ljust(filler), key) for i in range(size)]
            )


def publish_batches(opener: Opener, topic: str, key: str, batches: int, size: int, filler: int) -> None:
    asyncio.run(_publish_batches(opener, topic, key, batches, size, filler))


async def _hold_a_subscription(opener: Opener, topic: str) -> None:
    async with opener() as bus, bus.subscribe(topic, group="g") as subscription:
        taken = await take(subscription, 5, limit=5)
        await subscription.commit(taken[2])
        await bus.publish(f"{topic}-ready", numbered(0, 1))
        await asyncio.sleep(600)


def hold_a_subscription(opener: Opener, topic: str) -> None:
    asyncio.run(_hold_a_subscription(opener, topic))


async def ended(process: multiprocessing.process.BaseProcess) -> None:
    async with asyncio.timeout(DEADLINE):
        while process.is_alive():
            await asyncio.sleep(0.01)


async def test_two_processes_publishing_at_once_lose_nothing_and_keep_their_order(
    opener: Opener, topic: str
) -> None:
    publishers = [
        _processes.Process(target=publish_batches, args=(opener, topic, key, 100, 10, 0)) for key in ("a", "b")
    ]
    for publisher in publishers:
        publisher.start()
    async with opener() as bus, bus.subscribe(topic, group="g") as subscription:
        taken = await take(subscription, 2_000)
    for publisher in publishers:
        await ended(publisher)
        assert publisher.exitcode == 0
    for key in ("a", "b"):
        assert numbers([delivery for delivery in taken if delivery.message.key == key]) == list(range(1_000))


async def test_a_publisher_killed_in_the_middle_leaves_whole_batches(opener: Opener, topic: str) -> None:
    """kill -9 at any instant: no half of a batch, and the bus works on."""
    publisher = _processes.Process(target=publish_batches, args=(opener, topic, "k", 10_000, 20, 20_000))
    publisher.start()
    async with opener() as bus:
        async with bus.subscribe(topic, group="g") as subscription:
            await take(subscription, 60)
        assert publisher.pid is not None
        os.kill(publisher.pid, signal.SIGKILL)
        await ended(publisher)
        end = sum((await bus.end_offsets(topic)).values())
        assert end % 20 == 0
        await bus.publish(topic, numbered(end, end + 1, key="k"))
        assert numbers(await read_all(bus, topic)) == list(range(end + 1))
    async with opener() as bus:
        assert sum((await bus.end_offsets(topic)).values()) == end + 1


async def test_a_killed_reader_gives_its_place_at_once(opener: Opener, topic: str) -> None:
    reader = _processes.Process(target=hold_a_subscription, args=(opener, topic))
    async with opener() as bus:
        await bus.publish(topic, numbered(0, 8))
        reader.start()
        async with bus.subscribe(f"{topic}-ready", group="g") as ready:
            await take(ready, 1)
        assert reader.pid is not None
        os.kill(reader.pid, signal.SIGKILL)
        await ended(reader)
        async with bus.subscribe(topic, group="g") as subscription:
            taken = await take(subscription, 5)
            assert numbers(taken) == [3, 4, 5, 6, 7]
            await subscription.commit(taken[-1])
