"""Forecasts of a day as an artifact: what the model and every baseline said of each bar, and what happened."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from resources.artifacts.port import Artifacts
from resources.artifacts.sealed import is_published, publish_sealed, read_sealed
from resources.datasets import midnight, to_us
from resources.errors import Rejected
from resources.records import LABEL, TIME
from streamforge_assets.market.panel import Floats, Panel

FILE, REST = "forecasts.parquet", "forecasts.json"
MODEL = "gnn"
_FIXED = ("symbol", "time", "model_day", "sigma", "realised", "usable")


def forecasts_prefix(interval: str, day: date) -> str:
    """Where the forecasts of a day are kept."""
    return f"forecasts/{interval}/{day}"


@dataclass(frozen=True)
class DayForecasts:
    """Forecasts of every bar of a day, each made at the end of the bar before.

    Args:
        day: the day whose bars are forecast.
        model_day: the day whose model was used; its window ends with that day.
        symbols: the N symbols of the model.
        times: open time of each bar that is forecast, microseconds, shape (T,).
        sigma: volatility per bar known when the forecast was made, shape (T, N).
        realised: log return that the bar then had, 0 where not usable, shape (T, N).
        usable: whether `realised` counts, shape (T, N).
        values: forecast log returns of the model (`gnn`) and of each baseline, shape (T, N) each.
    """

    day: date
    model_day: date
    symbols: tuple[str, ...]
    times: NDArray[np.int64]
    sigma: Floats
    realised: Floats
    usable: NDArray[np.bool_]
    values: dict[str, Floats]

    def to_frame(self) -> pd.DataFrame:
        """One row for each bar and symbol, indexed by the open time of the bar that is forecast."""
        frame: pd.DataFrame = pq.read_table(io.BytesIO(to_parquet(self))).to_pandas()
        return frame.set_index("time")


def day_forecasts(day: date, model_day: date, panel: Panel, values: dict[str, Floats]) -> DayForecasts:
    """Cut the forecasts of one day out of a panel that begins before it and ends with it.

    Args:
        day: the day whose bars are forecast.
        model_day: the day of the model.
        panel: bars of the model's symbols.
        values: row t of each is a forecast made at the end of bar t for bar t + 1, shape (T, N).
    """
    return cut_forecasts(day, model_day, panel, values, int(np.searchsorted(panel.times, to_us(midnight(day)))))


def cut_forecasts(day: date, model_day: date, panel: Panel, values: dict[str, Floats], first: int) -> DayForecasts:
    """The forecasts of the bars from row `first` (at least 1) of the panel on."""
    said, happened = np.s_[first - 1 : -1], np.s_[first:]
    usable = panel.mask[happened] & panel.mask[said]
    return DayForecasts(
        day=day,
        model_day=model_day,
        symbols=panel.symbols,
        times=panel.times[happened],
        sigma=panel.sigma[said],
        realised=np.where(usable, panel.returns[happened], 0.0),
        usable=usable,
        values={name: value[said] for name, value in values.items()},
    )


def joined(days: Sequence[DayForecasts]) -> DayForecasts:
    """Several days of the same symbols, one after the other, with the forecasts that all of them have."""
    common = [name for name in days[-1].values if all(name in day.values for day in days)]

    def stack(name: str) -> Any:
        return np.concatenate([getattr(day, name) for day in days])

    return replace(
        days[-1],
        times=stack("times"),
        sigma=stack("sigma"),
        realised=stack("realised"),
        usable=stack("usable"),
        values={name: np.concatenate([day.values[name] for day in days]) for name in common},
    )


async def publish_forecasts(artifacts: Artifacts, interval: str, forecasts: DayForecasts) -> None:
    """Keep the forecasts of a day."""
    files = {FILE: to_parquet(forecasts), REST: json.dumps({"symbols": forecasts.symbols}).encode()}
    await publish_sealed(artifacts, forecasts_prefix(interval, forecasts.day), files)


async def stored_forecasts(artifacts: Artifacts, interval: str, day: date) -> bool:
    """Whether the day has forecasts."""
    return await is_published(artifacts, forecasts_prefix(interval, day))


async def read_forecasts(artifacts: Artifacts, interval: str, day: date) -> DayForecasts:
    """The forecasts of a day.

    Raises:
        Rejected: when that day has none, or its files were changed.
    """
    prefix = forecasts_prefix(interval, day)
    if not await is_published(artifacts, prefix):
        raise Rejected(f"there are no forecasts of {day}; materialise models/forecasts of that day first")
    files = await read_sealed(artifacts, prefix)
    return _from_parquet(day, tuple(json.loads(files[REST])["symbols"]), files[FILE])


def to_parquet(forecasts: DayForecasts) -> bytes:
    """One row for each bar and symbol."""
    n, bars = len(forecasts.symbols), len(forecasts.times)
    labels = pa.array(np.tile(np.arange(n, dtype=np.int32), bars))
    columns: dict[str, object] = {
        "symbol": pa.DictionaryArray.from_arrays(labels, pa.array(forecasts.symbols, pa.string())).cast(LABEL),
        "time": pa.array(np.repeat(forecasts.times, n)).cast(TIME),
        "model_day": pa.array([forecasts.model_day] * (n * bars), pa.date32()),
        "sigma": forecasts.sigma.ravel(),
        "realised": forecasts.realised.ravel(),
        "usable": forecasts.usable.ravel(),
    }
    columns |= {name: value.ravel() for name, value in forecasts.values.items()}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def _from_parquet(day: date, symbols: tuple[str, ...], content: bytes) -> DayForecasts:
    table = pq.read_table(io.BytesIO(content))
    shape = (-1, len(symbols))

    def column(name: str) -> Floats:
        return np.asarray(table.column(name).to_numpy().reshape(shape))

    return DayForecasts(
        day=day,
        model_day=table.column("model_day")[0].as_py(),
        symbols=symbols,
        times=np.ascontiguousarray(table.column("time").cast(pa.int64()).to_numpy().reshape(shape)[:, 0]),
        sigma=column("sigma"),
        realised=column("realised"),
        usable=table.column("usable").to_numpy().reshape(shape),
        values={name: column(name) for name in table.schema.names if name not in _FIXED},
    )
