from dataclasses import replace

import numpy as np
import pytest
import torch

from resources.errors import Rejected
from streamforge_assets.gnn import gls
from streamforge_assets.gnn.batching import PanelTensors
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.loss import information_coefficient, joint_loss, square_loss
from streamforge_assets.gnn.model import all_edges
from streamforge_assets.gnn.registry import ablated, build_model
from streamforge_assets.gnn.train import train_model
from streamforge_assets.gnn.training import Split, Trainer
from streamforge_assets.graphs.build import build_graph
from streamforge_assets.market.panel import Panel, targets
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.forecasting import ic_series, planted_graph, robust_t, shares
from streamforge_assets.study.markets import study_market

torch.set_num_threads(1)  # two threads on busy cores wait for each other

QUICK = GnnConfig(epochs=3)


@pytest.fixture(scope="module")
def market():
    return study_market(MarketParameters(n=12, seed=2, r2=0.08), 3000)


@pytest.fixture(scope="module")
def trained(market):
    return train_model(market.panel.rows(0, 2400), build_graph)


@pytest.fixture(scope="module")
def null():
    return study_market(MarketParameters(n=10, seed=5, null=True), 2000).panel


def altered(panel: Panel, after: int) -> Panel:
    """The panel with every number after row `after` made another."""
    later = np.arange(panel.bars) > after
    random = np.random.default_rng(0)
    noise = random.normal(size=panel.returns.shape) * later[:, None]
    return replace(
        panel,
        returns=panel.returns + 0.01 * noise,
        sigma=panel.sigma * np.exp(noise),
        features=panel.features + noise[:, :, None].astype(np.float32),
    )


def test_nothing_after_a_bar_changes_its_forecast(market, trained):
    panel, after = market.panel, 2500
    here, there = trained.predict(panel), trained.predict(altered(panel, after))
    assert trained.gated
    assert np.array_equal(here[: after + 1], there[: after + 1])
    assert (here[after + 1 :] != there[after + 1 :]).all()


def test_nothing_after_the_training_rows_changes_the_model(market):
    short = market.panel.rows(0, 1500)
    models = [train_model(panel.rows(0, 1200), build_graph, QUICK) for panel in (short, altered(short, 1199))]
    assert np.array_equal(*(model.predict(short) for model in models))


def test_a_graph_builder_never_sees_validation_rows_before_the_model_is_chosen(market):
    seen = []

    def watched(panel):
        seen.append(panel.bars)
        return build_graph(panel)

    model = train_model(market.panel.rows(0, 1500), watched, QUICK)
    train, validation = model.facts["train_rows"], model.facts["validation_rows"]
    # The last training target is one bar after the last training row.
    assert seen == [train[1] + 1, 1500]
    assert validation[0] - train[1] == QUICK.purge(1) + QUICK.embargo


def test_a_planted_market_is_forecast_nearly_as_well_as_its_oracle_does(market, trained):
    r2, ic = shares(trained.predict(market.panel), market, slice(2400, 3000))
    assert r2 > 0.85
    assert ic > 0.93
    assert 2 * trained.graph.edges > len(planted_graph(market).weight)


def test_a_linear_market_gets_no_gate():
    market = study_market(MarketParameters(n=12, seed=2, r2=0.08, gated=False), 2400)
    model = train_model(market.panel, build_graph)
    assert not model.gated
    assert model.gate(market.panel) is None


def test_edges_made_wrong_lose_the_forecast(market):
    panel, fixed = market.panel, replace(QUICK, complete=False)
    graph = build_graph(panel.rows(0, 2400))
    found = {
        name: shares(
            train_model(panel.rows(0, 2400), ablated(graph, name), fixed).predict(panel), market, slice(2400, 3000)
        )
        for name in ("none", "reversed", "shuffled")
    }
    assert found["none"][0] > 0.7
    assert max(found["reversed"][0], found["shuffled"][0]) < found["none"][0] - 0.3


def test_without_structure_every_forecast_is_zero(null):
    model = train_model(null, build_graph, QUICK)
    assert model.graph.edges == 0
    assert model.note == "No asset was found to lead another, so the graph is empty: every forecast is exactly 0."
    assert (model.predict(null) == 0).all()


