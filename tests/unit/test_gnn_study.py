import numpy as np
import pytest
import torch

from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.forecasting import explained, ic_series, robust_t, shares
from streamforge_assets.study.markets import study_market
from streamforge_assets.study.throughput import REACH, PieceModel, WindowModel, setting, take_weights

torch.set_num_threads(1)  # two threads on busy cores wait for each other


@pytest.mark.parametrize("padded", [True, False])
def test_both_sides_of_the_throughput_comparison_are_one_function(padded):
    at = setting(8, bars=300)
    window, piece = WindowModel(3, 16, padded=padded), PieceModel(3, 16, at.edges, 8)
    take_weights(piece, window)
    weight = torch.full((at.edges.shape[1],), 0.1)
    pieces = piece(at.data.features[100:150][None])[0]
    for row in range(len(pieces)):
        features = at.data.features[100 + row : 100 + row + REACH].transpose(0, 1)
        assert torch.allclose(pieces[row], window(features, at.edges, weight), atol=1e-6)


def test_the_oracle_has_all_of_itself_and_zero_has_nothing():
    market = study_market(MarketParameters(n=6, seed=1), 600)
    rows = slice(100, 600)
    assert shares(market.mu, market, rows) == (1.0, 1.0)
    assert shares(np.zeros_like(market.mu), market, rows) == (0.0, 0.0)
    assert 0 < explained(market.mu, market.panel, rows) < 0.15
    series = ic_series(market.mu, market.panel, rows)
    one = 300
    mine = market.mu[one] / market.panel.sigma[one]
    theirs = market.panel.returns[one + 1] / market.panel.sigma[one]
    assert series[one - 100] == pytest.approx(np.corrcoef(mine, theirs)[0, 1])


def test_a_robust_t_is_not_fooled_by_repetition():
    random = np.random.default_rng(0)
    few = random.normal(0.3, 1, 40)
    assert robust_t(few, block=1) == pytest.approx(robust_t(np.repeat(few, 48)), rel=1e-6)
