"""The buses under test, and the fixtures and helpers that the bus's tests share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from resources.bus import Bus, Delivery, Message, Subscription, open_bus
from resources.settings import Settings
from tests.contract.adapters import DEADLINE, on_every
from tests.servers.session import kafka_address

Opener = Callable[[], Bus]
"""Makes one more bus on the same messages. It can be sent to another process."""


@asynccontextmanager
async def embedded_bus(folder: Path) -> AsyncIterator[Opener]:
    yield partial(open_bus, Settings(bus="embedded", home=folder))


@asynccontextmanager
async def kafka_bus(folder: Path) -> AsyncIterator[Opener]:
    yield partial(open_bus, Settings(bus="kafka", home=folder, kafka_bootstrap=kafka_address()))


BUSES: dict[str, Callable[[Path], AbstractAsyncContextManager[Opener]]] = {
    "embedded": embedded_bus,
    "kafka": kafka_bus,
}

opener = on_every(BUSES)


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
