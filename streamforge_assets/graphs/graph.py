"""The graph between assets that builders make and models use: who leads whom, when, and how surely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class AssetGraph:
    """Directed edges leader → follower between N assets; every edge array has shape (E,).

    Args:
        symbols: the N symbols that the indices stand for.
        leader: index j of the asset that moves first.
        follower: index i of the asset that moves `lag` bars later.
        lag: bars, 1 to L.
        weight: follower's log return per unit of the leader's log return (a slope in raw returns).
        t: heteroskedasticity-robust t statistic.
        p: two-sided p value of t.
        q: Benjamini-Hochberg adjusted p value among all candidate edges.
        own: own-lag slopes, shape (L, N); 0 where none is held.
        contemporaneous: index pairs i < j of the second edge type, shape (K, 2): partially correlated in one bar.
        partial_correlation: their partial correlations, shape (K,).
        parameters: everything needed to build the graph again: method, thresholds, lags, bars, what was chosen.
        data_hash: digest of the data that it was built from.
    """

    symbols: tuple[str, ...]
    leader: Ints
    follower: Ints
    lag: Ints
    weight: Floats
    t: Floats
    p: Floats
    q: Floats
    own: Floats
    contemporaneous: Ints
    partial_correlation: Floats
    parameters: Mapping[str, object] = field(default_factory=dict)
    data_hash: str = ""

    @property
    def edges(self) -> int:
        """E."""
        return len(self.leader)

    @property
    def lags(self) -> int:
        """L."""
        return len(self.own)

    def adjacency(self) -> Floats:
        """Weights as `[lag - 1, follower, leader]`, shape (L, N, N), own lags on the diagonal."""
        n = len(self.symbols)
        matrix = np.zeros((self.lags, n, n))
        matrix[self.lag - 1, self.follower, self.leader] = self.weight
        matrix[:, np.arange(n), np.arange(n)] = self.own
        return matrix


def edges_of(adjacency: Floats) -> Bools:
    """Whether `[follower, leader]` is an edge at any lag, shape (N, N), of weights (L, N, N); no own lags."""
    found = np.asarray((adjacency != 0).any(axis=0))
    np.fill_diagonal(found, val=False)
    return found
