"""The signed, gated graph network: a sparse VAR whose edges open and close with their leader's state.

    p[t, i] = sum over edges j → i of lag l: w · gate(h[j, t + 1 - l]) · r[j, t + 1 - l] / sigma[i, t]
            + own lags, not gated

p is the forecast of r[t + 1, i] in units of sigma[t, i]. With the gate at its start (1) this is exactly the
sparse VAR of the graph's raw-return weights.
"""

from __future__ import annotations

from dataclasses import replace
from math import erfc, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.gls import Edges
from streamforge_assets.gnn.layers import Gate, SignedMessages, Standardise, encoder
from streamforge_assets.gnn.selection import Selection
from streamforge_assets.graphs.graph import AssetGraph


class Forecaster(nn.Module):
    """What every model of the registry is: contiguous pieces of a panel in, forecasts in units of sigma out.

    `forward(features, returns, sigma)` takes (B, S, N, F), (B, S, N), (B, S, N) and returns
    (B, S - context, N): one forecast for each bar that has `context` bars before it in its piece.
    """

    def __init__(self, config: GnnConfig, lags: int, features: int) -> None:
        super().__init__()
        self.config = config
        self.lags = max(lags, 1)
        self.reach = config.reach
        self.context = config.context(lags)
        self.standardise = Standardise(features)

    @property
    def trainable(self) -> bool:
        """Whether gradients have anything to move."""
        return True

    def edge_parameters(self) -> list[nn.Parameter]:
        """Parameters that are weights of edges; they learn more slowly."""
        return []


class SignedGated(Forecaster):
    """See the module. Weights are kept in units of the assets' volatilities, so that one learning rate fits all.

    Args:
        config: `encoder`, `hidden`, `lookback`, `gate` are read.
        graph: edges, weights and own lags to start from.
        unit: volatility of each asset in which weights are measured, shape (N,): any positive constants.
        features: F.
        dense: see `SignedMessages`.
    """

    unit: Tensor
    holds_own: Tensor

    def __init__(
        self,
        config: GnnConfig,
        graph: AssetGraph,
        unit: NDArray[np.floating],
        features: int,
        *,
        dense: bool | None = None,
    ) -> None:
        super().__init__(config, graph.lags, features)
        self.register_buffer("unit", torch.tensor(unit, dtype=torch.float32))
        self.nodes = len(graph.symbols)
        self.ends = (np.asarray(graph.leader), np.asarray(graph.follower))
        self.gate = Gate(config.encoder, features, config.hidden, config.lookback) if config.gate else None
        self.messages = nn.ModuleDict()
        for lag in np.unique(graph.lag):
            at = torch.from_numpy(np.flatnonzero(graph.lag == lag))
            pair = [torch.from_numpy(np.asarray(side, dtype=np.int64))[at] for side in self.ends]
            self.register_buffer(f"at{lag}", at)
            self.messages[str(lag)] = SignedMessages(pair[0], pair[1], self.nodes, dense=dense)
        self.weight = nn.Parameter(torch.zeros(graph.edges))
        own = torch.from_numpy(held_own(graph).astype(np.float32))
        self.register_buffer("holds_own", own)
        self.own = nn.Parameter(torch.zeros_like(own))
        self.set_weights(graph.weight, graph.own)

    def set_weights(self, weight: NDArray[np.float64], own: NDArray[np.float64]) -> None:
        """Take raw-return slopes: edges (E,) and own lags (lags, N)."""
        unit = self.unit.double().cpu().numpy()
        ratio = unit[self.ends[0]] / unit[self.ends[1]]
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(np.asarray(weight * ratio, dtype=np.float32)))
            self.own.copy_(torch.from_numpy(np.asarray(own, dtype=np.float32).reshape(self.own.shape)))

    @property
    def trainable(self) -> bool:
        """Without edges there is no gate to learn, and own lags have their closed form."""
        return len(self.weight) > 0

    def gates(self, features: Tensor) -> Tensor | None:
        """How open each node is, (B, S - reach + 1, N); None when the model has no gate."""
        return None if self.gate is None else self.gate(self.standardise(features))

    def forward(self, features: Tensor, returns: Tensor, sigma: Tensor) -> Tensor:
        moved = returns / self.unit
        moved = moved.narrow(1, self.reach - 1, moved.shape[1] - self.reach + 1)
        gate = self.gates(features)
        sent = moved if gate is None else moved * gate
        length = features.shape[1] - self.context
        own = self.own * self.holds_own
        out = torch.zeros_like(sent.narrow(1, 0, length))
        for lag in range(1, self.lags + 1):
            past = self.lags - lag
            if str(lag) in self.messages:
                weight = self.weight.index_select(0, getattr(self, f"at{lag}"))
                out = out + self.messages[str(lag)](sent.narrow(1, past, length), weight)
            if lag <= len(own):
                out = out + moved.narrow(1, past, length) * own[lag - 1]
        return out * self.unit / sigma.narrow(1, self.context, length)

    def edge_parameters(self) -> list[nn.Parameter]:
        """Edge weights and own lags."""
        return [self.weight, self.own]


class OwnOnly(Forecaster):
    """No graph: each node's last bars, encoded, to its own forecast; zero at the start. An ablation."""

    def __init__(self, config: GnnConfig, lags: int, features: int) -> None:
        super().__init__(config, lags, features)
        self.encoder = encoder(config.encoder, features, config.hidden, config.lookback)
        self.head = nn.Linear(config.hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, returns: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002 - one signature
        state = self.encoder(self.standardise(features))
        length = features.shape[1] - self.context
        out: Tensor = self.head(state.narrow(1, state.shape[1] - length, length)).squeeze(-1)
        return out


def held_own(graph: AssetGraph) -> NDArray[np.bool_]:
    """Which own lags a model has, (L, N): those that the graph holds, and all of the first lag if it holds any.

    Assets of one market bounce alike; what one asset's own bars do not show, the others' do (see `gls`).
    """
    held = np.asarray(graph.own != 0, dtype=np.bool_)
    if held.size and held[0].any():
        held[0] = True
    return held


def all_edges(graph: AssetGraph) -> Edges:
    """The graph's edges, then its own lags as edges from an asset to itself."""
    lag, asset = np.nonzero(held_own(graph))
    sides = ((graph.leader, asset), (graph.follower, asset), (graph.lag, lag + 1))
    return Edges(*(np.concatenate([np.asarray(a, dtype=np.int64), b.astype(np.int64)]) for a, b in sides))


def separate(graph: AssetGraph, weight: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of `all_edges` as those of edges (E,) and of own lags (L, N)."""
    own = np.zeros(graph.own.shape)
    own[np.nonzero(held_own(graph))] = weight[graph.edges :]
    return weight[: graph.edges], own


def with_selection(graph: AssetGraph, chosen: Selection) -> AssetGraph:
    """The graph with the edges and weights of a selection: q is the probability that an edge does not exist."""
    own, edges = chosen.edges.own, chosen.edges
    others = edges.take(~own)
    slopes = np.zeros(graph.own.shape)
    slopes[edges.lag[own] - 1, edges.leader[own]] = chosen.weight[own]
    t = chosen.score[~own]
    return replace(
        graph,
        leader=others.leader,
        follower=others.follower,
        lag=others.lag,
        weight=chosen.weight[~own],
        t=t,
        p=np.array([erfc(abs(value) / sqrt(2)) for value in t], dtype=np.float64),
        q=1 - chosen.inclusion[~own],
        own=slopes,
        parameters={**graph.parameters, "second_look": True},
    )
