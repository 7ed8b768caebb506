"""Measures of one forecast against what came: correlation, squared error, direction, calibration. Pure NumPy.

Everywhere `forecast` and `realised` have shape (T, N), row t being what was said at the end of bar t about bar
t + 1 and what bar t + 1 brought; `mask` (T, N) says which pairs count. Values under a False mask change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST_ASSETS, LEAST_BARS = 3, 10
FLAT = 1e-20
"""Variance below this share of the mean square is rounding: the values are all equal."""


@dataclass(frozen=True)
class Bin:
    """One group of pairs: mean forecast, mean outcome, its standard error clustered by bar, number of pairs."""

    forecast: float
    outcome: float
    error: float
    count: int


@dataclass(frozen=True)
class Line:
    """The regression outcome = intercept + slope · forecast, with the slope's error clustered by bar."""

    slope: float
    error: float
    intercept: float


def rows_correlation(a: Floats, b: Floats, mask: Mask) -> Floats:
    """Pearson correlation of `a` and `b` within each row, shape (T,).

    nan where fewer than three pairs count or `b`, the outcome, is constant: the row is undefined for every
    forecast alike. 0 where only `a`, the forecast, is constant: it ranks nothing, and is not left out for it.
    """
    count = mask.sum(axis=1)
    x, y = _centred(a, mask, 1), _centred(b, mask, 1)
    xx, yy, xy = (x * x).sum(axis=1), (y * y).sum(axis=1), (x * y).sum(axis=1)
    flat_x = xx <= FLAT * (np.where(mask, a, 0.0) ** 2).sum(axis=1)
    flat_y = yy <= FLAT * (np.where(mask, b, 0.0) ** 2).sum(axis=1)
    found = np.where(flat_x, 0.0, xy / np.sqrt(np.where(flat_x | flat_y, 1.0, xx * yy)))
    return np.asarray(np.where((count < LEAST_ASSETS) | flat_y, np.nan, np.clip(found, -1, 1)))


def ranks(values: Floats, mask: Mask) -> Floats:
    """Ranks within each row among the unmasked, ties sharing their mean rank, shape (T, N); 0 where masked."""
    return np.where(mask, rankdata(np.where(mask, values, np.inf), axis=1), 0.0)


def ic_series(forecast: Floats, realised: Floats, mask: Mask) -> Floats:
    """Information coefficient of each bar: `rows_correlation`, the name by which the trade knows it."""
    return rows_correlation(forecast, realised, mask)


def rank_ic_series(forecast: Floats, realised: Floats, mask: Mask) -> Floats:
    """Spearman's correlation within each bar, shape (T,), undefined where `ic_series` is."""
    return rows_correlation(ranks(forecast, mask), ranks(realised, mask), mask)


def time_series_ic(forecast: Floats, realised: Floats, mask: Mask) -> Floats:
    """For fewer than three assets: a series (T,) whose mean is the assets' mean correlation over time.

    With z the standardised values of one asset and r its correlation, ψ_t = r + zx zy - r (zx² + zy²) / 2 has mean
    r and, as the influence function of r, its sampling error to first order: so intervals of a mean apply. Assets
    with fewer than ten pairs or a constant outcome are left out; a constant forecast counts as r = 0.
    """
    count = mask.sum(axis=0)
    x, y = _centred(forecast, mask, 0), _centred(realised, mask, 0)
    xx, yy = (x * x).sum(axis=0), (y * y).sum(axis=0)
    flat = xx <= FLAT * (np.where(mask, forecast, 0.0) ** 2).sum(axis=0)
    usable = (count >= LEAST_BARS) & (yy > FLAT * (np.where(mask, realised, 0.0) ** 2).sum(axis=0))
    zx = x * np.sqrt(np.where(flat, 0.0, count / np.where(flat, 1.0, xx)))
    zy = y * np.sqrt(np.where(usable, count / np.where(usable, yy, 1.0), 0.0))
    r = (zx * zy).sum(axis=0) / np.maximum(count, 1)
    psi = r + zx * zy - r * (zx**2 + zy**2) / 2
    share = np.where(mask & usable, 1.0 / np.maximum(count, 1), 0.0) / max(int(usable.sum()), 1)
    counts = (mask & usable).any(axis=1)
    return np.where(counts, (psi * share).sum(axis=1) * int(counts.sum()), np.nan)


def squares(forecast: Floats, realised: Floats, sigma: Floats, mask: Mask) -> tuple[Floats, Floats]:
    """Squared errors of the forecast and of zero per bar, in units of sigma², each (T,).

    Out-of-sample R² against zero is 1 - Σ first / Σ second (Campbell & Thompson 2008, with zero as benchmark).
    """
    y, z = _scaled(realised, sigma, mask), _scaled(forecast, sigma, mask)
    return ((y - z) ** 2).sum(axis=1), (y**2).sum(axis=1)


