"""Weights of a given graph's edges by generalised least squares, in closed form. Pure NumPy, float64.

The shocks of different assets share market and sector factors, so the residual of one asset says much about
another's. With residuals e[t] = (y[t] - p[t]) / s[t] that are multivariate Student-t(nu) with precision Omega,
the weights w of the messages M[t, e] (p = sum over a follower's edges of w M) solve the normal equations

    sum_t u_t Omega[i, i'] M[t, e] M[t, e'] w = sum_t u_t M[t, e] (Omega (y[t] / s[t]))[i],
    u_t = (nu + n) / (nu + e' Omega e)

which is Zellner's seemingly-unrelated regression (1962) inside the EM steps of Lange, Little & Taylor (1989).
On simulated markets this cuts the variance of the weights to less than half of what least squares leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from streamforge_assets.market.panel import Floats, Panel, targets

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_CHUNK = 2048
_DAY = 86_400_000_000
_SHORT_HALF_LIFE = 12
_RIDGE = 1e-3
_WIDEST = 4.0


@dataclass(frozen=True)
class Edges:
    """Edges of a graph with own lags among them (leader = follower), each array (E,)."""

    leader: Ints
    follower: Ints
    lag: Ints

    @property
    def own(self) -> Bools:
        """Which edges are own lags."""
        return np.asarray(self.leader == self.follower, dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.leader)

    def take(self, at: NDArray[np.generic]) -> Edges:
        """The edges at these places, or where this mask is true."""
        return Edges(self.leader[at], self.follower[at], self.lag[at])


@dataclass(frozen=True)
class Noise:
    """What residuals look like.

    Args:
        scale: s, how much wider than sigma a residual is expected to be, (T, N).
        precision: Omega of the residuals over s, (N, N).
        turbulence: u, weight of each bar, (T,).
    """

    scale: Floats
    precision: Floats
    turbulence: Floats


@dataclass(frozen=True)
class Fit:
    """Weights (E,) in raw-return slopes, and the noise that they leave."""

    weight: Floats
    noise: Noise


def messages(panel: Panel, edges: Edges, gate: Floats | None, rows: slice) -> Floats:
    """M[t, e] = gate[t + 1 - lag, j] r[t + 1 - lag, j] / sigma[t, i] of `rows`, shape (rows, E).

    Own lags are not gated. `gate` (T, N) may be None for 1. Rows before the panel give 0.
    """
    gated = panel.returns if gate is None else panel.returns * gate
    found = np.zeros((rows.stop - rows.start, len(edges)))
    for lag in np.unique(edges.lag):
        first = max(rows.start, int(lag) - 1)
        past = slice(first + 1 - int(lag), rows.stop + 1 - int(lag))
        for source, which in ((panel.returns, edges.own), (gated, ~edges.own)):
            at = np.flatnonzero(which & (edges.lag == lag))
            found[first - rows.start :, at] = source[past][:, edges.leader[at]]
    found /= panel.sigma[rows][:, edges.follower]
    return found


def predict(panel: Panel, edges: Edges, weight: Floats, gate: Floats | None = None) -> Floats:
    """Forecasts in units of sigma, shape (T, N): the sum of a follower's messages by weight."""
    n = len(panel.symbols)
    out = np.zeros_like(panel.returns)
    gated = panel.returns if gate is None else panel.returns * gate
    for lag in np.unique(edges.lag):
        begin = int(lag) - 1
        for source, which in ((panel.returns, edges.own), (gated, ~edges.own)):
            at = which & (edges.lag == lag)
            matrix = np.zeros((n, n))
            np.add.at(matrix, (edges.leader[at], edges.follower[at]), weight[at])
            out[begin:] += source[: panel.bars - begin] @ matrix
    return np.asarray(out / panel.sigma)


def known_targets(panel: Panel, rows: Bools | None) -> tuple[Floats, Bools]:
    """Targets (T, N) and where they are known and may be used."""
    y, known = targets(panel)
    return y, known if rows is None else known & rows[:, None]


def fit(
    panel: Panel,
    edges: Edges,
    gate: Floats | None = None,
    *,
    tail: float = 5.0,
    rows: Bools | None = None,
    rounds: int = 2,
    noise: Noise | None = None,
) -> Fit:
    """Fit the edges' weights on the panel's rows.

    Args:
        panel: T bars.
        edges: E edges, own lags among them.
        gate: (T, N), or None for 1.
        tail: nu.
        rows: (T,) which rows may be used; all by default.
        rounds: EM steps.
        noise: of another fit to the same rows, from which to go on; by default one is estimated first.
    """
    y, known = known_targets(panel, rows)
    weight: Floats = np.zeros(len(edges))
    if noise is None:
        weight = _least_squares(panel, edges, gate, y, known)
        residual = y - predict(panel, edges, weight, gate)
        scale = residual_scale(panel, residual, known)
        noise = _noise(residual, known, scale, np.ones(panel.bars), tail)
    use = known / noise.scale
    for _ in range(rounds):
        gram, score = normal_equations(panel, edges, gate, y * use, use, noise)
        weight = np.asarray(np.linalg.solve(gram + tiny(gram), score))
        residual = y - predict(panel, edges, weight, gate)
        noise = _noise(residual, known, noise.scale, noise.turbulence, tail)
    return Fit(weight, noise)


