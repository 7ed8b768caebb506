"""Slopes of the chosen edges, and tests of every candidate given the chosen ones. Pure NumPy."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from streamforge_assets.graphs.graph import Bools
from streamforge_assets.graphs.spike_slab import Evidence
from streamforge_assets.market.panel import Floats

_CHUNK = 64
_LEAST_UNEXPLAINED = 1e-3


def refit(evidence: Evidence, chosen: Bools) -> tuple[Floats, Floats]:
    """Slopes (N, NL; 0 where not chosen) and t of all candidates (N, NL), robust to heteroskedasticity.

    Each follower is regressed on its own chosen regressors alone: beta_S = beta0_S + R_SS^-1 s_S. The variance
    of a chosen slope is the sandwich R_SS^-1 K R_SS R_SS^-1 (White 1980), K the robust inflation of each score;
    its t is Wald's. A candidate that was not chosen is tested by the score that the chosen ones leave
    (Lagrange multiplier), s_j - R_jS R_SS^-1 s_S over the root of kappa_j (1 - R_jS R_SS^-1 R_Sj).
    """
    slopes, t = np.zeros(chosen.shape), np.zeros(chosen.shape)
    root = np.sqrt(evidence.information)
    for start in range(0, len(chosen), _CHUNK):
        rows = slice(start, start + _CHUNK)
        size = int(chosen[rows].sum(axis=1).max())
        at = np.argpartition(~chosen[rows], max(size - 1, 0), axis=1)[:, :size]
        held = np.take_along_axis(chosen[rows], at, axis=1)
        # The score without any slope: that of the reference, with what the reference explains put back.
        score = evidence.score[rows] + csr_array(evidence.reference[rows] * root[rows]) @ evidence.correlation
        inside = evidence.correlation[at[:, :, None], at[:, None, :]]
        inside = np.where(held[:, :, None] & held[:, None, :], inside, np.eye(size))
        inverse = np.linalg.inv(inside)
        beta = np.einsum("nij,nj->ni", inverse, np.where(held, np.take_along_axis(score, at, axis=1), 0.0))
        spread = np.sqrt(np.where(held, np.take_along_axis(evidence.kappa[rows], at, axis=1), 1.0))
        variance = np.einsum("nij,nj,njk,nk,nik->ni", inverse, spread, inside, spread, inverse, optimize=True)
        # The other regressors' correlation with the chosen: what they lose when tested beside those.
        beside = np.where(held[:, :, None], evidence.correlation[at], 0.0)
        left = score - np.einsum("ni,nij->nj", beta, beside)
        unexplained = np.maximum(1 - np.sum((inverse @ beside) * beside, axis=1), _LEAST_UNEXPLAINED)
        tests = left / np.sqrt(evidence.kappa[rows] * unexplained)
        place = np.nonzero(held)[0], at[held]
        tests[place] = (beta / np.sqrt(variance))[held]
        found = np.zeros_like(score)
        found[place] = beta[held]
        t[rows], slopes[rows] = tests, found / root[rows]
    return slopes, t
