"""How a sensor reaches the outside world: a limited time, an event loop for the length of one tick."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

from resources.bus import open_bus
from resources.bus.port import Bus
from resources.errors import Unavailable
from resources.settings import Settings

T = TypeVar("T")

BUDGET: Final = 20.0
"""Seconds that a tick may take. Dagster ends one after 60, and proxies before that."""

_PATIENCE: Final = 8.0


def bus_of(settings: Settings) -> AbstractAsyncContextManager[Bus]:
    """The bus of the settings, not yet open, which gives up early enough for a tick to say so."""
    patience = min(settings.kafka_patience, _PATIENCE)
    return open_bus(settings.model_copy(update={"kafka_patience": patience}))


def run_until(deadline: float, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a loop of its own until `deadline`, a moment of `time.monotonic`.

    Raises:
        Unavailable: it was not done by then; and whatever `work` raises.
    """

    async def limited() -> T:
        async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
            return await work

    try:
        return asyncio.run(limited())
    except TimeoutError as error:
        raise Unavailable(f"nothing was heard within the {BUDGET:g} s of a tick") from error
