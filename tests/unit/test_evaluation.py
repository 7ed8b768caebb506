import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from resources.errors import Rejected
from streamforge_assets.gnn import scores as measure
from streamforge_assets.gnn.bootstrap import block_length, mean_estimate, resampled_sums
from streamforge_assets.gnn.evaluation import evaluate, ic_per_bar
from streamforge_assets.gnn.portfolio import deflated_sharpe, long_short, sharpe, trade


def market(bars: int = 300, n: int = 8, *, seed: int = 0, signal: float = 0.3):
    """Expected and realised log returns, sigma and mask, each (bars, n)."""
    rng = np.random.default_rng(seed)
    sigma = 2e-3 * np.exp(0.3 * rng.normal(size=(bars, n)))
    mu = signal * rng.normal(size=(bars, n)) * sigma
    return mu, mu + rng.standard_t(5, size=(bars, n)) * sigma, sigma, rng.random((bars, n)) > 0.1


def test_ic_and_rank_ic_equal_scipy_on_each_bar():
    mu, realised, _, mask = market(60)
    ic, rank = measure.ic_series(mu, realised, mask), measure.rank_ic_series(mu, realised, mask)
    for t in range(60):
        kept = mask[t]
        assert ic[t] == pytest.approx(stats.pearsonr(mu[t, kept], realised[t, kept]).statistic)
        assert rank[t] == pytest.approx(stats.spearmanr(mu[t, kept], realised[t, kept]).statistic)


def test_bars_without_three_assets_or_with_equal_outcomes_are_left_out_and_counted():
    mu, realised, sigma, mask = market(50)
    mask[:] = True
    mask[3, 2:] = False
    realised[7] = 0.1
    found = evaluate({"gnn": mu}, realised, sigma, mask)
    assert (found.defined, found.undefined) == (48, 2)
    kept = np.delete(np.arange(50), [3, 7])
    assert found["gnn"].ic.value == pytest.approx(measure.ic_series(mu, realised, mask)[kept].mean())


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e-7])
def test_a_constant_forecast_has_ic_zero_in_every_defined_bar(constant):
    _, realised, _, mask = market(20)
    assert (measure.ic_series(np.full(mask.shape, constant), realised, mask) == 0).all()


def test_pooled_measures_equal_plain_computations():
    mu, realised, sigma, mask = market()
    forecast = 0.7 * mu
    found = evaluate({"gnn": forecast}, realised, sigma, mask)["gnn"]
    y, z = (realised / sigma)[mask], (forecast / sigma)[mask]
    assert found.r2.value == pytest.approx(1 - ((y - z) ** 2).sum() / (y**2).sum())
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx((np.sign(y) == np.sign(z)).mean())
    up, down = z[y > 0], z[y < 0]
    assert found.auc == pytest.approx((up[:, None] > down).mean() + 0.5 * (up[:, None] == down).mean())
    line = stats.linregress(z, y)
    assert found.slope is not None
    assert (found.slope.slope, found.slope.intercept) == pytest.approx((line.slope, line.intercept))
    assert found.slope.error == pytest.approx(line.stderr, rel=0.25)
    ics = measure.ic_series(forecast, realised, mask)
    assert found.icir == pytest.approx(ics.mean() / ics.std(ddof=1))
    assert found.scaled_ic.value == pytest.approx(
        measure.ic_series(forecast / sigma, realised / sigma, mask).mean()
    )


def test_calibration_bins_hold_all_pairs_in_order():
    mu, realised, sigma, mask = market()
    bins = measure.calibration(mu, realised, sigma, mask)
    assert len(bins) == 10
    assert sum(group.count for group in bins) == mask.sum()
    centres = [group.forecast for group in bins]
    assert centres == sorted(centres)
    lowest = (mu / sigma)[mask] <= np.quantile((mu / sigma)[mask], 0.1)
    assert bins[0].outcome == pytest.approx((realised / sigma)[mask][lowest].mean(), abs=0.02)


def test_errors_clustered_by_bar_see_assets_that_move_together():
    rng = np.random.default_rng(0)
    common = np.repeat(rng.normal(size=(4000, 1)), 10, axis=1)
    ones = np.ones_like(common)
    (group,) = measure.binned(ones, ones, common, ones > 0)
    assert group.error == pytest.approx(1 / np.sqrt(4000), rel=0.05)


def test_the_oracle_has_skill_and_noise_has_none():
    mu, realised, sigma, mask = market(2000)
    noise = np.random.default_rng(9).normal(size=mu.shape) * sigma
    found = evaluate({"gnn": noise, "oracle": mu, "zero": 0 * mu}, realised, sigma, mask)
    assert found["oracle"].ic.low > 0.1
    assert found["oracle"].ic.t > 10
    assert found["gnn"].ic.contains_zero
    assert abs(found["gnn"].ic.t) < 3
    assert found.best_baseline == "zero"
    assert found["zero"].r2.value == 0
    assert found["zero"].accuracy is None


