"""Graphs from panels: the right edges, the right way round, and none where there are none."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from resources.errors import Rejected
from streamforge_assets.graphs.build import GraphConfig, Method, build_graph, build_graph_from_moments
from streamforge_assets.graphs.drift import jaccard
from streamforge_assets.graphs.forecast import sparse_var_forecast
from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.graphs.moments import lagged_moments
from streamforge_assets.market.panel import Panel
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.markets import StudyMarket, study_market
from streamforge_assets.study.recovery import average_precision, recover

METHODS = [method for method in get_args(Method) if method != "auto"]
STEP = 300_000_000


def panel_of(returns: np.ndarray, mask: np.ndarray | None = None, sigma: np.ndarray | None = None) -> Panel:
    """A panel whose volatility is known: `sigma` (N,), one by default."""
    bars, n = returns.shape
    there = np.ones(returns.shape, dtype=np.bool_) if mask is None else mask
    scale = np.broadcast_to(np.ones(n) if sigma is None else sigma, returns.shape).copy()
    z = np.where(there, np.clip(returns / scale, -5, 5), 0.0)
    return Panel(
        symbols=tuple(f"S{number}" for number in range(n)),
        times=np.arange(bars, dtype=np.int64) * STEP,
        returns=np.where(there, returns, 0.0),
        sigma=scale,
        mask=there,
        features=z[:, :, None].astype(np.float32),
        names=("return_z",),
    )


def led(bars: int, weight: float, lag: int = 1, seed: int = 0) -> np.ndarray:
    """Three assets; the first leads the second."""
    returns = np.random.default_rng(seed).standard_normal((bars, 3))
    returns[lag:, 1] += weight * returns[:-lag, 0]
    return returns


def edges(graph: AssetGraph) -> set[tuple[str, str, int]]:
    return {
        (graph.symbols[j], graph.symbols[i], int(lag))
        for j, i, lag in zip(graph.leader, graph.follower, graph.lag, strict=True)
    }


@pytest.fixture(scope="module")
def market() -> StudyMarket:
    return study_market(MarketParameters(n=20, seed=3), 4320)


@pytest.mark.parametrize("method", METHODS)
def test_an_edge_leads_from_the_asset_that_moves_first(method: Method) -> None:
    graph = build_graph(panel_of(led(2000, 0.3)), GraphConfig(method=method))
    assert edges(graph) == {("S0", "S1", 1)}
    assert graph.adjacency()[0, 1, 0] == graph.weight[0] == pytest.approx(0.3, abs=0.07)
    assert graph.t[0] > 8
    assert graph.p[0] <= graph.q[0] < 1e-6
    assert not graph.own.any()


@pytest.mark.parametrize("method", METHODS)
def test_the_lag_of_an_edge_is_found(method: Method) -> None:
    graph = build_graph(panel_of(led(2000, -0.3, lag=3)), GraphConfig(method=method, lags=3, false_share=0.001))
    assert edges(graph) == {("S0", "S1", 3)}
    assert graph.weight[0] == pytest.approx(-0.3, abs=0.07)
    assert graph.own.shape == (3, 3)


def test_weights_are_in_raw_returns() -> None:
    sigma = np.array([0.01, 0.0005, 0.002])
    returns = led(3000, 0.0) * sigma
    returns[1:, 1] += 0.02 * returns[:-1, 0]
    graph = build_graph(panel_of(returns, sigma=sigma))
    assert graph.weight[0] == pytest.approx(0.02, rel=0.15)


def test_an_own_lag_is_no_edge() -> None:
    returns = led(3000, 0.0)
    for bar in range(1, len(returns)):
        returns[bar, 2] -= 0.2 * returns[bar - 1, 2]
    graph = build_graph(panel_of(returns))
    assert graph.edges == 0
    assert graph.own[0, 2] == pytest.approx(-0.2, abs=0.05)
    assert not graph.own[0, :2].any()


@pytest.mark.parametrize("gated", [False, True])
def test_most_planted_edges_of_a_small_market_are_found(gated: bool) -> None:
    found = recover(study_market(MarketParameters(n=30, seed=4, gated=gated), 8640))
    assert found.f1 > 0.95
    assert found.average_precision > 0.98


def test_the_default_beats_the_classical_methods_on_a_short_sample() -> None:
    short = study_market(MarketParameters(n=50, seed=2), 1440)
    ours = recover(short).f1
    assert ours > 0.7
    assert all(recover(short, GraphConfig(method=method)).f1 < ours for method in METHODS[1:])


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_market_without_edges_has_an_empty_graph(seed: int) -> None:
    graph = build_graph(study_market(MarketParameters(n=50, seed=seed, null=True), 2880).panel)
    assert graph.edges == 0
    assert not graph.adjacency().any()


def test_permuted_symbols_give_the_permuted_graph(market: StudyMarket) -> None:
    order = np.random.default_rng(0).permutation(market.panel.symbols)
    graph, other = build_graph(market.panel), build_graph(market.panel.choose(list(order)))
    assert edges(graph) == edges(other)
    assert jaccard(graph, other) == 1.0
    weights = dict(zip(_named(graph), graph.weight, strict=True))
    assert weights == pytest.approx(dict(zip(_named(other), other.weight, strict=True)), rel=1e-3)


def _named(graph: AssetGraph) -> list[tuple[str, str, int]]:
    return [
        (graph.symbols[j], graph.symbols[i], int(lag))
        for j, i, lag in zip(graph.leader, graph.follower, graph.lag, strict=True)
    ]


def test_the_same_panel_gives_the_same_bits(market: StudyMarket) -> None:
    one, other = build_graph(market.panel), build_graph(market.panel)
    assert np.array_equal(one.adjacency(), other.adjacency())
    assert one.data_hash == other.data_hash == market.panel.digest


def test_moments_at_hand_change_nothing(market: StudyMarket) -> None:
    held = lagged_moments(market.panel, 1)
    assert np.array_equal(
        build_graph(market.panel, moments=held).adjacency(), build_graph(market.panel).adjacency()
    )


def test_moments_alone_make_a_graph_and_say_so(market: StudyMarket) -> None:
    graph = build_graph_from_moments(market.panel.symbols, lagged_moments(market.panel, 1), data_hash="abc")
    assert graph.parameters["method"] == "sparse_var"
    assert graph.data_hash == "abc"
    assert jaccard(graph, build_graph(market.panel)) > 0.8


def test_masked_bars_do_not_bias_a_weight() -> None:
    returns = led(6000, 0.3)
    mask = np.random.default_rng(1).random(returns.shape) > 0.4
    graph = build_graph(panel_of(returns, mask))
    assert edges(graph) == {("S0", "S1", 1)}
    assert graph.weight[0] == pytest.approx(0.3, abs=0.07)
    whole = build_graph(panel_of(returns))
    assert abs(graph.t[0]) < 0.8 * abs(whole.t[0])


def test_what_lies_under_the_mask_changes_nothing(market: StudyMarket) -> None:
    mask = market.panel.mask.copy()
    mask[1000:3000, 4] = False
    features = np.where(mask[:, :, None], market.panel.features, 0)
    panel = replace(market.panel, mask=mask, features=features, returns=np.where(mask, market.panel.returns, 0))
    sigma = panel.sigma.copy()
    sigma[1000:2999, 4] /= 50
    one, other = build_graph(panel), build_graph(replace(panel, sigma=sigma))
    assert one.edges > 10
    assert np.array_equal(one.adjacency(), other.adjacency())


def test_two_factors_make_pairs_of_one_bar() -> None:
    random = np.random.default_rng(5)
    returns = random.standard_normal((2000, 6))
    returns[:, :2] += random.standard_normal((2000, 1))
    graph = build_graph(panel_of(returns))
    assert graph.contemporaneous.tolist() == [[0, 1]]
    assert graph.partial_correlation[0] > 0.4


def test_one_symbol_has_own_lags_and_no_edges() -> None:
    returns = np.random.default_rng(2).standard_normal((1000, 1))
    returns[1:] += 0.5 * returns[:-1]
    for method in METHODS:
        graph = build_graph(panel_of(returns), GraphConfig(method=method))
        assert graph.edges == 0
        assert graph.contemporaneous.shape == (0, 2)
    assert build_graph(panel_of(returns)).own[0, 0] > 0.3


def test_parameters_say_what_was_built(market: StudyMarket) -> None:
    graph = build_graph(market.panel)
    assert graph.parameters["method"] == "robust_sparse_var"
    assert graph.parameters["bars"] == 4320
    assert "F1" in str(graph.parameters["why"])


def test_the_forecast_is_the_sum_of_messages() -> None:
    graph = build_graph(panel_of(led(2000, 0.3)))
    graph = replace(graph, lag=np.array([2]), weight=np.array([0.5]), own=np.array([[0.1, 0, 0], [0, 0, 0]]))
    panel = panel_of(led(6, 0.3, seed=9))
    expected = np.zeros((6, 3))
    for t in range(6):
        expected[t, 0] = 0.1 * panel.returns[t, 0]
        if t:
            expected[t, 1] = 0.5 * panel.returns[t - 1, 0]
    assert np.allclose(sparse_var_forecast(graph, panel), expected)
    with pytest.raises(Rejected, match="choose the graph's symbols"):
        sparse_var_forecast(graph, panel.choose(["S1", "S0", "S2"]))


def test_the_forecast_of_a_graph_nears_the_oracles(market: StudyMarket) -> None:
    linear = study_market(MarketParameters(n=20, seed=3, gated=False), 8640)
    forecast = sparse_var_forecast(build_graph(linear.panel), linear.panel)
    assert np.corrcoef(forecast[100:-1].ravel(), linear.mu[100:-1].ravel())[0, 1] > 0.95


def _constant(panel: Panel) -> Panel:
    features, returns = panel.features.copy(), panel.returns.copy()
    features[:, 1], returns[:, 1] = 0, 0
    return replace(panel, features=features, returns=returns)


def test_bad_input_gets_one_clear_sentence() -> None:
    panel = panel_of(led(1000, 0.3))
    with pytest.raises(Rejected, match="S0 has 100 usable bars, too few for a graph"):
        build_graph(panel.rows(0, 100))
    with pytest.raises(Rejected, match="the price of S1 never moves in its 1000 usable bars; leave it out"):
        build_graph(_constant(panel))
    with pytest.raises(Rejected, match="none of the panel's 1000 bars is usable"):
        build_graph(replace(panel, mask=np.zeros_like(panel.mask)))
    with pytest.raises(Rejected, match="none of the panel's 0 bars is usable"):
        build_graph(panel.rows(0, 0))
    with pytest.raises(Rejected, match="the method var needs the bars"):
        build_graph_from_moments(panel.symbols, lagged_moments(panel, 1), GraphConfig(method="var"))
    with pytest.raises(Rejected, match="moments are of 3 symbols and 1 lags"):
        build_graph(panel, GraphConfig(lags=2), moments=lagged_moments(panel, 1))
    with pytest.raises(Rejected, match="too few for a VAR"):
        build_graph(panel.rows(0, 400), GraphConfig(method="var", lags=80))


def test_drift_counts_common_edges() -> None:
    graph = build_graph(panel_of(led(2000, 0.3)))
    empty = build_graph(panel_of(led(2000, 0.0)))
    assert jaccard(graph, graph) == jaccard(empty, empty) == 1.0
    assert jaccard(graph, empty) == 0.0


def test_average_precision_is_one_for_a_perfect_ranking() -> None:
    truth = np.array([True, False, True, False])
    assert average_precision(truth, np.array([4.0, 2.0, 3.0, 1.0])) == 1.0
    assert average_precision(truth, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert np.isnan(average_precision(np.zeros(3, dtype=np.bool_), np.arange(3.0)))
