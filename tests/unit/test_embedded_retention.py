"""The embedded bus keeps messages as long as docs/topics.md says, so that a laptop's disk does not fill up."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resources.bus import Gap, Message, embedded
from resources.bus.embedded import EmbeddedBus
from resources.bus.sqlite_log import LogFile
from resources.bus.topics import DAY
from resources.bus.value_files import ValueFiles, ValueReader

DATA = "wf-btcusdt-data"
PAGE = bytes(100_000)


def age(path: Path, days: float, *, below: int = 1 << 40) -> None:
    """Make the messages with an offset below `below`, in all topics, older than they are."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE messages SET timestamp = timestamp - ? WHERE id % (1 << 40) < ?", (days * DAY, below))


def numbered(start: int, stop: int) -> list[Message]:
    return [Message(str(number).encode()) for number in range(start, stop)]


@asynccontextmanager
async def expired(path: Path) -> AsyncIterator[EmbeddedBus]:
    """The bus, opened once more, when it has removed what is too old."""
    async with EmbeddedBus(path) as bus:
        async with asyncio.timeout(10):
            while await bus._read(lambda log: log.expire(time.time())):
                await asyncio.sleep(0)
        yield bus


async def values_of(bus: EmbeddedBus, topic: str, group: str = "g") -> list[bytes]:
    async with bus.subscribe(topic, group=group) as subscription:
        found = []
        while batch := await subscription.receive(timeout=0):
            found += [one.message.value for one in batch]
        return found


async def test_each_topic_loses_what_is_older_than_its_rule_says(tmp_path: Path) -> None:
    path = tmp_path / "bus"
    async with EmbeddedBus(path) as bus:
        for topic in (DATA, "queue-events", f"{DATA}.dlq"):
            await bus.publish(topic, numbered(0, 500))
    age(path, 5, below=450)
    async with expired(path) as bus:
        assert await values_of(bus, DATA) == [str(number).encode() for number in range(450, 500)]
        assert len(await values_of(bus, "queue-events")) == len(await values_of(bus, f"{DATA}.dlq")) == 500
        async with bus.replay(DATA, {0: 7}) as replay:
            assert (await replay.receive())[0].offset == 450
            assert replay.gaps == (Gap(DATA, 0, 7, 450),)
    age(path, 3, below=450)
    async with expired(path) as bus:
        assert len(await values_of(bus, "queue-events", "other")) == 50
        assert len(await values_of(bus, f"{DATA}.dlq", "other")) == 500


async def test_opening_the_bus_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "bus"
    async with EmbeddedBus(path) as bus:
        await bus.publish(DATA, [Message(PAGE)] * 3)
    age(path, 4)
    async with EmbeddedBus(path) as bus, asyncio.timeout(10):
        while list((tmp_path / "bus.values").iterdir()):
            await asyncio.sleep(0.01)
        assert await bus.end_offsets(DATA) == {0: 3}
        assert await values_of(bus, DATA) == []


async def test_a_topic_that_has_lost_everything_goes_on_at_its_next_offset(tmp_path: Path) -> None:
    path = tmp_path / "bus"
    async with EmbeddedBus(path) as bus:
        await bus.publish(DATA, [Message(PAGE)] * 3)
        async with bus.subscribe(DATA, group="g") as subscription:
            await subscription.commit((await subscription.receive(limit=1))[0])
    age(path, 4)
    async with expired(path) as bus:
        await bus.publish(DATA, [Message(PAGE + b"new")])
        assert await bus.topics() == [DATA]
        async with bus.subscribe(DATA, group="g") as subscription:
            (delivery,) = await subscription.receive()
        assert (delivery.offset, delivery.message.value) == (3, PAGE + b"new")


@pytest.mark.parametrize("more", [False, True], ids=["nothing", "others"])
async def test_a_reader_in_the_middle_passes_over_what_goes_and_meets_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    """It has seen the message's row when the message goes, and its bytes, whose place `others` take."""
    path = tmp_path / "bus"
    async with EmbeddedBus(path) as bus:
        await bus.publish(DATA, [Message(PAGE)])
    age(path, 4)
    reading = ValueFiles.reading
    swept = False

    @contextmanager
    def meanwhile(files: ValueFiles, topic_id: int) -> Iterator[ValueReader]:
        nonlocal swept
        if not swept:
            swept = True
            with closing(LogFile(path, patience=5.0)) as log:
                while log.expire(time.time()):
                    pass
                if more:
                    log.append(DATA, [Message(b"x" + PAGE)])
        with reading(files, topic_id) as reader:
            yield reader

    async def never(*_: Any) -> None:
        return None

    monkeypatch.setattr(EmbeddedBus, "_expire", never)
    monkeypatch.setattr(ValueFiles, "reading", meanwhile)
    async with EmbeddedBus(path) as bus:
        assert await values_of(bus, DATA) == ([b"x" + PAGE] if more else [])
    assert swept


async def test_a_log_that_is_locked_loses_its_old_messages_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bus"
    monkeypatch.setattr(embedded, "_EXPIRE_EVERY", 0.05)
    async with EmbeddedBus(path, patience=0.1) as bus, asyncio.timeout(10):
        await bus.publish(DATA, numbered(0, 5))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            monkeypatch.setattr(embedded, "time", SimpleNamespace(time=lambda: time.time() + 4 * DAY))
            while "are later" not in caplog.text:
                await asyncio.sleep(0.01)
            other.execute("ROLLBACK")
        while (await bus._read(lambda log: log.extent(DATA))).first != 5:
            await asyncio.sleep(0.01)
