"""Which edges to keep: by p values, or by posterior probabilities, with a bound on false ones. Pure NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from streamforge_assets.market.panel import Floats


def two_sided(t: Floats) -> Floats:
    """The p value of a statistic that is standard normal without an effect."""
    return np.asarray(2 * ndtr(-np.abs(t)))


def adjusted(p: Floats, among: Floats | None = None) -> Floats:
    """Benjamini and Hochberg's (1995) adjusted p values: rejecting those up to q keeps the expected share of
    false discoveries at or below q.

    q_(k) = min over m >= k of p_(m) M / m, p sorted ascending.

    Args:
        p: p values, of any shape, which the result has too.
        among: all M p values of the family, `p` among them; None if `p` is the family.
    """
    family = np.sort(p if among is None else among, axis=None)
    steps = family * len(family) / np.arange(1, len(family) + 1)
    best = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return np.asarray(best[np.searchsorted(family, p)])


def significant(p: Floats, level: float) -> NDArray[np.bool_]:
    """Which p values Benjamini and Hochberg's procedure rejects at `level`: `adjusted(p) <= level`, but sooner."""
    small = np.sort(p[p <= level], axis=None)
    passing = np.flatnonzero(small * p.size <= level * np.arange(1, len(small) + 1))
    return np.asarray(p <= small[passing[-1]]) if len(passing) else np.zeros(p.shape, dtype=np.bool_)


def keep_probable(probability: Floats, false_share: float) -> NDArray[np.bool_]:
    """The most probable candidates that maximise the expected F1, few enough for the bound on false ones.

    Keeping the k most probable has expected F1 of about 2 sum_k(P) / (k + sum(P)) (Lewis 1995) and an expected
    share of false ones of 1 - mean_k(P) (Newton et al. 2004), which may not exceed `false_share`.
    """
    at = np.flatnonzero(probability)
    at = at[np.argsort(-probability.ravel()[at], kind="stable")]
    found = np.cumsum(probability.ravel()[at])
    count = np.arange(1, len(at) + 1)
    kept = np.zeros(probability.size, dtype=np.bool_)
    if len(at):
        allowed = int(np.sum(1 - found / count <= false_share))
        best = int(np.argmax(2 * found / (count + found[-1]))) + 1
        kept[at[: min(best, allowed)]] = True
    return kept.reshape(probability.shape)