@pytest.mark.parametrize("own", [0.0, -0.04])
def test_an_empty_graph_stays_empty_even_where_there_is_structure(market, own):
    """Whether there is any structure is the builder's to say; training adds edges to a graph, it starts none."""
    planted = planted_graph(market)
    nothing = {name: getattr(planted, name)[:0] for name in ("leader", "follower", "lag", "weight", "t", "p", "q")}
    empty = replace(planted, **nothing, own=np.full_like(planted.own, own))
    model = train_model(market.panel.rows(0, 1500), empty, QUICK)
    assert model.graph.edges == 0
    assert np.any(model.predict(market.panel)) == (own != 0)


def test_edges_that_the_graph_lacks_are_found_in_training(market):
    """Half of the planted edges are kept from the model; most strong ones come back, and few false ones."""
    planted = planted_graph(market)
    half = {name: getattr(planted, name)[::2] for name in ("leader", "follower", "lag", "weight", "t", "p", "q")}
    model = train_model(market.panel, replace(planted, **half), QUICK)
    truth = set(zip(planted.leader.tolist(), planted.follower.tolist(), strict=True))
    likely = model.graph.q < 0.5
    found = set(zip(model.graph.leader[likely].tolist(), model.graph.follower[likely].tolist(), strict=True))
    assert len(found & truth) > 0.8 * len(truth)
    assert len(found - truth) <= 2


def test_false_edges_forced_on_noise_forecast_nothing(null):
    """Even a graph of false edges, chosen on the training rows, ends with no significant IC out of sample."""
    train = null.rows(0, 1400)
    z = train.z
    strength = np.abs(z[:-1].T @ z[1:])
    np.fill_diagonal(strength, 0)
    leader, follower = np.unravel_index(np.argsort(-strength, axis=None)[:20], strength.shape)
    graph = replace(
        build_graph(train),
        leader=leader,
        follower=follower,
        lag=np.ones(20, dtype=np.int64),
        **{name: np.zeros(20) for name in ("weight", "t", "p", "q")},
    )
    model = train_model(train, graph, QUICK)
    series = ic_series(model.predict(null), null, slice(1400, 2000))
    assert abs(robust_t(series)) < 3
    assert np.abs(model.predict(null) / null.sigma).mean() < 0.05


def test_one_symbol_alone_still_trains(market):
    alone = market.panel.choose(market.panel.symbols[:1])
    model = train_model(alone, build_graph, QUICK)
    assert model.note.startswith("There is only one symbol, ")
    assert model.predict(alone).shape == (3000, 1)


def test_own_lags_alone_are_forecast_without_edges(null):
    graph = replace(build_graph(null), own=np.full((1, 10), -0.05))
    model = train_model(null, graph, QUICK)
    assert model.note.endswith("own lags only.")
    assert np.any(model.predict(null) != 0)


def test_masked_bars_send_nothing_and_teach_nothing(market):
    """A symbol that stops trading for days: finite forecasts, and nothing depends on what its masked bars hold."""
    mask = market.panel.mask.copy()
    mask[600:900, 0] = False
    clean = replace(
        market.panel,
        mask=mask,
        returns=np.where(mask, market.panel.returns, 0.0),
        features=np.where(mask[:, :, None], market.panel.features, np.float32(0)),
    ).rows(0, 1500)
    y, known = targets(clean)
    assert not known[599:900, 0].any()
    model = train_model(clean, build_graph, QUICK)
    assert np.isfinite(model.predict(clean)).all()
    # The target of a masked bar takes part in no loss.
    target, use = torch.tensor(y), torch.tensor(known / np.ones_like(y))
    wrong = torch.where(use > 0, target, torch.tensor(99.0, dtype=torch.float64))
    guess, precision = torch.randn(y.shape, dtype=torch.float64), torch.eye(12, dtype=torch.float64)
    for loss in (square_loss, information_coefficient, lambda p, t, u: joint_loss(p, t, u, precision, 5.0)):
        assert torch.allclose(loss(guess, target, use), loss(guess, wrong, use))
    fitted = gls.fit(clean, all_edges(model.graph))
    assert np.isfinite(fitted.weight).all()


