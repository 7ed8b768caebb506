"""The market's history: any day's trades and candles, in any order, always the same."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from datetime import date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resources.datasets import candles as candles_dataset
from resources.datasets import midnight
from resources.errors import Rejected
from resources.records import TRADE
from streamforge_assets.market.resampling import resample
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.simulator.faults import Outage
from streamforge_assets.simulator.instruments import Instrument
from streamforge_assets.simulator.market import MarketCore, MarketDay
from streamforge_assets.simulator.network import Floats
from streamforge_assets.simulator.trades import Bars, draw_trades

T = TypeVar("T")

_CHUNK = 32
"""Days whose states are stored in one file."""


class Recent:
    """The values asked for last, at most `size` of them. Safe for threads; a value may be made twice."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, object] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`, made now if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]  # type: ignore[return-value]  # a key is always made by the same maker
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()


class MarketHistory:
    """The truth of a simulated exchange: what happened, whatever its faults make of it. Safe for threads.

    Args:
        config: the exchange.
        folder: where the states between days are kept; None to keep them in memory only.
    """

    def __init__(self, config: SimulatorConfig, folder: Path | None = None) -> None:
        self.config = config
        self.instruments: dict[str, Instrument] = {i.symbol: i for i in config.instruments}
        self.core = MarketCore(config.parameters)
        self._folder = folder
        self._states: list[Floats] = []
        self._lock = threading.RLock()
        self._days = Recent(40 if config.symbols <= 50 else 6)
        self._trades = Recent(48)
        self._candles = Recent(256)
        self._outages: tuple[Outage, ...] = ()
        self._lost: dict[tuple[str, date], tuple[int, int]] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol, the busiest first."""
        return tuple(self.instruments)

    @property
    def outages(self) -> tuple[Outage, ...]:
        """Times at which the exchange did not trade."""
        return self._outages

    @outages.setter
    def outages(self, outages: Iterable[Outage]) -> None:
        with self._lock:
            self._outages = tuple(outages)
            self._lost.clear()
            self._trades.clear()
            self._candles.clear()

    def bars(self, day: date) -> MarketDay:
        """The market's bars of a day. Raises Rejected before the first day."""
        index = self._index(day)
        if index < 0:
            raise Rejected(f"the simulated market has no {day}; it begins on {self.config.first_day}")
        return self._days.get(day, lambda: self._make(index))

    def trades(self, symbol: str, day: date, until: datetime | None = None) -> pa.Table:
        """The aggregate trades of a day in `TRADE.schema`, those after `until` left out.

        Empty before the listing. Raises Rejected for an unknown symbol.
        """
        instrument = self._instrument(symbol)
        if day < self.config.listing(symbol):
            return TRADE.schema.empty_table()
        outages = self._outages
        table = self._trades.get((symbol, day, outages), lambda: self._traded(instrument, day))
        if until is None or until >= midnight(day) + timedelta(days=1):
            return table
        return table.filter(pc.less_equal(table["time"], pa.scalar(until, table["time"].type)))

    def candles(self, symbol: str, interval: str, day: date, until: datetime | None = None) -> pa.Table:
        """The candles of a day in `CANDLE.schema`, made from the trades up to `until`.

        The last candle is unfinished when `until` cuts it. Raises Rejected for an unknown symbol or interval.
        """
        dataset = candles_dataset(interval)
        if until is not None and until < midnight(day) + timedelta(days=1):
            return resample(self.trades(symbol, day, until), dataset)
        key = (symbol, interval, day, self._outages)
        return self._candles.get(key, lambda: resample(self.trades(symbol, day), dataset))

    def first_ids(self, symbol: str, day: date) -> tuple[int, int]:
        """The first aggregate and first single trade id of a day (what it will be, if the day has no trade)."""
        instrument, listing = self._instrument(symbol), self.config.listing(symbol)
        if day <= listing:
            return 0, 0
        base, at = self._counted(instrument, listing), self._counted(instrument, day)
        lost = [self._lost_on(instrument, d) for d in self._outage_days(symbol) if listing <= d < day]
        return (
            at[0] - base[0] - sum(trades for trades, _ in lost),
            at[1] - base[1] - sum(singles for _, singles in lost),
        )

    def day_of(self, symbol: str, trade_id: int, last: date) -> date:
        """The day of an aggregate trade id, or `last` when the id is later."""
        listing = self.config.listing(symbol)
        count, reach = max((last - listing).days, 0), 1
        # Counting a day means making all days before it, so the search does not look further than it must.
        while reach < count and self.first_ids(symbol, listing + timedelta(days=reach))[0] <= trade_id:
            reach *= 2
        offset = bisect_right(
            range(1, min(reach, count) + 1),
            trade_id,
            key=lambda i: self.first_ids(symbol, listing + timedelta(days=i))[0],
        )
        return listing + timedelta(days=offset)

    def _traded(self, instrument: Instrument, day: date) -> pa.Table:
        first_trade, first_single = self.first_ids(instrument.symbol, day)
        table = self._drawn(instrument, day, first_trade, first_single)
        keep = self._open_hours(table, instrument.symbol, day)
        return table if keep is None else _renumbered(table, keep, first_trade, first_single)

    def _drawn(self, instrument: Instrument, day: date, first_trade: int, first_single: int) -> pa.Table:
        bars, column = self.bars(day), instrument.index
        mine = Bars(
            counts=bars.counts[:, column],
            log_price=bars.log_price[:, column],
            sigma=bars.sigma[:, column],
            volume_state=bars.volume_state[:, column],
            opening=float(bars.opening[column]),
            first_trade=first_trade,
            first_single=first_single,
            singles=int(bars.singles[column]),
        )
        return draw_trades(instrument, day, self.config.seed, mine)

    def _open_hours(self, table: pa.Table, symbol: str, day: date) -> np.ndarray | None:
        """Which trades lie outside every outage; None when no outage touches the day."""
        if day not in self._outage_days(symbol):
            return None
        times = table["time"].to_numpy()
        keep = np.ones(len(times), dtype=np.bool_)
        for outage in self._outages:
            if outage.hits(symbol):
                start, end = (np.datetime64(t.replace(tzinfo=None), "us") for t in outage.span)
                keep &= (times < start) | (times >= end)
        return keep

    def _outage_days(self, symbol: str) -> set[date]:
        found: set[date] = set()
        for outage in self._outages:
            if outage.hits(symbol):
                start, end = outage.span
                found |= {start.date() + timedelta(days=i) for i in range((end.date() - start.date()).days + 1)}
        return found

    def _lost_on(self, instrument: Instrument, day: date) -> tuple[int, int]:
        """Aggregate and single trades that an outage took from a day."""
        key = (instrument.symbol, day)
        if key not in self._lost:
            table = self._drawn(instrument, day, 0, 0)
            keep = self._open_hours(table, instrument.symbol, day)
            gone = ~keep if keep is not None else np.zeros(len(table), dtype=np.bool_)
            self._lost[key] = (int(gone.sum()), int(_singles(table)[gone].sum()))
        return self._lost[key]

    def _counted(self, instrument: Instrument, day: date) -> tuple[int, int]:
        """Aggregate and single trades before a day, from the market's first day on, outages not considered."""
        index, n = self._index(day), self.config.symbols
        self._reach(index)
        packed = self._states[index]
        return int(packed[-2 * n + instrument.index]), int(packed[-n + instrument.index])

    def _make(self, index: int) -> MarketDay:
        self._reach(index)
        return self.core.day(index, self.core.unpack(self._states[index]))[0]

    def _reach(self, index: int) -> None:
        """Have the states of days 0..index, from the folder where it has them."""
        if index < len(self._states):
            return
        with self._lock:
            while len(self._states) <= index:
                if len(self._states) % _CHUNK == 0 and self._restored(len(self._states) // _CHUNK):
                    continue
                done = len(self._states)
                if done == 0:
                    self._states.append(self.core.opening_state().pack())
                else:
                    before = self.core.unpack(self._states[done - 1])
                    self._states.append(self.core.day(done - 1, before)[1].pack())
                if len(self._states) % _CHUNK == 0:
                    self._store(len(self._states) // _CHUNK - 1)

    def _restored(self, chunk: int) -> bool:
        if self._folder is None:
            return False
        try:
            rows = np.load(self._chunk_path(chunk))
        except (OSError, ValueError, EOFError):
            return False
        if rows.shape != (_CHUNK, len(self.core.opening_state().pack())):
            return False
        self._states.extend(rows)
        return True

    def _store(self, chunk: int) -> None:
        if self._folder is None:
            return
        write_atomically(
            self._chunk_path(chunk), _npy(np.stack(self._states[chunk * _CHUNK : (chunk + 1) * _CHUNK]))
        )

    def _chunk_path(self, chunk: int) -> Path:
        return (self._folder or Path()) / "states" / self.config.digest / f"{chunk:05d}.npy"

    def _index(self, day: date) -> int:
        return (day - self.config.first_day).days

    def _instrument(self, symbol: str) -> Instrument:
        if symbol not in self.instruments:
            raise Rejected(f"{symbol!r} is not a symbol of the simulated exchange; BTCUSDT is one")
        return self.instruments[symbol]


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`: a reader sees all of it or the file that was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
        try:
            file.write(content)
            file.close()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _npy(rows: Floats) -> bytes:
    buffer = BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


def _singles(table: pa.Table) -> np.ndarray:
    return np.asarray(table["last_trade_id"].to_numpy() - table["first_trade_id"].to_numpy() + 1)


def _renumbered(table: pa.Table, keep: np.ndarray, first_trade: int, first_single: int) -> pa.Table:
    kept = table.filter(pa.array(keep))
    ends = first_single + np.cumsum(_singles(kept))
    numbers = {
        "trade_id": first_trade + np.arange(len(kept)),
        "first_trade_id": ends - _singles(kept),
        "last_trade_id": ends - 1,
    }
    for name, values in numbers.items():
        kept = kept.set_column(kept.schema.get_field_index(name), kept.schema.field(name), pa.array(values))
    return kept
