"""A range read through the store, against a plain scan of the same files."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks.result import Result, best_of_interleaved
from resources.datasets import Partition, days, midnight, to_us
from resources.records import CANDLE, TIME
from resources.store.frames import to_frame
from resources.store.lake import LakeStore

SYMBOLS = [f"S{number:02}USDT" for number in range(50)]
FIRST, LAST = date(2024, 8, 1), date(2024, 8, 31)
TARGET = 0.6
ROUNDS = 5


def run() -> list[Result]:
    """Measure 50 symbols by 30 days of 5-minute candles, from files to one DataFrame."""
    with tempfile.TemporaryDirectory() as folder:
        return [asyncio.run(_measure(Path(folder)))]


async def _measure(root: Path) -> Result:
    async with LakeStore(root) as store:
        for symbol in SYMBOLS:
            for day in days(FIRST, LAST):
                async with store.ingest(Partition("candles_5m", symbol, day)) as ingest:
                    await ingest.append(candles(symbol, day))
                    await ingest.commit()
        loop = asyncio.get_running_loop()

        def ours() -> pd.DataFrame:
            read = store.read("candles_5m", SYMBOLS, midnight(FIRST), midnight(LAST))
            return to_frame(asyncio.run_coroutine_threadsafe(read, loop).result(), CANDLE)

        def raw() -> pd.DataFrame:
            frame: pd.DataFrame = ds.dataset(str(root / "candles_5m"), format="parquet").to_table().to_pandas()
            return frame

        expected, found = await asyncio.to_thread(raw), await asyncio.to_thread(ours)
        assert len(expected) == len(found) == len(SYMBOLS) * 30 * 288
        assert np.isclose(expected["close"].sum(), found["close"].sum())
        raw_seconds, our_seconds = await asyncio.to_thread(best_of_interleaved, ROUNDS, raw, ours)
    value = raw_seconds / our_seconds
    reference = f"pyarrow.dataset scan of the same {len(SYMBOLS) * 30} files to pandas: {raw_seconds:.2f} s"
    return Result("range_read", value, "of its speed", TARGET, reference, value >= TARGET)


def candles(symbol: str, day: date) -> pa.Table:
    """A day of 5-minute candles: a random walk with two decimals."""
    random = np.random.default_rng([day.toordinal(), int(symbol[1:3])])
    count = 288
    opened = to_us(midnight(day)) + np.arange(count) * 300_000_000
    price = np.round(100 + np.cumsum(random.normal(0, 0.05, count + 1)), 2)
    volume = np.round(random.exponential(20, count), 4)
    columns = {
        "symbol": pa.array([symbol] * count).dictionary_encode(),
        "interval": pa.array(["5m"] * count).dictionary_encode(),
        "open_time": pa.array(opened).cast(TIME),
        "open": price[:-1],
        "high": np.maximum(price[:-1], price[1:]) + 0.03,
        "low": np.minimum(price[:-1], price[1:]) - 0.03,
        "close": price[1:],
        "volume": volume,
        "close_time": pa.array(opened + 299_999_000).cast(TIME),
        "quote_volume": np.round(volume * price[1:], 4),
        "trade_count": random.integers(1, 900, count),
        "taker_buy_volume": np.round(volume / 2, 4),
        "taker_buy_quote_volume": np.round(volume * price[1:] / 2, 4),
    }
    return pa.table(columns, schema=CANDLE.schema)