def test_a_paired_difference_is_tighter_than_the_two_intervals():
    mu, realised, sigma, mask = market(1500)
    rng = np.random.default_rng(3)
    near = [mu + 0.05 * rng.normal(size=mu.shape) * sigma for _ in range(2)]
    found = evaluate({"gnn": near[0], "other": near[1]}, realised, sigma, mask)
    gain = found["other"].reference_gain
    assert gain is not None
    assert gain.value == pytest.approx(found["gnn"].ic.value - found["other"].ic.value)
    assert gain.error < 0.5 * found["gnn"].ic.error
    assert found["gnn"].reference_gain is None
    assert found["gnn"].best_gap == gain


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.nan, np.inf, 1e300, -5.0]))
def test_masked_values_never_matter(seed, junk):
    mu, realised, sigma, mask = market(40, 5, seed=seed)
    mask[:2] = True
    clean = evaluate({"gnn": mu, "own": realised[::-1]}, realised, sigma, mask, resamples=50)
    dirty = [np.where(mask, array, junk) for array in (mu, realised[::-1], realised, sigma)]
    again = evaluate({"gnn": dirty[0], "own": dirty[1]}, dirty[2], dirty[3], mask, resamples=50)
    assert again == clean


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_assets_fall_back_to_correlation_over_time(n):
    mu, realised, sigma, mask = market(500, n)
    found = evaluate({"gnn": mu, "zero": 0 * mu}, realised, sigma, mask)
    plain = [np.corrcoef(mu[mask[:, i], i], realised[mask[:, i], i])[0, 1] for i in range(n)]
    assert found["gnn"].ic.value == pytest.approx(np.mean(plain))
    assert not found.cross_section
    assert "over time" in found.ic_note
    assert found["zero"].ic.value == 0
    assert found["gnn"].ic.low > 0
    assert np.nanmean(ic_per_bar(mu, realised, mask)) == pytest.approx(np.mean(plain))


def test_the_interval_of_a_correlation_over_time_has_the_textbook_width():
    a, b, one = *np.random.default_rng(2).normal(size=(2, 2000, 1)), np.ones((2000, 1))
    found = evaluate({"gnn": a}, a + 2 * b, one, one > 0, block=1.0)["gnn"].ic
    assert found.error == pytest.approx((1 - found.value**2) / np.sqrt(2000), rel=0.15)


def test_an_evaluation_is_plain_json():
    mu, realised, sigma, mask = market(50)
    found = evaluate({"gnn": mu, "zero": 0 * mu}, realised, sigma, mask, trials=7)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["trials"] == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference": "gat"}, "no forecast is called gat"),
        ({"mask": np.zeros((30, 4), dtype=bool)}, "nothing to evaluate"),
        ({"sigma": np.zeros((30, 4))}, "must be positive"),
        ({"sigma": np.ones((30, 3))}, "has shape"),
        ({"forecasts": {"gnn": np.full((30, 4), np.nan)}}, "not finite"),
    ],
)
def test_bad_input_gets_one_clear_sentence(change, words):
    mu, realised, sigma, mask = market(30, 4)
    values = {"forecasts": {"gnn": mu}, "realised": realised, "sigma": sigma, "mask": mask, **change}
    with pytest.raises(Rejected, match=words):
        evaluate(**values)


def test_resampled_sums_have_the_mean_and_variance_of_the_stationary_bootstrap():
    rng = np.random.default_rng(0)
    series = stats.zscore(rng.normal(size=200))[:, None]
    sums = resampled_sums(series, block=1.0, resamples=20_000, rng=rng)
    assert sums.mean() == pytest.approx(0, abs=0.4)
    assert sums.var() == pytest.approx(200, rel=0.05)
    ones = resampled_sums(np.ones((37, 2)), block=5.0, resamples=500, rng=rng)
    assert (ones == 37).all()
    longer = resampled_sums(series, block=8.0, resamples=20_000, rng=rng).var() / 200
    lags = np.arange(1, 200)
    covariance = np.array([(series[:, 0] * np.roll(series[:, 0], lag)).mean() for lag in lags])
    decay = 1 - 1 / 8
    weight = (1 - lags / 200) * decay**lags + lags / 200 * decay ** (200 - lags)
    assert longer == pytest.approx(
        1 + 2 * (weight * covariance).sum(), rel=0.06
    )  # Politis & Romano (1994), lemma 1