def residual_scale(panel: Panel, residual: Floats, known: Bools) -> Floats:
    """How much wider than sigma a residual is expected to be, shape (T, N): exp(x'b / 2) within 1/4 to 4.

    Log squared residuals are regressed on the features, their sizes, a faster volatility and the daily season,
    all known at the end of bar t, pooled over assets. EWMA volatility sees neither the season nor the volume.
    """
    design = _scale_design(panel)
    rows = known.ravel()
    flat = design.reshape(-1, design.shape[-1])
    if not rows.any():
        return np.ones_like(residual)
    x = flat if rows.all() else flat[rows]
    target = np.log(residual.ravel()[rows] ** 2 + 1e-3)
    gram = x.T @ x
    gram += _RIDGE * len(x) * np.diag((np.arange(len(gram)) > 0).astype(np.float64))
    log_scale = 0.5 * (flat @ np.linalg.solve(gram, x.T @ target))
    log_scale -= np.median(log_scale[rows])
    return np.exp(np.clip(log_scale, -np.log(_WIDEST), np.log(_WIDEST))).reshape(residual.shape)


def _scale_design(panel: Panel) -> Floats:
    """Regressors of the log scale, shape (T, N, K)."""
    features = np.clip(panel.features, -5, 5)
    decay = 0.5 ** (1 / _SHORT_HALF_LIFE)
    square = features[:, :, 0].astype(np.float64) ** 2
    begin = np.full((1, square.shape[1]), decay)
    fast = lfilter([1 - decay], [1.0, -decay], square, axis=0, zi=begin)[0]
    angle = 2 * np.pi * (panel.times % _DAY)[:, None] / _DAY * np.array([1.0, 2.0])
    design = np.empty((*square.shape, 6 + features.shape[-1]))
    design[:, :, 0] = 1.0
    design[:, :, 1] = np.log(fast + 0.01)
    design[:, :, 2:6] = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)[:, None, :]
    design[:, :, 6] = np.abs(features[:, :, 0])
    design[:, :, 7:] = features[:, :, 1:]
    return design


def _noise(residual: Floats, known: Bools, scale: Floats, turbulence: Floats, tail: float) -> Noise:
    """One EM step: the precision under the bars' old weights, then their new weights."""
    error = residual * known / scale
    precision = joint_precision(error, known, turbulence)
    distance = np.einsum("ti,ti->t", error @ precision, error)
    return Noise(scale, precision, (tail + known.sum(axis=1)) / (tail + distance))


def joint_precision(error: Floats, known: Bools, turbulence: Floats) -> Floats:
    """Inverse of the weighted covariance of residuals (T, N), shrunk towards a one-factor model as N / T grows."""
    count = np.maximum(known.T.astype(np.float64) @ known, 1.0)
    covariance = (error * turbulence[:, None]).T @ error / count
    n = len(covariance)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    correlation = covariance / np.outer(deviation, deviation)
    values, vectors = np.linalg.eigh(correlation)
    factor = vectors[:, -1:] * np.sqrt(max(values[-1], 0.0))
    simple = factor @ factor.T
    np.fill_diagonal(simple, 1.0)
    share = min(1.0, n / max(float(count.mean()), 1.0) + 0.01)
    mixed = (1 - share) * correlation + share * simple
    return np.asarray(np.linalg.inv(mixed) / np.outer(deviation, deviation))


def _least_squares(panel: Panel, edges: Edges, gate: Floats | None, y: Floats, known: Bools) -> Floats:
    """Each follower's own regression."""
    weight = np.zeros(len(edges))
    rows = slice(0, panel.bars)
    for follower in np.unique(edges.follower):
        at = np.flatnonzero(edges.follower == follower)
        part = messages(panel, edges.take(at), gate, rows) * known[:, follower, None]
        gram = part.T @ part
        weight[at] = np.linalg.solve(gram + tiny(gram), part.T @ y[:, follower])
    return weight


def tiny(gram: Floats) -> Floats:
    """Ridge of one part in a million: an edge whose leader never moved gets weight 0 instead of an error."""
    size = np.diag(gram)
    floor = float(size.mean()) if len(size) else 1.0
    return np.diag(1e-6 * size + 1e-9 * floor + 1e-300)


def normal_equations(
    panel: Panel, edges: Edges, gate: Floats | None, y: Floats, use: Floats, noise: Noise
) -> tuple[Floats, Floats]:
    """Left (E, E) and right (E,) side; `y` and messages are multiplied by `use` (T, N) = known / scale."""
    size = len(edges)
    gram, score = np.zeros((size, size)), np.zeros(size)
    root = np.sqrt(noise.turbulence)[:, None]
    whitened = (y @ noise.precision) * root
    weighted = use * root
    for begin in range(0, panel.bars, _CHUNK):
        rows = slice(begin, min(begin + _CHUNK, panel.bars))
        part = messages(panel, edges, gate, rows)
        part *= weighted[rows][:, edges.follower]
        gram += part.T @ part
        score += np.einsum("te,te->e", part, whitened[rows][:, edges.follower])
    gram *= noise.precision[np.ix_(edges.follower, edges.follower)]
    return gram, score
