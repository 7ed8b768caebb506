"""Features of a bar, from candles: causal, so that nothing after the end of a bar can change it. Pure NumPy.

r[t] is the log return close to close of two bars that follow each other and both had trades; a bar without
trades, or after one, has no return and is masked. sigma[t] is the root of the exponentially weighted mean of
r² up to and including t, half-life 60 bars, over the bars that have a return. The season is a least-squares fit
of three daily harmonics on the days before, so that a busy hour is not taken for a busy market.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter

from resources.errors import Rejected
from streamforge_assets.market.panel import RETURN_Z, Floats, Panel

HALF_LIFE = 60
CLIP = 5.0
WARM_UP_DAYS = 14
LEAST_BARS = 60
SIGMA_FLOOR = 1e-8
MEDIAN_DAYS = 2
HARMONICS = 3


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of a panel, for the documentation."""

    name: str
    formula: str
    window: str
    unit: str


FEATURES = (
    Feature(RETURN_Z, "r[t] / sigma[t - 1], clipped to ±5", "half-life 60 bars", "standard deviations"),
    Feature(
        "log_volume_z", "(log quote volume - season) / deviation from it", "14 days before", "standard deviations"
    ),
    Feature("log_sigma_ratio", "log(sigma[t] / median of sigma)", "2 days up to t", "logarithm"),
    Feature("trade_flow", "(taker buys - taker sells) / quote volume", "the bar", "-1 to 1"),
    Feature(
        "trade_count_z", "(log(1 + trades) - season) / deviation from it", "14 days before", "standard deviations"
    ),
)
NAMES = tuple(feature.name for feature in FEATURES)


@dataclass(frozen=True)
class Bars:
    """Candles of N symbols on one grid, shape (T, N) each; NaN (or False) where there is no candle.

    Args:
        times: open times, microseconds since the epoch, shape (T,).
        step: microseconds between two of them.
        close: price of the last trade, quote.
        quote_volume: price times quantity of the bar, quote.
        taker_buy_quote_volume: the part of it whose taker bought, quote.
        trade_count: single trades of the bar.
    """

    symbols: tuple[str, ...]
    times: NDArray[np.int64]
    step: int
    close: Floats
    quote_volume: Floats
    taker_buy_quote_volume: Floats
    trade_count: Floats


def log_returns(close: Floats) -> Floats:
    """Log return of each bar, shape (T, N); NaN where the bar or the one before has no price."""
    returns = np.full_like(close, np.nan)
    returns[1:] = np.diff(np.log(close), axis=0)
    return returns


def ewma_volatility(returns: Floats, half_life: float = HALF_LIFE) -> Floats:
    """Exponentially weighted root mean square of the returns up to each bar, shape (T, N).

    The weights run over the bars that have a return (not NaN) and are normalised, so that the first bars are
    as wide as later ones. NaN before the first return.
    """
    decay = 0.5 ** (1.0 / half_life)
    there = ~np.isnan(returns)
    squares = lfilter([1.0], [1.0, -decay], np.where(there, returns, 0.0) ** 2, axis=0)
    weight = lfilter([1.0], [1.0, -decay], there.astype(np.float64), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(squares / weight))


def day_features(bars: Bars, first: int) -> Panel:
    """The panel of the bars from row `first` on; the rows before are the days that warm the windows up.

    Args:
        bars: candles of the day and of up to `WARM_UP_DAYS` days before it, whole days.
        first: the row at which the day begins. 0 gives a day that is masked whole: nothing came before.

    Raises:
        Rejected: when the bars do not fill whole days.
    """
    per_day = 86_400_000_000 // bars.step
    if len(bars.times) % per_day or first % per_day:
        raise Rejected(f"features need whole days of {per_day} bars; there are {len(bars.times)}")
    returns = log_returns(bars.close)
    sigma = ewma_volatility(returns)
    before = np.full_like(sigma, np.nan)
    before[1:] = sigma[:-1]
    warm = np.cumsum(~np.isnan(returns), axis=0) > LEAST_BARS
    usable = ~np.isnan(returns) & warm & (before > SIGMA_FLOOR)
    if first == 0:
        usable[:] = False
    positive = np.where(bars.quote_volume > 0, bars.quote_volume, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = [
            np.clip(returns / before, -CLIP, CLIP)[first:],
            _deseasoned(np.log(positive), first, per_day),
            _log_ratio_to_median(sigma, first, MEDIAN_DAYS * per_day),
            (2 * bars.taker_buy_quote_volume / positive - 1)[first:],
            _deseasoned(np.log1p(bars.trade_count), first, per_day),
        ]
    mask = usable[first:]
    features = np.where(mask[:, :, None], np.nan_to_num(np.stack(columns, axis=-1)), 0.0)
    return Panel(
        symbols=bars.symbols,
        times=bars.times[first:],
        returns=np.where(mask, returns[first:], 0.0),
        sigma=np.maximum(np.nan_to_num(sigma[first:]), SIGMA_FLOOR),
        mask=mask,
        features=features.astype(np.float32),
        names=NAMES,
    )


def _deseasoned(values: Floats, first: int, per_day: int) -> Floats:
    """Rows from `first` on, less the season fitted on the rows before, over the deviation from it there."""
    result = np.zeros((len(values) - first, values.shape[1]))
    if first == 0:
        return result
    design = _season(len(values), per_day)
    for column in range(values.shape[1]):
        known = np.flatnonzero(~np.isnan(values[:first, column]))
        if len(known) < LEAST_BARS:
            continue
        season, *_ = np.linalg.lstsq(design[known], values[known, column], rcond=None)
        deviation = float(np.std(values[known, column] - design[known] @ season))
        if deviation > 0:
            result[:, column] = (values[first:, column] - design[first:] @ season) / deviation
    return np.clip(result, -CLIP, CLIP)


def _season(rows: int, per_day: int) -> Floats:
    """A constant and the daily harmonics, shape (rows, 1 + 2 × HARMONICS); whole days in a row."""
    angle = 2 * np.pi * np.arange(rows)[:, None] / per_day * np.arange(1, HARMONICS + 1)
    return np.concatenate([np.ones((rows, 1)), np.cos(angle), np.sin(angle)], axis=1)


def _log_ratio_to_median(sigma: Floats, first: int, window: int) -> Floats:
    start = max(0, first - window)
    median = pd.DataFrame(sigma[start:]).rolling(window, min_periods=1).median().to_numpy()
    return np.asarray(np.log(sigma[first:] / median[first - start :]))
