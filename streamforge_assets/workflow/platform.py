"""The platform of one process: its ports, opened together and closed together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from resources.artifacts import open_artifacts
from resources.artifacts.port import Artifacts
from resources.bus import open_bus
from resources.bus.port import Bus
from resources.exchange import open_exchange
from resources.exchange.port import Exchange
from resources.launcher import open_launcher
from resources.settings import Settings
from resources.store import open_store
from resources.store.port import Store
from streamforge_assets.simulator.process import running
from streamforge_assets.workers.registry import in_process
from streamforge_assets.workers.runtime import Ports
from streamforge_assets.workflow.coordinator import Coordinator


@dataclass(frozen=True, slots=True)
class Platform:
    """Everything outside, for one process, and the coordinator on top of it."""

    settings: Settings
    bus: Bus
    store: Store
    artifacts: Artifacts
    exchange: Exchange
    coordinator: Coordinator


@contextlib.asynccontextmanager
async def reachable_exchange(settings: Settings) -> AsyncIterator[Exchange]:
    """Open the exchange of the settings. A simulated one that does not run yet is started, and ends on leaving."""
    async with contextlib.AsyncExitStack() as stack:
        if settings.exchange == "simulated":
            await stack.enter_async_context(running(settings))
        yield await stack.enter_async_context(open_exchange(settings))


@contextlib.asynccontextmanager
async def open_platform(settings: Settings) -> AsyncIterator[Platform]:
    """Open every port that the settings choose.

    Raises:
        Unavailable: naming the port that cannot be opened.
    """
    async with contextlib.AsyncExitStack() as stack:
        exchange = await stack.enter_async_context(reachable_exchange(settings))
        bus = await stack.enter_async_context(open_bus(settings))
        store = await stack.enter_async_context(open_store(settings))
        artifacts = await stack.enter_async_context(open_artifacts(settings))
        workers = in_process(Ports(settings, bus, store, exchange))
        launcher = await stack.enter_async_context(open_launcher(settings, workers))
        coordinator = Coordinator(settings, bus, store, launcher)
        yield Platform(settings, bus, store, artifacts, exchange, coordinator)
