import builtins
from dataclasses import replace

import numpy as np
import pytest

from resources.errors import Rejected
from streamforge_assets.gnn.baselines import BASELINES, DEFAULTS, load_baseline, make_baselines
from streamforge_assets.graphs.build import build_graph
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.forecasting import shares
from streamforge_assets.study.markets import study_market


@pytest.fixture(scope="module")
def market():
    return study_market(MarketParameters(n=8, seed=6, r2=0.1), 2400)


@pytest.fixture(scope="module")
def graph(market):
    return build_graph(market.panel.rows(0, 1800))


@pytest.fixture(scope="module")
def fitted(market, graph):
    made, missing = make_baselines(list(BASELINES))
    assert missing == []
    for baseline in made:
        baseline.fit(market.panel.rows(0, 1800), graph)
    return {baseline.name: baseline for baseline in made}


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_after_a_bar_changes_its_forecast(market, fitted, name):
    panel, after = market.panel, 2000
    later = np.arange(panel.bars)[:, None] > after
    changed = replace(
        panel,
        returns=np.where(later, 0.02, panel.returns),
        sigma=np.where(later, 0.5, panel.sigma),
        features=np.where(later[:, :, None], np.float32(3), panel.features),
    )
    here, there = fitted[name].predict(panel), fitted[name].predict(changed)
    assert np.array_equal(here[: after + 1], there[: after + 1])


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_comes_back_from_its_file(market, fitted, name, tmp_path):
    fitted[name].save(tmp_path)
    loaded = load_baseline(tmp_path / f"{name}.json")
    assert loaded.name == name
    assert np.array_equal(loaded.predict(market.panel), fitted[name].predict(market.panel))


def test_baselines_that_know_the_graph_beat_those_that_do_not(market, fitted):
    rows = slice(1800, 2400)
    r2 = {
        name: shares(fitted[name].predict(market.panel), market, rows)[0] for name in BASELINES if name != "zero"
    }
    assert min(r2["sparse_var"], r2["lightgbm_graph"]) > max(r2["ar_ridge"], r2["lightgbm_own"]) + 0.2
    assert r2["persistence"] < 0


def test_fitting_again_gives_the_same_numbers(market, graph, fitted):
    for again in make_baselines(list(BASELINES))[0]:
        again.fit(market.panel.rows(0, 1800), graph)
        assert np.array_equal(again.predict(market.panel), fitted[again.name].predict(market.panel))


def test_without_lightgbm_the_others_go_on(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "lightgbm":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    made, missing = make_baselines()
    assert [baseline.name for baseline in made] == [name for name in DEFAULTS if "lightgbm" not in name]
    assert len(missing) == 2
    assert "pip install 'streamforge[lightgbm]'" in missing[0]


def test_what_cannot_be_fitted_is_refused(market, graph, fitted, tmp_path):
    with pytest.raises(Rejected, match="needs 100 bars at least; the panel has 50"):
        make_baselines(["ar_ridge"])[0][0].fit(market.panel.rows(0, 50), graph)
    with pytest.raises(Rejected, match="of other symbols"):
        make_baselines(["zero"])[0][0].fit(market.panel.choose(market.panel.symbols[:4]), graph)
    with pytest.raises(Rejected, match="not on this panel"):
        fitted["zero"].predict(market.panel.choose(market.panel.symbols[:4]))
    with pytest.raises(Rejected, match="no baseline is called 'prophet'"):
        make_baselines(["prophet"])
    (tmp_path / "zero.json").write_text("{}")
    with pytest.raises(Rejected, match="cannot be read"):
        load_baseline(tmp_path / "zero.json")
