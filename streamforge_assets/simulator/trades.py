"""The aggregate trades of one symbol and day, drawn around the market's bars. Pure and vectorised."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from resources.datasets import midnight, to_ms
from resources.records import TRADE
from streamforge_assets.simulator.instruments import Instrument
from streamforge_assets.simulator.market import BARS, SINGLES_SLOTS
from streamforge_assets.simulator.network import Floats, Ints

_TRADES_TAG = 21
_BAR_MS = 300_000
_NOTIONAL = 130.0
_SPREAD = 1.5e-4
_SWEEP_SHARE = 0.15


@dataclass(frozen=True)
class Bars:
    """One asset's column of a market day. Arrays have 288 entries.

    `log_price` is relative to the opening price of the instrument; `opening` is the one at midnight.
    `singles` is the number of single trades that the day's aggregates stand for.
    """

    counts: Ints
    log_price: Floats
    sigma: Floats
    volume_state: Floats
    opening: float
    first_trade: int
    first_single: int
    singles: int


def draw_trades(instrument: Instrument, day: date, seed: int, bars: Bars) -> pa.Table:
    """The trades of a day, in `TRADE.schema`, ascending by id and time.

    The last trade of a bar is exactly the bar's closing price, rounded to the tick; between bars prices
    follow a Brownian bridge and bounce between bid and ask. Times are whole milliseconds. Ids continue
    from `bars.first_trade` and `bars.first_single`. Equal arguments give equal trades.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, _TRADES_TAG, instrument.index, day.toordinal()]))
    total = int(bars.counts.sum())
    if total == 0:
        return TRADE.schema.empty_table()
    bar = np.repeat(np.arange(BARS), bars.counts)
    last = np.cumsum(bars.counts) - 1
    times = _times(rng, bar, total)
    log_price, bought = _path(rng, bars, bar, last, total)
    ticks = np.maximum(np.rint(np.exp(log_price) * (instrument.price * 10**instrument.price_decimals)), 1.0)
    size = np.exp(rng.standard_normal(total) * 1.1 + bars.volume_state[bar] * 0.5)
    steps = np.maximum(np.rint(size * (_NOTIONAL / instrument.price * 10**instrument.quantity_decimals)), 1.0)
    beyond = rng.choice(SINGLES_SLOTS * total, bars.singles - total, replace=False, shuffle=False)
    ends = bars.first_single + np.cumsum(1 + np.bincount(beyond // SINGLES_SLOTS, minlength=total))
    firsts = np.concatenate([[bars.first_single], ends[:-1]])
    label = pa.DictionaryArray.from_arrays(np.zeros(total, np.int32), pa.array([instrument.symbol]))
    columns = [
        label,
        bars.first_trade + np.arange(total),
        pa.array((to_ms(midnight(day)) + times) * 1000, pa.timestamp("us", tz="UTC")),
        # A quotient of two exact whole numbers is the float64 nearest to the decimal.
        ticks / 10**instrument.price_decimals,
        steps / 10**instrument.quantity_decimals,
        firsts,
        ends - 1,
        ~bought,
    ]
    return pa.table(columns, schema=TRADE.schema)


def _times(rng: np.random.Generator, bar: Ints, total: int) -> Ints:
    """Milliseconds since midnight, ascending; some trades share the millisecond of the one before."""
    times = np.sort(bar * _BAR_MS + rng.integers(0, _BAR_MS, total))
    alone = rng.random(total) >= _SWEEP_SHARE
    alone[0] = True
    alone[1:] |= bar[1:] != bar[:-1]
    source = np.maximum.accumulate(np.where(alone, np.arange(total), 0))
    return np.asarray(times[source])


def _path(
    rng: np.random.Generator, bars: Bars, bar: Ints, last: Ints, total: int
) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Log prices of the trades, and which of them were bought by the taker."""
    before = np.concatenate([[bars.opening], bars.log_price[:-1]])
    change = bars.log_price - before
    counts = bars.counts
    steps = rng.standard_normal(total)
    walk = np.cumsum(steps)
    base = np.where(last - counts >= 0, walk[np.maximum(last - counts, 0)], 0.0)
    rank = np.arange(total) - (last - counts)[bar]
    share = rank / counts[bar]
    end = walk[np.maximum(last, 0)] - base
    width = bars.sigma / np.sqrt(np.maximum(counts, 1))
    bridge = (walk - base[bar] - share * end[bar]) * width[bar]
    pressure = 0.22 * np.tanh(change / bars.sigma)[bar] + 0.12 * np.tanh(steps)
    bought = rng.random(total) < 0.5 + pressure
    log_price = before[bar] + share * change[bar] + bridge + np.where(bought, _SPREAD / 2, -_SPREAD / 2)
    closing = last[counts > 0]
    log_price[closing] = bars.log_price[counts > 0]
    return log_price, bought
