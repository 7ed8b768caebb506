"""Which few leaders move each follower: posterior inclusion by spike and slab, all followers at once. Pure NumPy.

Everything is in a coordinate in which each slope's information is 1: beta_ij = slope_ij * sqrt(information_ij).
Near a reference beta0 with standardised score s the log-likelihood of follower i is

    s_i · (beta - beta0) - (beta - beta0)' R (beta - beta0) / 2,      R the correlation of the regressors

and the estimate of one slope given the others, h_ij, has the variance kappa_ij (1 if the model were exact).

Prior: slope_ij is 0 with probability 1 - pi_j, else it has the product moment density, proportional to
b² N(b; 0, tau²) (Johnson and Rossell 2010), which is 0 at 0 and so tells small true slopes from noise that OLS
fits. tau is the same for all pairs in raw return units; own lags have a Gaussian slab. pi_j is the leader's own:
few assets lead many (as volume and attention are, popularity is heavy-tailed), so what leads some is likelier to
lead others. tau and pi are estimated from the data (empirical Bayes); posteriors are by coordinate ascent
(Carbonetto and Stephens 2012) on the candidates that matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit

from streamforge_assets.graphs.graph import Bools, Floats, Ints
from streamforge_assets.graphs.selection import keep_probable

OWN_SLAB = 0.05
POPULARITY_PSEUDO_COUNT = 0.5
_PLAUSIBLE = 1e-3
_MOST = 32
_SCREEN = 2.0
_INNER = 2
_LEAST_PI = 1e-7


@dataclass(frozen=True)
class Evidence:
    """What the data say about the slopes near `reference`, all shapes (N, NL) unless said otherwise.

    Args:
        score: derivative of the log-likelihood at the reference, over sqrt(information).
        information: per squared slope.
        kappa: robust over model-based variance of a slope.
        correlation: R of the regressors, shape (NL, NL).
        reference: the slopes at which the score was taken.
    """

    score: Floats
    information: Floats
    kappa: Floats
    correlation: Floats
    reference: Floats


@dataclass(frozen=True)
class Posterior:
    """What is believed after the data: inclusion probability and mean slope of each candidate, and the prior.

    Args:
        probability: of being an edge (or an own lag that is not 0), shape (N, NL).
        slope: posterior mean, in the evidence's units, shape (N, NL).
        slab: root mean square of an edge's slope in raw return units.
        own_share: prior inclusion probability of an own lag.
        popularity: prior inclusion probability of each leader's edges, shape (N,).
    """

    probability: Floats
    slope: Floats
    slab: float
    own_share: float
    popularity: Floats


@dataclass(frozen=True)
class _Terms:
    """Noise and prior of some candidates, in arrays of one shape; `slab` is a root mean square."""

    kappa: Floats
    slab: Floats
    log_odds: Floats
    own: Bools

    def first(self, n: int, k: int) -> _Terms:
        """Those of the first `n` followers' candidate number `k`."""
        return _Terms(self.kappa[:n, k], self.slab[:n, k], self.log_odds[:n, k], self.own[:n, k])


def is_own(n: int, lags: int) -> Bools:
    """Which candidates are own lags, shape (N, NL)."""
    return np.tile(np.eye(n, dtype=np.bool_), (1, lags))


