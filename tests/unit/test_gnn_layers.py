from dataclasses import replace

import numpy as np
import pytest
import torch

from streamforge_assets.gnn.baselines import SparseVar
from streamforge_assets.gnn.batching import PanelTensors, draw_pieces
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.layers import Gate, SignedMessages, Tcn
from streamforge_assets.gnn.model import SignedGated
from streamforge_assets.gnn.registry import build_model
from streamforge_assets.gnn.training import predict_rows
from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.forecasting import planted_graph
from streamforge_assets.study.markets import study_market

torch.set_num_threads(1)  # two threads on busy cores wait for each other

ENCODERS = ("mlp", "tcn", "gru")


def graph(symbols, edges, own=0.0, lags=1):
    """Edges as (leader, follower, lag, weight)."""
    leader, follower, lag, weight = (np.array(column) for column in zip(*edges, strict=True))
    nothing = np.zeros(len(edges))
    slopes = np.zeros((lags, len(symbols)))
    slopes[0] = own
    pairs = np.zeros((0, 2), dtype=np.int64)
    return AssetGraph(
        symbols, leader, follower, lag, weight, nothing, nothing, nothing, slopes, pairs, np.zeros(0)
    )


def stirred(model, seed=0):
    """The model with all its numbers off their neutral start."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def market():
    return study_market(MarketParameters(n=6, seed=3, lags=3), 600)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_piece_gives_what_each_window_in_it_gives(market, encoder):
    config = GnnConfig(encoder=encoder, lookback=5)
    given = planted_graph(market)
    model = stirred(build_model(config, given, market.panel.sigma.mean(axis=0), 3))
    data = PanelTensors.of(market.panel)
    assert model.context == config.reach - 1 + given.lags - 1
    piece = predict_rows(model, data, range(100, 140))
    for row in range(100, 140):
        window = predict_rows(model, data, range(row, row + 1))
        assert torch.allclose(piece[row - 100], window[0], atol=1e-6)
    batch = data.pieces(torch.tensor([100, 120]), 20, model.context)[:3]
    assert torch.allclose(model(*batch).flatten(0, 1), piece, atol=1e-6)


def test_the_hand_written_gradient_of_the_tcn_is_autograds():
    torch.manual_seed(1)
    model = Tcn(3, 8)
    x = torch.randn(2, 20, 4, 3, requires_grad=True)
    sent = torch.randn(2, 6, 4, 8)
    gradients = []
    for training in (True, False):
        model.train(training)
        out = model(x)
        gradients.append((out, *torch.autograd.grad((out * sent).sum(), [x, *model.parameters()])))
    for fast, slow in zip(*gradients, strict=True):
        assert torch.allclose(fast, slow, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_untrained_gate_is_one(encoder):
    assert (Gate(encoder, 3, 8, 4)(torch.randn(2, 20, 5, 3)) == 1.0).all()


def test_an_untrained_model_is_the_sparse_var_of_its_graph(market):
    given = planted_graph(market)
    model = build_model(GnnConfig(), given, market.panel.sigma.mean(axis=0), 3)
    rows = range(model.context, market.panel.bars)
    network = predict_rows(model, PanelTensors.of(market.panel), rows).numpy()
    baseline = SparseVar()
    baseline.fit(market.panel, given)
    expected = baseline.predict(market.panel)[rows.start :] / market.panel.sigma[rows.start :]
    assert np.abs(expected).max() > 0.1
    assert np.allclose(network, expected, atol=2e-6)


def test_messages_run_from_leader_to_follower_and_not_back(market):
    panel = market.panel.choose(market.panel.symbols[:2])
    model = build_model(GnnConfig(), graph(panel.symbols, [(0, 1, 1, 0.5)]), np.ones(2), 3)
    predicted = predict_rows(model, PanelTensors.of(panel), range(model.context, panel.bars)).numpy()
    rows = slice(model.context, panel.bars)
    assert (predicted[:, 0] == 0).all()
    assert np.allclose(predicted[:, 1], 0.5 * panel.returns[rows, 0] / panel.sigma[rows, 1], rtol=1e-4, atol=1e-6)


def test_a_lag_of_two_is_one_bar_further_back(market):
    panel = market.panel.choose(market.panel.symbols[:2])
    model = build_model(GnnConfig(), graph(panel.symbols, [(1, 0, 2, -0.7)], lags=2), np.ones(2), 3)
    first = model.context
    predicted = predict_rows(model, PanelTensors.of(panel), range(first, panel.bars)).numpy()
    expected = -0.7 * panel.returns[first - 1 : -1, 1] / panel.sigma[first:, 0]
    assert np.allclose(predicted[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_own_lags_are_not_gated(market):
    panel = market.panel.choose(market.panel.symbols[:2])
    model = build_model(GnnConfig(), graph(panel.symbols, [(0, 1, 1, 0.0)], own=-0.1), np.ones(2), 3)
    with torch.no_grad():
        model.gate.head.bias.fill_(-9.0)
    predicted = predict_rows(model, PanelTensors.of(panel), range(model.context, panel.bars)).numpy()
    expected = -0.1 * (panel.returns / panel.sigma)[model.context :]
    assert np.allclose(predicted, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["signed_gated", "gatv2", "gine", "gcn", "transformer", "no_graph"])
def test_renaming_the_nodes_renames_the_forecasts(market, name):
    given, order = planted_graph(market), np.array([3, 0, 5, 1, 4, 2])
    place = np.argsort(order)
    symbols = tuple(given.symbols[old] for old in order)
    moved = replace(
        given, symbols=symbols, leader=place[given.leader], follower=place[given.follower], own=given.own[:, order]
    )
    panel, unit = market.panel, market.panel.sigma.mean(axis=0)
    config = GnnConfig(model=name)
    first = stirred(build_model(config, given, unit, 3))
    second = build_model(config, moved, unit[order], 3)
    values = dict(first.named_parameters())
    with torch.no_grad():
        for key, parameter in second.named_parameters():
            parameter.copy_(values[key][:, torch.from_numpy(order)] if key == "own" else values[key])
    rows = range(first.context, 200)
    here = predict_rows(first, PanelTensors.of(panel), rows)
    there = predict_rows(second.eval(), PanelTensors.of(panel.choose(symbols)), rows)
    assert here.abs().max() > 0
    assert torch.allclose(here[:, torch.from_numpy(order)], there, atol=1e-5)


def test_dense_sparse_and_torch_geometric_send_the_same_messages():
    from torch_geometric.nn import GraphConv

    from streamforge_assets.gnn.convolutions import SignedConv

    torch.manual_seed(0)
    index = torch.tensor([[0, 1, 2, 2, 4], [1, 2, 0, 4, 3]])
    weight, x = torch.randn(5, requires_grad=True), torch.randn(7, 5)
    results = [SignedMessages(index[0], index[1], 5, dense=dense)(x, weight) for dense in (True, False)]
    results.append(SignedConv()(x.t(), index, weight).t())
    known = GraphConv(7, 7, aggr="add", bias=False)
    with torch.no_grad():
        known.lin_rel.weight.copy_(torch.eye(7))
        known.lin_root.weight.zero_()
    results.append(known(x.t(), index, weight).t())
    gradients = [torch.autograd.grad(result.square().sum(), weight)[0] for result in results]
    for result, gradient in zip(results, gradients, strict=True):
        assert torch.allclose(result, results[0], atol=1e-6)
        assert torch.allclose(gradient, gradients[0], atol=1e-5)


@pytest.mark.parametrize("dense", [True, False])
def test_no_edges_send_nothing(dense):
    none = torch.zeros(0, dtype=torch.int64)
    assert (SignedMessages(none, none, 4, dense=dense)(torch.randn(3, 4), torch.zeros(0)) == 0).all()


def test_both_paths_make_the_same_model(market):
    given, unit = planted_graph(market), market.panel.sigma.mean(axis=0)
    made = [stirred(SignedGated(GnnConfig(), given, unit, 3, dense=dense)) for dense in (True, False)]
    made[1].load_state_dict(made[0].state_dict())
    results = [predict_rows(model, PanelTensors.of(market.panel), range(50, 90)) for model in made]
    assert torch.allclose(results[0], results[1], atol=1e-6)


def test_pieces_cover_the_rows_once_and_stay_inside():
    generator = torch.Generator().manual_seed(0)
    rows, seen = range(7, 500), set()
    for _ in range(400):
        starts = torch.cat(draw_pieces(rows, 32, 4, generator)).tolist()
        covered = [row for start in starts for row in range(start, start + 32)]
        assert len(covered) == len(set(covered)) >= 32 * 12
        assert min(covered) >= 7
        assert max(covered) < 500
        seen |= set(covered)
    assert seen == set(rows)
