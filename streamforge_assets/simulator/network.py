"""The planted lead-lag network: who moves whom, how strongly, how many bars later. Pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NETWORK_TAG = 11


@dataclass(frozen=True)
class Network:
    """Directed edges, sorted by follower: `weight` of the leader's return `lag` bars earlier.

    Every asset follows itself (the own-lag edge), so that each has at least one edge. A gated edge
    transmits `2 * sigmoid(2 * v)` of its weight, v being the leader's log-volume state at the same bar.

    All arrays have one entry per edge.
    """

    n: int
    lags: int
    leader: Ints
    follower: Ints
    lag: Ints
    weight: Floats
    gated: NDArray[np.bool_]

    @property
    def starts(self) -> Ints:
        """Index of each follower's first edge, shape (n,)."""
        return np.searchsorted(self.follower, np.arange(self.n)).astype(np.int64)

    @property
    def own(self) -> NDArray[np.bool_]:
        """Which edges lead from an asset to itself."""
        return np.asarray(self.leader == self.follower, dtype=np.bool_)

    def adjacency(self) -> Floats:
        """Weights as `[lag - 1, follower, leader]`, shape (lags, n, n), own lags on the diagonal."""
        matrix = np.zeros((self.lags, self.n, self.n))
        matrix[self.lag - 1, self.follower, self.leader] = self.weight
        return matrix

    def gates(self) -> NDArray[np.bool_]:
        """Which edges are gated, shape (lags, n, n)."""
        matrix = np.zeros((self.lags, self.n, self.n), dtype=np.bool_)
        matrix[self.lag - 1, self.follower, self.leader] = self.gated
        return matrix

    def scaled(self, factor: float) -> Network:
        """The same network with every edge between different assets times `factor`."""
        return replace(self, weight=np.where(self.own, self.weight, self.weight * factor))


def draw_network(
    n: int,
    seed: int,
    regime: int,
    *,
    lags: int,
    gated: bool,
    negative_share: float,
    mean_degree: float,
    zipf: float,
    own_lag: float,
) -> Network:
    """Draw a network: Poisson in-degrees, leaders by Zipf's law (the first asset leads most).

    Weights between assets are of order one; the caller scales them. The same arguments give the same network.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, NETWORK_TAG, regime]))
    popularity = 1.0 / np.arange(1, n + 1) ** zipf
    degrees = np.minimum(rng.poisson(mean_degree, n), n - 1)
    if n > 1 and degrees.sum() == 0:
        degrees[-1] = 1
    leaders: list[Ints] = []
    for follower in range(n):
        odds = popularity.copy()
        odds[follower] = 0.0
        drawn = rng.choice(n, degrees[follower], replace=False, p=odds / odds.sum()) if degrees[follower] else []
        leaders.append(np.concatenate([[follower], np.asarray(drawn)]).astype(np.int64))
    leader = np.concatenate(leaders)
    follower_of = np.repeat(np.arange(n), [len(group) for group in leaders])
    own = leader == follower_of
    size = rng.uniform(0.6, 1.4, len(leader)) * np.where(rng.random(len(leader)) < negative_share, -1.0, 1.0)
    lag = rng.integers(1, lags + 1, len(leader))
    return Network(
        n=n,
        lags=lags,
        leader=leader,
        follower=follower_of.astype(np.int64),
        lag=np.where(own, 1, lag).astype(np.int64),
        weight=np.where(own, own_lag, size),
        gated=~own & gated,
    )