def test_intervals_cover_the_mean_of_a_dependent_series():
    rng = np.random.default_rng(1)
    covered, naive = 0, 0
    for _ in range(200):
        noise = rng.normal(size=700)
        series = np.zeros(700)
        for t in range(1, 700):
            series[t] = 0.6 * series[t - 1] + noise[t]
        series = series[100:]
        found = mean_estimate(series, seed=int(rng.integers(1 << 30)), resamples=300)
        covered += found.low <= 0 <= found.high
        naive += abs(series.mean()) < 1.96 * series.std() / np.sqrt(600)
    assert covered >= 176  # 88 %: percentile intervals of 600 dependent values fall a little short of 95 %
    assert naive < 160  # what ignoring the dependence would cover


def test_blocks_grow_with_dependence_and_never_fall_below_the_cube_root():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=4000)
    slow = np.convolve(noise, 0.9 ** np.arange(60), mode="same")
    assert block_length(noise) < 25
    assert block_length(slow) > 40
    assert block_length(np.zeros(1000)) == pytest.approx(10)
    assert block_length(np.zeros(0)) == 1


def test_the_same_seed_gives_the_same_interval():
    mu, realised, sigma, mask = market(100)
    assert evaluate({"gnn": mu}, realised, sigma, mask) == evaluate({"gnn": mu}, realised, sigma, mask)


def test_long_short_positions_equal_a_plain_computation():
    mu, _, _, mask = market(30, 25)
    held = long_short(mu, mask)
    for t in range(30):
        order = sorted(np.flatnonzero(mask[t]), key=lambda i: mu[t, i])
        side = max(1, len(order) // 10)
        plain = np.zeros(25)
        plain[order[-side:]], plain[order[:side]] = 0.5 / side, -0.5 / side
        assert held[t] == pytest.approx(plain)


def test_equal_forecasts_share_the_edge_so_the_order_of_assets_cannot_matter():
    tied = np.array([[2.0, 2.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    held = long_short(tied, np.ones(tied.shape, dtype=bool))
    assert held.tolist() == [[0.25, 0.25, 0, -0.25, -0.25], [0, 0, 0, 0, 0]]


def test_costs_turnover_breakeven_and_delay_follow_from_the_positions():
    forecast = np.array([[1.0, 0, -1], [1, 0, -1], [-1, 0, 1]])
    realised = np.log1p(np.array([[0.02, 0, 0], [0.01, 0, -0.01], [0, 0, 0.04]]))
    found = trade(forecast, realised, forecast == forecast, bars_per_year=100, costs=(0, 10))
    assert found.turnover == pytest.approx((1 + 0 + 2) / 3)
    assert found.net[0].mean_bp == pytest.approx(1e4 * (0.01 + 0.01 + 0.02) / 3)
    assert found.net[1].mean_bp == pytest.approx(found.net[0].mean_bp - 10)
    assert found.breakeven_bp == pytest.approx(1e4 * 0.04 / 3)
    assert found.delayed[0].mean_bp == pytest.approx(1e4 * (0 + 0.01 - 0.02) / 3)
    gains = np.array([0.01, 0.01, 0.02])
    assert found.net[0].sharpe == pytest.approx(10 * gains.mean() / gains.std(ddof=1))


def test_a_forecast_that_prefers_nothing_trades_nothing():
    _, realised, _, mask = market(20)
    found = trade(np.zeros(mask.shape), realised, mask, bars_per_year=100)
    assert (found.turnover, found.breakeven_bp, found.net[-1].sharpe) == (0, None, 0)


def test_the_deflated_sharpe_ratio_equals_the_example_of_its_paper():
    """Bailey & López de Prado (2014): SR 2.5 a year from 1250 days of 250, 100 trials whose ratios vary by 1/2,
    skewness -3 and kurtosis 10 give a probability of .9004."""
    rng = np.random.default_rng(0)
    ratio, trials, variance = 2.5 / np.sqrt(250), 100, 0.5 / 250
    luck = np.sqrt(variance) * (
        (1 - np.euler_gamma) * stats.norm.ppf(0.99) + np.euler_gamma * stats.norm.ppf(1 - 1 / (100 * np.e))
    )
    paper = stats.norm.cdf((ratio - luck) * np.sqrt(1249) / np.sqrt(1 + 3 * ratio + 9 / 4 * ratio**2))
    assert paper == pytest.approx(0.9004, abs=5e-4)
    returns = stats.zscore(rng.standard_t(6, size=1250), ddof=1) + ratio
    skewness, kurtosis = stats.skew(returns), stats.kurtosis(returns, fisher=False)
    spread = np.sqrt(1 - skewness * ratio + (kurtosis - 1) / 4 * ratio**2)
    assert sharpe(returns) == pytest.approx(ratio)
    assert deflated_sharpe(returns, trials, variance) == pytest.approx(
        stats.norm.cdf((ratio - luck) * np.sqrt(1249) / spread)
    )


def test_more_trials_deflate_more():
    returns = stats.zscore(np.random.default_rng(0).normal(size=1000), ddof=1) + 0.06
    values = [deflated_sharpe(returns, trials) for trials in (1, 2, 10, 1000)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.9 > 0.5 > values[-1]
