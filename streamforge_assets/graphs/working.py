"""Evidence for the slopes of a sparse VAR, twice: from moments alone, and robustly from the bars. Pure NumPy.

Both are generalised least squares (Zellner 1962): what the other assets' simultaneous residuals tell about
follower i's is taken out of its residual,

    u_i = sum over k of P_ik e_k / P_ii,      P the precision of the residuals (factor model),

which leaves the variance 1 / P_ii in place of that of e_i. With the same regressors for every follower this
changes nothing; with a few for each, it does (in a market with common factors it removes half of the noise).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from streamforge_assets.graphs.graph import Bools
from streamforge_assets.graphs.moments import LaggedMoments, Singles
from streamforge_assets.graphs.precision import factor_precision
from streamforge_assets.graphs.spike_slab import Evidence
from streamforge_assets.market.panel import Floats, Panel

TAIL = 5.0
"""Degrees of freedom of the Student-t score: bars far out count less."""

HALF_LIFE = 12.0
"""Bars in which an old square loses half of its weight in the scale of a residual."""

_LONG_RUN = 0.15
_OUTLIER = 4.0
_BLOCK = 1024
_SPAN = 64


class MomentModel:
    """The Gaussian sparse VAR whose sufficient statistics are lagged moments, in standardised units."""

    def __init__(self, moments: LaggedMoments) -> None:
        self.moments = moments
        self.regressors = moments.regressor_correlation()
        self.cross = moments.cross()
        self.kappa = moments.inflation()
        self.precision = np.eye(len(moments.variance))
        correlation = moments.correlations()[0]
        self._now = (correlation + correlation.T) / 2
        self.usable = float(np.median(np.diagonal(moments.counts[0])))

    def residual_covariance(self, slope: Floats) -> Floats:
        """Covariance of the residuals at `slope` (N, NL), shape (N, N)."""
        sparse = csr_array(slope)
        explained = sparse @ self.cross.T
        covariance = self._now - explained - explained.T + sparse @ (sparse @ self.regressors).T
        np.fill_diagonal(covariance, np.maximum(np.diagonal(covariance), 0.05))
        return np.asarray(covariance)

    def refresh(self, slope: Floats) -> None:
        """Estimate the precision of the residuals at `slope`."""
        self.precision = factor_precision(self.residual_covariance(slope), self.usable)

    def evidence(self, slope: Floats) -> Evidence:
        """The likelihood near `slope`, after the precision was estimated there."""
        self.refresh(slope)
        own = np.diagonal(self.precision)[:, None]
        information = own * self.moments.bars_of_pairs()
        score = (self.precision / own) @ (self.cross - csr_array(slope) @ self.regressors) * np.sqrt(information)
        return Evidence(np.asarray(score), information, self.kappa, self.regressors, slope)

    def plain(self) -> Evidence:
        """The likelihood at no slope, each follower by itself (ordinary least squares)."""
        information = self.moments.bars_of_pairs()
        score = self.cross * np.sqrt(information)
        return Evidence(score, information, self.kappa, self.regressors, np.zeros_like(score))


class BarModel:
    """The same with heavy tails, moving scales and raw returns, from the bars themselves.

    The residual u is judged by the score of a Student t with `TAIL` degrees of freedom in units of its own scale,
    an exponentially weighted root mean square of its past; HC0 gives the variance of the score. Regressors are
    raw returns (clipped as z is): a follower's bar is divided by its own sigma, so that a leader's counts more
    while the leader is the more volatile of the two. Slopes are per unit of `scale`, as in moments.
    """

    def __init__(self, panel: Panel, moments: LaggedMoments) -> None:
        self.panel, self.lags = panel, moments.lags
        self.scale = moments.scale.astype(np.float32)

    def evidence(self, slope: Floats, precision: Floats, correlation: Floats) -> Evidence:
        """The likelihood near `slope` (N, NL), given the residuals' precision and the regressors' correlation."""
        n, m = slope.shape
        score, meat = np.zeros((n, m)), np.zeros((n, m))
        information, power = np.zeros((n, self.lags)), np.zeros((n, self.lags))
        slopes = [csr_array(part.astype(np.float32)) for part in np.split(slope, self.lags, axis=1)]
        filtered = (precision / np.diagonal(precision)[:, None]).T.astype(np.float32)
        scale = _ResidualScale(1 / np.diagonal(precision))
        for start in range(0, self.panel.bars, _BLOCK):
            raw, inverse, residual, usable = self._block(start, slopes)
            weight, curvature = scale.working(residual @ filtered, inverse, usable)
            heat = weight**2
            for lag in range(1, self.lags + 1):
                x = raw[self.lags - lag : len(raw) - lag]
                at = slice((lag - 1) * n, lag * n)
                score[:, at] += weight.T @ x
                square = x**2
                meat[:, at] += heat.T @ square
                total = square.sum(axis=1)
                information[:, lag - 1] += total @ curvature
                power[:, lag - 1] += total @ heat
        # E[information] over E[score²] is taken as one number per follower and lag: no third product.
        ratio = np.repeat(np.maximum(information / np.maximum(power, 1e-30), 1e-6), n, axis=1)
        meat = np.maximum(meat, 1e-9 * meat.max())
        return Evidence(score / np.sqrt(meat * ratio), meat * ratio, 1 / ratio, correlation, slope)

    def _block(self, start: int, slopes: list[csr_array]) -> tuple[Singles, Singles, Singles, Bools | None]:
        """Raw returns over scale (from L bars before), scale over sigma, residuals and mask of some target bars.

        The residuals are 0 where masked; the mask is None where nothing is.
        """
        panel, lags = self.panel, self.lags
        stop = min(start + _BLOCK, panel.bars)
        first = max(start - lags, 0)
        sigma = panel.sigma[max(first - 1, 0) : stop - 1].astype(np.float32)
        if first == 0:
            sigma = np.concatenate([panel.sigma[:1].astype(np.float32), sigma])
        relative = sigma / self.scale
        z = np.ascontiguousarray(panel.features[first:stop, :, 0])
        raw = z * relative
        if start < lags:
            raw = np.concatenate([np.zeros((lags - start, raw.shape[1]), np.float32), raw])
        inverse: Singles = np.reciprocal(relative[start - first :])
        fitted = sum(part @ raw[lags - lag : -lag].T for lag, part in enumerate(slopes, start=1))
        residual: Singles = z[start - first :] - np.asarray(fitted, dtype=np.float32).T * inverse
        usable = panel.mask[start:stop]
        if usable.all():
            return raw, inverse, residual, None
        return raw, inverse, residual * usable, usable


class _ResidualScale:
    """The moving scale of the residuals u, and their Student-t working scores, block after block."""

    def __init__(self, variance: Floats) -> None:
        self.deviation = np.sqrt(variance).astype(np.float32)
        self.last = np.ones((1, len(variance)), np.float32)
        # The running mean of _SPAN bars at once: sum over s <= t of (1 - d) d^(t - s) x[s], + d^(t + 1) last.
        decay, bar = 0.5 ** (1 / HALF_LIFE), np.arange(_SPAN)
        self.weights = np.tril((1 - decay) * decay ** np.abs(bar[:, None] - bar)).astype(np.float32)
        self.fading = (decay ** (bar + 1))[:, None].astype(np.float32)

    def working(self, left: Singles, inverse: Singles, usable: Bools | None) -> tuple[Singles, Singles]:
        """Score of each bar per unit of slope, and the slope's curvature, shape (B, N) each; 0 where masked."""
        v: Singles = left / self.deviation
        squares = v * v
        clipped = np.minimum(squares, np.float32(_OUTLIER**2))
        if usable is not None:
            clipped[~usable] = 1
        variance = self._running(clipped)
        variance *= np.float32(1 - _LONG_RUN)
        variance += np.float32(_LONG_RUN)
        squares /= variance
        heavy: Singles = np.reciprocal(squares + np.float32(TAIL - 2))
        variance *= self.deviation
        common = heavy * inverse
        common /= variance
        common *= np.float32(TAIL + 1)
        weight = common * v
        curvature = common * (np.float32(TAIL - 2) - squares)
        curvature *= heavy
        curvature *= inverse
        curvature /= self.deviation
        if usable is None:
            return weight, curvature
        return weight * usable, curvature * usable

    def _running(self, squares: Singles) -> Singles:
        """Exponentially weighted mean of the squares before each bar, shape (B, N)."""
        means = np.empty((len(squares) + 1, squares.shape[1]), np.float32)
        means[0] = self.last
        for start in range(0, len(squares), _SPAN):
            part = squares[start : start + _SPAN]
            rows = slice(start + 1, start + 1 + len(part))
            means[rows] = self.weights[: len(part), : len(part)] @ part
            means[rows] += self.fading[: len(part)] * means[start]
        self.last = means[-1:].copy()
        return means[:-1]
