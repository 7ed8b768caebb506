from dataclasses import replace

import numpy as np
import pytest
import torch

from resources.errors import Rejected
from streamforge_assets.gnn.batching import PanelTensors
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.export import export_program
from streamforge_assets.gnn.forecaster import PROGRAM, WEIGHTS, load_model, save_model
from streamforge_assets.gnn.registry import build_model
from streamforge_assets.gnn.train import train_model
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.forecasting import planted_graph
from streamforge_assets.study.markets import study_market

torch.set_num_threads(1)  # two threads on busy cores wait for each other


@pytest.fixture(scope="module")
def market():
    return study_market(MarketParameters(n=6, seed=4, lags=2, r2=0.1), 900)


@pytest.fixture(scope="module")
def trained(market):
    return train_model(market.panel, planted_graph(market), GnnConfig(epochs=2))


def test_a_model_comes_back_from_its_files(market, trained, tmp_path):
    save_model(trained, tmp_path, program=False)
    loaded = load_model(tmp_path)
    assert np.array_equal(loaded.predict(market.panel), trained.predict(market.panel))
    assert (loaded.config, loaded.history, loaded.note) == (trained.config, trained.history, trained.note)
    assert (loaded.symbols, loaded.names, loaded.gated) == (trained.symbols, trained.names, trained.gated)
    assert dict(loaded.facts) == dict(trained.facts)
    assert np.array_equal(loaded.graph.weight, trained.graph.weight)
    assert not (tmp_path / PROGRAM).exists()


@pytest.mark.parametrize("encoder", ["mlp", "tcn", "gru"])
def test_the_exported_program_gives_the_models_numbers(market, tmp_path, encoder):
    model = build_model(GnnConfig(encoder=encoder), planted_graph(market), market.panel.sigma.mean(axis=0), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.eval()
    export_program(model, 6, 3, tmp_path / PROGRAM)
    program = torch.export.load(tmp_path / PROGRAM).module()
    data = PanelTensors.of(market.panel)
    for starts, steps in (([50], 2), ([50, 90, 300], 40), ([60, 600], 200)):
        batch = data.pieces(torch.tensor(starts), steps, model.context)[:3]
        assert torch.equal(program(*batch), model(*batch))


@pytest.mark.parametrize("kept", ["no edge", "no edge of lag 2"])
def test_a_graph_without_edges_is_exported_too(market, tmp_path, kept):
    """torch cannot save a tensor without elements: a null market or a single symbol would have no model."""
    graph = planted_graph(market)
    at = np.flatnonzero(graph.lag == 1) if kept == "no edge of lag 2" else np.zeros(0, dtype=int)
    names = ("leader", "follower", "lag", "weight", "t", "p", "q")
    fewer = replace(graph, **{name: getattr(graph, name)[at] for name in names})
    model = build_model(GnnConfig(), fewer, market.panel.sigma.mean(axis=0), 3).eval()
    export_program(model, 6, 3, tmp_path / PROGRAM)
    program = torch.export.load(tmp_path / PROGRAM).module()
    batch = PanelTensors.of(market.panel).pieces(torch.tensor([50, 90]), 20, model.context)[:3]
    assert torch.equal(program(*batch), model(*batch))


def test_a_saved_model_has_its_program_beside_it(market, trained, tmp_path):
    save_model(trained, tmp_path)
    program = torch.export.load(tmp_path / PROGRAM).module()
    data = PanelTensors.of(market.panel)
    out = program(data.features[None], data.returns[None], data.sigma[None])[0].detach().numpy()
    expected = trained.predict(market.panel)[trained.context :] / market.panel.sigma[trained.context :]
    assert np.allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["config.json", "graph.npz", "history.json", WEIGHTS])
def test_a_missing_file_is_named(trained, tmp_path, name):
    save_model(trained, tmp_path, program=False)
    (tmp_path / name).unlink()
    with pytest.raises(Rejected, match=name.replace(".", r"\.")):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "graph.npz", "history.json", WEIGHTS])
def test_a_damaged_file_is_refused(trained, tmp_path, name):
    save_model(trained, tmp_path, program=False)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(Rejected, match="the model in"):
        load_model(tmp_path)


def test_a_panel_of_other_symbols_is_refused_by_name(market, trained):
    with pytest.raises(Rejected, match="the panel lacks BTCUSDT"):
        trained.predict(market.panel.choose(market.panel.symbols[1:]))
    renamed = replace(market.panel, symbols=("NEWUSDT", *market.panel.symbols[1:]))
    with pytest.raises(Rejected, match="the panel lacks BTCUSDT and the model does not know NEWUSDT"):
        trained.predict(renamed)


def test_a_panel_in_another_order_is_forecast_in_its_order(market, trained):
    order = [3, 1, 5, 0, 2, 4]
    moved = market.panel.choose([market.panel.symbols[at] for at in order])
    assert np.array_equal(trained.predict(moved), trained.predict(market.panel)[:, order])


def test_too_few_bars_and_other_features_are_refused(market, trained):
    with pytest.raises(Rejected, match=f"needs at least {trained.context + 1} bars; the panel has 2"):
        trained.predict(market.panel.rows(0, 2))
    other = replace(market.panel, names=("return_z", "a", "b"))
    with pytest.raises(Rejected, match="the model reads the features return_z, log_volume_z"):
        trained.predict(other)


def test_a_forecast_depends_on_its_context_and_on_nothing_before(market, trained):
    whole = trained.predict(market.panel)
    part = trained.predict(market.panel.rows(400, 500))
    assert (part[: trained.context] == 0).all()
    assert np.allclose(part[trained.context :], whole[400 + trained.context : 500], rtol=1e-5, atol=1e-9)
