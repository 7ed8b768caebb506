"""Well-known graph convolutions of torch-geometric as ablations, and our messages in its own formulation.

The only module that imports torch_geometric (2 seconds); the registry imports it on first use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import (
    GATv2Conv,
    GCNConv,
    GINEConv,
    MessagePassing,
    TransformerConv,
)

from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.layers import encoder
from streamforge_assets.gnn.model import Forecaster
from streamforge_assets.graphs.graph import AssetGraph


class SignedConv(MessagePassing):  # type: ignore[misc]  # its base has no types
    """`SignedMessages` as a torch-geometric layer: x'[i] = sum of edge_weight · x[j], signed, not normalised."""

    def __init__(self) -> None:
        super().__init__(aggr="add")

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        """(N, C), (2, E) leader over follower, (E,) → (N, C)."""
        out: Tensor = self.propagate(edge_index, x=x, edge_weight=edge_weight, size=None)
        return out

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return x_j * edge_weight[:, None]


class Convolved(Forecaster):
    """An encoder for each node, one published convolution over the edges of each lag, a linear head.

    Edge attributes are the graph's weights in units of the assets' volatilities. No skip, no own lag: what the
    convolution cannot carry is missing.
    """

    def __init__(self, config: GnnConfig, graph: AssetGraph, unit: np.ndarray, features: int) -> None:
        super().__init__(config, graph.lags, features)
        self.nodes = len(graph.symbols)
        self.encoder = encoder(config.encoder, features, config.hidden, config.lookback)
        self.convolutions = nn.ModuleList([_convolution(config) for _ in range(self.lags)])
        self.head = nn.Linear(config.hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        scaled = graph.weight * unit[graph.leader] / unit[graph.follower]
        for lag in range(1, self.lags + 1):
            at = graph.lag == lag
            index = np.stack([graph.leader[at], graph.follower[at]]).astype(np.int64)
            self.register_buffer(f"index{lag}", torch.from_numpy(index))
            self.register_buffer(f"attribute{lag}", torch.from_numpy(scaled[at].astype(np.float32)))

    def forward(self, features: Tensor, returns: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002 - one signature
        state = self.encoder(self.standardise(features))
        length = features.shape[1] - self.context
        total = state.new_zeros((state.shape[0] * length * self.nodes, self.config.hidden))
        for lag, convolution in enumerate(self.convolutions, start=1):
            view = state.narrow(1, self.lags - lag, length).reshape(-1, self.config.hidden)
            index, attribute = getattr(self, f"index{lag}"), getattr(self, f"attribute{lag}")
            copies = len(view) // self.nodes
            shift = torch.arange(copies, device=view.device).repeat_interleave(index.shape[1]) * self.nodes
            total = total + _convolve(convolution, view, index.repeat(1, copies) + shift, attribute.repeat(copies))
        out: Tensor = self.head(torch.relu(total)).view(features.shape[0], length, self.nodes)
        return out


def _convolution(config: GnnConfig) -> nn.Module:
    width: int = config.hidden
    made: dict[str, Any] = {
        "gatv2": lambda: GATv2Conv(width, width, edge_dim=1),
        "gine": lambda: GINEConv(_perceptron(width), edge_dim=1),
        "gcn": lambda: GCNConv(width, width),
        "transformer": lambda: TransformerConv(width, width, edge_dim=1),
    }
    layer: nn.Module = made[config.model]()
    return layer


def _perceptron(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def _convolve(layer: nn.Module, x: Tensor, index: Tensor, attribute: Tensor) -> Tensor:
    # GCN normalises by the root of summed weights, which negative ones would make imaginary.
    edge = attribute.abs() if isinstance(layer, GCNConv) else attribute[:, None]
    out: Tensor = layer(x, index, edge)
    return out
