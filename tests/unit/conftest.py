"""The fixtures that several files of unit tests share."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.unit.scripted import exchange, no_waiting, server, wait

__all__ = ["exchange", "http", "no_waiting", "server", "wait"]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