def hits(forecast: Floats, realised: Floats, mask: Mask) -> tuple[Floats, Floats]:
    """Forecasts of the right sign and forecasts judged per bar, each (T,); a zero on either side is not judged."""
    judged = mask & (forecast != 0) & (realised != 0)
    right = judged & ((forecast > 0) == (realised > 0))
    return right.sum(axis=1).astype(np.float64), judged.sum(axis=1).astype(np.float64)


def sign_auc(forecast: Floats, realised: Floats, mask: Mask) -> float | None:
    """Chance that a bar that rose had the higher forecast than one that fell (Mann-Whitney U), ties counting half.

    None where nothing rose or nothing fell.
    """
    kept = mask & (realised != 0)
    rose = realised[kept] > 0
    up, down = int(rose.sum()), int((~rose).sum())
    if not up or not down:
        return None
    rank = rankdata(forecast[kept])
    return float((rank[rose].sum() - up * (up + 1) / 2) / (up * down))


def mincer_zarnowitz(forecast: Floats, outcome: Floats, mask: Mask) -> Line | None:
    """Regress outcome on forecast over all pairs: slope 1 and intercept 0 if the forecast is calibrated.

    Mincer & Zarnowitz (1969). The error is clustered by bar, so that assets moving together do not count as
    independent. None for a constant forecast or fewer than ten pairs.
    """
    x, y = forecast[mask], outcome[mask]
    if len(x) < LEAST_BARS or float(np.var(x)) <= FLAT * float(np.mean(x * x)):
        return None
    mean = float(x.mean())
    spread = float(((x - mean) ** 2).sum())
    slope = float(((x - mean) * (y - y.mean())).sum() / spread)
    intercept = float(y.mean()) - slope * mean
    residual = np.where(mask, outcome - intercept - slope * forecast, 0.0)
    score = (np.where(mask, forecast - mean, 0.0) * residual).sum(axis=1)
    return Line(slope, float(np.sqrt((score**2).sum())) / spread, intercept)


def binned(by: Floats, forecast: Floats, outcome: Floats, mask: Mask, bins: int = 10) -> tuple[Bin, ...]:
    """Mean forecast and outcome in `bins` equally filled groups of `by`, from its lowest to its highest.

    Equal values of `by` stay in one group, so a forecast with few values makes fewer groups. The error of a mean
    is clustered by bar: √Σ_t (Σ_i e_ti)² / n.
    """
    values, x, y = by[mask], forecast[mask], outcome[mask]
    if not len(values):
        return ()
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    group = np.searchsorted(edges, values, side="right")
    size, rows = len(edges) + 1, len(mask)
    count = np.bincount(group, minlength=size)
    each = np.maximum(count, 1)
    centre, mean = (np.bincount(group, weights=array, minlength=size) / each for array in (x, y))
    cell = group * rows + np.nonzero(mask)[0]
    by_bar = np.bincount(cell, weights=y - mean[group], minlength=size * rows).reshape(size, rows)
    error = np.sqrt((by_bar**2).sum(axis=1)) / each
    return tuple(
        Bin(float(centre[k]), float(mean[k]), float(error[k]), int(count[k])) for k in range(size) if count[k]
    )


def calibration(forecast: Floats, realised: Floats, sigma: Floats, mask: Mask) -> tuple[Bin, ...]:
    """Deciles of the standardised forecast: mean forecast and mean outcome, in units of sigma."""
    z = _scaled(forecast, sigma, mask)
    return binned(z, z, _scaled(realised, sigma, mask), mask)


def accuracy_by_size(forecast: Floats, realised: Floats, sigma: Floats, mask: Mask) -> tuple[Bin, ...]:
    """Deciles of |standardised forecast|: its mean (sigma) and the share of right signs; zeros are not judged."""
    size = np.abs(_scaled(forecast, sigma, mask))
    judged = mask & (forecast != 0) & (realised != 0)
    right = ((forecast > 0) == (realised > 0)).astype(np.float64)
    return binned(size, size, right, judged)


def _scaled(values: Floats, sigma: Floats, mask: Mask) -> Floats:
    """`values` in units of sigma, 0 where masked."""
    return np.where(mask, values, 0.0) / np.where(mask, sigma, 1.0)


def _centred(values: Floats, mask: Mask, axis: int) -> Floats:
    """`values` less their mean along `axis` over the unmasked, 0 where masked."""
    kept = np.where(mask, values, 0.0)
    count = np.maximum(mask.sum(axis=axis, keepdims=True), 1)
    return np.where(mask, kept - kept.sum(axis=axis, keepdims=True) / count, 0.0)
