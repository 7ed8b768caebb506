"""Features of a day as an artifact, and the panel of a window of days."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resources.artifacts.port import Artifacts
from resources.artifacts.sealed import is_published, publish_sealed, read_sealed
from resources.datasets import DAY, Dataset, days, midnight, to_us
from resources.errors import Rejected
from resources.records import LABEL, TIME
from resources.store.port import Store
from streamforge_assets.market.features import NAMES, SIGMA_FLOOR, WARM_UP_DAYS, Bars, day_features
from streamforge_assets.market.panel import Panel

FILE = "features.parquet"
_COLUMNS = ("symbol", "open_time", "close", "quote_volume", "taker_buy_quote_volume", "trade_count")
_MICROSECOND = timedelta(microseconds=1)


def features_prefix(interval: str, day: date) -> str:
    """Where the features of a day are kept."""
    return f"features/{interval}/{day}"


def features_of_day(bars: Bars, day: date) -> Panel:
    """The features of one day of `bars`, which hold it and the `WARM_UP_DAYS` days before it.

    They depend on nothing else that `bars` may hold, so that a day comes out the same alone and in a backfill.

    Raises:
        Rejected: when no symbol has a candle on that day.
    """
    per_day = 86_400_000_000 // bars.step
    row = (to_us(midnight(day)) - int(bars.times[0])) // bars.step
    window = _rows(bars, _first_traded(bars, row - WARM_UP_DAYS * per_day, row, per_day), row + per_day)
    if np.isnan(window.close[-per_day:]).all():
        raise Rejected(f"no candle of {day} is stored for any symbol; collect that day first")
    return day_features(window, len(window.times) - per_day)


async def publish_features(artifacts: Artifacts, dataset: Dataset, day: date, panel: Panel) -> None:
    """Keep the features of a day."""
    await publish_sealed(artifacts, features_prefix(dataset.interval or "", day), {FILE: to_parquet(panel)})


async def read_bars(store: Store, dataset: Dataset, symbols: Sequence[str], start: date, end: date) -> Bars:
    """The candles of `symbols` that open in [start, end), on one grid; NaN where there is none."""
    table = await store.read(dataset.name, symbols, midnight(start), midnight(end), _COLUMNS)
    step = dataset.step // _MICROSECOND
    times = np.arange(to_us(midnight(start)), to_us(midnight(end)), step, dtype=np.int64)
    row = (table.column("open_time").cast(pa.int64()).to_numpy() - times[0]) // step
    column = _positions(table.column("symbol"), symbols)

    def grid(name: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        values = np.full((len(times), len(symbols)), np.nan)
        values[row, column] = table.column(name).to_numpy()
        return values

    return Bars(tuple(symbols), times, step, *(grid(name) for name in _COLUMNS[2:]))


def to_parquet(panel: Panel) -> bytes:
    """One row for each symbol and bar, by time and then symbol."""
    n, bars = len(panel.symbols), panel.bars
    columns: dict[str, object] = {
        "symbol": pa.DictionaryArray.from_arrays(
            pa.array(np.tile(np.arange(n, dtype=np.int32), bars)), pa.array(panel.symbols, pa.string())
        ).cast(LABEL),
        "open_time": pa.array(np.repeat(panel.times, n)).cast(TIME),
        "log_return": panel.returns.ravel(),
        "sigma": panel.sigma.ravel(),
        "usable": panel.mask.ravel(),
    }
    columns |= {name: panel.features[:, :, at].ravel() for at, name in enumerate(panel.names)}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def from_parquet(content: bytes) -> Panel:
    """The panel that `to_parquet` wrote."""
    table = pq.read_table(io.BytesIO(content))
    labels = table.column("symbol").unify_dictionaries().chunk(0) if table.num_rows else None
    symbols = tuple(labels.dictionary.to_pylist()) if labels is not None else ()
    shape = (-1, max(1, len(symbols)))
    names = tuple(table.schema.names[5:])
    features = [table.column(name).to_numpy().reshape(shape) for name in names]
    return Panel(
        symbols=symbols,
        times=np.ascontiguousarray(table.column("open_time").cast(pa.int64()).to_numpy().reshape(shape)[:, 0]),
        returns=table.column("log_return").to_numpy().reshape(shape),
        sigma=table.column("sigma").to_numpy().reshape(shape),
        mask=table.column("usable").to_numpy().reshape(shape),
        features=np.stack(features, axis=-1),
        names=names,
    )


@dataclass(frozen=True)
class Window:
    """The features of a run of days: `panel` on a grid without holes, and what does not cover it.

    Args:
        panel: the symbols that have enough usable bars.
        first_day: the window's first day.
        last_day: its last day, included.
        absent_days: days without features.
        left_out: symbols that have too few usable bars, and the share that they have.
    """

    panel: Panel
    first_day: date
    last_day: date
    absent_days: tuple[date, ...]
    left_out: dict[str, float]

    @property
    def warning(self) -> str:
        """A sentence about what is not covered; empty when all is."""
        parts = []
        if self.absent_days:
            parts.append(f"there are no features of {', '.join(str(day) for day in self.absent_days[:5])}")
        if self.left_out:
            shown = [f"{symbol} ({share:.0%} of its bars)" for symbol, share in self.left_out.items()]
            parts.append(f"left out: {', '.join(shown[:10])}" + ("" if len(shown) <= 10 else ", ..."))
        return "; ".join(parts)


async def read_window(
    artifacts: Artifacts, dataset: Dataset, last_day: date, length: int, coverage: float
) -> Window:
    """The panel of the `length` days that end with `last_day`, of the symbols that cover it.

    Raises:
        Rejected: when no symbol has `coverage` of the window's bars, naming days that are absent.
    """
    first_day = last_day - (length - 1) * DAY
    wanted = days(first_day, last_day + DAY)
    panels = await _read_panels(artifacts, dataset, wanted)
    absent = tuple(day for day in wanted if day not in panels)
    whole = _join(panels, wanted, dataset)
    share = dict(zip(whole.symbols, whole.coverage.tolist(), strict=True))
    kept = [symbol for symbol in whole.symbols if share[symbol] >= coverage]
    if not kept:
        best = max(share, key=lambda symbol: share[symbol])
        without = f"; {len(absent)} days have no features, the first is {absent[0]}" if absent else ""
        raise Rejected(
            f"no symbol covers {coverage:.0%} of the {length} days to {last_day}: {best} has most, "
            f"{share[best]:.0%}{without}; collect what is missing, or lower STREAMFORGE_MODEL_WINDOW"
        )
    left_out = {symbol: share[symbol] for symbol in whole.symbols if symbol not in kept}
    return Window(whole.choose(kept), first_day, last_day, absent, left_out)


async def read_days(
    artifacts: Artifacts, dataset: Dataset, first: date, last: date, symbols: Sequence[str] | None = None
) -> Panel:
    """The panel of `symbols` (default: all that have features) over [first, last]; what is not known is masked.

    Raises:
        Rejected: when none of the days has features.
    """
    wanted = days(first, last + DAY)
    panels = await _read_panels(artifacts, dataset, wanted)
    return _join(panels, wanted, dataset, symbols)


async def _read_panels(artifacts: Artifacts, dataset: Dataset, wanted: Sequence[date]) -> dict[date, Panel]:
    """The features of the days that have any. Raises Rejected when none has."""
    panels = {day: panel for day in wanted if (panel := await _read_day(artifacts, dataset, day)) is not None}
    if not panels:
        raise Rejected(
            f"there are no features from {wanted[0]} to {wanted[-1]}; materialise analysis/features of these days"
        )
    return panels


async def _read_day(artifacts: Artifacts, dataset: Dataset, day: date) -> Panel | None:
    prefix = features_prefix(dataset.interval or "", day)
    if not await is_published(artifacts, prefix):
        return None
    return from_parquet((await read_sealed(artifacts, prefix))[FILE])


def _join(
    panels: dict[date, Panel], wanted: Sequence[date], dataset: Dataset, symbols: Sequence[str] | None = None
) -> Panel:
    """All days and all symbols (or `symbols`) on one grid; what no day tells is masked."""
    known = {symbol for panel in panels.values() for symbol in panel.symbols}
    columns = {symbol: at for at, symbol in enumerate(sorted(known) if symbols is None else symbols)}
    per_day = DAY // dataset.step
    step = dataset.step // _MICROSECOND
    start = to_us(midnight(wanted[0]))
    shape = (len(wanted) * per_day, len(columns))
    returns, sigma = np.zeros(shape), np.full(shape, SIGMA_FLOOR)
    mask, features = np.zeros(shape, np.bool_), np.zeros((*shape, len(NAMES)), np.float32)
    for day, panel in panels.items():
        if panel.names != NAMES:
            raise Rejected(f"features of {day} were made by another version; materialise analysis/features again")
        at = (day - wanted[0]).days * per_day
        theirs = panel.choose([symbol for symbol in panel.symbols if symbol in columns])
        place = np.s_[at : at + per_day, [columns[symbol] for symbol in theirs.symbols]]
        returns[place], sigma[place] = theirs.returns, theirs.sigma
        mask[place], features[place] = theirs.mask, theirs.features
    times = start + np.arange(shape[0], dtype=np.int64) * step
    return Panel(tuple(columns), times, returns, sigma, mask, features, NAMES)


def _first_traded(bars: Bars, start: int, row: int, per_day: int) -> int:
    """The first whole day from `start` on in which anything was traded; `row` when nothing was before it."""
    traded = np.flatnonzero(~np.isnan(bars.close[start:row]).all(axis=1))
    return start + int(traded[0]) // per_day * per_day if len(traded) else row


def _rows(bars: Bars, start: int, stop: int) -> Bars:
    at = slice(start, stop)
    return Bars(
        bars.symbols,
        bars.times[at],
        bars.step,
        bars.close[at],
        bars.quote_volume[at],
        bars.taker_buy_quote_volume[at],
        bars.trade_count[at],
    )


def _positions(labels: pa.ChunkedArray, symbols: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The index in `symbols` of each label."""
    if not len(labels):
        return np.zeros(0, np.int64)
    unified = labels.unify_dictionaries().combine_chunks()
    unified = unified.chunk(0) if isinstance(unified, pa.ChunkedArray) else unified
    index = np.array([symbols.index(name) for name in unified.dictionary.to_pylist()], dtype=np.int64)
    return np.asarray(index[unified.indices.to_numpy()])
