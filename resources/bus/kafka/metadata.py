"""What keeps aiokafka's client from asking the brokers for metadata as fast as they answer."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka.client import AIOKafkaClient

PAUSE: Final = 0.05
"""Seconds between two requests for metadata, at least."""


def pace_metadata(client: AIOKafkaClient) -> None:
    """Let `PAUSE` pass between two requests for metadata of `client`.

    For as long as a partition has no leader, aiokafka's producer asks again at once: a thousand times a second, of
    brokers that have just come back and have other things to do.
    """
    ask = client._metadata_update  # noqa: SLF001  # the one place through which all of them go
    clock = asyncio.get_running_loop().time
    due = 0.0

    async def paced(cluster: Any, topics: Any) -> Any:
        nonlocal due
        await asyncio.sleep(max(0.0, due - clock()))
        try:
            return await ask(cluster, topics)
        finally:
            due = clock() + PAUSE

    client._metadata_update = paced  # noqa: SLF001
