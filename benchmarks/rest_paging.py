"""REST paging against the simulated exchange: how much of the allowed request weight is used, and never more."""

from __future__ import annotations

import asyncio
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks.result import Result
from resources.datasets import DAY, midnight
from resources.exchange import open_exchange
from resources.exchange.port import Exchange
from resources.settings import Settings
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.server import SimulatedExchange

TARGET = 0.90
START = date(2024, 1, 2)
PAGERS = 4


def run() -> list[Result]:
    """Page trades of several symbols through one whole UTC minute at the exchange's real limit."""
    return asyncio.run(_measure())


async def _measure() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        async with SimulatedExchange(SimulatorConfig(symbols=PAGERS), Path(folder) / "made") as exchange:
            settings = Settings(
                home=Path(folder), exchange="binance", rest_url=exchange.rest_url, archive_url=exchange.archive_url
            )
            async with open_exchange(settings) as client:
                # A whole minute of the exchange's clock, whatever the second it starts in.
                ends = time.monotonic() + (60 - time.time() % 60) + 62
                symbols = await client.symbols()
                await asyncio.gather(*(_page(client, symbol, ends) for symbol in symbols))
            stats, limit = exchange.stats, exchange.config.weight_limit
    used = stats.most_used / limit
    clean = stats.refused == 0 and stats.statuses[429] == 0 and stats.most_used <= limit
    reference = f"{limit} a minute allowed, {stats.most_used} used, {stats.statuses[429]} answers 429"
    return [Result("rest_paging", used, "of the weight allowed", TARGET, reference, clean and used >= TARGET)]


async def _page(client: Exchange, symbol: str, ends: float) -> None:
    pages = client.trades(symbol, midnight(START), midnight(START + 60 * DAY))
    async for _ in pages:
        if time.monotonic() >= ends:
            return
