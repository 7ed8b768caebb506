"""How much of what can be forecast a model forecasts, on simulated markets whose exact expectation is known.

Walk-forward over T bars: each fold builds its graph, trains and tunes on its training rows only. Shares are of the
oracle's figures on the same test rows: R² against zero pooled over bars and assets in units of sigma, and the mean
over bars of the correlation across assets (IC).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamforge_assets.gnn import scores as measure
from streamforge_assets.gnn.baselines import make_baselines
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.registry import GraphAblation, ablated
from streamforge_assets.gnn.train import GraphMaker, train_model
from streamforge_assets.gnn.walk_forward import Fold, walk_forward
from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.market.panel import Floats, Panel, targets
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.markets import StudyMarket, study_market

BARS, FOLDS, FIRST = 8640, 3, 5040
"""A month of five-minute bars; three tests of 1200 bars after 17.5 days."""

EMBARGO = 12
BLOCK = 48
GNN = "gnn"


@dataclass(frozen=True)
class Score:
    """Shares of the oracle's figures, means over folds, and CPU seconds of a fold, graph included."""

    r2: float
    ic: float
    seconds: float


def ic_series(forecast: Floats, panel: Panel, rows: slice) -> Floats:
    """Correlation across assets of forecast and outcome, both in units of sigma, for each bar of `rows`.

    A bar whose forecasts are all alike has 0; assets whose target is not known are left out.
    """
    y, known = targets(panel)
    return np.nan_to_num(measure.ic_series(forecast[rows] / panel.sigma[rows], y[rows], known[rows]))


def explained(forecast: Floats, panel: Panel, rows: slice) -> float:
    """R² against zero in units of sigma, pooled over bars and assets."""
    y, known = targets(panel)
    error = (y - forecast / panel.sigma)[rows] * known[rows]
    return float(1 - (error**2).sum() / (y[rows] ** 2).sum())


def robust_t(series: Floats, block: int = BLOCK) -> float:
    """Mean over standard error, from the scatter of block means: neighbouring bars may depend on each other."""
    count = len(series) // block
    means = series[: count * block].reshape(count, block).mean(axis=1)
    deviation = float(means.std(ddof=1))
    return float(means.mean() / deviation * np.sqrt(count)) if deviation > 0 else 0.0


def shares(forecast: Floats, market: StudyMarket, rows: slice) -> tuple[float, float]:
    """Shares of the oracle's R² and IC that a forecast of raw returns reaches on `rows`."""
    panel = market.panel
    r2 = explained(forecast, panel, rows) / explained(market.mu, panel, rows)
    ic = ic_series(forecast, panel, rows).mean() / ic_series(market.mu, panel, rows).mean()
    return float(r2), float(ic)


def planted_graph(market: StudyMarket, regime: int = 0) -> AssetGraph:
    """The truth as a graph; its t, p and q say nothing."""
    network = market.networks[regime]
    own = np.zeros((network.lags, network.n))
    own[network.lag[network.own] - 1, network.leader[network.own]] = network.weight[network.own]
    others = ~network.own
    nothing = np.zeros(int(others.sum()))
    return AssetGraph(
        symbols=market.panel.symbols,
        leader=network.leader[others],
        follower=network.follower[others],
        lag=network.lag[others],
        weight=network.weight[others],
        t=nothing,
        p=nothing,
        q=nothing,
        own=own,
        contemporaneous=np.zeros((0, 2), dtype=np.int64),
        partial_correlation=np.zeros(0),
    )


def folds_of(panel: Panel, config: GnnConfig, lags: int = 1) -> list[Fold]:
    """The study's folds: expanding, with `config`'s purge."""
    return list(walk_forward(panel.bars, FOLDS, train=FIRST, purge=config.purge(lags), embargo=EMBARGO))


