"""Candles from trades, exact to the last decimal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resources.datasets import Dataset
from resources.records import CANDLE, LABEL

_MAX_DECIMALS = 8
_INT64_SAFE = 2.0**62
_FLOAT_EXACT = 2**53


def resample(trades: pa.Table, dataset: Dataset) -> pa.Table:
    """Build the candles of `dataset.interval` that follow from `trades`.

    Prices and quantities are summed as integers of their smallest decimal, so that a sum equals the decimal
    that the exchange prints, not a float that is almost it. An interval without a trade has no candle.

    Args:
        trades: rows of one symbol in ascending trade_id (`records.TRADE.schema`), of any number of days.
        dataset: a candle dataset; its interval must divide a day.

    Returns:
        `records.CANDLE.schema`, ascending by open_time, one row for each interval that has a trade.
    """
    if trades.num_rows == 0:
        return CANDLE.schema.empty_table()
    time = _column(trades, "time").view(np.int64)
    step = dataset.step // np.timedelta64(1, "us").astype(object)
    slot = time // step
    starts = np.flatnonzero(np.diff(slot, prepend=slot[0] - 1))
    open_time = slot[starts] * step

    price = _Decimals.of(_column(trades, "price"))
    quantity = _Decimals.of(_column(trades, "quantity"))
    quote = price * quantity
    bought = ~_column(trades, "is_buyer_maker")
    singles = _column(trades, "last_trade_id") - _column(trades, "first_trade_id") + 1
    ends = np.append(starts[1:], len(time)) - 1
    symbol = trades.column("symbol")[0].as_py()
    columns = {
        "symbol": _label(symbol, len(starts)),
        "interval": _label(dataset.interval or "", len(starts)),
        "open_time": _time(open_time),
        "open": price.at(starts),
        "high": price.reduce(np.maximum, starts),
        "low": price.reduce(np.minimum, starts),
        "close": price.at(ends),
        "volume": quantity.reduce(np.add, starts),
        "close_time": _time(open_time + step - 1000),
        "quote_volume": quote.reduce(np.add, starts),
        "trade_count": np.add.reduceat(singles, starts),
        "taker_buy_volume": quantity.where(bought).reduce(np.add, starts),
        "taker_buy_quote_volume": quote.where(bought).reduce(np.add, starts),
    }
    return pa.table([columns[name] for name in CANDLE.schema.names], schema=CANDLE.schema)


@dataclass(frozen=True, slots=True)
class _Decimals:
    """Decimal numbers as `values / 10**places`: int64 where their sum surely fits, else extended floats."""

    values: NDArray[np.int64] | NDArray[np.longdouble]
    places: int

    @classmethod
    def of(cls, numbers: NDArray[np.float64]) -> _Decimals:
        for places in range(_MAX_DECIMALS + 1):
            scale = 10.0**places
            whole = np.rint(numbers * scale)
            if np.array_equal(whole / scale, numbers):
                return cls(whole.astype(np.int64), places)
        return cls(np.rint(numbers * 10.0**_MAX_DECIMALS).astype(np.int64), _MAX_DECIMALS)

    def __mul__(self, other: _Decimals) -> _Decimals:
        places = self.places + other.places
        if float(np.abs(self.values.astype(float)) @ np.abs(other.values.astype(float))) < _INT64_SAFE:
            return _Decimals(self.values * other.values, places)
        return _Decimals(self.values.astype(np.longdouble) * other.values, places)

    def where(self, mask: NDArray[np.bool_]) -> _Decimals:
        return _Decimals(np.where(mask, self.values, 0), self.places)

    def at(self, index: NDArray[np.intp]) -> NDArray[np.float64]:
        return _to_float(self.values[index], self.places)

    def reduce(self, operation: np.ufunc, starts: NDArray[np.intp]) -> NDArray[np.float64]:
        return _to_float(operation.reduceat(self.values, starts), self.places)


def _to_float(values: NDArray[np.int64] | NDArray[np.longdouble], places: int) -> NDArray[np.float64]:
    """The nearest float64 of each decimal, which is what parsing its text gives."""
    if values.dtype != np.int64:
        return np.asarray(values / np.longdouble(10) ** places, dtype=np.float64)
    if len(values) and np.abs(values).max() >= _FLOAT_EXACT:
        # int64 -> float64 would round before the division rounds again; Python divides integers exactly.
        return np.array([int(value) / 10**places for value in values], dtype=np.float64)
    return np.asarray(values / 10.0**places, dtype=np.float64)


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    column = table.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return np.asarray(column.to_numpy())


def _label(text: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([text])).cast(LABEL)


def _time(microseconds: NDArray[np.int64]) -> pa.Array:
    return pa.array(microseconds, pa.int64()).cast(CANDLE.schema.field("open_time").type)
