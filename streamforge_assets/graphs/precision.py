"""Precision (inverse covariance) of a cross-section with common factors, and partial correlations. Pure NumPy."""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dpotri

from streamforge_assets.market.panel import Floats

_ROUNDS = 2
_LEAST_UNIQUENESS = 0.05


def factor_precision(covariance: Floats, bars: float) -> Floats:
    """Inverse of the covariance that a factor model gives: loadings @ loadings.T + diag(uniqueness).

    Iterated principal factors in the metric of the uniquenesses, which is maximum likelihood's fixed point
    (Jöreskog 1967). Kept are the factors whose eigenvalue is above the Marchenko-Pastur edge (1 + sqrt(N / T))²
    that noise alone reaches; the inverse is Woodbury's, so positive definite.

    Args:
        covariance: shape (N, N), positive diagonal.
        bars: T, the bars that it was estimated from.
    """
    root = np.sqrt(np.diagonal(covariance))
    correlation = covariance / np.outer(root, root)
    n = len(root)
    edge = (1 + np.sqrt(n / bars)) ** 2
    ridge = max(n / bars, 1e-3)
    uniqueness = np.clip((1 + ridge) / np.diagonal(_inverse(correlation + ridge * np.eye(n))), 0.05, 1.0)
    loadings = np.zeros((n, 0))
    for _ in range(_ROUNDS):
        metric = 1 / np.sqrt(uniqueness)
        values, vectors = np.linalg.eigh(correlation * np.outer(metric, metric))
        kept = values > edge
        loadings = vectors[:, kept] * np.sqrt(np.maximum(values[kept] - 1, 0.0)) / metric[:, None]
        uniqueness = np.clip(1 - np.sum(loadings**2, axis=1), _LEAST_UNIQUENESS, 1.0)
    scaled = loadings / uniqueness[:, None]
    inner = np.linalg.inv(np.eye(loadings.shape[1]) + loadings.T @ scaled)
    inverse = np.diag(1 / uniqueness) - scaled @ inner @ scaled.T
    return np.asarray((inverse + inverse.T) / 2 / np.outer(root, root))


def residual_precision(residuals: Floats) -> Floats:
    """Precision of standardised residuals by a factor model, shape (N, N): the weight of a GLS loss.

    Pairs are taken from the bars in which both are there; masked residuals must be exactly 0.

    Args:
        residuals: shape (T, N), in units of the volatility known before the bar; 0 where masked.
    """
    there = (residuals != 0).astype(np.float64)
    counts = np.maximum(there.T @ there, 1.0)
    covariance = residuals.T @ residuals / counts
    diagonal = np.maximum(np.diagonal(covariance), 1e-12)
    np.fill_diagonal(covariance, diagonal)
    return factor_precision(covariance, float(np.median(np.diagonal(counts))))


def partial_correlations(covariance: Floats, bars: float) -> Floats:
    """-P_ij / sqrt(P_ii P_jj) of the inverse P of the covariance shrunk to its diagonal, shape (N, N), diagonal 0.

    The shrinkage is Schäfer and Strimmer's (2005) for correlations, with the sampling variance (1 - r²)² / T.
    """
    root = np.sqrt(np.diagonal(covariance))
    correlation = covariance / np.outer(root, root)
    off = correlation[~np.eye(len(root), dtype=np.bool_)]
    noise, signal = np.sum((1 - off**2) ** 2) / bars, np.sum(off**2)
    share = min(1.0, noise / signal) if signal > 0 else 1.0
    shrunk = (1 - share) * correlation + share * np.eye(len(root))
    inverse = _inverse(shrunk)
    diagonal = np.sqrt(np.diagonal(inverse))
    result = -inverse / np.outer(diagonal, diagonal)
    np.fill_diagonal(result, 0.0)
    return np.asarray(result)


def _inverse(matrix: Floats) -> Floats:
    """Inverse of a symmetric positive definite matrix, in half of the general one's time."""
    lower, _ = dpotri(np.linalg.cholesky(matrix), lower=1)
    half = np.tril(lower, -1)
    return np.asarray(half + half.T + np.diag(np.diagonal(lower)))
