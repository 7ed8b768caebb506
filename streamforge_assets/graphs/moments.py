"""Sufficient statistics of a panel for linear lead-lag models, a day at a time. Pure NumPy.

    products[l][i, j] = sum over t of z[t, i] * z[t - l, j]        l = 0..L
    counts[l][i, j]   = number of t in which both were usable
    heat[l][i]        = sum over t of z[t, i]**2 * m[t - l],       m[t] = mean over usable j of z[t, j]**2

z are the standardised returns of the panel. Every statistic is a sum over target bars t, so the moments of a
window are the sum of those of its days: adding a day costs one addition, and adding in the order of time gives
the same bits every time. A day's products are made in the panel's own single precision; sums are double.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from resources.errors import Rejected
from streamforge_assets.market.panel import Floats, Panel

Singles = NDArray[np.float32]

DAY = 86_400_000_000
"""Microseconds in a day."""

_LONGEST_BLOCK = 2048


@dataclass(frozen=True)
class LaggedMoments:
    """Lagged products of standardised returns over some bars.

    Args:
        products: sums of z[t, i] z[t - l, j], shape (L + 1, N, N), axes lag, follower, leader.
        counts: bars in each sum, same shape.
        heat: sums of z[t, i]² m[t - l], shape (L + 1, N): whether an asset's noise is large when others move.
        power: sum over the usable bars of sigma², shape (N,): turns slopes into raw return units.
        bars: number of target bars.
    """

    products: Floats
    counts: Floats
    heat: Floats
    power: Floats
    bars: int

    @property
    def lags(self) -> int:
        """L."""
        return len(self.products) - 1

    def __add__(self, other: LaggedMoments) -> LaggedMoments:
        """The moments of both stretches of bars.

        Raises:
            Rejected: if the other has other symbols or lags.
        """
        if self.products.shape != other.products.shape:
            raise Rejected(
                f"moments of shape {self.products.shape} and {other.products.shape} do not add up;"
                " make both of the same symbols and lags"
            )
        return LaggedMoments(
            self.products + other.products,
            self.counts + other.counts,
            self.heat + other.heat,
            self.power + other.power,
            self.bars + other.bars,
        )

    @property
    def variance(self) -> Floats:
        """Mean square of each symbol's z, shape (N,); 0 for one without a usable or moving bar."""
        return np.asarray(np.diagonal(self.products[0]) / np.maximum(np.diagonal(self.counts[0]), 1))

    @property
    def scale(self) -> Floats:
        """Root mean square of sigma over each symbol's usable bars, raw log return, shape (N,)."""
        return np.asarray(np.sqrt(self.power / np.maximum(np.diagonal(self.counts[0]), 1)))

    def correlations(self) -> Floats:
        """corr(z[t, i], z[t - l, j]) about zero, each from the bars in which both were usable, (L + 1, N, N)."""
        root = np.sqrt(self.variance)
        return np.asarray(self.products / np.maximum(self.counts, 1) / np.outer(root, root))

    def regressor_correlation(self) -> Floats:
        """Correlation matrix of the regressors (lag 1 of all symbols, then lag 2, ...), shape (NL, NL).

        Stationarity fills it: block (l, m) depends on m - l alone. Entries of symbols with masked bars come from
        different bars, so negative eigenvalues are lifted.
        """
        c = self.correlations()
        blocks = [[c[m - k] if m >= k else c[k - m].T for m in range(self.lags)] for k in range(self.lags)]
        matrix = np.block(blocks)
        return lifted((matrix + matrix.T) / 2) if self.masked else (matrix + matrix.T) / 2

    @property
    def masked(self) -> bool:
        """Whether some symbol lacks bars that another has."""
        return bool(np.ptp(self.counts[0]) > 0)

    def cross(self) -> Floats:
        """corr(z[t, i], regressor k), shape (N, NL)."""
        return np.concatenate(self.correlations()[1:], axis=1)

    def bars_of_pairs(self) -> Floats:
        """Usable bars of each follower and regressor, at least 1, shape (N, NL)."""
        return np.maximum(np.concatenate(self.counts[1:], axis=1), 1.0)

    def inflation(self) -> Floats:
        """HC0 variance of a slope over the one that constant variance would give (White 1980), shape (N, NL).

        E[e² x²] / (E[e²] E[x²]) of follower and mean regressor; the same for all leaders of a lag.
        """
        n = np.diagonal(self.counts[0])
        level = float(np.mean(self.variance))
        ratio = self.heat[1:] / (np.maximum(n, 1) * self.variance * level)
        return np.repeat(np.maximum(ratio, 0.2).T, len(n), axis=1).reshape(len(n), -1)


