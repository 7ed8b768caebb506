"""The event bus's contract: reading from offsets of one's own, without a group, up to the end."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from resources.bus import Bus, Delivery, Gap, Message, Replay
from resources.errors import Rejected
from resources.settings import Settings
from tests.contract.adapters import DEADLINE
from tests.contract.buses import Opener, numbered, numbers, take


async def replayed(bus: Bus, topic: str, offsets: dict[int, int], *, limit: int = 500) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(DEADLINE), bus.replay(topic, offsets) as replay:
        while batch := await replay.receive(limit=limit):
            assert len(batch) <= limit
            found += batch
            assert replay.positions == {0: batch[-1].offset + 1}
        assert replay.positions == replay.ends
        assert replay.gaps == ()
    return found


async def read_on(replay: Replay) -> list[Delivery]:
    found: list[Delivery] = []
    while batch := await replay.receive():
        found += batch
    return found


async def remove_before(opener: Opener, topic: str, offset: int) -> None:
    """Do to `topic` what retention does."""
    assert isinstance(opener, partial)
    (settings,) = opener.args
    assert isinstance(settings, Settings)
    if settings.bus == "kafka":
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
        await admin.start()
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=offset)})
        await admin.close()
    else:
        with sqlite3.connect(settings.home / "bus.sqlite") as db:
            db.execute(
                "DELETE FROM messages WHERE id >= (SELECT id FROM topics WHERE name = ?1) << 40"
                " AND id < ((SELECT id FROM topics WHERE name = ?1) << 40) + ?2",
                (topic, offset),
            )


@pytest.mark.parametrize("start", [0, 3, 7, 10])
async def test_it_gives_everything_from_the_offset_to_the_end_and_then_nothing(
    bus: Bus, topic: str, start: int
) -> None:
    await bus.publish(topic, numbered(0, 10))
    assert numbers(await replayed(bus, topic, {0: start}, limit=3)) == list(range(start, 10))


async def test_a_partition_that_is_not_named_is_read_from_its_beginning(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 4))
    assert numbers(await replayed(bus, topic, {})) == [0, 1, 2, 3]


async def test_it_ends_where_the_topic_ended_when_it_was_opened(bus: Bus, topic: str) -> None:
    """A reader with a time budget must come to an end, however fast others write."""
    await bus.publish(topic, numbered(0, 4))
    async with asyncio.timeout(DEADLINE), bus.replay(topic, {0: 2}) as replay:
        await bus.publish(topic, numbered(4, 9))
        assert numbers(await replay.receive()) == [2, 3]
        assert await replay.receive() == []
        positions = replay.positions
    assert positions == {0: 4}
    assert numbers(await replayed(bus, topic, dict(positions))) == [4, 5, 6, 7, 8]


async def test_it_neither_moves_a_group_nor_takes_its_place(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 5))
    async with bus.subscribe(topic, group="g") as subscription:
        taken = await take(subscription, 2, limit=2)
        assert len(await replayed(bus, topic, {})) == 5
        await subscription.commit(taken[-1])
    assert await bus.committed(topic, group="g") == {0: 2}


async def test_what_retention_removed_is_reported(bus: Bus, opener: Opener, topic: str) -> None:
    """A reader that was away for longer than messages are kept must say what it never saw."""
    await bus.publish(topic, numbered(0, 10))
    await remove_before(opener, topic, 6)
    async with asyncio.timeout(DEADLINE), bus.replay(topic, {0: 2}) as replay:
        assert numbers(await replay.receive()) == [6, 7, 8, 9]
        assert replay.gaps == (Gap(topic, 0, 2, 6),)
        assert replay.gaps[0].lost == 4
    assert numbers(await replayed(bus, topic, {})) == [6, 7, 8, 9], "what was never asked for is no gap"


async def test_a_topic_that_was_emptied_is_a_gap_up_to_its_end(bus: Bus, opener: Opener, topic: str) -> None:
    await bus.publish(topic, numbered(0, 5))
    await remove_before(opener, topic, 5)
    async with asyncio.timeout(DEADLINE), bus.replay(topic, {0: 1}) as replay:
        assert await replay.receive() == []
        assert (replay.gaps, replay.positions) == ((Gap(topic, 0, 1, 5),), {0: 5})


async def test_a_topic_that_has_begun_anew_is_read_from_its_beginning_and_reported(bus: Bus, topic: str) -> None:
    await bus.publish(topic, numbered(0, 10))
    await bus.delete(topic)
    await bus.publish(topic, numbered(7, 9))
    async with asyncio.timeout(DEADLINE), bus.replay(topic, {0: 10}) as replay:
        assert numbers(await replay.receive()) == [7, 8]
        assert replay.gaps == (Gap(topic, 0, 10, 0),)
        assert (replay.gaps[0].lost, "begun anew" in str(replay.gaps[0])) == (0, True)


async def test_without_a_topic_there_is_nothing_and_the_place_is_kept(bus: Bus, topic: str) -> None:
    """A broker that has just started may not know the topic yet: no reason to read all of it again."""
    async with bus.replay(topic, {0: 5}) as replay:
        assert await replay.receive() == []
        assert (replay.positions, replay.ends, replay.gaps) == ({0: 5}, {}, ())
    assert topic not in await bus.topics()


async def test_large_messages_come_in_parts(bus: Bus, topic: str) -> None:
    for _ in range(12):
        await bus.publish(topic, [Message(b"x" * 900_000)])
    async with asyncio.timeout(DEADLINE), bus.replay(topic, {}) as replay:
        first = await replay.receive()
        assert 1 <= len(first) < 12
        rest = await read_on(replay)
    assert len(first) + len(rest) == 12


async def test_asking_for_no_messages_is_refused(bus: Bus, topic: str) -> None:
    async with bus.replay(topic, {}) as replay:
        with pytest.raises(Rejected, match="ask for 1 or more"):
            await replay.receive(limit=0)


async def test_a_topic_deleted_meanwhile_ends_the_replay(bus: Bus, topic: str) -> None:
    for _ in range(12):
        await bus.publish(topic, [Message(b"x" * 900_000)])
    async with asyncio.timeout(DEADLINE), bus.replay(topic, {}) as replay:
        await bus.delete(topic)
        await bus.publish(topic, numbered(0, 1))
        with pytest.raises(Rejected, match="deleted"):
            await read_on(replay)
