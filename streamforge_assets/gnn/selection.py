"""A second look at the edges: which exist, and how strong they are, judged jointly. Pure NumPy, float64.

A graph builder tests each edge by itself and must keep false ones rare, so it misses weak ones. Here the weights
have a spike-and-slab prior: an edge exists with probability pi, and then w ~ N(0, tau² · (sigma_i / sigma_j)²);
own lags w ~ N(m, b). The posterior is taken by coordinate-wise variational Bayes (Carbonetto & Stephens 2012) on
the generalised-least-squares equations of `gls`, with pi, tau, m and b fitted at the same time (empirical Bayes).
A forecast uses posterior means: weak evidence is shrunk, not thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamforge_assets.gnn import gls
from streamforge_assets.gnn.gls import Bools, Edges, Fit
from streamforge_assets.market.panel import Floats, Panel

LEAST_SCORE = 2.0
PER_ASSET = 3
LEAST_INCLUSION = 0.01
_SWEEPS = 60
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Selection:
    """Edges that may exist, own lags among them; each array (E,).

    Args:
        edges: those with an inclusion of at least `LEAST_INCLUSION`.
        weight: posterior mean, raw-return slope.
        inclusion: posterior probability that the edge exists; 1 for own lags.
        score: weight if it exists, over its posterior deviation: comparable with a t statistic.
    """

    edges: Edges
    weight: Floats
    inclusion: Floats
    score: Floats


def select(
    panel: Panel,
    edges: Edges,
    lags: int,
    found: Fit,
    gate: Floats | None = None,
    *,
    rows: Bools | None = None,
    complete: bool = True,
) -> Selection:
    """Posterior of the edges' weights on the panel's rows.

    Args:
        panel: T bars.
        edges: the graph's, own lags among them.
        lags: of candidates, 1 to L.
        found: the generalised-least-squares fit of `edges` on the same rows and gate.
        gate: (T, N), or None for 1.
        rows: (T,) which rows may be used; all by default.
        complete: whether edges that the graph lacks are candidates too: those whose score test on the residuals
            exceeds `LEAST_SCORE`, at most `PER_ASSET` per asset. Without, only the weights are shrunk.
    """
    y, known = gls.known_targets(panel, rows)
    use = known / found.noise.scale
    candidates = edges
    if complete:
        error = (y - gls.predict(panel, edges, found.weight, gate)) * use
        candidates = _candidates(panel, edges, lags, gate, error, use, found)
    gram, score = gls.normal_equations(panel, candidates, gate, y * use, use, found.noise)
    level = np.sqrt(np.mean(panel.sigma**2, axis=0))
    unit = level[candidates.follower] / level[candidates.leader]
    n = len(panel.symbols)
    possible = n * (n - 1) * lags if complete else int((~candidates.own).sum())
    # In units of the assets' volatilities all edges share one prior.
    mean, inclusion, certainty = _posterior(
        gram * np.outer(unit, unit), score * unit, candidates.own, possible, spike=complete
    )
    keep = inclusion >= LEAST_INCLUSION
    return Selection(candidates.take(keep), (mean * inclusion * unit)[keep], inclusion[keep], certainty[keep])


def _candidates(
    panel: Panel, edges: Edges, lags: int, gate: Floats | None, error: Floats, use: Floats, found: Fit
) -> Edges:
    """The edges, then those absent ones that the residuals ask for most."""
    n = len(panel.symbols)
    noise = found.noise
    gated = panel.returns if gate is None else panel.returns * gate
    share = use / panel.sigma
    pull = (error @ noise.precision) * noise.turbulence[:, None] * share
    push = share**2 * noise.turbulence[:, None]
    scores = np.zeros((lags, n, n))
    for lag in range(lags):
        past = gated[: panel.bars - lag]
        information = (past**2).T @ push[lag:] * np.diag(noise.precision)
        scores[lag] = np.abs(past.T @ pull[lag:]) / np.sqrt(np.maximum(information, 1e-300))
        np.fill_diagonal(scores[lag], 0.0)
    scores[edges.lag - 1, edges.leader, edges.follower] = 0.0
    order = np.argsort(-scores, axis=None, kind="stable")[: PER_ASSET * n]
    order = order[scores.ravel()[order] > LEAST_SCORE]
    back, leader, follower = np.unravel_index(order, scores.shape)
    sides = ((edges.leader, leader), (edges.follower, follower), (edges.lag, back + 1))
    return Edges(*(np.concatenate([held, np.asarray(new, dtype=np.int64)]) for held, new in sides))


def _posterior(
    gram: Floats, score: Floats, own: Bools, possible: int, *, spike: bool
) -> tuple[Floats, Floats, Floats]:
    """Mean if included, inclusion and mean over deviation, each (E,), by coordinate ascent.

    Args:
        gram: information of the weights, (E, E).
        score: gram times their estimate, (E,).
        own: which are own lags, always included.
        possible: how many edges could exist.
        spike: whether an edge may not exist.
    """
    size = np.diag(gram).copy()
    mean = np.zeros(len(size))
    inclusion = np.ones(len(size))
    expected = np.zeros(len(size))
    pi, slab, centre, own_spread = 0.03, 0.01, -0.02, 1e-3
    product = np.zeros(len(size))
    others = ~own
    for _ in range(_SWEEPS if len(size) else 0):
        before = expected.copy()
        prior = np.where(own, 1.0 / own_spread, 1.0 / slab)
        variance = 1.0 / (size + prior)
        pulled = np.where(own, centre / own_spread, 0.0)
        odds = np.log(pi / (1 - pi)) + 0.5 * np.log(variance * prior)
        for c in range(len(size)):
            mean[c] = variance[c] * (score[c] - product[c] + size[c] * expected[c] + pulled[c])
            new = mean[c]
            if spike and not own[c]:
                exponent = odds[c] + 0.5 * mean[c] ** 2 / variance[c]
                inclusion[c] = 1.0 / (1.0 + np.exp(-min(max(exponent, -30.0), 30.0)))
                new *= inclusion[c]
            change = new - expected[c]
            if abs(change) > 1e-9:
                product += gram[c] * change
                expected[c] = new
        total = float(inclusion[others].sum())
        if total > 0:
            square = mean**2 + variance
            slab = max(float((inclusion * square)[others].sum()) / total, 1e-6)
            pi = min(max(total / possible, 1e-6), 0.5)
        if own.any():
            centre = float(mean[own].mean())
            own_spread = float(np.mean((mean[own] - centre) ** 2 + variance[own])) + 1e-6
        if np.abs(expected - before).max() < _TOLERANCE:
            break
    variance = 1.0 / (size + np.where(own, 1.0 / own_spread, 1.0 / slab))
    return mean, inclusion, mean / np.sqrt(variance)
