"""The statistics under the builders, each against a plain computation of the same thing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resources.errors import Rejected
from streamforge_assets.graphs.classical import var_t
from streamforge_assets.graphs.moments import day_edges, day_moments, lagged_moments
from streamforge_assets.graphs.precision import factor_precision, partial_correlations, residual_precision
from streamforge_assets.graphs.refit import refit
from streamforge_assets.graphs.selection import adjusted, keep_probable, significant, two_sided
from streamforge_assets.graphs.spike_slab import Evidence
from tests.unit.test_graph_builders import led, panel_of

P_VALUES = arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1))


@given(P_VALUES)
def test_adjusted_p_values_equal_the_plain_step_up_procedure(p: np.ndarray) -> None:
    expected = np.empty_like(p)
    order = sorted(range(len(p)), key=lambda at: p[at])
    for rank, at in enumerate(order):
        expected[at] = min(1.0, *[p[order[m]] * len(p) / (m + 1) for m in range(rank, len(p))])
    assert np.allclose(adjusted(p), expected)
    assert np.allclose(adjusted(p[:2], among=p), expected[:2])


@given(P_VALUES, st.sampled_from([0.01, 0.05, 0.3]))
def test_significant_are_those_whose_adjusted_value_is_at_most_the_level(p: np.ndarray, level: float) -> None:
    q = adjusted(p)
    clear = np.abs(q - level) > 1e-12
    assert np.array_equal(significant(p, level)[clear], (q <= level)[clear])


@given(P_VALUES)
def test_adjusted_p_values_keep_the_order_and_are_not_below_p(p: np.ndarray) -> None:
    q = adjusted(p)
    assert (q >= p - 1e-15).all()
    assert (np.diff(q[np.argsort(p)]) >= 0).all()


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1)), st.floats(0.01, 0.5))
def test_kept_edges_are_the_most_probable_and_seldom_false(probability: np.ndarray, share: float) -> None:
    kept = keep_probable(probability, share)
    if kept.any():
        assert np.mean(1 - probability[kept]) <= share + 1e-12
        if not kept.all():
            assert probability[kept].min() >= probability[~kept].max()


def test_two_sided_p_of_a_normal() -> None:
    assert two_sided(np.array([0.0, 1.959964, -1.959964])) == pytest.approx([1.0, 0.05, 0.05], abs=1e-6)


@pytest.mark.parametrize("lags", [1, 3])
def test_days_add_up_to_the_window_bit_for_bit(lags: int) -> None:
    random = np.random.default_rng(0)
    panel = panel_of(random.standard_normal((1000, 4)), random.random((1000, 4)) > 0.1)
    ends = day_edges(panel.times)
    assert ends.tolist() == [0, 288, 576, 864, 1000]
    total = day_moments(panel, lags, 0, 288)
    for start, stop in pairwise(ends[1:]):
        total = total + day_moments(panel, lags, int(start), int(stop))
    whole = lagged_moments(panel, lags)
    for name in ("products", "counts", "heat", "power"):
        assert np.array_equal(getattr(total, name), getattr(whole, name)), name
    assert total.bars == whole.bars == 1000


def test_moments_equal_plain_sums() -> None:
    random = np.random.default_rng(1)
    panel = panel_of(random.standard_normal((700, 3)), random.random((700, 3)) > 0.2)
    moments = lagged_moments(panel, 2)
    z, mask = panel.z, panel.mask.astype(float)
    for lag in range(3):
        now, then = z[lag:], z[: len(z) - lag]
        assert np.allclose(moments.products[lag], now.T @ then, rtol=1e-5, atol=1e-3)
        assert np.array_equal(moments.counts[lag], mask[lag:].T @ mask[: len(z) - lag])
        mean = np.sum(then**2, axis=1) / np.maximum(mask[: len(z) - lag].sum(axis=1), 1)
        assert np.allclose(moments.heat[lag], (now**2).T @ mean, rtol=1e-5)


def test_moments_of_other_symbols_do_not_add_up() -> None:
    with pytest.raises(Rejected, match="do not add up"):
        _ = lagged_moments(panel_of(led(300, 0.1)), 1) + lagged_moments(panel_of(led(300, 0.1)), 2)


def test_hc0_t_equals_the_explicit_sandwich() -> None:
    random = np.random.default_rng(2)
    returns = random.standard_normal((900, 4)) * np.exp(0.5 * random.standard_normal((900, 1)))
    returns[1:, 2] += 0.2 * returns[:-1, 0]
    panel = panel_of(returns)
    found = var_t(panel, lagged_moments(panel, 2))
    z = panel.z
    x = np.hstack([np.vstack([np.zeros((lag, 4)), z[:-lag]]) for lag in (1, 2)])
    inverse = np.linalg.inv(x.T @ x)
    for follower in range(4):
        slope = inverse @ x.T @ z[:, follower]
        error = z[:, follower] - x @ slope
        covariance = inverse @ (x.T * error**2) @ x @ inverse
        assert found[follower] == pytest.approx(slope / np.sqrt(np.diagonal(covariance)), rel=0.02, abs=0.02)


def test_refit_equals_least_squares_on_the_chosen() -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal((400, 6)) + 0.5 * random.standard_normal((400, 1))
    y = x[:, [0, 3]] @ np.array([0.5, -0.3]) + random.standard_normal(400)
    size = np.sqrt(np.mean(x**2, axis=0))
    correlation = x.T @ x / 400 / np.outer(size, size)
    variance = float(np.mean((y - x[:, [0, 3]] @ np.linalg.lstsq(x[:, [0, 3]], y)[0]) ** 2))
    information = np.sum(x**2, axis=0)[None] / variance
    score = (x.T @ y)[None] / variance / np.sqrt(information)
    evidence = Evidence(score, information, np.ones((1, 6)), correlation, np.zeros((1, 6)))
    chosen = np.array([[True, False, False, True, False, False]])
    slope, t = refit(evidence, chosen)
    expected = np.linalg.lstsq(x[:, [0, 3]], y)[0]
    assert slope[0, [0, 3]] == pytest.approx(expected)
    assert not slope[0, [1, 2, 4, 5]].any()
    covariance = variance * np.linalg.inv(x[:, [0, 3]].T @ x[:, [0, 3]])
    assert t[0, [0, 3]] == pytest.approx(expected / np.sqrt(np.diagonal(covariance)))
    residual = y - x[:, [0, 3]] @ expected
    other = x[:, 1] - x[:, [0, 3]] @ np.linalg.lstsq(x[:, [0, 3]], x[:, 1])[0]
    assert t[0, 1] == pytest.approx(other @ residual / np.sqrt(variance * (other @ other)))


def _factor_covariance(n: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    loadings = random.uniform(0.4, 0.8, (n, 1))
    return loadings @ loadings.T + np.diag(random.uniform(0.3, 1.0, n))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_factor_precision_is_symmetric_and_positive(seed: int, n: int) -> None:
    x = np.random.default_rng(seed).standard_normal((60, n)) @ np.linalg.cholesky(_factor_covariance(n, seed)).T
    precision = factor_precision(x.T @ x / 60, 60)
    assert np.allclose(precision, precision.T)
    assert np.linalg.eigvalsh(precision)[0] > 0


def test_residual_precision_nears_the_true_one_better_than_the_inverse_of_the_sample() -> None:
    covariance = _factor_covariance(30, 7)
    truth = np.linalg.inv(covariance)
    x = np.random.default_rng(8).standard_normal((400, 30)) @ np.linalg.cholesky(covariance).T
    error = np.linalg.norm(residual_precision(x) - truth)
    assert error < 0.5 * np.linalg.norm(np.linalg.inv(x.T @ x / 400) - truth)


def test_partial_correlation_of_a_chain_skips_its_ends() -> None:
    random = np.random.default_rng(4)
    x = random.standard_normal((5000, 3))
    x[:, 1] += x[:, 0]
    x[:, 2] += x[:, 1]
    partial = partial_correlations(x.T @ x / 5000, 5000)
    assert partial[0, 1] > 0.4
    assert partial[1, 2] > 0.4
    assert abs(partial[0, 2]) < 0.05
    assert not np.diagonal(partial).any()
