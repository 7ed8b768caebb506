"""How much of a backfill's CPU time is Dagster's: the same collecting with and without it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks.result import Result
from resources.datasets import DAY, Partition, days, parse_dataset
from resources.settings import Settings
from streamforge_assets.client import StreamForge
from streamforge_assets.simulator.process import running
from streamforge_assets.workflow.collection import collect_partitions
from streamforge_assets.workflow.examination import examine
from streamforge_assets.workflow.platform import open_platform

TARGET = 0.30
SYMBOLS = 12
DATASETS = ("trades", "candles_5m")
START = date(2024, 8, 1)
DAYS = 30


def run() -> list[Result]:
    """Backfill 12 symbols x 30 days both ways, from warm archive files, and compare CPU seconds."""
    return asyncio.run(_measure())


async def _measure() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        base = Settings(
            home=Path(folder),
            simulator_symbols=SYMBOLS,
            rest_url="http://127.0.0.1:8651",
            archive_url="http://127.0.0.1:8651/archive",
        )
        async with running(base):
            client = StreamForge(base)
            symbols = (await asyncio.to_thread(client.exchange_symbols))[:SYMBOLS]
            await _direct(base.model_copy(update={"home": base.home / "warm"}), symbols)
            without = await _direct(base.model_copy(update={"home": base.home / "without"}), symbols)
            with_dagster = await asyncio.to_thread(
                _through_dagster, base.model_copy(update={"home": base.home / "with"}), symbols
            )
    share = 1 - without / with_dagster
    return [
        Result(
            name="dagster_share",
            value=share,
            unit="share of CPU time",
            target=TARGET,
            reference=f"the same collecting without Dagster: {without:.1f} of {with_dagster:.1f} CPU-s",
            ok=share <= TARGET,
        )
    ]


async def _direct(settings: Settings, symbols: list[str]) -> float:
    began = time.process_time()
    async with open_platform(settings) as platform:
        for symbol in symbols:
            for name in DATASETS:
                wanted = [Partition(name, symbol, day) for day in days(START, START + DAYS * DAY)]
                for item in await collect_partitions(platform, parse_dataset(name), wanted):
                    if item.failure:
                        raise RuntimeError(f"{item.partition}: {item.failure}")
                    await examine(platform.store, item.partition)
    return time.process_time() - began


def _through_dagster(settings: Settings, symbols: list[str]) -> float:
    began = time.process_time()
    client = StreamForge(settings)
    result = client.backfill(DATASETS, symbols, start=START, end=START + DAYS * DAY, progress=False)
    if not result.complete:
        raise RuntimeError(f"not complete: {result.failures}")
    return time.process_time() - began