def test_a_symbol_that_never_trades_harms_no_other(market):
    mask = market.panel.mask.copy()
    mask[:, 3] = False
    dead = replace(
        market.panel,
        mask=mask,
        returns=np.where(mask, market.panel.returns, 0.0),
        features=np.where(mask[:, :, None], market.panel.features, np.float32(0)),
    ).rows(0, 1500)
    model = train_model(dead, planted_graph(market), QUICK)
    assert np.isfinite(model.predict(dead)).all()


def test_one_batch_can_be_learned_by_heart():
    """With a target that the gate can express, the loss on a single batch goes to nearly nothing."""
    market = study_market(MarketParameters(n=6, seed=3), 300)
    given = planted_graph(market)
    steps = 200
    config = GnnConfig(
        loss="mse", ic_weight=0, epochs=steps, patience=steps, segments=1, steps=200, learning_rate=0.06
    )
    model = build_model(config, given, market.panel.sigma.mean(axis=0), 3)
    data = PanelTensors.of(market.panel)
    gate = 2 / (1 + np.exp(-2 * market.panel.features[:, :, 1].astype(np.float64)))
    edges = all_edges(given)
    signal = 10 * gls.predict(market.panel, edges, np.concatenate([given.weight, given.own[0]]), gate)
    data = replace(data, target=torch.tensor(signal, dtype=torch.float32))
    split = Split(range(10, 211), range(10, 211))
    history = Trainer(model, data, split, torch.eye(6)).run()
    assert history.loss[-1] < 0.02 * history.loss[0]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(market):
    panel = market.panel.rows(0, 1500)
    first, again, other = (train_model(panel, build_graph, replace(QUICK, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.predict(panel), again.predict(panel))
    assert first.history == again.history
    assert not np.array_equal(first.predict(panel), other.predict(panel))


def test_generalised_least_squares_beats_least_squares_on_correlated_noise():
    """One factor in all noise: on a sparse graph GLS recovers weights better than each follower's regression."""
    random = np.random.default_rng(0)
    errors = []
    for _ in range(5):
        market = study_market(MarketParameters(n=20, seed=int(random.integers(1000)), gated=False), 2500)
        given = planted_graph(market)
        edges = all_edges(given)
        truth = np.concatenate([given.weight, given.own[0]])
        y, known = targets(market.panel)
        plain = gls._least_squares(market.panel, edges, None, y, known)
        errors.append([np.mean((w - truth) ** 2) for w in (plain, gls.fit(market.panel, edges).weight)])
    plain, general = np.mean(errors, axis=0)
    assert general < 0.5 * plain


@pytest.mark.parametrize("bars", [0, 100, 250])
def test_too_few_bars_are_refused_in_one_sentence(market, bars):
    with pytest.raises(Rejected, match=r"training needs \d+ bars at least; the panel has"):
        train_model(market.panel.rows(0, bars), planted_graph(market))


def test_a_graph_of_other_symbols_is_refused(market):
    with pytest.raises(Rejected, match="build the graph from this panel"):
        train_model(market.panel.choose(market.panel.symbols[:5]), planted_graph(market))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused(market):
    with pytest.raises(Rejected, match="cuda was asked for, but this machine has no usable CUDA GPU"):
        train_model(market.panel, build_graph, QUICK, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cpu_and_gpu_agree(market):
    panel = market.panel.rows(0, 1500)
    here, there = (train_model(panel, build_graph, QUICK, device=device) for device in ("cpu", "cuda"))
    difference = (here.predict(panel) - there.predict(panel, device="cuda")) / panel.sigma
    assert np.abs(difference).max() < 1e-3


@pytest.mark.parametrize("name", ["gatv2", "gine", "gcn", "transformer", "no_graph"])
def test_every_ablation_trains(market, name):
    panel = market.panel.rows(0, 800)
    model = train_model(panel, build_graph, replace(QUICK, model=name, epochs=1))
    assert np.isfinite(model.predict(panel)).all()
