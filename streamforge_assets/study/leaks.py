"""How a look at the future makes skill out of noise: forecasts of a market without any structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamforge_assets.gnn import gls
from streamforge_assets.gnn.bootstrap import Estimate, mean_estimate
from streamforge_assets.gnn.evaluation import ic_per_bar
from streamforge_assets.graphs.build import build_graph
from streamforge_assets.market.panel import Floats, Panel
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.markets import study_market

BARS, TRAIN = 5760, 3840
"""Twenty days, of which the last 6.7 are the test."""

EDGES_PER_ASSET = 3


@dataclass(frozen=True, slots=True)
class Leak:
    """One way to make a forecast: mean IC on the test bars of all seeds. `honest` ones look at no test bar."""

    label: str
    ic: Estimate
    honest: bool


def null_market_leaks(seeds: Sequence[int], n: int = 50) -> list[Leak]:
    """IC of four pipelines on null markets: two that look at the test bars while choosing, two that do not.

    Each picks `EDGES_PER_ASSET` edges per asset by the largest |t| of a VAR(1), but the product's builder, which
    keeps what is significant.
    """
    series: dict[str, list[Floats]] = {}
    for seed in seeds:
        panel = study_market(MarketParameters(n=n, seed=seed, null=True), BARS).panel
        for label, (edges, weights) in _pipelines(panel).items():
            forecast = gls.predict(panel, edges, weights) * panel.sigma
            test = np.s_[TRAIN:-1]
            found = ic_per_bar(forecast[test], panel.returns[TRAIN + 1 :], panel.mask[TRAIN + 1 :])
            series.setdefault(label, []).append(np.nan_to_num(found))
    return [
        Leak(label, mean_estimate(np.concatenate(parts)), honest=label.startswith("train"))
        for label, parts in series.items()
    ]


def _pipelines(panel: Panel) -> dict[str, tuple[gls.Edges, Floats]]:
    train = panel.rows(0, TRAIN)
    seen, unseen = _strongest(panel), _strongest(train)
    graph = build_graph(train)
    kept = gls.Edges(graph.leader, graph.follower, graph.lag)
    return {
        "graph and weights from all bars": (seen, gls.fit(panel, seen, rounds=1).weight),
        "graph from all bars, weights from training": (seen, gls.fit(train, seen, rounds=1).weight),
        "training bars only, as many edges": (unseen, gls.fit(train, unseen, rounds=1).weight),
        "training bars only, significant edges": (kept, graph.weight),
    }


def _strongest(panel: Panel) -> gls.Edges:
    """The edges of the largest |t| in an ordinary VAR(1) of the panel."""
    x, y = panel.z[:-1], panel.z[1:]
    inverse = np.linalg.inv(x.T @ x)
    slope = inverse @ (x.T @ y)
    scale = np.sqrt(np.outer(np.diag(inverse), np.mean((y - x @ slope) ** 2, axis=0)))
    t = np.abs(slope / scale)
    np.fill_diagonal(t, 0.0)
    n = len(panel.symbols)
    leader, follower = np.unravel_index(np.argsort(t, axis=None)[::-1][: EDGES_PER_ASSET * n], t.shape)
    return gls.Edges(leader.astype(np.int64), follower.astype(np.int64), np.ones(len(leader), dtype=np.int64))
