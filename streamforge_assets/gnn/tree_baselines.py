"""Gradient-boosted trees as baselines: LightGBM, imported on first use; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from resources.errors import Rejected
from streamforge_assets.gnn.gls import Edges
from streamforge_assets.gnn.gls import predict as sparse_predict
from streamforge_assets.gnn.linear_baselines import PURGE, Baseline, SparseVar, lagged_returns, shifted, tuning_row
from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.market.panel import Floats, Panel, targets


class OwnTrees(Baseline):
    """LightGBM on an asset's own features, its last returns, the market's mean return, and which asset it is.

    One model for all assets. Without the asset's number it has less than half the IC (measured).

    Args:
        threads: of LightGBM.

    Raises:
        Rejected: when LightGBM is not installed.
    """

    name = "lightgbm_own"
    settings: ClassVar[dict[str, Any]] = {
        "objective": "regression",
        "learning_rate": 0.06,
        "num_leaves": 31,
        "min_data_in_leaf": 200,
        "feature_fraction": 0.9,
        "lambda_l2": 10.0,
        "max_bin": 127,
        "deterministic": True,
        "force_row_wise": True,
        "seed": 0,
        "verbosity": -1,
    }
    rounds: ClassVar[int] = 300

    def __init__(self, threads: int = 1) -> None:
        super().__init__()
        self.threads = threads
        self.graph = SparseVar()
        self.booster: Any = None
        _lightgbm()

    def _fit(self, panel: Panel, graph: AssetGraph) -> None:
        lightgbm = _lightgbm()
        self._learn_graph(panel, graph)
        y, known = targets(panel)
        x = self._inputs(panel)
        cut = tuning_row(panel.bars)
        early, late = known.copy(), known.copy()
        early[cut - PURGE :] = False
        late[:cut] = False
        settings = {**self.settings, "num_threads": self.threads}
        train = lightgbm.Dataset(x[early], y[early], params=settings)
        valid = lightgbm.Dataset(x[late], y[late], reference=train, params=settings)
        stop = lightgbm.early_stopping(20, verbose=False)
        tried = lightgbm.train(settings, train, self.rounds, valid_sets=[valid], callbacks=[stop])
        rounds = max(int(tried.best_iteration), 1)
        self.booster = lightgbm.train(settings, lightgbm.Dataset(x[known], y[known], params=settings), rounds)

    def _learn_graph(self, panel: Panel, graph: AssetGraph) -> None:
        """Nothing here; the variant with aggregates keeps the graph."""

    def _inputs(self, panel: Panel) -> Floats:
        """(T, N, K)."""
        features = panel.features.astype(np.float64)
        market = features[:, :, :1].mean(axis=1, keepdims=True).repeat(features.shape[1], axis=1)
        asset = np.broadcast_to(np.arange(features.shape[1])[:, None], market.shape)
        return np.concatenate(
            [features, lagged_returns(panel, 3)[:, 1:].transpose(0, 2, 1), market, asset], axis=2
        )

    def _standardised(self, panel: Panel) -> Floats:
        x = self._inputs(panel)
        found = self.booster.predict(x.reshape(-1, x.shape[-1]), num_threads=self.threads)
        return np.asarray(found, dtype=np.float64).reshape(panel.returns.shape)

    def state(self) -> dict[str, Any]:
        return {"booster": self.booster.model_to_string(), "graph": self.graph.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.booster = _lightgbm().Booster(model_str=state["booster"])
        self.graph.restore(state["graph"])


class GraphTrees(OwnTrees):
    """LightGBM on own features and on aggregates over an asset's leaders in the graph.

    The sum of weight · leader's return / sigma, and the mean of each other feature of the leaders by absolute
    weight.
    """

    name = "lightgbm_graph"

    def _learn_graph(self, panel: Panel, graph: AssetGraph) -> None:
        self.graph.fit(panel, graph)

    def _inputs(self, panel: Panel) -> Floats:
        message = sparse_predict(panel, self.graph.edges, self.graph.weight)[:, :, None]
        return np.concatenate([super()._inputs(panel), message, self._leaders(panel, self.graph)], axis=2)

    def _leaders(self, panel: Panel, graph: SparseVar) -> Floats:
        return _neighbours(panel, graph.edges, graph.weight)[:, :, : len(panel.names) - 1]


class LeaderTrees(GraphTrees):
    """As `lightgbm_graph`, and with what a patient feature engineer would add, knowing what the market is made of.

    The sum of messages times each of the leader's features, and message and features of the two strongest leaders.
    Not among the default baselines: it takes twice the time. The strongest tree model that we could make.
    """

    name = "lightgbm_leaders"

    def _leaders(self, panel: Panel, graph: SparseVar) -> Floats:
        return _neighbours(panel, graph.edges, graph.weight)


def _neighbours(panel: Panel, edges: Edges, weight: Floats) -> Floats:
    """What each asset's leaders do, shape (T, N, 4 F - 2): see `GraphTrees` and `LeaderTrees`."""
    n, others = len(panel.symbols), panel.features[:, :, 1:].astype(np.float64)
    count = others.shape[-1]
    out = np.zeros((panel.bars, n, 2 * count + 2 * (1 + count)))
    for follower in range(n):
        at = np.flatnonzero((edges.follower == follower) & ~edges.own)
        at = at[np.argsort(-np.abs(weight[at]), kind="stable")]
        share = np.abs(weight[at]) / max(float(np.abs(weight[at]).sum()), 1e-12)
        for place, (edge, part) in enumerate(zip(at, share, strict=True)):
            leader, back = edges.leader[edge], int(edges.lag[edge]) - 1
            state = shifted(others[:, leader], back)
            sent = weight[edge] * shifted(panel.returns[:, leader], back) / panel.sigma[:, follower]
            out[:, follower, :count] += part * state
            out[:, follower, count : 2 * count] += sent[:, None] * state
            if place < 2:
                begin = 2 * count + place * (1 + count)
                out[:, follower, begin] = sent
                out[:, follower, begin + 1 : begin + 1 + count] = state
    return out


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise Rejected(
            "the LightGBM baselines are left out: lightgbm is not installed (pip install 'streamforge[lightgbm]')"
        ) from error
    except OSError as error:  # its wheel does not carry the OpenMP runtime
        raise Rejected(
            f"the LightGBM baselines are left out: lightgbm cannot be loaded ({error}); install libgomp1"
        ) from error
    return lightgbm