def forecast_shares(
    parameters: MarketParameters,
    *,
    config: GnnConfig | None = None,
    baselines: Sequence[str] = (),
    make_graph: GraphMaker | None = None,
    ablations: Mapping[str, tuple[GnnConfig, GraphAblation]] | None = None,
) -> dict[str, Score]:
    """Shares of the GNN (under `GNN`), of baselines and of ablations by name, on one market.

    Args:
        parameters: the market.
        config: of the GNN.
        baselines: names; none by default.
        make_graph: from training rows; the product's builder by default.
        ablations: name to config and what is done to the graph.
    """
    config = config or GnnConfig()
    make_graph = make_graph or product_graph
    market = study_market(parameters, BARS)
    panel = market.panel
    found: dict[str, list[tuple[float, float, float]]] = {}
    for fold in folds_of(panel, config, parameters.lags):
        train = panel.rows(fold.train.start, fold.train.stop)
        graph = make_graph(train)
        runs: dict[str, Callable[[], Floats]] = {
            GNN: lambda train=train: train_model(train, make_graph, config).predict(panel)  # type: ignore[misc]
        }
        for baseline in make_baselines(baselines)[0] if baselines else []:
            runs[baseline.name] = lambda it=baseline, train=train, graph=graph: (  # type: ignore[misc]
                it.fit(train, graph),
                it.predict(panel),
            )[1]
        for name, (changed, ablation) in (ablations or {}).items():
            other = ablated(graph, ablation)
            runs[name] = lambda train=train, other=other, changed=changed: train_model(  # type: ignore[misc]
                train, other, changed
            ).predict(panel)
        for name, run in runs.items():
            began = time.process_time()
            forecast = run()
            seconds = time.process_time() - began
            found.setdefault(name, []).append((*shares(forecast, market, fold.test), seconds))
    return {name: Score(*(float(value) for value in np.mean(scores, axis=0))) for name, scores in found.items()}


def graph_ablations(config: GnnConfig) -> dict[str, tuple[GnnConfig, GraphAblation]]:
    """What the model is without its parts: edges made wrong, and no second look that could mend them; no gate …"""
    fixed = replace(config, complete=False)
    made: dict[str, tuple[GnnConfig, GraphAblation]] = {
        "graph_as_given": (fixed, "none"),
        "reversed": (fixed, "reversed"),
        "shuffled": (fixed, "shuffled"),
        "undirected": (fixed, "undirected"),
        "no_gate": (replace(config, gate=False), "none"),
        "no_graph": (replace(config, model="no_graph"), "none"),
    }
    for name in ("gatv2", "gine", "gcn", "transformer"):
        made[name] = (replace(config, model=name), "none")
    return made


def regime_switch(seed: int, *, n: int = 30, window: int = 2880, make_graph: GraphMaker | None = None) -> float:
    """IC share, on the bars that follow, of a model trained on the `window` bars after the network changed."""
    switch = BARS // 2
    market = study_market(MarketParameters(n=n, seed=seed, r2=0.05, switch_step=switch), BARS)
    config = GnnConfig()
    begin = switch + window
    train = market.panel.rows(switch, begin - config.purge(1) - EMBARGO)
    forecast = train_model(train, make_graph or product_graph, config).predict(market.panel)
    return shares(forecast, market, slice(begin, BARS))[1]


def null_t(seed: int, *, n: int = 50, make_graph: GraphMaker | None = None) -> float:
    """How significant an IC (as t) the whole pipeline finds, out of sample, where there is no structure."""
    market = study_market(MarketParameters(n=n, seed=seed, null=True), BARS)
    config = GnnConfig()
    series = []
    for fold in folds_of(market.panel, config):
        train = market.panel.rows(fold.train.start, fold.train.stop)
        forecast = train_model(train, make_graph or product_graph, config).predict(market.panel)
        series.append(ic_series(forecast, market.panel, fold.test))
    return robust_t(np.concatenate(series))


def product_graph(panel: Panel) -> AssetGraph:
    """The graph that the product's builder makes of the panel, by its defaults."""
    from streamforge_assets.graphs.build import build_graph

    return build_graph(panel)
