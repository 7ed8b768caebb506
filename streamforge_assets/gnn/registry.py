"""Models by name, and the graph ablations that go with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from resources.errors import Rejected
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.model import Forecaster, OwnOnly, SignedGated
from streamforge_assets.graphs.graph import AssetGraph

GraphAblation = Literal["none", "reversed", "shuffled", "undirected"]


def build_model(config: GnnConfig, graph: AssetGraph, unit: NDArray[np.floating], features: int) -> Forecaster:
    """The model that `config` names, with initial weights that depend on `config.seed` only.

    Args:
        config: the model.
        graph: its edges and, for `signed_gated`, initial weights.
        unit: volatility of each asset, shape (N,).
        features: F.

    Raises:
        Rejected: when the model needs torch-geometric and it is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.model == "signed_gated":
            return SignedGated(config, graph, unit, features)
        if config.model == "no_graph":
            return OwnOnly(config, graph.lags, features)
        try:
            from streamforge_assets.gnn.convolutions import Convolved
        except ImportError as error:
            raise Rejected(
                f"the model {config.model} needs torch-geometric: pip install 'streamforge[gnn]'"
            ) from error
        return Convolved(config, graph, unit, features)


def ablated(graph: AssetGraph, ablation: GraphAblation, seed: int = 0) -> AssetGraph:
    """The graph made wrong on purpose, so that a model's gain can be traced to it. Own lags stay.

    `reversed` swaps leader and follower, `shuffled` draws both ends of every edge anew, `undirected` adds each
    edge's reverse with the same weight where it is missing.

    Raises:
        Rejected: for another name.
    """
    if ablation == "none" or graph.edges == 0:
        return graph
    if ablation == "reversed":
        return replace(graph, leader=graph.follower, follower=graph.leader)
    if ablation == "shuffled":
        return _shuffled(graph, np.random.default_rng(seed))
    if ablation == "undirected":
        held = set(zip(graph.leader.tolist(), graph.follower.tolist(), graph.lag.tolist(), strict=True))
        triples = zip(graph.follower.tolist(), graph.leader.tolist(), graph.lag.tolist(), strict=True)
        new = np.array([triple not in held for triple in triples], dtype=np.bool_)
        other: dict[str, Any] = {
            name: np.concatenate([getattr(graph, name), getattr(graph, name)[new]])
            for name in ("lag", "weight", "t", "p", "q")
        }
        leader = np.concatenate([graph.leader, graph.follower[new]])
        follower = np.concatenate([graph.follower, graph.leader[new]])
        return replace(graph, leader=leader, follower=follower, **other)
    raise Rejected(f"no graph ablation is called {ablation!r}; there are {', '.join(get_args(GraphAblation))}")


def _shuffled(graph: AssetGraph, rng: np.random.Generator) -> AssetGraph:
    n = len(graph.symbols)
    slots = graph.lags * n * (n - 1)
    drawn = rng.choice(slots, graph.edges, replace=False)
    lag, pair = np.divmod(drawn, n * (n - 1))
    leader, other = np.divmod(pair, n - 1)
    return replace(graph, leader=leader, follower=other + (other >= leader), lag=lag + 1)
