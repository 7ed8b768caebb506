"""The stationary block bootstrap: intervals for means of dependent series, all from the same resamples.

Politis & Romano, "The Stationary Bootstrap", JASA 89 (1994). Blocks start anywhere, have geometric length of mean
`block` and wrap around the end. A block's sum is one difference of a cumulative sum, so a resample of n values
costs n / block look-ups instead of n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES, CONFIDENCE = 1000, 0.95
CHUNK = 2_000_000
"""Look-ups made at once: bounds the memory, not the result."""


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval.

    Args:
        value: the estimate on the data themselves.
        low: lower end of the percentile interval.
        high: upper end.
        error: standard error: the standard deviation over the resamples.
        t: value / error, robust to serial dependence within blocks; 0 where value and error are both 0.
    """

    value: float
    low: float
    high: float
    error: float
    t: float

    @property
    def contains_zero(self) -> bool:
        return self.low <= 0 <= self.high


def block_length(series: Floats) -> float:
    """Mean block length for the mean of `series` (n,): Politis & White (2004), corrected by Patton et al. (2009).

    Autocorrelations count up to twice the first lag after which five or more lie within their noise,
    b = (2 G² / D)^(1/3) n^(1/3) with G = Σ |k| λ(k) R(k), D = 2 (Σ λ(k) R(k))². Never below n^(1/3), which is the
    careful side for a series whose dependence is too weak to see, and never above n / 4.
    """
    n = len(series)
    floor = max(1.0, float(np.cbrt(n)))
    centred = series - series.mean() if n else series
    variance = float(centred @ centred) / max(n, 1)
    if n < 16 or variance <= 0:
        return floor
    quiet = max(5, int(np.sqrt(np.log10(n))))
    most = min(int(np.ceil(np.sqrt(n))) + quiet, n - 1)
    size = 1 << int(np.ceil(np.log2(2 * n)))
    spectrum = np.fft.rfft(centred, size)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), size)[: most + 1] / n
    loud = np.abs(covariance[1:] / covariance[0]) > 2 * np.sqrt(np.log10(n) / n)
    runs = np.convolve(loud, np.ones(quiet), mode="valid") == 0
    last = int(np.argmax(runs)) if runs.any() else most
    width = min(2 * max(last, 1), most)
    lags = np.arange(1, width + 1)
    taper = np.clip(2 * (1 - lags / width), 0, 1)
    g = 2 * float((taper * lags * covariance[1 : width + 1]).sum())
    d = 2 * (float(covariance[0]) + 2 * float((taper * covariance[1 : width + 1]).sum())) ** 2
    found = float(np.cbrt(2 * g * g / d * n)) if d > 0 else floor
    return float(min(max(found, floor), max(n / 4, 1.0)))


def resampled_sums(
    series: Floats, *, block: float, resamples: int = RESAMPLES, rng: np.random.Generator
) -> Floats:
    """Sums of `series` (n, S) over stationary bootstrap resamples of n rows, shape (resamples, S).

    The same rows are drawn for all S columns, so differences between columns are paired.
    """
    n, columns = series.shape
    if n == 0:
        return np.zeros((resamples, columns))
    total = np.zeros((2 * n + 1, columns))
    np.cumsum(np.concatenate([series, series]), axis=0, out=total[1:])
    mean_blocks = n / max(block, 1.0)
    blocks = n if block <= 1 else min(n, int(mean_blocks + 8 * np.sqrt(mean_blocks) + 8))
    found = np.empty((resamples, columns))
    step = max(1, CHUNK // (blocks * columns))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        starts = rng.integers(0, n, (rows, blocks))
        ends = np.minimum(np.cumsum(rng.geometric(1 / max(block, 1.0), (rows, blocks)), axis=1), n)
        ends[:, -1] = n
        lengths = np.diff(ends, axis=1, prepend=0)
        found[start : start + rows] = (total[starts + lengths] - total[starts]).sum(axis=1)
    return found


def estimate(value: float, resampled: Floats, confidence: float = CONFIDENCE) -> Estimate:
    """`value` with the percentile interval of `resampled` (B,)."""
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    error = float(resampled.std(ddof=1)) if len(resampled) > 1 else 0.0
    error = 0.0 if error < 1e-12 * max(1.0, abs(value)) else error
    t = value / error if error else (0.0 if value == 0 else float(np.copysign(1e9, value)))
    return Estimate(float(value), float(low), float(high), error, float(t))


def mean_estimate(
    series: Floats, *, seed: int = 0, block: float | None = None, resamples: int = RESAMPLES
) -> Estimate:
    """The mean of one `series` (n,) with its interval; values that are not finite are left out."""
    kept = series[np.isfinite(series)]
    if not len(kept):
        return Estimate(0.0, 0.0, 0.0, 0.0, 0.0)
    length = block_length(kept) if block is None else block
    sums = resampled_sums(kept[:, None], block=length, resamples=resamples, rng=np.random.default_rng(seed))
    return estimate(float(kept.mean()), sums[:, 0] / len(kept))
