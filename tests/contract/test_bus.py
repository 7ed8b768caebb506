"""The event bus's contract: every adapter passes it, and the tests know only the port."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from resources.bus import MAX_MESSAGE_BYTES, Bus, Delivery, Message, Subscription, open_bus
from resources.errors import Rejected
from resources.settings import BusKind, Settings

DEADLINE = 20.0

Opener = Callable[[], Bus]
"""Makes one more bus on the same messages. It can be sent to another process."""


@asynccontextmanager
async def embedded_bus(folder: Path) -> AsyncIterator[Opener]:
    yield partial(open_bus, Settings(bus="embedded", home=folder))


BUSES: dict[str, Callable[[Path], AbstractAsyncContextManager[Opener]]] = {"embedded": embedded_bus}


@pytest.fixture(params=BUSES)
async def opener(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    async with BUSES[request.param](tmp_path) as opener:
        yield opener


@pytest.fixture
async def bus(opener: Opener) -> AsyncIterator[Bus]:
    async with opener() as bus:
        yield bus


@pytest.fixture
def topic() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


def numbered(start: int, stop: int, *, key: str = "") -> list[Message]:
    return [Message(str(number).encode(), key) for number in range(start, stop)]


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(delivery.message.value) for delivery in deliveries]


async def take(subscription: Subscription, count: int, *, limit: int = 500) -> list[Delivery]:
    """Receive until `count` messages have come; fails the test after a while."""
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE):
        while len(taken) < count:
            taken += await subscription.receive(limit=limit)
    return taken


async def read_all(bus: Bus, topic: str, *, group: str = "reader") -> list[Delivery]:
    """Everything that is in `topic` now, for a new group."""
    async with bus.subscribe(topic, group=group) as subscription:
        return await take(subscription, sum((await bus.end_offsets(topic)).values()))


def test_every_bus_setting_has_a_contract_run() -> None:
    assert set(BUSES) == set(get_args(BusKind))


# --- what is published arrives


async def test_messages_arrive_whole_and_in_order(bus: Bus, topic: str) -> None:
    sent = [
        Message(b"one", "BTCUSDT", {"content-type": "application/json", "über": "naïve ✓"}),
        Message(b"", "", {}),
        Message(bytes(range(256)), "ключ\x00", {"empty": ""}),
        Message(b"x" * MAX_MESSAGE_BYTES),
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


# --- groups and their offsets


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
            with pytest.raises(Rejected, match="taken over"):
                await waiting
            with pytest.raises(Rejected, match="taken over"):
                await earlier.commit(taken[3])
            rest = await take(later, 3)
            assert numbers(rest) == [1, 2, 3]
            await later.commit(rest[-1])
        with pytest.raises(Rejected, match="taken over"):
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


# --- bad input, cancelling, closing


@pytest.mark.parametrize(
    "wrong", [Message(bytes(MAX_MESSAGE_BYTES + 1)), Message(b"", "\ud800")], ids=["too large", "key not text"]
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


# --- several processes

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pytest", "resources.bus", "resources.artifacts"])


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
