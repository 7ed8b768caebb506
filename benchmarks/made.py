"""Made-up rows, as many as a benchmark wants."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa

from resources.datasets import midnight, to_ms
from resources.records import RECORDS

DAY_US = 86_400_000_000


def trades(rows: int, *, start: date, days: int = 1) -> pa.Table:
    """Trades of BTCUSDT without a hole, as many on each day, as the lake keeps them."""
    chance = np.random.default_rng(2)
    ids = np.arange(3_000_000_000, 3_000_000_000 + rows)
    day = np.arange(rows) * days // rows
    moments = np.sort(day * DAY_US + chance.integers(0, DAY_US, rows))
    columns = {
        "symbol": pa.array(["BTCUSDT"]).take(pa.array(np.zeros(rows, int))),
        "trade_id": ids,
        "time": to_ms(midnight(start)) * 1000 + moments,
        "price": 60_000 + np.cumsum(chance.integers(-3, 4, rows)) / 100,
        "quantity": chance.integers(1, 200_000, rows) / 100_000,
        "first_trade_id": ids,
        "last_trade_id": ids,
        "is_buyer_maker": chance.random(rows) < 0.5,
    }
    schema = RECORDS["trade"].schema
    return pa.table({name: pa.array(columns[name]).cast(schema.field(name).type) for name in schema.names}, schema)
