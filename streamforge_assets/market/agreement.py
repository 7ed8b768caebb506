"""Whether candles are what their trades say, and whether candles make sense by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from resources.datasets import Dataset
from streamforge_assets.market.resampling import resample

COMPARED = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trade_count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How candles compare with those rebuilt from trades: `differences` are sentences, the first ten."""

    compared: int
    differing: int
    differences: tuple[str, ...]


def compare(candles: pa.Table, trades: pa.Table, dataset: Dataset) -> Agreement:
    """Compare stored candles of one symbol with those rebuilt from its trades, value for value, exactly.

    A candle without trades or trades without a candle counts as a difference, except for a candle of
    volume zero, which some exchanges send for a quiet interval.
    """
    rebuilt = resample(trades, dataset)
    stored = candles.filter(pa.compute.greater(candles["volume"], 0.0)) if candles.num_rows else candles
    left = _times(stored)
    right = _times(rebuilt)
    problems = [f"{_utc(t)}: a candle, but no trades" for t in np.setdiff1d(left, right)]
    problems += [f"{_utc(t)}: trades, but no candle" for t in np.setdiff1d(right, left)]
    common, i, j = np.intersect1d(left, right, return_indices=True)
    wrong: dict[int, str] = {}
    for name in COMPARED:
        a = stored.column(name).to_numpy()[i]
        b = rebuilt.column(name).to_numpy()[j]
        for at in np.flatnonzero(a != b):
            wrong.setdefault(int(at), f"{_utc(common[at])}: {name} is {a[at]}, the trades say {b[at]}")
    problems += [wrong[at] for at in sorted(wrong)]
    return Agreement(len(common), len(problems), tuple(problems[:10]))


def candle_faults(candles: pa.Table) -> list[str]:
    """Sentences about candles that cannot be: prices out of order, negative volume, wrong close time."""
    faults: list[str] = []
    if candles.num_rows == 0:
        return faults
    o, h, low, c = (candles.column(name).to_numpy() for name in ("open", "high", "low", "close"))
    volume, bought = (candles.column(name).to_numpy() for name in ("volume", "taker_buy_volume"))
    times = _times(candles)
    rules = {
        "high is not the highest price": h < np.maximum(np.maximum(o, c), low),
        "low is not the lowest price": low > np.minimum(o, c),
        "a price is not positive": ~(low > 0),
        "volume is negative": ~(volume >= 0),
        "takers bought more than was traded": bought > volume,
    }
    for sentence, broken in rules.items():
        faults += [f"{_utc(times[at])}: {sentence}" for at in np.flatnonzero(broken)[:10]]
    return faults


def order_faults(positions: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[str]:
    """Sentences about keys that repeat or run backwards, shape (n,)."""
    steps = np.diff(positions)
    faults = [f"{positions[at]} stands twice" for at in np.flatnonzero(steps == 0)[:10]]
    return faults + [f"{positions[at + 1]} follows {positions[at]}" for at in np.flatnonzero(steps < 0)[:10]]


def _times(table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(table.column("open_time").cast(pa.int64()).to_numpy())


def _utc(microseconds: int) -> str:
    return str(np.datetime64(int(microseconds), "us").astype("datetime64[s]"))