def lifted(matrix: Floats, least: float = 1e-3) -> Floats:
    """The symmetric matrix with eigenvalues below `least` raised to it and its unit diagonal kept."""
    values, vectors = np.linalg.eigh(matrix)
    if values[0] >= least:
        return matrix
    raised = (vectors * np.maximum(values, least)) @ vectors.T
    root = np.sqrt(np.diagonal(raised))
    return np.asarray(raised / np.outer(root, root))


def day_moments(panel: Panel, lags: int, start: int, stop: int) -> LaggedMoments:
    """Moments of the target bars [start, stop); regressors reach up to `lags` bars before `start`.

    A bar before the first of the panel counts as masked.
    """
    return _add(_no_moments(len(panel.symbols), lags), panel, start, stop)


def lagged_moments(panel: Panel, lags: int) -> LaggedMoments:
    """Moments of the whole panel: its days' moments, added in the order of time."""
    total = _no_moments(len(panel.symbols), lags)
    for start, stop in pairwise(day_edges(panel.times)):
        total = _add(total, panel, int(start), int(stop))
    return total


def _no_moments(n: int, lags: int) -> LaggedMoments:
    shape = (lags + 1, n, n)
    return LaggedMoments(np.zeros(shape), np.zeros(shape), np.zeros((lags + 1, n)), np.zeros(n), 0)


def _add(total: LaggedMoments, panel: Panel, start: int, stop: int) -> LaggedMoments:
    """Add the moments of the target bars [start, stop) to the arrays of `total`, which is used up."""
    n, lags, length = len(panel.symbols), total.lags, stop - start
    first = max(start - lags, 0)
    z = np.zeros((length + lags, n), dtype=np.float32)
    usable = np.zeros((length + lags, n), dtype=np.bool_)
    z[first - start + lags :] = panel.features[first:stop, :, 0]
    usable[first - start + lags :] = panel.mask[first:stop]
    target, there = z[lags:], usable[lags:]
    squares = z**2
    number = np.count_nonzero(usable, axis=1)
    whole = number == n
    # Where all symbols share one mask, one count does for all pairs.
    shared = bool((whole == (number > 0)).all())
    m = np.sum(squares, axis=1, dtype=np.float64) / np.maximum(number, 1)
    squares = squares[lags:].astype(np.float64)
    for lag in range(lags + 1):
        rows = slice(lags - lag, lags - lag + length)
        total.products[lag] += target.T @ z[rows]
        if shared:
            total.counts[lag] += np.count_nonzero(whole[lags:] & whole[rows])
        else:
            total.counts[lag] += there.T.astype(np.float32) @ usable[rows].astype(np.float32)
        total.heat[lag] += m[rows] @ squares
    sigma = panel.sigma[start:stop] * there
    power = total.power + np.einsum("tn,tn->n", sigma, sigma)
    return replace(total, power=power, bars=total.bars + length)


def day_edges(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the first bar of every UTC day, and T."""
    day = times // DAY
    return np.concatenate([[0], np.nonzero(np.diff(day))[0] + 1, [len(times)]]).astype(np.int64)


def product(left: Singles, right: Singles) -> Floats:
    """The product left @ right.T of two (·, T) arrays in single precision, summed in double."""
    total = np.zeros((len(left), len(right)))
    for start in range(0, left.shape[1], _LONGEST_BLOCK):
        rows = slice(start, start + _LONGEST_BLOCK)
        total += left[:, rows] @ right[:, rows].T
    return total
