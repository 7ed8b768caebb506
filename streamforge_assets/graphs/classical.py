"""Two builders with no prior: the vector autoregression and factor-removed lagged correlation. Pure NumPy."""

from __future__ import annotations

import numpy as np

from resources.errors import Rejected
from streamforge_assets.graphs.moments import LaggedMoments, product
from streamforge_assets.market.panel import Floats, Panel


def var_t(panel: Panel, moments: LaggedMoments) -> Floats:
    """HC0 t of every slope of the VAR(L) of standardised returns on all lags of all symbols, shape (N, NL).

    b_i = G^-1 X'z_i, Var(b_i) = G^-1 (sum of e_it² x_t x_t') G^-1 (White 1980), of which the diagonal alone is
    made: Var(b_ij) = sum over t of e_it² (G^-1 x_t)_j².

    Raises:
        Rejected: if there are not twice as many bars as regressors.
    """
    lags, n = moments.lags, len(panel.symbols)
    if panel.bars < 2 * n * lags:
        raise Rejected(
            f"the panel has {panel.bars} bars, too few for a VAR of {n} symbols and {lags} lags (at least"
            f" {2 * n * lags}); take more days, or the method sparse_var"
        )
    root = np.sqrt(moments.variance)
    z = np.ascontiguousarray((panel.z / root).T.astype(np.float32))
    x = np.concatenate([np.pad(z[:, :-lag], ((0, 0), (lag, 0))) for lag in range(1, lags + 1)])
    inverse = np.linalg.inv(moments.regressor_correlation())
    slope = moments.cross() @ inverse
    residual = np.where(panel.mask.T, z - slope.astype(np.float32) @ x, np.float32(0))
    influence = inverse.astype(np.float32) @ x
    variance = product(residual**2, influence**2) / moments.bars_of_pairs() ** 2
    return np.asarray(slope / np.sqrt(np.maximum(variance, 1e-300)))


def cross_correlation_t(moments: LaggedMoments, factors: int) -> Floats:
    """Statistic t of each lagged correlation after up to `factors` principal components were removed, (N, NL).

    With M the projection off the first eigenvectors of the simultaneous correlation, corr(l) = M C(l) M scaled
    to unit variances; t = corr sqrt(n / kappa), kappa the heteroskedastic inflation. A component is removed only
    if its eigenvalue is above the Marchenko-Pastur edge (1 + sqrt(N / T))² that noise alone reaches.
    """
    correlations = moments.correlations()
    n = correlations.shape[1]
    values, vectors = np.linalg.eigh((correlations[0] + correlations[0].T) / 2)
    edge = (1 + np.sqrt(n / float(np.median(np.diagonal(moments.counts[0]))))) ** 2
    common = vectors[:, max(n - factors, int(np.sum(values <= edge)), 1) :]
    off = np.eye(n) - common @ common.T
    root = np.sqrt(np.maximum(np.diagonal(off @ correlations[0] @ off), 1e-9))
    lagged = [off @ matrix @ off / np.outer(root, root) for matrix in correlations[1:]]
    return np.asarray(np.concatenate(lagged, axis=1) * np.sqrt(moments.bars_of_pairs() / moments.inflation()))
