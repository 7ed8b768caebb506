"""Rows and writes that the store's tests, and the processes they start, share."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from resources.datasets import Partition, midnight, to_us
from resources.records import CANDLE, TIME, TRADE
from resources.store.port import Store, Stored

DAY = date(2024, 8, 1)
NEXT = DAY + timedelta(days=1)
BTC = Partition("trades", "BTCUSDT", DAY)


def trades(ids: Any, *, price: float = 1.0, symbol: str = "BTCUSDT", day: date = DAY) -> pa.Table:
    """One trade a second: trade `id` happens at second `id` of the day."""
    numbers = np.asarray(list(ids), dtype=np.int64)
    count = len(numbers)
    columns = {
        "symbol": pa.array([symbol] * count, pa.string()).dictionary_encode(),
        "trade_id": numbers,
        "time": pa.array(to_us(midnight(day)) + numbers * 1_000_000).cast(TIME),
        "price": np.full(count, price),
        "quantity": np.full(count, 0.5),
        "first_trade_id": numbers * 2,
        "last_trade_id": numbers * 2 + 1,
        "is_buyer_maker": numbers % 2 == 0,
    }
    return pa.table(columns, schema=TRADE.schema)


def candles(symbol: str, day: date, numbers: Any = range(288)) -> pa.Table:
    at = to_us(midnight(day)) + np.asarray(list(numbers), dtype=np.int64) * 300_000_000
    count = len(at)
    floats = {f.name: np.arange(count, dtype=float) for f in CANDLE.fields if f.type == pa.float64()}
    columns = {
        "symbol": pa.array([symbol] * count).dictionary_encode(),
        "interval": pa.array(["5m"] * count).dictionary_encode(),
        "open_time": pa.array(at).cast(TIME),
        "close_time": pa.array(at + 299_999_000).cast(TIME),
        "trade_count": np.arange(count),
        **floats,
    }
    return pa.table({name: columns[name] for name in CANDLE.schema.names}, schema=CANDLE.schema)


async def put(store: Store, *tables: pa.Table, into: Partition = BTC, replace: bool = False) -> Stored:
    async with store.ingest(into, replace=replace) as ingest:
        for table in tables:
            await ingest.append(table)
        return await ingest.commit()