def ascend(evidence: Evidence, raw_ratio: Floats, before: Posterior | None, sweeps: int) -> Posterior:
    """Posterior of all slopes, by `sweeps` of coordinate ascent and of fitting the prior.

    Args:
        evidence: the likelihood.
        raw_ratio: slope in the evidence's units per slope in raw return units, shape (N, NL).
        before: where to start; None starts without edges.
        sweeps: one goes through every follower's plausible candidates twice.
    """
    n, m = evidence.score.shape
    root = np.sqrt(evidence.information)
    unit = raw_ratio * root
    state = before if before is not None else _nothing(evidence, unit)
    beta, origin = state.slope * root, evidence.reference * root
    for _ in range(sweeps):
        h = beta + evidence.score - csr_array(beta - origin) @ evidence.correlation
        at, count = _candidates(evidence, h, beta, unit, state)
        probability, mean, square = _within(evidence, (at, count), h, beta, (unit, state))
        beta = _spread(at, count, probability * mean, m)
        follower = np.arange(n)[:, None]
        state = _fitted(state, at, probability, square / unit[follower, at] ** 2, m // n)
    return replace(state, probability=_spread(at, count, probability, m), slope=beta / root)


def _nothing(evidence: Evidence, unit: Floats) -> Posterior:
    """A start without edges: the slab of the largest scores, one edge per follower expected."""
    n, m = unit.shape
    t = np.where(is_own(n, m // n), 0.0, np.abs(evidence.score) / np.sqrt(evidence.kappa))
    strong = t >= max(4.0, float(np.quantile(t, 1 - 0.5 / n)))
    typical = np.where(strong if strong.any() else t == t.max(), evidence.score / unit, 0.0)
    slab = float(np.sqrt(np.sum(typical**2) / max(np.count_nonzero(typical), 1)))
    zero = np.zeros((n, m))
    return Posterior(zero, zero, max(slab, 1e-6), 0.5, np.full(n, 1.0 / max(m, 2)))


def _terms(evidence: Evidence, unit: Floats, state: Posterior, follower: Ints, at: Ints) -> _Terms:
    flat, leader = follower * unit.shape[1] + at, at % len(unit)
    own = leader == follower
    odds = np.log(state.popularity) - np.log1p(-state.popularity)
    own_odds = np.log(state.own_share) - np.log1p(-state.own_share)
    # An own lag's slope has no raw unit: both sides are the same asset.
    slab = np.where(own, OWN_SLAB, state.slab) * unit.take(flat)
    return _Terms(evidence.kappa.take(flat), slab, np.where(own, own_odds, odds[leader]), own)


def _belief(h: Floats, terms: _Terms) -> tuple[Floats, Floats, Floats]:
    """Inclusion probability, and mean and mean square if included, of slopes estimated as `h`."""
    # The moment density's second moment is 3 tau²; the slab is a root mean square for both densities.
    tau2 = np.where(terms.own, terms.slab**2, terms.slab**2 / 3)
    shrink = tau2 / (terms.kappa + tau2)
    mu, v = h * shrink, terms.kappa * shrink
    square = mu * mu
    second = square + v
    bayes = 0.5 * np.log1p(-shrink) + 0.5 * h * mu / terms.kappa
    chance = expit(terms.log_odds + bayes + np.where(terms.own, 0.0, np.log(second / tau2)))
    mean = np.where(terms.own, mu, mu * (square + 3 * v) / second)
    fourth = square * square + 6 * square * v + 3 * v * v
    return chance, mean, np.where(terms.own, second, fourth / second)


def _candidates(evidence: Evidence, h: Floats, beta: Floats, unit: Floats, state: Posterior) -> tuple[Ints, Ints]:
    """Each follower's plausible regressors, the most probable first, shape (N, K), and how many they are, (N,)."""
    n = len(h)
    # What is not even 2 deviations from 0 is implausible under any prior used here.
    squares = h * h / evidence.kappa
    plausible = squares > _SCREEN**2
    if np.count_nonzero(plausible) > 2 * _MOST * n:
        # Before common moves are explained, every regressor seems to matter: look at the strongest.
        plausible = squares >= np.partition(squares, -2 * _MOST, axis=1)[:, -2 * _MOST, None]
    flat = np.flatnonzero(plausible | (beta != 0))
    follower, at = np.divmod(flat, h.shape[1])
    chance, _, _ = _belief(h.take(flat), _terms(evidence, unit, state, follower, at))
    kept = (chance >= _PLAUSIBLE) | (beta.take(flat) != 0)
    follower, at, chance = follower[kept], at[kept], chance[kept]
    order = np.lexsort((-np.abs(h.take(flat[kept])), -chance, follower))
    follower, at = follower[order], at[order]
    count = np.bincount(follower, minlength=n)
    place = np.arange(len(at)) - np.repeat(np.cumsum(count) - count, count)
    size = int(np.clip(count.max(initial=0), 1, min(_MOST, h.shape[1])))
    padded = np.zeros((n, size), dtype=np.int64)
    first = place < size
    padded[follower[first], place[first]] = at[first]
    return padded, np.minimum(count, size).astype(np.int64)


def _within(
    evidence: Evidence, candidates: tuple[Ints, Ints], h: Floats, beta: Floats, prior: tuple[Floats, Posterior]
) -> tuple[Floats, Floats, Floats]:
    """Coordinate ascent over each follower's candidates, all followers in step.

    Returns probability, mean and mean square if included of each candidate, shape (N, K); 0 beyond the count.
    """
    at, count = candidates
    # Followers with many candidates come first, so that step k touches only those that have a k-th.
    rows = np.argsort(-count, kind="stable")
    follower, at = rows[:, None], at[rows]
    having = [int(np.sum(count > k)) for k in range(at.shape[1])]
    terms = _terms(evidence, *prior, follower, at)
    beta = beta[follower, at]
    gradient = h[follower, at] - beta
    local = evidence.correlation[at[:, :, None], at[:, None, :]]
    found = np.zeros((3, *at.shape))
    for _ in range(_INNER):
        for k, n in enumerate(having):
            found[:, :n, k] = _belief(beta[:n, k] + gradient[:n, k], terms.first(n, k))
            step = found[0, :n, k] * found[1, :n, k] - beta[:n, k]
            beta[:n, k] += step
            gradient[:n] -= step[:, None] * local[:n, k]
    probability, mean, square = found[:, np.argsort(rows)]
    return probability, mean, square


def _spread(at: Ints, count: Ints, values: Floats, m: int) -> Floats:
    full = np.zeros((len(at), m))
    held = np.arange(at.shape[1]) < count[:, None]
    full[np.nonzero(held)[0], at[held]] = values[held]
    return full


def _fitted(state: Posterior, at: Ints, probability: Floats, square: Floats, lags: int) -> Posterior:
    """The posterior with the prior that fits it best (empirical Bayes); pseudo counts keep the shares off 0."""
    n = len(at)
    own = at % n == np.arange(n)[:, None]
    edges = np.where(own, 0.0, probability)
    total, places = float(edges.sum()), max(lags * (n - 1), 1)
    slab = float(np.sqrt(np.sum(edges * square) / total)) if total > 1 else state.slab
    share = min((total + 1) / (n * places), 0.5)
    count = np.bincount((at % n).ravel(), edges.ravel(), minlength=n)
    popularity = (POPULARITY_PSEUDO_COUNT + count) / (POPULARITY_PSEUDO_COUNT / share + places)
    own_share = (float(np.sum(probability, where=own)) + 0.1) / (n * lags + 0.2)
    return replace(
        state,
        slab=slab,
        own_share=float(np.clip(own_share, _LEAST_PI, 0.95)),
        popularity=np.clip(popularity, _LEAST_PI, 0.9),
    )


def chosen(posterior: Posterior, false_share: float) -> Bools:
    """The edges and own lags to keep, shape (N, NL), each kind with its own bound on false ones."""
    n, m = posterior.probability.shape
    own = is_own(n, m // n)
    edges = keep_probable(np.where(own, 0.0, posterior.probability), false_share)
    lags = keep_probable(np.where(own, posterior.probability, 0.0), false_share)
    return np.asarray(np.where(own, lags, edges))
